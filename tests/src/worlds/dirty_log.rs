//! Dirty logs of guests, and what they must not miss: where a page of anonymous memory holds something else than at the last
//! harvest, it is in the next one. Contents are compared, whoever has changed them and in which way.
//!
//! ```text
//!   harvest ─► resident pages ─► what they held  ─► was something else last time? ─► must be among the harvested
//!                 └─ not resident: what was known stays known, unless the page was harvested
//! ```
//!
//! Pages of files are left out: others may write to them.

use super::model::Words;
use super::{World, address, paging};
use crate::Violation;
use crate::lab::Verdict;
use crate::oracle;
use addr::{Gfn, GfnRange, PAGE_SHIFT};
use mmu::{AccessedDirty, DirtyPages, LogBy, LogError, Slot};
use std::collections::{BTreeMap, BTreeSet};

/// What pages held, by number, when they were last looked at; and how writes are logged.
#[derive(Debug)]
pub(super) struct Seen {
    by: LogBy,
    pages: BTreeMap<u64, Words>,
}

/// Every frame that a guest has.
fn all() -> GfnRange {
    GfnRange::new(Gfn::ZERO, Gfn::new(1 << 14))
}

impl World {
    /// Begins the logs of a guest's slots, or ends them.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn toggle_log(&mut self, id: usize, by: LogBy) -> Result<Verdict, Violation> {
        self.machine.settle();
        // A processor that does not set D logs nothing.
        let tracks = self.machine.options.accessed_dirty == AccessedDirty::Hardware;
        let by = if tracks { by } else { LogBy::WriteFault };
        let begins = self.living(id).seen.is_none();
        let Some(guest) = &self.living(id).guest else { return Ok(Verdict::NotRam) };
        for slot in guest.slots.iter().map(|slot| slot.gfns().start()) {
            let done = if begins { guest.mmu.begin_log(slot, by) == Ok(()) } else { guest.mmu.end_log(slot) };
            assert!(done, "the slot at {slot}, logged or not");
        }
        self.absorb()?;
        let seen = begins.then(|| self.hold(id)).transpose()?;
        if let Some(living) = &mut self.spaces[id] {
            living.seen = seen.map(|pages| Seen { by, pages });
        }
        self.judged(|| format!("dirty log of {id}: {begins}"), &[Verdict::Done], Verdict::Done)
    }

    /// A slot was added to a guest.
    pub(super) fn log_slot(&self, id: usize, slot: &Slot) {
        let living = self.living(id);
        if let (Some(guest), Some(seen)) = (&living.guest, &living.seen) {
            let begun: Result<(), LogError> = guest.mmu.begin_log(slot.gfns().start(), seen.by);
            begun.expect("a place for its log");
        }
    }

    /// Harvests the logs of a guest.
    ///
    /// # Errors
    /// [`Violation`], also where a page was missed.
    pub fn harvest(&mut self, id: usize) -> Result<Verdict, Violation> {
        self.machine.settle();
        let living = self.living(id);
        let (Some(guest), Some(_)) = (&living.guest, &living.seen) else { return Ok(Verdict::NotRam) };
        // What is written while the harvest lasts may be in the next one, but then a copy made afterwards has it as well.
        let before = self.hold(id)?;
        guest.mmu.note_logged(self.machine.take_logged(guest.root));
        let harvested = Self::pages_of(&guest.slots, &guest.mmu.harvest(all()));
        let after = self.hold(id)?;
        self.absorb()?;
        let missed = self.changed(id, &before).find(|page| !harvested.contains(page));
        if let Some(page) = missed {
            let (expected, found) = ("a harvest with it".into(), "one without".into());
            return Err(Violation::Answer {
                what: format!("page {page:#x} of {id}, changed"),
                expected,
                found,
            });
        }
        if let Some(Seen { pages: seen, .. }) =
            self.spaces[id].as_mut().and_then(|living| living.seen.as_mut())
        {
            harvested.iter().for_each(|page| drop(seen.remove(page)));
            seen.extend(before.into_iter().filter(|(page, _)| !harvested.contains(page)));
            seen.extend(after.into_iter().filter(|(page, _)| harvested.contains(page)));
        }
        self.judged(|| format!("harvest of {id}"), &[Verdict::Done], Verdict::Done)
    }

    /// The pages behind guest frames: two slots may show the same one.
    fn pages_of(slots: &[Slot], dirty: &DirtyPages) -> BTreeSet<u64> {
        let slot = |gfn: Gfn| slots.iter().find(|slot| slot.gfns().contains(gfn)).expect("a slot's frame");
        dirty.iter().map(|gfn| slot(gfn).hva_of(gfn).as_u64() >> PAGE_SHIFT).collect()
    }

    /// What anonymous pages hold that are resident.
    fn hold(&self, id: usize) -> Result<BTreeMap<u64, Words>, Violation> {
        let resident = oracle::resident(&self.machine, self.living(id).space.root())?.into_iter();
        let slots = self.living(id).guest.iter().flat_map(|guest| &guest.slots);
        let hvas: Vec<_> = slots.map(Slot::hvas).collect();
        let is_ram = |page| hvas.iter().any(|hvas| hvas.contains(address(page)));
        let anonymous = resident.filter(|&(page, _)| is_ram(page) && self.model.is_anonymous(id, page));
        Ok(anonymous
            .map(|(page, frame)| {
                let words = self.machine.memory.nonzero(frame).into_iter();
                (page, Words::new(words.map(|(place, word)| (place, paging::seen(page, word)))))
            })
            .collect())
    }

    /// Those of these pages that are known to have held something else.
    fn changed<'a>(&'a self, id: usize, now: &'a BTreeMap<u64, Words>) -> impl Iterator<Item = u64> + 'a {
        let seen = self.living(id).seen.iter();
        seen.flat_map(move |Seen { pages: seen, .. }| {
            now.iter().filter(|(page, words)| seen.get(page).is_some_and(|before| before != *words))
        })
        .map(|(&page, _)| page)
    }
}
