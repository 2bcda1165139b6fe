//! A device's TLB: a small cache through which Herald's device models reach guest memory by host address, without
//! walking tables and without a reference on any frame (2008: GRU, RDMA, Quadrics).
//!
//! ```text
//!   access ─► lock ─► hit? ── yes ─► copy, under the lock ─► unlock
//!                      │ no: unlock
//!                      ▼
//!              snapshot ─► fault_in ─► lock ─► in progress? sequence? ── stale ─► unlock, again
//!                                               │ neither
//!                                               ▼
//!                                       mark dirty, install, copy ─► unlock
//! ```
//!
//! Bytes move while the lock is held, and an invalidation takes the lock: when it returns, no access to the
//! old frame is under way or will follow. That is the flush of this kind of subscriber.

mod cache;
mod error;
mod notify;
mod oracle;

pub use cache::DeviceEntry;
pub use error::DeviceTlbError;

use crate::stats::{DeviceStats, add, count};
use addr::{Hva, HvaRange, PAGE_SHIFT, PAGE_SIZE, PageSize, Pfn};
use alloc::sync::Arc;
use alloc::vec::Vec;
use cache::Cache;
use core::fmt;
use core::ops::Range;
use mm::{Access, AddressSpace, Host, Mapping};
use mutants::{Mutant, intact};
use sync::{InProgress, InvalidationSequence, Mutex, Rank, Snapshot};

/// What the lock protects.
struct Locked {
    /// `None` once released: nothing is installed or looked up any more.
    cache: Option<Cache>,
    in_progress: InProgress,
}

/// The TLB of one guest's devices, a subscriber of the guest's host address space.
pub struct DeviceTlb<H: Host> {
    host: Arc<H>,
    space: Arc<AddressSpace<H>>,
    sequence: InvalidationSequence,
    /// Held while bytes move; never while a page is faulted in (I4).
    locked: Mutex<Locked>,
    stats: DeviceStats,
}

impl<H: Host> DeviceTlb<H> {
    /// An empty TLB for devices of a guest whose memory lies in `space`. The caller registers the result there.
    pub fn new(space: Arc<AddressSpace<H>>) -> Self {
        let locked = Locked { cache: Some(Cache::new()), in_progress: InProgress::new() };
        Self {
            host: Arc::clone(space.host()),
            space,
            sequence: InvalidationSequence::new(),
            locked: Mutex::new(Rank::Mmu, locked),
            stats: DeviceStats::default(),
        }
    }

    /// The host address space.
    pub fn space(&self) -> &Arc<AddressSpace<H>> {
        &self.space
    }

    /// The counters.
    pub fn stats(&self) -> &DeviceStats {
        &self.stats
    }

    /// What is cached now, in no order.
    pub fn entries(&self) -> Vec<DeviceEntry> {
        let locked = self.locked.lock();
        locked.cache.iter().flat_map(Cache::iter).copied().collect()
    }

    /// Reads guest memory, page by page. Call it with no memory-manager lock held; it may wait for such locks.
    ///
    /// # Errors
    /// [`DeviceTlbError`]; the bytes up to its address have been read.
    pub fn read(&self, address: Hva, bytes: &mut [u8]) -> Result<(), DeviceTlbError> {
        for (at, part) in pieces(address, bytes.len())? {
            let bytes = &mut bytes[part];
            self.on_page(at, Access::Read, |frame| self.host.read_bytes(frame, offset_of(at), bytes))?;
        }
        Ok(())
    }

    /// Writes guest memory, page by page. Call it with no memory-manager lock held; it may wait for such locks.
    ///
    /// # Errors
    /// [`DeviceTlbError`]; the bytes up to its address have been written.
    pub fn write(&self, address: Hva, bytes: &[u8]) -> Result<(), DeviceTlbError> {
        for (at, part) in pieces(address, bytes.len())? {
            let bytes = &bytes[part];
            self.on_page(at, Access::Write, |frame| self.host.write_bytes(frame, offset_of(at), bytes))?;
            self.space.wrote(HvaRange::new(at, at.add(bytes.len() as u64)));
        }
        Ok(())
    }

    /// Runs `transfer` on the frame of an address, under the lock.
    fn on_page(
        &self,
        address: Hva,
        access: Access,
        transfer: impl FnOnce(Pfn),
    ) -> Result<(), DeviceTlbError> {
        let page = address.align_down(PageSize::Size4K);
        let mut locked = self.locked.lock();
        let cache = locked.cache.as_mut().ok_or(DeviceTlbError::Released { address })?;
        if let Some(frame) = cache.hit(page, access) {
            count(&self.stats.hits);
            transfer(frame);
            return Ok(());
        }
        drop(locked);
        loop {
            let snapshot = self.sequence.snapshot();
            let mapping = self.space.fault_in(address, access).map_err(|fault| DeviceTlbError::Host {
                address,
                access,
                fault,
            })?;
            let snapshot = match intact(Mutant::DeviceSnapshotAfterResolve) {
                true => snapshot.after_own(mapping.announced),
                false => self.sequence.snapshot(),
            };
            let mut locked = self.locked.lock();
            if let Some(frame) = self.install(&mut locked, (address, access), &mapping, snapshot)? {
                count(&self.stats.installed);
                transfer(frame);
                return Ok(());
            }
            drop(locked);
            count(&self.stats.retries);
            sync::relax();
        }
    }

    /// Checks that nothing has changed since the snapshot, and installs (I2). `None`: resolve again.
    fn install(
        &self,
        locked: &mut Locked,
        (address, access): (Hva, Access),
        mapping: &Mapping,
        snapshot: Snapshot,
    ) -> Result<Option<Pfn>, DeviceTlbError> {
        let cache = locked.cache.as_mut().ok_or(DeviceTlbError::Released { address })?;
        let page = address.align_down(PageSize::Size4K);
        let offset = address.offset_in(mapping.size) >> PAGE_SHIFT;
        // A read installs a writable entry only if the frame is dirty already (I7).
        let dirty = mapping.dirty || !intact(Mutant::DeviceReadInstallsWritable);
        let writable = mapping.writable && (access == Access::Write || dirty);
        let entry = DeviceEntry { page, pfn: mapping.pfn.add(offset), writable, used: true };
        let (start, end) = (entry.hvas().start().as_u64(), entry.hvas().end().as_u64());
        let fresh = locked.in_progress.permits(&self.sequence, snapshot, start, end).is_ok();
        // No hardware refuses a store here: where the primary entry does, it is refused by hand.
        if !fresh || access == Access::Write && !writable {
            return Ok(None);
        }
        if writable && intact(Mutant::NoDirtyOnDeviceInstall) {
            self.space.mark_dirty(mapping.pfn);
        }
        cache.install(entry);
        Ok(Some(entry.pfn))
    }

    /// Drops what translates `range`. Under the lock, so no transfer is under way.
    fn zap(&self, locked: &mut Locked, range: HvaRange) {
        if let Some(cache) = &mut locked.cache {
            match cache.zap(range) {
                0 => {}
                zapped => add(&self.stats.zapped, zapped),
            }
        }
    }
}

fn offset_of(address: Hva) -> usize {
    address.offset_in(PageSize::Size4K) as usize
}

/// Cuts an access at page boundaries: where each piece lies, and which of the bytes it is.
fn pieces(address: Hva, len: usize) -> Result<impl Iterator<Item = (Hva, Range<usize>)>, DeviceTlbError> {
    if HvaRange::sized(address, len as u64).is_none() {
        return Err(DeviceTlbError::OutOfRange { address, len: len as u64 });
    }
    let mut done = 0;
    Ok(core::iter::from_fn(move || {
        let at = address.checked_add(done as u64).filter(|_| done < len)?;
        let room = PAGE_SIZE as usize - offset_of(at);
        let part = done..len.min(done + room);
        done = part.end;
        Some((at, part))
    }))
}

impl<H: Host> fmt::Debug for DeviceTlb<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceTlb").field("stats", &self.stats.snapshot()).finish_non_exhaustive()
    }
}
