//! Large leaves: 2 MiB of the guest's and of the host's in one entry of a directory, until somebody has to see what is smaller.
//!
//! Page 512 begins an area that is a huge page of the host's; the tables lie below, in base pages.

use super::{A, CPU0, CPU1, D, End, GUEST, Guest, LONG, P, PROCESSOR, PS, READ, U, W, WRITE, entry_below};
use crate::{Outcome, lab_with};
use addr::{Gfn, GfnRange, PAGE_SIZE, PageSize};
use mm::notifier::{MmuNotifier, YoungPages};
use mm::{Advice, Protection};
use mmu::{AccessedDirty, GuestPaging, LinearAccess, LinearFault, LogBy, PageFault};
use paging::Level;
use std::sync::Arc;
use tests::Violation;
use tests::lab::{gpage, page, pages};
use tests::machine::{Event, Options, Paging};

/// The first page of the area, and where the guest's second entry for 2 MiB maps it.
pub(super) const AREA: u64 = 512;
const LINEAR: u64 = 0x20_0000;
/// Of which linear page 100 is page 612.
const INSIDE: u64 = LINEAR + 100 * PAGE_SIZE;
const ALL: u64 = P | W | U | A | D;

impl Guest {
    /// A guest with so many pages of RAM, those from 512 on in huge pages.
    pub(super) fn on_huge(paging: GuestPaging, ram: u64) -> Self {
        let options =
            Options { paging: Paging::Shadow, accessed_dirty: AccessedDirty::Absent, ..Options::default() };
        let lab = lab_with(options, ram);
        lab.space.madvise(page(AREA), (ram - AREA) * PAGE_SIZE, Advice::HugePage).expect("is mapped");
        let guest = Self { lab, paging };
        guest.loads_cr3();
        guest
    }

    /// Four levels, and the second 2 MiB are the area.
    fn long_on_huge(flags: u64) -> Result<Self, Violation> {
        let guest = Self::on_huge(LONG, 2 * AREA);
        for (table, below) in [(1, 2), (2, 3), (3, 4)] {
            guest.write(gpage(table), gpage(below).as_u64() | P | W | U)?;
        }
        guest.write(gpage(3).add(8), gpage(AREA).as_u64() | PS | flags)?;
        Ok(guest)
    }

    /// The entry of a shadow's directory for a linear address.
    fn directory_entry(&self, linear: u64) -> u64 {
        let root = self.lab.machine.shadow_roots(self.lab.guest(GUEST).root())[0].root;
        entry_below(self, root, linear, Level::Pd)
    }

    fn is_large(&self, linear: u64) -> bool {
        self.directory_entry(linear) & (P | PS) == P | PS
    }

    /// The shadow faults of an access.
    fn faults(&self, linear: u64, value: Option<u64>) -> Result<u64, Violation> {
        let before = self.lab.machine.faults();
        self.access(linear, value)?;
        Ok(self.lab.machine.faults() - before)
    }
}

#[test]
fn one_fault_brings_all_of_a_large_page() -> Outcome {
    let guest = Guest::long_on_huge(ALL)?;
    assert_eq!(guest.faults(INSIDE, Some(7))?, 1);
    assert!(guest.is_large(INSIDE));
    for number in [0, 1, 255, 511] {
        assert_eq!(guest.faults(LINEAR + number * PAGE_SIZE, Some(number))?, 0);
        assert_eq!(guest.word(gpage(AREA + number)), number);
    }
    assert_eq!(guest.lab.guest(GUEST).mmu.stats().snapshot().derived_large, 1);
    guest.finish()
}

#[test]
fn all_kinds_of_large_pages() -> Outcome {
    let four_mib = GuestPaging { cr4: 1 << 4, efer: 0, ..LONG };
    let pae = GuestPaging { efer: 1 << 11, pdptes: [0x3000 | P, 0, 0, 0], ..LONG };
    let off = GuestPaging { cr0: 1, cr4: 0, efer: 0, ..LONG };
    for (paging, entry, value, linear) in [
        // 1 GiB from gpa 0 on, 4 MiB of which the second half is the area, 2 MiB, and no paging.
        (LONG, gpage(2).add(8), ALL | PS, 0x4020_0000),
        (four_mib, gpage(1), ALL | PS, 0x20_0000),
        (pae, gpage(3).add(16), gpage(AREA).as_u64() | ALL | PS, 0x40_0000),
        (off, gpage(9), 0, 0x20_0000),
    ] {
        let guest = Guest::on_huge(paging, 2 * AREA);
        guest.write(gpage(1), if paging.is_long() { gpage(2).as_u64() | P | W | U } else { 0 })?;
        guest.write(entry, value)?;
        guest.write(gpage(AREA + 511), 511)?;
        guest.loads_cr3();
        assert_eq!(guest.faults(linear + 0x5000, Some(5))?, 1, "{linear:#x}");
        assert_eq!(guest.faults(linear + 511 * PAGE_SIZE, None)?, 0, "{linear:#x}");
        guest.reads(linear + 511 * PAGE_SIZE, 511)?;
        if !paging.is_off() {
            // An address of the page in another 2 MiB, if it has others.
            guest.write(entry, 0)?;
            guest.invalidates(linear & !0x3f_ffff);
            assert_eq!(guest.access(linear + 0x5000, None)?, End::Fault(0), "{linear:#x}");
        }
        guest.finish()?;
    }
    Ok(())
}

#[test]
fn rights_are_those_of_the_entry_and_writes_wait_for_its_d() -> Outcome {
    const RIGHTS: u64 = 1 << 63 | P | W | U;
    for (flags, expected) in
        [(P | U, P | U), (P | W | D, P | W), (P | W | U, P | U), (1 << 63 | P, 1 << 63 | P)]
    {
        let guest = Guest::long_on_huge(flags)?;
        guest.reads(INSIDE, 0)?;
        assert!(guest.is_large(INSIDE));
        assert_eq!(guest.directory_entry(INSIDE) & RIGHTS, expected);
        if flags & W == 0 {
            assert_eq!(guest.access(INSIDE, Some(1))?, End::Fault(PageFault::PRESENT | PageFault::WRITE));
        } else {
            guest.writes(INSIDE, 1)?;
            assert_eq!(guest.directory_entry(INSIDE) & RIGHTS, expected | W);
            assert_eq!(guest.word(gpage(3).add(8)) & (A | D), A | D);
        }
        guest.finish()?;
    }
    Ok(())
}

#[test]
fn the_host_takes_a_part_of_what_a_large_leaf_maps() -> Outcome {
    let guest = Guest::long_on_huge(ALL)?;
    guest.writes(INSIDE, 7)?;
    guest.writes(LINEAR, 8)?;
    guest.lab.space.discard(page(AREA), PAGE_SIZE).expect("is mapped");
    assert_eq!(guest.directory_entry(INSIDE), 0);
    guest.reads(LINEAR, 0)?;
    guest.reads(INSIDE, 7)?;
    assert!(!guest.is_large(INSIDE), "the host has base pages");
    // And a huge one again.
    guest.writes(LINEAR, 0)?;
    assert_eq!(guest.lab.space.collapse(page(AREA)), Ok(true));
    guest.reads(INSIDE, 7)?;
    assert!(guest.is_large(INSIDE));
    guest.lab.space.mprotect(page(AREA), PAGE_SIZE, Protection::Read).expect("is mapped");
    guest.reads(LINEAR, 0)?;
    guest.writes(INSIDE, 9)?;
    guest.finish()
}

#[test]
fn a_log_has_base_leaves() -> Outcome {
    let guest = Guest::long_on_huge(ALL)?;
    guest.writes(INSIDE, 7)?;
    let mmu = &guest.lab.guest(GUEST).mmu;
    assert_eq!(mmu.begin_log(Gfn::ZERO, LogBy::WriteFault), Ok(()));
    let all = GfnRange::new(Gfn::ZERO, Gfn::new(2 * AREA));
    let written = || mmu.harvest(all).iter().map(Gfn::as_u64).collect::<Vec<_>>();
    for round in 0..2 {
        guest.reads(LINEAR, 0)?;
        guest.writes(INSIDE, round)?;
        assert!(!guest.is_large(INSIDE));
        assert_eq!(written(), [AREA + 100], "round {round}");
    }
    guest.finish()
}

#[test]
fn a_large_leaf_is_young_with_any_of_its_pages() -> Outcome {
    let guest = Guest::long_on_huge(ALL)?;
    guest.writes(INSIDE, 7)?;
    let young = |index| guest.lab.space.test_and_clear_young(page(index));
    let mmu = &guest.lab.guest(GUEST).mmu;
    assert_eq!(young(AREA), Some(true));
    let faults = guest.lab.machine.faults();
    for round in 0..3 {
        assert_eq!(young(AREA + 3), Some(false), "round {round}");
        guest.reads(LINEAR + 511 * PAGE_SIZE, 0)?;
        assert_eq!(guest.lab.space.test_young(page(AREA + 7)), Some(true));
        assert_eq!(young(AREA + 5), Some(true), "round {round}");
        guest.reads(INSIDE, 7)?;
        let mut all = YoungPages::none(pages(AREA, AREA), 1);
        mmu.collect_young(&mut all);
        mmu.flush_young();
        assert!(all.contains(page(AREA)) && all.contains(page(AREA + 300)));
        guest.lab.check()?;
    }
    assert_eq!(guest.lab.machine.faults(), faults);
    guest.finish()
}

#[test]
fn a_large_entry_that_turns_into_a_table_and_back() -> Outcome {
    // CVE-2026-53359, as it is where one entry of the shadow maps all.
    let guest = Guest::long_on_huge(ALL)?;
    let (entry, large) = (gpage(3).add(8), gpage(AREA).as_u64() | PS | ALL);
    guest.write(gpage(30), 30)?;
    for round in 0..3 {
        guest.write(gpage(612), 612)?;
        guest.write(entry, large)?;
        guest.invalidates(LINEAR);
        guest.reads(INSIDE, 612)?;
        assert!(guest.is_large(INSIDE), "round {round}");
        guest.write(entry, gpage(4).as_u64() | P | W)?;
        guest.map(100, 30, P | W)?;
        guest.lab.space.discard(page(AREA), AREA * PAGE_SIZE).expect("is mapped");
        // Not flushed by the guest: the old translation is gone with the frames all the same.
        guest.reads(INSIDE, 30)?;
        assert!(!guest.is_large(INSIDE));
        // Nor is it for the way back: what the host has not taken may still be what it was.
        guest.write(entry, large)?;
        guest.loads_cr3();
        guest.reads(INSIDE, 0)?;
    }
    guest.finish()
}

/// The page table for linear 0x40_0000 is page 600, in the area, which the guest writes by its large page.
fn with_table_inside() -> Result<Guest, Violation> {
    let guest = Guest::long_on_huge(ALL)?;
    guest.write(gpage(20), 20)?;
    guest.write(gpage(21), 21)?;
    guest.write(gpage(3).add(16), gpage(600).as_u64() | P | W)?;
    Ok(guest)
}

/// Where the guest sees that table.
const TABLE: u64 = LINEAR + 88 * PAGE_SIZE;

#[test]
fn a_table_inside_a_large_page_is_seen_when_it_is_written() -> Outcome {
    let guest = with_table_inside()?;
    let entry = |to: u64| gpage(to).as_u64() | P | W | A | D;
    guest.writes(TABLE + 8, entry(20))?;
    assert!(guest.is_large(TABLE));
    guest.reads(0x40_1000, 20)?;
    assert!(guest.is_large(TABLE), "until its flush a guest may write as before");
    guest.loads_cr3();
    guest.lab.check()?;
    assert_eq!(guest.directory_entry(TABLE), 0, "a store has to be seen from now on");
    // Each store between flushes costs one fault, and what else is there none: base leaves are there, and stay.
    guest.writes(INSIDE, 1)?;
    for to in [21, 20, 21, 20] {
        assert!(guest.faults(TABLE + 8, Some(entry(to)))? <= 1);
        assert_eq!(guest.faults(INSIDE, Some(to))?, 0);
        assert!(!guest.is_large(TABLE));
        guest.loads_cr3();
        guest.reads(0x40_1000, to)?;
    }
    // It is a table no more, and the page large again.
    guest.write(gpage(3).add(16), 0)?;
    guest.loads_cr3();
    assert_eq!(guest.faults(LINEAR + 400 * PAGE_SIZE, Some(3))?, 1);
    assert!(guest.is_large(TABLE));
    guest.finish()
}

#[test]
fn a_page_that_nobody_writes_is_large_whatever_tables_lie_there() -> Outcome {
    let guest = with_table_inside()?;
    guest.write(gpage(600).add(8), gpage(20).as_u64() | P | W | A | D)?;
    guest.write(gpage(3).add(8), gpage(AREA).as_u64() | PS | P | U | A | D)?;
    for _ in 0..2 {
        guest.reads(0x40_1000, 20)?;
        guest.reads(INSIDE, 0)?;
        assert!(guest.is_large(INSIDE));
        guest.loads_cr3();
    }
    guest.finish()
}

#[test]
fn another_processor_that_may_write_a_table_by_a_large_leaf_is_flushed() -> Outcome {
    let guest = with_table_inside()?;
    // CPU 1 has cached that it may write the whole area, and goes on writing.
    let entry = |to: u64| gpage(to).as_u64() | P | W | A | D;
    for number in 1..3 {
        guest.write(gpage(600).add(number * 8), entry(20))?;
        guest.reads(0x40_0000 + number * PAGE_SIZE, 20)?;
    }
    for to in [21, 20, 21] {
        guest.write(gpage(600).add(8), entry(to))?;
        assert!(guest.lab.guest_has_cached(CPU1, gpage(600)));
        guest.loads_cr3();
        guest.lab.check()?;
        assert!(!guest.lab.guest_has_cached(CPU1, gpage(600)));
        guest.reads(0x40_1000, to)?;
    }
    guest.finish()
}

#[test]
fn what_another_processor_writes_by_a_large_leaf_until_its_flush_is_seen() -> Outcome {
    let guest = with_table_inside()?;
    let entry = |to: u64| gpage(to).as_u64() | P | W | A | D;
    guest.write(gpage(600).add(8), entry(20))?;
    guest.reads(0x40_1000, 20)?;
    let (machine, mut late) = (Arc::downgrade(&guest.lab.machine), Some(entry(21)));
    guest.lab.machine.set_hook(move |event| {
        if let (Event::Wait, Some(machine)) = (event, machine.upgrade())
            && let Some(entry) = late.take()
        {
            machine.guest_store(CPU1, gpage(600).add(8), entry).expect("it has that cached");
        }
    });
    guest.loads_cr3();
    guest.reads(0x40_1000, 21)?;
    guest.finish()
}

#[test]
fn what_is_lent_to_the_supervisor_is_a_base_page() -> Outcome {
    let mut guest = Guest::long_on_huge(P | U | A | D)?;
    guest.paging.cr0 &= !(1 << 16);
    guest.loads_cr3();
    // As of an instruction of CPL 3 that has its own page and the supervisor's stack in one large page.
    let mmu = &guest.lab.guest(GUEST).mmu;
    let user = LinearAccess { user: true, ..READ };
    let fault = |linear, access| mmu.fault_linear(PROCESSOR, &guest.paging, linear, access);
    guest.lab.machine.exit(CPU0);
    for (linear, access) in [(INSIDE, user), (LINEAR, WRITE), (INSIDE, user)] {
        assert_eq!(fault(linear, access), Ok(LinearFault::Mapped));
    }
    for (linear, rights) in [(INSIDE, P | U), (LINEAR, P | W)] {
        assert_eq!(
            super::shadow_entry(&guest, linear) & (P | W | U),
            rights,
            "both at a time, at {linear:#x}"
        );
    }
    guest.lab.check()?;
    // Where the entry allows stores nothing is lent.
    guest.write(gpage(3).add(8), gpage(AREA).as_u64() | PS | ALL)?;
    guest.loads_cr3();
    guest.writes(INSIDE, 1)?;
    assert_eq!(guest.directory_entry(INSIDE) & (P | W | U | PS), P | W | U | PS);
    guest.finish()
}

#[test]
fn a_large_entry_has_as_many_base_leaves_as_the_host_needs() -> Outcome {
    // The host's memory is huge, and the guest's slot does not begin where that does.
    let guest = Guest::long_on_huge(ALL)?;
    guest.lab.add_slot(GUEST, gpage(4 * AREA + 1), pages(AREA, 2));
    guest.write(gpage(3).add(8), gpage(4 * AREA).as_u64() | PS | ALL)?;
    guest.writes(LINEAR + PAGE_SIZE, 4)?;
    assert!(!guest.is_large(LINEAR));
    assert_eq!(guest.access(LINEAR, None)?, End::Device(gpage(4 * AREA)));
    assert_eq!(guest.lab.space.lookup(page(AREA)).map(|found| found.size), Some(PageSize::Size2M));
    guest.finish()
}
