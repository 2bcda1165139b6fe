//! What of a guest is on the snapshot disk, and whose turn it is to write the next part.
//!
//! ```text
//!   nobody's disk ─ who asks first ─► under way ◄───────── asks again ─────────── at rest
//!                                       ├─ complete: nothing has changed since ──────▲
//!                                       └─ fails: what was harvested has changed ────┘
//! ```
//!
//! Logs begin in the pause of the first part, and are harvested in the pause of each later one: what a part is to have is what was
//! written between two instants, and no page is in neither of two parts.

use super::memory::Memory;
use super::run::Machine;
use super::snapshot::SnapshotError;
use super::vm::Vm;
use crate::io::DiskQueue;
use crate::physmem::PhysicalMemory;
use abi::config::Snapshot;
use addr::PAGE_SHIFT;
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::Ordering;
use snapshot::{Chain, Header};
use spin::Mutex;

/// Between two parts.
#[derive(Default)]
enum Progress {
    /// Nothing is on the disk, which may be another's.
    #[default]
    NotBegun,
    UnderWay,
    AtRest(Box<OnDisk>),
}

/// What of a guest is on the disk.
struct OnDisk {
    queue: Arc<DiskQueue>,
    chain: Chain,
    /// Writes are logged.
    logs: bool,
}

/// The snapshots of one guest.
#[derive(Clone, Default)]
pub(super) struct Snapshots(Arc<Mutex<Progress>>);

/// A part that is being written. Dropped before it is complete, it is none.
pub(super) struct Part {
    of: Snapshots,
    on_disk: Option<Box<OnDisk>>,
}

impl Snapshots {
    /// The guest goes on from what the disk has; all that it writes is logged already.
    pub(super) fn go_on(&self, queue: &Arc<DiskQueue>, newest: Header) {
        let on_disk = OnDisk { queue: Arc::clone(queue), chain: Chain::of(newest), logs: true };
        *self.0.lock() = Progress::AtRest(Box::new(on_disk));
    }

    fn put(&self, on_disk: Option<Box<OnDisk>>) {
        *self.0.lock() = on_disk.map_or(Progress::NotBegun, Progress::AtRest);
    }
}

impl Machine {
    /// The disk, for the first guest that asks.
    fn claim_disk(&self) -> Option<Arc<DiskQueue>> {
        let queue = self.snapshot_disk().filter(|_| self.config.snapshot == Snapshot::Take)?;
        (!self.snapshot_claimed.swap(true, Ordering::SeqCst)).then_some(queue)
    }
}

impl Vm {
    /// Begins a part, if none is under way.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub(super) fn begin_part(&self) -> Result<Part, SnapshotError> {
        let mut progress = self.snapshots.0.lock();
        let on_disk = match core::mem::replace(&mut *progress, Progress::UnderWay) {
            Progress::AtRest(on_disk) => on_disk,
            Progress::UnderWay => return Err(SnapshotError::UnderWay),
            Progress::NotBegun => {
                let Some(queue) = self.machine.claim_disk() else {
                    *progress = Progress::NotBegun;
                    return Err(SnapshotError::NoDisk);
                };
                let pages =
                    self.memory.mmu().slots().iter().map(|slot| slot.hvas().len() >> PAGE_SHIFT).sum();
                Box::new(OnDisk { queue, chain: Chain::new(pages), logs: false })
            }
        };
        drop(progress);
        let part = Part { of: self.snapshots.clone(), on_disk: Some(on_disk) };
        match part.chain().newest().is_none_or(Header::has_room) {
            true => Ok(part),
            false => Err(SnapshotError::TooMany),
        }
    }
}

impl Part {
    fn on_disk(&self) -> &OnDisk {
        self.on_disk.as_ref().expect("it is there until the part is dropped")
    }

    fn on_disk_mut(&mut self) -> &mut OnDisk {
        self.on_disk.as_mut().expect("it is there until the part is dropped")
    }

    pub(super) fn chain(&self) -> &Chain {
        &self.on_disk().chain
    }

    pub(super) fn queue(&self) -> &Arc<DiskQueue> {
        &self.on_disk().queue
    }

    /// The instant: what is written from now on is for the next part. In the guest's pause.
    ///
    /// # Errors
    /// There can be no log.
    pub(super) fn note_instant(&mut self, memory: &Memory<PhysicalMemory>) -> Result<(), SnapshotError> {
        let OnDisk { chain, logs, .. } = self.on_disk_mut();
        if !*logs {
            memory.begin_log().map_err(SnapshotError::Log)?;
            *logs = true;
            return Ok(());
        }
        let mut before = 0;
        for slot in memory.mmu().slots() {
            let first = slot.gfns().start().as_u64();
            let dirty = memory.harvest(slot.gfns());
            dirty.iter().for_each(|gfn| chain.note(before + gfn.as_u64() - first));
            before += slot.hvas().len() >> PAGE_SHIFT;
        }
        Ok(())
    }

    /// The part is complete.
    pub(super) fn complete(mut self, newest: Header) {
        self.on_disk_mut().chain.add(newest);
        self.of.put(self.on_disk.take());
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if let Some(mut on_disk) = self.on_disk.take() {
            on_disk.chain.fail();
            self.of.put(Some(on_disk));
        }
    }
}
