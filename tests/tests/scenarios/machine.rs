//! The machine is no kinder than hardware: what is not flushed stays, and the oracle says so.

use crate::{CPU0, CPU1, GUEST, Outcome, fill, lab};
use addr::{Hva, HvaRange, PAGE_SIZE};
use mm::{Host, Protection};
use paging::{
    EntryRef, EptEntry, FlushScope, HostEntry, Level, Rights, Shootdown, TableEntry, TableMemory, walk,
};
use tests::Violation;
use tests::lab::{Lab, Verdict, gpage, page, pages};
use tests::machine::Kind;

fn secondary_entry(lab: &Lab, index: u64) -> (EntryRef, EptEntry) {
    let found = walk::<EptEntry, _>(&*lab.machine, lab.guest(GUEST).root(), gpage(index).as_u64());
    (found.at, found.entry)
}

fn primary_entry(lab: &Lab, index: u64) -> (EntryRef, HostEntry) {
    let found = walk::<HostEntry, _>(&*lab.machine, lab.space.root(), page(index).as_u64());
    (found.at, found.entry)
}

fn flush_page(lab: &Lab, address: Hva) {
    let range = HvaRange::new(address, address.add(PAGE_SIZE));
    lab.machine.flush(FlushScope::Primary { root: lab.space.root(), range });
}

#[test]
fn a_translation_outlives_its_entry_until_the_flush() -> Outcome {
    let lab = lab(2);
    fill(&lab, 2, 10)?;
    lab.run_guest(GUEST, CPU0);
    let (at, _) = secondary_entry(&lab, 1);
    lab.machine.store(at, 0);
    assert_eq!(lab.machine.guest_load(CPU0, gpage(1)), Ok(11));
    assert!(matches!(lab.check(), Err(Violation::Stale { kind: Kind::GuestPhysical, .. })));
    lab.machine.flush(FlushScope::Secondary { root: lab.guest(GUEST).root() });
    assert!(lab.machine.guest_load(CPU0, gpage(1)).is_err());
    lab.check()?;
    lab.finish()
}

#[test]
fn a_vm_exit_flushes_nothing() -> Outcome {
    let lab = lab(2);
    fill(&lab, 2, 10)?;
    lab.machine.exit(CPU0);
    let (at, _) = secondary_entry(&lab, 1);
    lab.machine.store(at, 0);
    lab.run_guest(GUEST, CPU0);
    assert_eq!(lab.machine.guest_load(CPU0, gpage(1)), Ok(11));
    lab.machine.flush(FlushScope::Secondary { root: lab.guest(GUEST).root() });
    lab.finish()
}

#[test]
fn a_cpu_that_cannot_use_a_translation_owes_its_flush() -> Outcome {
    let lab = lab(2);
    lab.store(CPU0, page(1), 12)?;
    lab.run_guest(GUEST, CPU0);
    let (at, entry) = primary_entry(&lab, 1);
    lab.machine.store(at, entry.with_rights(Rights::READ).bits());
    flush_page(&lab, page(1));
    // Before it touches an hva again it pays: the store does not go through on the old translation.
    lab.machine.exit(CPU0);
    assert!(lab.machine.store_linear(CPU0, page(1), 13).is_err());
    assert_eq!(lab.machine.load_linear(CPU0, page(1)), Ok(12));
    lab.finish()
}

#[test]
fn a_cached_refusal_costs_one_spurious_fault() -> Outcome {
    let lab = lab(2);
    lab.store(CPU0, page(1), 12)?;
    lab.mprotect(pages(0, 2), Protection::Read)?;
    lab.load(CPU0, page(1))?;
    let (at, entry) = primary_entry(&lab, 1);
    lab.machine.store(at, entry.with_rights(Rights::READ_WRITE).bits());
    assert!(lab.machine.store_linear(CPU0, page(1), 13).is_err());
    assert_eq!(lab.machine.store_linear(CPU0, page(1), 13), Ok(()));
    lab.mprotect(pages(0, 2), Protection::ReadWrite)?;
    lab.finish()
}

#[test]
fn dirty_is_set_once_and_only_a_flush_makes_the_cpu_look_again() -> Outcome {
    let lab = lab(2);
    lab.guest_load(GUEST, CPU0, gpage(1))?;
    let dirty = |lab: &Lab| secondary_entry(lab, 1).1.bits() & EptEntry::DIRTY != 0;
    assert!(!dirty(&lab));
    lab.guest_store(GUEST, CPU0, gpage(1), 1)?;
    assert!(dirty(&lab));
    let (at, entry) = secondary_entry(&lab, 1);
    lab.machine.store(at, entry.bits() & !EptEntry::DIRTY);
    assert_eq!(lab.machine.guest_store(CPU0, gpage(1), 2), Ok(()));
    assert!(!dirty(&lab), "the store looked at no table");
    lab.machine.flush(FlushScope::Secondary { root: lab.guest(GUEST).root() });
    assert_eq!(lab.guest_store(GUEST, CPU0, gpage(1), 3)?, Verdict::Done);
    assert!(dirty(&lab));
    lab.finish()
}

#[test]
fn a_freed_frame_that_a_cpu_can_reach_is_a_violation() {
    let lab = lab(2);
    assert_eq!(lab.store(CPU1, page(1), 12), Ok(Verdict::Done));
    let frame = lab.space.lookup(page(1)).expect("resident").pfn;
    lab.machine.retire(frame, addr::PageSize::Size4K);
    assert!(matches!(lab.check(), Err(Violation::FreedWhileTranslated { cpu: 1, .. })));
}

#[test]
fn a_table_stays_cached_until_the_flush_even_when_it_is_unlinked() -> Outcome {
    let lab = lab(2);
    lab.store(CPU0, page(0), 12)?;
    let (leaf, _) = primary_entry(&lab, 0);
    // The page directory's entry that names the page table of the arena's first page.
    let mut at = EntryRef::new(lab.space.root(), Level::Pml4.index(page(0).as_u64()));
    while let paging::View::Table(next) = HostEntry::from_bits(lab.machine.load(at)).view(Level::Pdpt)
        && next != leaf.table()
    {
        let level = if at.table() == lab.space.root() { Level::Pdpt } else { Level::Pd };
        at = EntryRef::new(next, level.index(page(0).as_u64()));
    }
    let link = lab.machine.load(at);
    lab.machine.store(at, 0);
    // Never translated before, but the way to its entry is cached.
    lab.machine.store(EntryRef::new(leaf.table(), 1), lab.machine.load(leaf));
    assert_eq!(lab.machine.load_linear(CPU0, page(1)), Ok(12));
    flush_page(&lab, page(0));
    flush_page(&lab, page(1));
    assert!(lab.machine.load_linear(CPU0, page(1)).is_err());
    lab.machine.store(EntryRef::new(leaf.table(), 1), 0);
    lab.machine.store(at, link);
    lab.finish()
}
