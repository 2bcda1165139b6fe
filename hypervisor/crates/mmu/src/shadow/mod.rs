//! Shadow paging: for a processor that walks no EPT, or is told not to, the two translations of a guest's address are made into
//! one in software (`docs/shadow.md`).
//!
//! ```text
//!   linear ──guest's tables──► gpa ──tables of this MMU──► frame        as a processor with EPT would walk
//!     │        (walk, reach)          (fault: slots, host)   │
//!     └───────────────── shadow: linear ─► frame ◄───────────┘          derived, under the mmu lock
//! ```
//!
//! The tables from guest-physical addresses to frames are those that a processor with EPT would have: slots, faults, the
//! sequence, zaps, aging and the dirty log are the same. A shadow is what such a processor caches of both translations
//! together (SDM vol. 3C 28.4.2, combined mappings), and the rule is its rule: a leaf of a shadow stands on a leaf of those tables,
//! with the same frame and no more rights. Whoever takes that away or narrows it drops what stands on it ([`Locked::forget`]).
//!
//! What was derived stays over the guest's flushes, as long as its tables say the same: who writes them is noticed (`synced.rs`).

mod age;
mod areas;
mod beside;
mod check;
mod contexts;
mod format;
mod implicit;
mod index;
mod origin;
mod reach;
mod rmap;
mod synced;
mod table;
mod tables;
mod walk;
mod young;

#[cfg(test)]
mod tests;

pub(crate) use check::{unfaithful, unprotected};
pub use contexts::Drops;
pub use format::ShadowLeaf;
pub(crate) use format::{ACCESSED, WRITABLE};
pub(crate) use tables::Shadow;
pub use walk::{GuestPaging, GuestTables, LinearAccess, PageFault, Translation, WalkEnd, Width, walk};

use crate::secondary::{FaultOutcome, Locked, MmuError, SecondaryMmu};
use crate::stats::{add, count};
use crate::tdp::{AccessedDirty, resize};
use addr::{Gfn, GfnRange, Gpa, HvaRange, PageSize, Pfn};
use areas::AREA;
use beside::Derivation;
use core::ops::RangeInclusive;
use mm::{Access, Host};
use mutants::{Mutant, intact};
use origin::{Root, Way};
use paging::{Leaf, Level, OutOfTables};
use reach::Reached;
use table::Unused;
use tables::{Lack, Part};

/// Pages that an instruction may want at a time, with what the delivery of an event reads and writes. Each may be reached by a way of
/// its own.
pub const PAGES_OF_AN_INSTRUCTION: usize = 8;
/// Tables with which a shadow has all of these at a time: what it begins with, and three below that for each. With fewer of them an instruction may
/// never end: each of its pages would take the way to another one.
pub const TABLES_OF_AN_INSTRUCTION: usize = 2 + 3 * PAGES_OF_AN_INSTRUCTION;

/// A virtual processor of the guest, by number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Processor(pub usize);

/// What a page fault turned out to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinearFault {
    /// The host's: mapped now, enter the guest again.
    Mapped,
    /// The guest's own, which is to have it.
    Guest(PageFault),
    /// There is no RAM at this address: a device, or nothing.
    NotRam(Gpa),
}

/// Who wants a leaf.
struct Wanted<'a> {
    processor: Processor,
    paging: &'a GuestPaging,
    access: Access,
    /// Whether what is beside it is wanted, too, and whether the ground was just mapped around. Not where the page had to be brought: then
    /// others are mostly not there.
    beside: Option<bool>,
}

/// What became of an attempt to derive a leaf.
enum Derived {
    Done,
    /// A table is missing.
    Lacking(Lack),
    /// What it would stand on is not there.
    Groundless,
}

impl<H: Host> SecondaryMmu<H> {
    /// The same, with shadows for so many virtual processors, of so many tables each: at first, and at most.
    ///
    /// # Errors
    /// [`OutOfTables`].
    pub fn with_shadows(
        mut self,
        processors: usize,
        tables: RangeInclusive<usize>,
    ) -> Result<Self, OutOfTables> {
        let mut shadows = alloc::vec::Vec::new();
        shadows.try_reserve_exact(processors).map_err(|_| OutOfTables)?;
        for _ in 0..processors {
            match Shadow::new(&*self.host, &tables) {
                Ok(shadow) => shadows.push(shadow),
                Err(error) => {
                    shadows.iter().flat_map(Shadow::frames).for_each(|frame| self.host.free_table(frame));
                    return Err(error);
                }
            }
        }
        if !shadows.is_empty() {
            self.has_shadows = true;
            // Every processor sets A in tables like these, whatever it does in an EPT.
            self.accessed_dirty = AccessedDirty::Hardware;
        }
        self.locked.write().shadows = shadows;
        Ok(self)
    }

    /// Where PAE's four pointers are for a virtual processor, if it has a shadow: CR3 has 32 bits outside long mode.
    pub fn shadow_pointers(&self, processor: Processor) -> Option<Pfn> {
        self.locked.read().shadows.get(processor.0).map(Shadow::pointers)
    }

    /// A virtual processor, which does not run, has loaded CR3, or done anything else that drops what it has cached. What CR3 of the
    /// processor has to be while it runs it; `None`: it has no shadow.
    pub fn load_root(&self, processor: Processor, paging: &GuestPaging, drops: Drops) -> Option<Pfn> {
        let (root, pcid) = (Root::of(paging), paging.pcid());
        let mut locked = self.locked.write();
        let Locked { tdp, shadows, .. } = &mut *locked;
        let shadow = shadows.get_mut(processor.0)?;
        if drops == Drops::All {
            shadow.contexts.forget_all();
        }
        let keeps = drops == Drops::Nothing && shadow.knows(&*self.host, (pcid, &root), *tdp);
        // Directories in any case: each INVLPG looks at all that are lost, and they are seldom written.
        if !keeps || shadow.has_lost_directory {
            let lowest = if keeps { Level::Pd } else { Level::Pt };
            let flush = || tdp.iter().for_each(|tdp| self.flush(*tdp));
            synced::keep_all(&*self.host, (shadows, processor.0), lowest, *tdp, flush);
        }
        loop {
            let shadow = locked.shadows.get_mut(processor.0)?;
            match shadow.load(&*self.host, &root) {
                Ok(frame) => {
                    shadow.contexts.begin(pcid, &root);
                    return Some(frame);
                }
                Err(Lack::Cleared) => {}
                Err(Lack::Wanting) => {
                    drop(locked);
                    self.supply_shadow(processor);
                    locked = self.locked.write();
                }
            }
        }
    }

    /// Where an access of a virtual processor would go by the guest's tables of now, whose A and D it sets.
    ///
    /// # Errors
    /// [`MmuError`]; the guest cannot go on. Its own fault is an answer.
    pub fn walk_linear(
        &self,
        paging: &GuestPaging,
        linear: u64,
        access: LinearAccess,
    ) -> Result<Result<Gpa, PageFault>, MmuError> {
        match walk(&Reached(self), paging, linear, access) {
            Ok(found) => Ok(Ok(found.gpa)),
            Err(WalkEnd::Fault(fault)) => Ok(Err(fault)),
            Err(WalkEnd::Failed(error)) => Err(error),
        }
    }

    /// Resolves a page fault of a virtual processor, which does not run meanwhile, and whose root was loaded. Call it with no
    /// memory-manager lock held; it may wait for such locks.
    ///
    /// # Errors
    /// [`MmuError`]; the guest cannot go on.
    pub fn fault_linear(
        &self,
        processor: Processor,
        paging: &GuestPaging,
        linear: u64,
        access: LinearAccess,
    ) -> Result<LinearFault, MmuError> {
        let (found, path) = match walk::trace(&Reached(self), paging, linear, access) {
            Ok(found) => found,
            Err(WalkEnd::Fault(fault)) => return Ok(LinearFault::Guest(fault)),
            Err(WalkEnd::Failed(error)) => return Err(error),
        };
        let way = Way::new(paging, linear, &found, &path);
        let kind = if access.write { Access::Write } else { Access::Read };
        let mut wanted = Wanted { processor, paging, access: kind, beside: Some(false) };
        // However long it takes: it is what the processor could have cached, which flushes nothing meanwhile.
        loop {
            match self.derive(&way, found.gpa.gfn(), &wanted) {
                Derived::Done => return Ok(LinearFault::Mapped),
                Derived::Lacking(Lack::Wanting) => self.supply_shadow(processor),
                Derived::Lacking(Lack::Cleared) => {}
                Derived::Groundless => match self.fault_around(found.gpa, kind)? {
                    (FaultOutcome::NotRam, _) => return Ok(LinearFault::NotRam(found.gpa)),
                    (FaultOutcome::Mapped, around) => wanted.beside = (around > 0).then_some(true),
                },
            }
        }
    }

    /// Lets a leaf stand on what is mapped at the way's end.
    fn derive(&self, way: &Way, gfn: Gfn, wanted: &Wanted<'_>) -> Derived {
        let Wanted { processor, paging, access, beside } = *wanted;
        let mut locked = self.locked.write();
        // Nothing is there after a release, and the fault says so.
        let Some(tdp) = locked.tdp else { return Derived::Groundless };
        let ground = tdp.ground_in_use(&*self.host, gfn);
        let Some(ground) = ground.filter(|leaf| access == Access::Read || leaf.rights.write) else {
            return Derived::Groundless;
        };
        let large = locked.large_way(way, gfn, &ground);
        let (way, size) = large.as_ref().map_or((way, PageSize::Size4K), |large| (large, AREA));
        let Leaf { pfn, rights, .. } = resize(ground, gfn, size);
        let mut leaf = ShadowLeaf::new((pfn, size), way.rights);
        leaf.write &= rights.write || !intact(Mutant::ShadowAllowsMore);
        if large.is_none() {
            leaf.write &= locked.may_write(gfn, access);
        }
        let part = Part { way, gfn: gfn.align_down(size), leaf };
        let table = match locked.shadows[processor.0].install(&*self.host, &part, Some(tdp)) {
            Ok(table) => table,
            Err(lack) => return Derived::Lacking(lack),
        };
        if large.is_some() {
            count(&self.stats.derived_large);
        } else if let Some(is_around) = beside {
            let to = Derivation { processor, paging, table, is_around };
            add(&self.stats.derived_beside, self.derive_beside(&mut locked, &part, &to));
        }
        Derived::Done
    }

    /// One more table for a shadow; where there is no memory, it has to do with those that it has.
    fn supply_shadow(&self, processor: Processor) {
        // Nothing is allocated under the lock (I4).
        let table = Unused::of_plenty(&*self.host);
        let mut locked = self.locked.write();
        let Some(shadow) = locked.shadows.get_mut(processor.0) else { return };
        match table {
            Ok(table) => shadow.supply(table),
            Err(OutOfTables) => shadow.stop_growing(),
        }
    }

    /// INVLPG by a virtual processor.
    pub fn invalidate_linear(&self, processor: Processor, linear: u64) {
        let mut locked = self.locked.write();
        let tdp = locked.tdp;
        if let Some(shadow) = locked.shadows.get_mut(processor.0) {
            shadow.invalidate(&*self.host, linear, tdp);
        }
    }

    /// INVPCID by a virtual processor, for a PCID that is not loaded: of one address, or of all.
    pub fn invalidate_pcid(&self, processor: Processor, pcid: u16, linear: Option<u64>) {
        let mut locked = self.locked.write();
        let tdp = locked.tdp;
        if let Some(shadow) = locked.shadows.get_mut(processor.0) {
            match linear {
                Some(linear) => shadow.drop_address(&*self.host, (pcid, linear), tdp),
                None => shadow.drop_pcid(pcid),
            }
        }
    }

    /// What lies at host addresses was written by something else than guests: tables may lie there. Without shadows nobody takes a lock to
    /// see that there are none.
    #[inline]
    pub(crate) fn note_contents(&self, range: HvaRange) {
        if self.has_shadows {
            self.note_written(self.slots.read().gfns_of(range));
        }
    }

    /// What lies in guest frames was written, and not by a leaf of a shadow: tables may lie there.
    pub(crate) fn note_written(&self, gfns: impl Iterator<Item = GfnRange>) {
        let mut locked = self.locked.write();
        for run in gfns.filter(|_| intact(Mutant::ShadowTableDeafToDevices)) {
            locked.shadows.iter_mut().for_each(|shadow| shadow.lose_frames(run));
        }
    }
}

impl Locked {
    /// The way to a large leaf, where guest and ground have one around a frame. None that may be written where tables are, kept or lost: it would come and go
    /// with each flush.
    fn large_way(&self, way: &Way, gfn: Gfn, ground: &Leaf) -> Option<Way> {
        if ground.size < AREA && intact(Mutant::ShadowLargeOnSmallGround) {
            return None;
        }
        let large = way.large()?;
        let has_tables = || self.shadows.iter().any(|shadow| shadow.has_tables_near(gfn));
        let is_written = large.rights.write && ground.rights.write && intact(Mutant::ShadowLargeOverTable);
        (!is_written || !has_tables()).then_some(large)
    }

    /// Whether a leaf for a guest frame may be written. A store may, and tables that lie there are not known any more; a load does not
    /// bring that about.
    fn may_write(&mut self, gfn: Gfn, access: Access) -> bool {
        let is_kept = self.shadows.iter().any(|shadow| shadow.keeps(gfn));
        if is_kept && access == Access::Read {
            return false;
        }
        if is_kept && intact(Mutant::ShadowTableWrittenUnseen) {
            self.shadows.iter_mut().for_each(|shadow| shadow.lose_frame(gfn));
        }
        true
    }
}
