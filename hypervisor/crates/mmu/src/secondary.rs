//! One guest's secondary MMU: the fault path, and the state that notifier calls work on.
//!
//! | lock (reader-writer) | protects | shared | exclusive |
//! |---|---|---|---|
//! | slots lock | which guest frames are RAM | look-ups, callbacks | set-up, removal |
//! | mmu lock | the EPT's leaves, "in progress" | entries appear, allow more, grow old | entries go; begin, end, release |
//!
//! So faults on one guest's pages go on side by side, and only an invalidation keeps them out, for as long as it zaps and
//! flushes. Those on the shared side settle it among themselves, entry by entry, by compare-exchange (`entry`).
//!
//! The fault path takes no memory-manager lock under the mmu lock (I4): it resolves first, then locks.

use crate::around::Around;
use crate::dirty_log::Logs;
use crate::entry::Installed;
use crate::shadow::Shadow;
use crate::slots::{Slot, SlotError, Slots};
use crate::spare::{Spare, supply};
use crate::stats::{Stats, add, count};
use crate::tdp::{AccessedDirty, Lacking, Tdp, resize};
use addr::{Gfn, GfnRange, Gpa, GpaRange, Hva, HvaRange, PageSize, Pfn};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use mm::{Access, AddressSpace, AskBeside, Beside, FaultError, Host, Mapping};
use mutants::{Mutant, intact};
use paging::{Leaf, Level, OutOfTables, Rights, TableReserve};
use sync::atomic::AtomicU64;
use sync::{InProgress, InvalidationSequence, Rank, RwLock, Snapshot};

/// What the mmu lock protects. Who has `&mut` of it, or of a part, holds the exclusive side.
pub(crate) struct Locked {
    /// `None` once released: nothing is installed or looked up any more.
    pub(crate) tdp: Option<Tdp>,
    pub(crate) in_progress: InProgress,
    pub(crate) spare: Spare,
    /// Of each virtual processor, where the real one walks no EPT.
    pub(crate) shadows: Vec<Shadow>,
}

impl Locked {
    /// Leaves that map these guest frames are going, or lose rights: no shadow maps them any more. The caller flushes.
    pub(crate) fn forget<H: Host>(&mut self, host: &H, gfns: GfnRange) {
        self.shadows.iter_mut().for_each(|shadow| shadow.forget(host, gfns));
    }

    /// Whether any of these guest frames was used, where no processor says so in the tables themselves: A of a leaf tells of its faults, and
    /// what stands on it unused may have been used since.
    pub(crate) fn is_young<H: Host>(&self, host: &H, gfns: GfnRange) -> bool {
        let used = |(gfns, leaf): (GfnRange, Leaf)| leaf.accessed || self.has_used(host, gfns);
        self.tdp.is_some_and(|tdp| tdp.leaves(host, gfns).any(used))
    }

    /// Whether a virtual processor has used what stands on leaves for these guest frames.
    fn has_used<H: Host>(&self, host: &H, gfns: GfnRange) -> bool {
        intact(Mutant::ShadowUseUnseen) && self.shadows.iter().any(|shadow| shadow.has_used(host, gfns))
    }

    /// The same, and none is used any more. The caller owes a flush, before a use that is not seen may count.
    pub(crate) fn age<H: Host>(&self, host: &H, gfns: GfnRange) -> bool {
        let shadows = self.shadows.iter().filter(|_| intact(Mutant::ShadowUseUnseen));
        shadows.fold(false, |used, shadow| used | shadow.age(host, gfns))
    }

    /// The same, and tells which were used.
    pub(crate) fn age_each<H: Host>(&self, host: &H, gfns: GfnRange, mut tell: impl FnMut(GfnRange)) {
        let shadows = self.shadows.iter().filter(|_| intact(Mutant::ShadowUseUnseen));
        shadows.for_each(|shadow| shadow.age_each(host, gfns, &mut tell));
    }

    /// The dirty log takes W from a leaf: no shadow may write what it maps any more. Which one it is is worked out for shadows only: a harvest
    /// has many. The caller flushes.
    pub(crate) fn narrowed<H: Host>(&mut self, host: &H, gfn: impl Fn() -> Gfn) {
        if intact(Mutant::LogLeavesShadow) {
            self.shadows.iter_mut().for_each(|shadow| _ = shadow.protect(host, gfn()));
        }
    }
}

/// The secondary MMU of one guest, a subscriber of its host address space.
pub struct SecondaryMmu<H: Host> {
    pub(crate) host: Arc<H>,
    pub(crate) space: Arc<AddressSpace<H>>,
    /// What processors do in the tables that they walk for the guest.
    pub(crate) accessed_dirty: AccessedDirty,
    /// Largest leaf that the CPU's EPT can have.
    largest: PageSize,
    /// For `shadow`.
    pub(crate) has_shadows: bool,
    pub(crate) slots: RwLock<Slots>,
    pub(crate) sequence: InvalidationSequence,
    pub(crate) locked: RwLock<Locked>,
    /// Apart from the mmu lock: a CPU that leaves the guest notes what it has logged, and may be waited for under that.
    pub(crate) logs: RwLock<Logs>,
    /// How many there are. Rises under the exclusive side of the mmu lock.
    pub(crate) logging: AtomicU64,
    /// Freed with the MMU, also when it was released before.
    tables: Tdp,
    pub(crate) stats: Stats,
}

/// What a guest-physical address turned out to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultOutcome {
    /// RAM, and mapped now: enter the guest again.
    Mapped,
    /// No slot holds it: a device, or nothing.
    NotRam,
}

/// Why a guest's memory could not be mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MmuError {
    /// The host address space refused.
    Host(FaultError),
    /// No frame for a secondary table.
    OutOfTables(OutOfTables),
    /// The host address space is gone.
    Released,
}

impl fmt::Display for MmuError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(error) => error.fmt(f),
            Self::OutOfTables(error) => error.fmt(f),
            Self::Released => f.write_str("the guest's host address space has been torn down"),
        }
    }
}

impl From<OutOfTables> for MmuError {
    fn from(error: OutOfTables) -> Self {
        Self::OutOfTables(error)
    }
}

/// A frame resolved, not yet checked against the sequence.
#[derive(Clone, Copy)]
struct Resolved {
    gfn: Gfn,
    leaf: Leaf,
    /// The host address of what the leaf will map, and how large it is.
    hva: Hva,
    size: PageSize,
    /// First frame of what the primary entry maps.
    frame: Pfn,
    snapshot: Snapshot,
}

/// What a fault asks the host for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asks {
    /// Its page.
    Alone,
    /// And what lies beside it.
    Beside,
}

/// What became of an attempt to install.
#[derive(Clone, Copy)]
enum Attempt {
    /// The leaf is there, and so many beside it.
    Done(Installed, u64),
    /// Tables are missing on the way to it.
    Lacking(Lacking, Resolved),
    /// Something has changed since the frame was resolved.
    Changed,
    /// No slot holds the address.
    NotRam,
}

impl<H: Host> SecondaryMmu<H> {
    /// Empty tables for a guest whose memory lies in `space`. The caller registers the result there.
    ///
    /// # Errors
    /// [`OutOfTables`] where there is no frame for the root.
    pub fn new(space: Arc<AddressSpace<H>>, accessed_dirty: AccessedDirty) -> Result<Self, OutOfTables> {
        let host = Arc::clone(space.host());
        let tables = Tdp { root: host.allocate_table()? };
        Ok(Self {
            host,
            space,
            accessed_dirty,
            largest: PageSize::Size1G,
            has_shadows: false,
            slots: RwLock::new(Rank::Slots, Slots::new()),
            sequence: InvalidationSequence::new(),
            locked: RwLock::new(
                Rank::Mmu,
                Locked {
                    tdp: Some(tables),
                    in_progress: InProgress::new(),
                    spare: Spare::new(),
                    shadows: Vec::new(),
                },
            ),
            logs: RwLock::new(Rank::DirtyLog, Logs::default()),
            logging: AtomicU64::new(0),
            tables,
            stats: Stats::default(),
        })
    }

    /// The same, on a CPU whose EPT has no larger leaves.
    #[must_use]
    pub const fn with_largest_page(mut self, size: PageSize) -> Self {
        self.largest = size;
        self
    }

    /// Whether a processor tells by A bits what it has used.
    #[inline]
    pub(crate) fn has_accessed_bits(&self) -> bool {
        self.accessed_dirty == AccessedDirty::Hardware
    }

    /// The root for the EPT pointer; `None` once released.
    pub fn root(&self) -> Option<Pfn> {
        self.locked.read().tdp.map(|tdp| tdp.root)
    }

    /// The host address space.
    pub fn space(&self) -> &Arc<AddressSpace<H>> {
        &self.space
    }

    /// The counters.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Makes guest frames RAM.
    ///
    /// # Errors
    /// [`SlotError`].
    pub fn add_slot(&self, slot: Slot) -> Result<(), SlotError> {
        self.slots.write().insert(slot)
    }

    /// Makes the slot that starts at `first` no RAM any more, and drops its entries.
    pub fn remove_slot(&self, first: Gfn) -> Option<Slot> {
        // Held until the entries are gone: a notifier that finds no slot here has nothing to drop, and the host may
        // free the frames (I1).
        let mut slots = self.slots.write();
        let slot = slots.remove(first)?;
        let _held = intact(Mutant::SlotRemovedBeforeZap).then_some(slots);
        let mut locked = self.locked.write();
        // A fault that looked the slot up before must not install afterwards.
        if intact(Mutant::NoRaiseOnSlotRemoval) {
            self.sequence.raise(&mut locked.in_progress);
        }
        if intact(Mutant::SlotRemovalZapsNothing) {
            self.zap_and_flush(&mut locked, [slot.gfns()]);
        }
        drop(locked);
        self.end_log(first);
        Some(slot)
    }

    /// The slots, by guest frame.
    pub fn slots(&self) -> Vec<Slot> {
        self.slots.read().iter().collect()
    }

    /// The host addresses of guest-physical bytes, if one slot holds them all.
    pub fn translate(&self, range: GpaRange) -> Option<HvaRange> {
        self.slots.read().translate(range)
    }

    /// Resolves an EPT violation. Call it with no memory-manager lock held; it may wait for such locks.
    ///
    /// # Errors
    /// [`MmuError`]; the guest cannot go on.
    pub fn fault(&self, gpa: Gpa, access: Access) -> Result<FaultOutcome, MmuError> {
        self.fault_around(gpa, access).map(|(outcome, _)| outcome)
    }

    /// The first half of it: whether the dirty log alone was in the way of a write, which may go on now.
    #[inline]
    pub fn passes_log(&self, gpa: Gpa, access: Access) -> bool {
        access == Access::Write && self.is_logging() && self.writes_again(gpa.gfn())
    }

    /// The other half, where that was not so.
    ///
    /// # Errors
    /// As for [`Self::fault`].
    pub fn fault_behind_log(&self, gpa: Gpa, access: Access) -> Result<FaultOutcome, MmuError> {
        self.resolve_fault(gpa.gfn(), access).map(|(outcome, _)| outcome)
    }

    /// The same, and how many pages were mapped around it.
    #[inline]
    pub(crate) fn fault_around(&self, gpa: Gpa, access: Access) -> Result<(FaultOutcome, u64), MmuError> {
        if self.passes_log(gpa, access) {
            return Ok((FaultOutcome::Mapped, 0));
        }
        self.resolve_fault(gpa.gfn(), access)
    }

    /// Apart, so that a write that only the log has stopped does not pay for it.
    #[inline(never)]
    pub(crate) fn resolve_fault(&self, gfn: Gfn, access: Access) -> Result<(FaultOutcome, u64), MmuError> {
        let (mut reserve, mut beside) = (TableReserve::new(&*self.host), None);
        let attempt = self.try_fault(gfn, access, (Asks::Beside, &mut beside), &mut reserve)?;
        match self.outcome(attempt) {
            Some(outcome) => Ok(outcome),
            // A copy, so that the attempt itself need not lie in memory.
            None => self.retry_fault(gfn, access, &{ attempt }, (&mut reserve, &beside)),
        }
    }

    /// Goes on after the first attempt, which was none to end with.
    #[inline(never)]
    fn retry_fault(
        &self,
        gfn: Gfn,
        access: Access,
        first: &Attempt,
        (reserve, beside): (&mut TableReserve<'_, H>, &Option<Beside>),
    ) -> Result<(FaultOutcome, u64), MmuError> {
        let (mut attempt, mut patience) = (*first, mm::Attempts::default());
        let mut beside = beside.as_ref();
        loop {
            let mut made_room = false;
            if let Attempt::Lacking(Lacking(tables), resolved) = attempt {
                match supply(&*self.host, reserve, tables, || self.take_spare()) {
                    Ok(()) => attempt = self.install(&resolved, beside, reserve)?,
                    Err(_) if self.space.mm().make_room(&mut patience) => made_room = true,
                    Err(error) => return Err(error.into()),
                }
            }
            if let Some(outcome) = self.outcome(attempt) {
                return Ok(outcome);
            }
            if !made_room {
                // Changed since it was resolved, or other tables have gone meanwhile.
                count(&self.stats.retries);
                sync::relax();
            }
            // Who looks again has found no page, or one that changes: he is after that alone.
            attempt = self.try_fault(gfn, access, (Asks::Alone, &mut None), reserve)?;
            beside = None;
        }
    }

    /// What has become of a fault by an attempt, and how many pages were mapped around it; `None`: another one is wanted.
    #[inline(always)]
    fn outcome(&self, attempt: Attempt) -> Option<(FaultOutcome, u64)> {
        match attempt {
            Attempt::Done(installed, around) => {
                let is_new = !matches!(installed, Installed::Spurious);
                count(if is_new { &self.stats.installed } else { &self.stats.spurious });
                Some((FaultOutcome::Mapped, around))
            }
            Attempt::NotRam => Some((FaultOutcome::NotRam, 0)),
            Attempt::Changed | Attempt::Lacking(..) => None,
        }
    }

    #[inline(always)]
    fn try_fault(
        &self,
        gfn: Gfn,
        access: Access,
        (asks, beside): (Asks, &mut Option<Beside>),
        reserve: &mut TableReserve<'_, H>,
    ) -> Result<Attempt, MmuError> {
        // Before the slot is looked up, too: removing it raises the sequence (I2).
        let snapshot = self.sequence.snapshot();
        let Some(slot) = self.slots.read().find(gfn) else { return Ok(Attempt::NotRam) };
        let wanted = if asks == Asks::Beside { self.group_of(&slot, gfn) } else { None };
        let ask = wanted.map(|wanted| AskBeside { wanted, found: beside });
        let resolved = self.resolve(&slot, gfn, access, (snapshot, ask)).map_err(MmuError::Host)?;
        self.install(&resolved, beside.as_ref(), reserve)
    }

    /// Asks the host what to map. The snapshot was taken before (I2).
    #[inline(always)]
    fn resolve(
        &self,
        slot: &Slot,
        gfn: Gfn,
        access: Access,
        (snapshot, ask): (Snapshot, Option<AskBeside<'_>>),
    ) -> Result<Resolved, FaultError> {
        let page = slot.hva_of(gfn);
        let mapping = self.space.fault_in_and_ask(page, access, ask)?;
        // A read fault installs a writable entry only if the frame is dirty already (I7).
        let dirty = mapping.dirty || !intact(Mutant::ReadInstallsWritable);
        let write = mapping.writable && (access == Access::Write || dirty);
        let (hva, pfn, size) = match mapping.size {
            PageSize::Size4K => (page, mapping.pfn, PageSize::Size4K),
            _ => self.most_of(slot, gfn, &mapping),
        };
        let leaf = Leaf {
            pfn,
            size,
            rights: Rights { write, ..Rights::ALL },
            accessed: true,
            dirty: access == Access::Write,
        };
        let checked = if intact(Mutant::HugeLeafCheckedInPart) { size } else { PageSize::Size4K };
        // Of a page that this fault has copied the sequence tells, too: what it has called itself is known to be before it (I3).
        let is_current = !intact(Mutant::SnapshotAfterResolve)
            || mapping.announced > 0 && !intact(Mutant::CopyTrustsSequence);
        let snapshot =
            if is_current { self.sequence.snapshot() } else { snapshot.after_own(mapping.announced) };
        Ok(Resolved { gfn, leaf, hva, size: checked, frame: mapping.pfn, snapshot })
    }

    /// The part of a huge page around a guest frame that one entry may map: as large as that page, the CPU and the slot allow.
    #[inline(never)]
    fn most_of(&self, slot: &Slot, gfn: Gfn, mapping: &Mapping) -> (Hva, Pfn, PageSize) {
        let fits = |&size: &PageSize| size <= mapping.size.min(self.largest) && slot.maps_whole(gfn, size);
        let size = [PageSize::Size1G, PageSize::Size2M].into_iter().find(fits).unwrap_or(PageSize::Size4K);
        let hva = slot.hva_of(gfn).align_down(size);
        (hva, mapping.pfn.add(hva.offset_in(mapping.size) >> addr::PAGE_SHIFT), size)
    }

    /// Checks that nothing has changed since, and installs (I2), under the shared side: whoever takes the frame away, or
    /// the right to write it, comes before or after.
    #[inline(always)]
    fn install(
        &self,
        resolved: &Resolved,
        beside: Option<&Beside>,
        reserve: &mut TableReserve<'_, H>,
    ) -> Result<Attempt, MmuError> {
        let locked = self.locked.read();
        let tdp = locked.tdp.ok_or(MmuError::Released)?;
        let Resolved { gfn, leaf, hva, size, frame, snapshot } = resolved;
        let (start, end) = (hva.as_u64(), hva.as_u64() + size.bytes());
        if locked.in_progress.permits(&self.sequence, *snapshot, start, end).is_err() {
            return Ok(Attempt::Changed);
        }
        let leaf = if self.is_logging() { self.logs.read().admit(*gfn, *leaf) } else { *leaf };
        // Before the entry is there: what another CPU writes through it must be known to be written (I7).
        if leaf.rights.write && intact(Mutant::NoDirtyOnInstall) {
            self.space.mark_dirty(*frame);
        }
        let installed = match tdp.install(&*self.host, *gfn, leaf, reserve) {
            Ok(installed) => installed,
            Err(lacking) => return Ok(Attempt::Lacking(lacking, *resolved)),
        };
        let mut mapped = 0;
        if let (Installed::New(at), Some(beside)) = (installed, beside) {
            let (gfn, hva, stores, snapshot) = (*gfn, *hva, leaf.dirty, *snapshot);
            mapped = self.map_around(&locked, at, &Around { gfn, hva, stores, beside, snapshot });
        }
        Ok(Attempt::Done(installed, mapped))
    }

    /// Zaps all runs and flushes once (I10), under the mmu lock, so that whoever takes the lock next owes
    /// nothing (I6).
    pub(crate) fn zap_and_flush(&self, locked: &mut Locked, runs: impl IntoIterator<Item = GfnRange>) {
        let Some(tdp) = locked.tdp else { return };
        let zapped: u64 = runs.into_iter().map(|run| tdp.zap(&*self.host, run, locked)).sum();
        if zapped > 0 {
            add(&self.stats.zapped, zapped);
            if intact(Mutant::NoFlushOfZapped) {
                self.flush(tdp);
            }
        }
    }

    fn take_spare(&self) -> Option<Pfn> {
        self.locked.write().spare.pop(&*self.host)
    }

    pub(crate) fn flush(&self, tdp: Tdp) {
        count(&self.stats.flushes);
        tdp.flush(&*self.host);
    }

    /// The leaf that maps a guest frame now, as a base page.
    pub fn lookup(&self, gfn: Gfn) -> Option<Leaf> {
        let locked = self.locked.read();
        let leaf = locked.tdp?.walk(&*self.host, gfn).leaf()?;
        Some(resize(leaf, gfn, PageSize::Size4K))
    }
}

/// Whoever drops the MMU has taken its root from every CPU: no virtual processor of the guest runs any more.
impl<H: Host> Drop for SecondaryMmu<H> {
    fn drop(&mut self) {
        // A released one has lost all below the root, and was flushed since.
        if self.root().is_some() && intact(Mutant::NoFlushOfDroppedTables) {
            self.tables.flush(&*self.host);
        }
        let mut locked = self.locked.write();
        locked.spare.push(&*self.host, (self.tables.root, Level::ROOT));
        let shadows = core::mem::take(&mut locked.shadows);
        drop(locked);
        shadows.iter().flat_map(Shadow::frames).for_each(|frame| self.host.free_table(frame));
        while let Some(table) = self.take_spare() {
            self.host.free_table(table);
        }
    }
}

impl<H: Host> fmt::Debug for SecondaryMmu<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecondaryMmu").field("stats", &self.stats.snapshot()).finish_non_exhaustive()
    }
}
