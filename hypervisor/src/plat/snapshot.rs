//! Snapshots: what a clone would begin with is written to a disk, in the background.
//!
//! ```text
//!   who asks ─► pause: states, address space forked, board copied ─► the guest goes on
//!       └─► a thread: each page of the copy ─► copied out ─► disk        the run ends once the header is there
//!                        └─ 2 MiB further: the copy's are discarded
//! ```
//!
//! The guest writes on meanwhile: what it writes to is copied first, as for a clone. Pages in swap come in by the copy's own
//! faults. The writer copies a page before it hands it to the disk, and so pins none.

use super::clone::{Asker, CloneError, Twin};
use super::memory::Memory;
use super::run::Machine;
use super::vm::Vm;
use crate::cpu::uaccess::{self, HvaFault};
use crate::exit;
use crate::io::DiskQueue;
use crate::physmem::PhysicalMemory;
use crate::sched::{self, Group, Turn};
use crate::vcpu::Start;
use abi::config::{Snapshot, SwapFaults};
use addr::{Hva, HvaRange, PAGE_SHIFT, PAGE_SIZE, PageSize, Pfn};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use mm::{FrameMemory, Host, OutOfFrames};
use snapshot::{Digest, Page, Range, Sink, Writer, empty_page};
use tiers::{BlockDevice, BlockError, MOST_PAGES};

/// What a virtual processor that has asked finds in a restored guest.
const RESTORED: u32 = 1;
/// Guests go first.
const WEIGHT: u32 = 50;

/// Why there is no snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SnapshotError {
    /// There is no disk for one, or one has gone there already.
    NoDisk,
    /// There can be no copy of the guest.
    Copy(CloneError),
    /// No memory for a thread or a buffer.
    NoMemory(OutOfFrames),
    /// A page of it cannot be had.
    Page(HvaFault),
    /// The disk does not take it.
    Disk(BlockError),
    /// What was written is not what the oracle saw.
    Oracle {
        /// The digest of what was written.
        written: u64,
        /// That of the instant.
        seen: u64,
    },
}

impl fmt::Display for SnapshotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDisk => f.write_str("there is no disk for one, or it has one already"),
            Self::Copy(error) => error.fmt(f),
            Self::NoMemory(error) => error.fmt(f),
            Self::Page(error) => write!(f, "out of memory, or a page was lost: {error}"),
            Self::Disk(error) => write!(f, "its disk: {error}"),
            Self::Oracle { written, seen } => {
                write!(f, "the oracle saw memory of digest {seen:#x}, and {written:#x} was written")
            }
        }
    }
}

impl From<OutOfFrames> for SnapshotError {
    fn from(error: OutOfFrames) -> Self {
        Self::NoMemory(error)
    }
}

impl From<BlockError> for SnapshotError {
    fn from(error: BlockError) -> Self {
        Self::Disk(error)
    }
}

/// What the instant was like, beside what the copy holds.
struct Instant {
    tsc: u64,
    digest: Option<u64>,
}

impl Vm {
    /// Takes a snapshot of this instant.
    ///
    /// # Errors
    /// [`SnapshotError`]; the guest has lost nothing.
    pub(crate) fn snapshot(&self, asker: Option<Asker>) -> Result<(), SnapshotError> {
        let machine = self.machine;
        self.prepare_copy().map_err(SnapshotError::Copy)?;
        // Else the disk is somebody's whom this guest must not take it from: one that is to be restored, say.
        let wanted = machine.config.snapshot == Snapshot::Take;
        let disk = wanted.then(|| machine.disks.lock().snapshot.take()).flatten();
        let disk = disk.ok_or(SnapshotError::NoDisk)?;
        let copied = self.copy(RESTORED, asker, || Instant {
            tsc: self.clock.now().0,
            digest: self.oracle.then(|| digest(&self.memory).ok()).flatten(),
        });
        let (twin, instant) = match copied {
            Ok(copied) => copied,
            Err(error) => {
                machine.disks.lock().snapshot = Some(disk);
                return Err(SnapshotError::Copy(error));
            }
        };
        log::info!("{}: a snapshot is under way; it stood still for {} ticks", self.name(), twin.birth.pause);
        let (name, clock) = (Arc::clone(&self.place.name), self.clock);
        let writer = sched::spawn(&Group::new(WEIGHT), move || {
            let Twin { memory, board, starts, .. } = twin;
            let described = snapshot::Machine {
                ranges: ranges(&memory),
                tsc_hz: clock.tsc_hz,
                tsc: instant.tsc,
                boot_seconds: clock.boot_seconds,
                features: exit::features(|control| machine.offers(control)),
                digest: instant.digest,
                processors: processors(&starts),
            };
            // It is on the heap, of any length.
            let board = postcard::to_allocvec(&board).expect("the heap takes what is encoded");
            let written =
                DiskQueue::start(disk.into_share(), machine.host, clock.tsc_hz, SwapFaults::default())
                    .map_err(SnapshotError::NoMemory)
                    .and_then(|(queue, thread)| {
                        let written = write(machine, &memory, &queue, (&described, &board));
                        queue.stop();
                        thread.join();
                        written
                    });
            match written {
                Ok((pages, bytes)) => {
                    log::info!("{name}: the snapshot is complete: {pages} pages, {bytes} bytes")
                }
                Err(error) => {
                    log::error!("{name}: no snapshot: {error}");
                    machine.note_failure();
                }
            }
        })?;
        machine.joins(writer);
        Ok(())
    }
}

fn ranges(memory: &Memory<PhysicalMemory>) -> Vec<Range> {
    let slots = memory.mmu().slots();
    let range =
        |slot: &mmu::Slot| Range { start: slot.gfns().start().base().as_u64(), bytes: slot.hvas().len() };
    slots.iter().map(range).collect()
}

fn processors(starts: &[Start]) -> Vec<snapshot::Processor> {
    let saved = |start: &Start| match start {
        Start::Resume(state) => Some(state.save()),
        Start::Entry(_) | Start::Reset => None,
    };
    starts.iter().filter_map(saved).collect()
}

/// Writes memory, and what belongs to it; pages stored, and bytes of the whole.
fn write(
    machine: &Machine,
    memory: &Memory<PhysicalMemory>,
    queue: &Arc<DiskQueue>,
    (described, board): (&snapshot::Machine, &[u8]),
) -> Result<(u64, u64), SnapshotError> {
    let pages = described.memory() >> PAGE_SHIFT;
    let mut writer = Writer::new(Pages::new(machine.host, queue)?, pages);
    let mut digest = Digest::default();
    for_each_page(memory, Behind::Discarded, |index, page| {
        if let Some(checksum) = writer.page(index, page)? {
            digest.add_sum(index, checksum);
        }
        Ok(())
    })?;
    let written = digest.value();
    if let Some(seen) = described.digest.filter(|&seen| seen != written) {
        return Err(SnapshotError::Oracle { written, seen });
    }
    let stored = writer.stored();
    Ok((stored, writer.finish(described, board)?))
}

/// What becomes of pages that were looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Behind {
    /// They stay.
    Kept,
    /// Nobody wants them any more.
    Discarded,
}

/// The oracle's digest of a guest's memory, which nobody changes.
///
/// # Errors
/// A page cannot be had.
pub(super) fn digest(memory: &Memory<PhysicalMemory>) -> Result<u64, SnapshotError> {
    let mut digest = Digest::default();
    for_each_page(memory, Behind::Kept, |index, page| {
        digest.add(index, page);
        Ok(())
    })?;
    Ok(digest.value())
}

/// Looks at each page that may hold something, in order.
fn for_each_page(
    memory: &Memory<PhysicalMemory>,
    behind: Behind,
    mut look: impl FnMut(u64, &Page) -> Result<(), SnapshotError>,
) -> Result<(), SnapshotError> {
    let space = memory.space();
    let mut page = empty_page();
    let mut before = 0;
    for slot in memory.mmu().slots() {
        let hvas = slot.hvas();
        let (mut next, mut kept) = (hvas.start(), hvas.start());
        while let Some(found) = space.next_used(HvaRange::new(next, hvas.end())) {
            let done = found.align_down(PageSize::Size2M);
            if behind == Behind::Discarded && done > kept {
                discard(memory, kept, done);
                kept = done;
            }
            uaccess::copy_from(space, found, &mut page[..]).map_err(SnapshotError::Page)?;
            look(before + ((found.as_u64() - hvas.start().as_u64()) >> PAGE_SHIFT), &page)?;
            next = found.add(PAGE_SIZE);
            if sched::turn() == Turn::Over {
                sched::yield_now();
            }
        }
        before += hvas.len() >> PAGE_SHIFT;
    }
    Ok(())
}

/// The copy's pages go, whoever else has them. What cannot go stays until the copy goes.
fn discard(memory: &Memory<PhysicalMemory>, start: Hva, end: Hva) {
    let _ = memory.space().discard(start, HvaRange::new(start, end).len());
}

/// Pages of the file, on their way to the disk, as many at a time as it takes.
struct Pages {
    host: Arc<PhysicalMemory>,
    queue: Arc<DiskQueue>,
    frames: Vec<Pfn>,
    /// The first page that waits, and how many do.
    first: u64,
    waiting: usize,
}

impl Pages {
    fn new(host: &Arc<PhysicalMemory>, queue: &Arc<DiskQueue>) -> Result<Self, OutOfFrames> {
        let (host, queue) = (Arc::clone(host), Arc::clone(queue));
        let mut pages = Self { host, queue, frames: Vec::new(), first: 0, waiting: 0 };
        for _ in 0..MOST_PAGES {
            pages.frames.push(pages.host.allocate_zeroed(PageSize::Size4K)?);
        }
        Ok(pages)
    }

    fn send(&mut self) -> Result<(), BlockError> {
        let waiting = core::mem::take(&mut self.waiting);
        if waiting == 0 { Ok(()) } else { self.queue.write(self.first, &self.frames[..waiting]) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        self.frames.iter().for_each(|&frame| self.host.free(frame));
    }
}

impl Sink for Pages {
    type Error = BlockError;

    fn write(&mut self, page: u64, bytes: &Page) -> Result<(), BlockError> {
        if page >= self.queue.blocks() {
            return Err(BlockError { block: page });
        }
        if self.waiting == MOST_PAGES || page != self.first + self.waiting as u64 {
            self.send()?;
        }
        if self.waiting == 0 {
            self.first = page;
        }
        self.host.write_bytes(self.frames[self.waiting], 0, bytes);
        self.waiting += 1;
        Ok(())
    }

    fn flush(&mut self) -> Result<(), BlockError> {
        self.send()
    }
}
