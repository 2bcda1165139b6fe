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

mod format;
mod reach;
mod rmap;
mod tables;
mod walk;

#[cfg(test)]
mod tests;

pub use format::ShadowLeaf;
pub(crate) use tables::Shadow;
pub use walk::{GuestPaging, GuestTables, LinearAccess, PageFault, Translation, WalkEnd, Width, walk};

use crate::secondary::{FaultOutcome, MmuError, SecondaryMmu};
use addr::{Gpa, Pfn};
use mm::{Access, Host};
use mutants::{Mutant, intact};
use paging::{Leaf, OutOfTables};
use reach::Reached;
use tables::{Part, Unused, Wanting};

/// A virtual processor of the guest, by number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Processor(pub usize);

/// What CR3 of the processor has to be while it runs a virtual one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ShadowRoots {
    /// Of a guest in long mode: the root.
    pub long: Pfn,
    /// Of any other: where PAE's four pointers are. CR3 has 32 bits there.
    pub legacy: Pfn,
}

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

/// What became of an attempt to derive a leaf.
enum Derived {
    Done,
    /// A table is missing.
    Wanting,
    /// What it would stand on is not there.
    Groundless,
}

impl<H: Host> SecondaryMmu<H> {
    /// The same, with shadows for so many virtual processors, of so many tables each at most.
    ///
    /// # Errors
    /// [`OutOfTables`].
    pub fn with_shadows(self, processors: usize, tables: usize) -> Result<Self, OutOfTables> {
        let mut shadows = alloc::vec::Vec::with_capacity(processors);
        for _ in 0..processors {
            match Shadow::new(&*self.host, tables) {
                Ok(shadow) => shadows.push(shadow),
                Err(error) => {
                    shadows.iter().flat_map(Shadow::frames).for_each(|frame| self.host.free_table(frame));
                    return Err(error);
                }
            }
        }
        self.locked.write().shadows = shadows;
        Ok(self)
    }

    /// Where a virtual processor's shadow begins, if it has one.
    pub fn shadow_roots(&self, processor: Processor) -> Option<ShadowRoots> {
        let locked = self.locked.read();
        let shadow = locked.shadows.get(processor.0)?;
        Some(ShadowRoots { long: shadow.root(), legacy: shadow.pointers() })
    }

    /// Resolves a page fault of a virtual processor, which does not run meanwhile. Call it with no memory-manager lock held; it
    /// may wait for such locks.
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
        loop {
            let translation = match walk(&Reached(self), paging, linear, access) {
                Ok(translation) => translation,
                Err(WalkEnd::Fault(fault)) => return Ok(LinearFault::Guest(fault)),
                Err(WalkEnd::Failed(error)) => return Err(error),
            };
            let kind = if access.write { Access::Write } else { Access::Read };
            match self.derive(processor, linear, &translation, kind) {
                Derived::Done => return Ok(LinearFault::Mapped),
                Derived::Wanting => self.supply_shadow(processor),
                Derived::Groundless => {
                    if self.fault(translation.gpa, kind)? == FaultOutcome::NotRam {
                        return Ok(LinearFault::NotRam(translation.gpa));
                    }
                }
            }
        }
    }

    /// Lets a leaf stand on what is mapped at the translation's end.
    fn derive(
        &self,
        processor: Processor,
        linear: u64,
        translation: &Translation,
        access: Access,
    ) -> Derived {
        let mut locked = self.locked.write();
        // Nothing is there after a release, and the fault says so.
        let Some(tdp) = locked.tdp else { return Derived::Groundless };
        let gfn = translation.gpa.gfn();
        let ground = tdp.ground(&*self.host, gfn);
        let Some(Leaf { pfn, rights, .. }) =
            ground.filter(|leaf| access == Access::Read || leaf.rights.write)
        else {
            return Derived::Groundless;
        };
        let Translation { write, user, execute, .. } = *translation;
        let write = write && (rights.write || !intact(Mutant::ShadowAllowsMore));
        let leaf = ShadowLeaf { pfn, write, user, execute };
        let part = Part { linear, shift: translation.shift, gfn, leaf };
        let installed = locked.shadows[processor.0].install(&*self.host, &part);
        installed.map_or_else(|Wanting| Derived::Wanting, |()| Derived::Done)
    }

    /// One more table for a shadow; where there is no memory, it has to do with those that it has.
    fn supply_shadow(&self, processor: Processor) {
        // Nothing is allocated under the lock (I4).
        let table = Unused::of_plenty(&*self.host);
        let mut locked = self.locked.write();
        let shadow = &mut locked.shadows[processor.0];
        match table {
            Ok(table) => shadow.supply(table),
            Err(OutOfTables) => shadow.stop_growing(),
        }
    }

    /// INVLPG by a virtual processor.
    pub fn invalidate_linear(&self, processor: Processor, linear: u64) {
        let mut locked = self.locked.write();
        if let Some(shadow) = locked.shadows.get_mut(processor.0) {
            shadow.invalidate(&*self.host, linear);
        }
    }

    /// MOV to CR3 by a virtual processor, or anything else that drops all that it has cached.
    pub fn clear_shadow(&self, processor: Processor) {
        let mut locked = self.locked.write();
        if let Some(shadow) = locked.shadows.get_mut(processor.0) {
            shadow.clear(&*self.host);
        }
    }
}
