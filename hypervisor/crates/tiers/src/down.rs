//! The way down: pages that nobody has asked for go from memory to the disk.
//!
//! ```text
//!   lock: Kept ─► Leaving, blocks taken    no lock: unpacked, written      lock: still Leaving? ─ yes ─► OnDisk
//!                                                                                  └ no ─► block free again
//! ```
//!
//! While it is leaving, a page can be read, or given up, as if it stayed.

use crate::block::BlockDevice;
use crate::blocks::Run;
use crate::entry::Entry;
use crate::state::Batch;
use crate::{MOST_PAGES, Tiers};
use addr::{PageSize, Pfn};
use mm::Host;

/// Batches that are tried, one after the other, until one is written.
const TRIES: u32 = 4;

/// Frames from which a batch is written.
pub(crate) type Staging = heapless::Vec<Pfn, MOST_PAGES>;

impl<H: Host> Tiers<H> {
    /// Whether it is time for [`Self::move_down`].
    pub fn is_crowded(&self) -> bool {
        self.disk.is_some() && self.state.lock().is_crowded()
    }

    /// Moves a few pages to the disk, if there is need, and waits until they are there; whether any have gone. No lock is
    /// held.
    pub fn move_down(&self) -> bool {
        let all = self.state.lock().spans.is_crowded();
        self.write_batch(all)
    }

    /// Moves the next pages to the disk, in any case those that do not compress; `all`: also the others.
    pub(crate) fn write_batch(&self, all: bool) -> bool {
        let Some(disk) = &self.disk else { return false };
        let Some(staging) = self.staging.lock().take() else {
            // Somebody else is at it.
            disk.wait();
            return true;
        };
        // Elsewhere the next ones may be written.
        let moved = (0..TRIES)
            .map_while(|_| self.state.lock().send(all))
            .any(|(batch, run)| self.write_down(&**disk, &staging, &batch, run));
        *self.staging.lock() = Some(staging);
        moved
    }

    fn write_down(&self, disk: &dyn BlockDevice, staging: &Staging, batch: &Batch, run: Run) -> bool {
        for ((&slot, &frame), block) in batch.iter().zip(staging).zip(run.first..) {
            self.unpack_leaving(slot, block, frame);
        }
        let written = disk.write(run.first, &staging[..batch.len()]).is_ok();
        self.state.lock().arrive(batch, run, written);
        written
    }

    /// Copies a page into a frame, if it is still on its way; else the frame is of no account.
    fn unpack_leaving(&self, slot: u64, block: u64, frame: Pfn) {
        let mut scratch = self.scratch.take();
        let object = {
            let state = self.state.lock();
            match state.entry(slot) {
                Entry::Leaving(object, sent) if u64::from(sent) == block => {
                    state.spans.load(object.place, scratch.place_for(object));
                    Some(object)
                }
                _ => None,
            }
        };
        if let Some(object) = object {
            self.make_page(object, &mut scratch, frame);
        }
        self.scratch.give_back(scratch);
    }

    /// Frames for a batch.
    pub(crate) fn make_staging(host: &H) -> Option<Staging> {
        let mut staging = Staging::new();
        while !staging.is_full() {
            match host.allocate_zeroed(PageSize::Size4K) {
                Ok(frame) => drop(staging.push(frame)),
                Err(_) => {
                    staging.iter().for_each(|&frame| retire(host, frame));
                    return None;
                }
            }
        }
        Some(staging)
    }
}

/// Gives a frame back that is nobody else's.
pub(crate) fn retire<H: Host>(host: &H, frame: Pfn) {
    if host.frames().meta(frame).put() {
        host.retire(frame, PageSize::Size4K);
    }
}
