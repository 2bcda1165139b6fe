//! Leaves that are derived beside that of a fault: what the guest's entries and the ground say, unused until they are used.

use super::{A, D, End, Guest, P, W, numbered, shadow_entry};
use crate::{GUEST, Outcome};
use mm::Protection;
use mm::notifier::{MmuNotifier, YoungPages};
use tests::lab::{gpage, page, pages};

/// What entries 16 to 23 of the guest's page table say.
const ENTRIES: [(u64, u64); 8] = [
    (16, P | W | A | D),
    (17, P | W | A | D),
    (18, P | W | A),
    (19, P | W | D),
    (20, P | A | D),
    // Nobody has touched that page.
    (40, P | W | A | D),
    (0, 0),
    (23, P | W | A | D),
];

/// The guest has such entries; the host has its pages, and has taken away what was mapped of them.
fn prepared() -> Result<Guest, tests::Violation> {
    let guest = Guest::long()?;
    numbered(&guest)?;
    for ((to, flags), index) in ENTRIES.into_iter().zip(16..) {
        guest.map(index, to, flags)?;
    }
    guest.map(30, 30, P | W | A | D)?;
    for rights in [Protection::Read, Protection::ReadWrite] {
        guest.lab.mprotect(pages(16, 16), rights)?;
    }
    for index in 16..32 {
        is_young(&guest, index);
    }
    Ok(guest)
}

/// Ages a page, past the bench's opinion: it does not know of accesses through the guest's tables.
fn is_young(guest: &Guest, index: u64) -> Option<bool> {
    guest.lab.space.test_and_clear_young(page(index))
}

#[test]
fn a_fault_derives_what_is_beside_it() -> Outcome {
    let guest = prepared()?;
    let derived = || guest.lab.guest(GUEST).mmu.stats().snapshot().derived_beside;
    let before = derived();
    guest.reads(0x10_000, 16)?;
    let entries = (0x10..0x18).map(|index| shadow_entry(&guest, index << 12) & (P | W | A));
    assert_eq!(entries.collect::<Vec<_>>(), [P | W | A, P | W, P, 0, P, 0, 0, P | W]);
    assert_eq!(derived() - before, 4);
    let faults = guest.lab.machine.faults();
    guest.writes(0x11_000, 117)?;
    guest.reads(0x12_000, 18)?;
    guest.reads(0x14_000, 20)?;
    assert_eq!(guest.lab.machine.faults(), faults);
    assert_eq!(guest.word(gpage(17)), 117);
    // The guest's entry has to get D first.
    guest.writes(0x12_000, 118)?;
    assert_eq!(guest.lab.machine.faults(), faults + 1);
    assert_eq!(guest.word(gpage(4).add(18 * 8)) & D, D);
    guest.finish()
}

/// Two of the guest's pages are one page of its memory, and a third one is beside it.
#[test]
fn a_pass_of_aging_finds_use_by_any_leaf() -> Outcome {
    let guest = Guest::long()?;
    numbered(&guest)?;
    for (index, to) in [(5, 20), (6, 20), (7, 21)] {
        guest.map(index, to, P | W | A)?;
        guest.reads(index << 12, to)?;
    }
    let pass = |range| {
        guest.lab.machine.exit(crate::CPU0);
        let mut young = YoungPages::none(range, 1);
        guest.lab.guest(GUEST).mmu.collect_young(&mut young);
        guest.lab.guest(GUEST).mmu.flush_young();
        [20, 21].map(|index| young.contains(page(index)))
    };
    for range in [pages(0, 64), pages(20, 2)] {
        assert_eq!(pass(range), [true, true]);
        assert_eq!(pass(range), [false, false]);
        for (address, to, used) in
            [(0x5000, 20, [true, false]), (0x6000, 20, [true, false]), (0x7000, 21, [false, true])]
        {
            guest.reads(address, to)?;
            assert_eq!(pass(range), used, "through {address:#x}");
        }
        for (address, to) in [(0x5000, 20), (0x7000, 21)] {
            guest.reads(address, to)?;
        }
    }
    guest.finish()
}

#[test]
fn what_was_derived_unused_is_old_until_it_is_used() -> Outcome {
    let guest = prepared()?;
    guest.reads(0x10_000, 16)?;
    let faults = guest.lab.machine.faults();
    guest.reads(0x17_000, 23)?;
    assert_eq!(guest.lab.machine.faults(), faults);
    guest.lab.machine.exit(crate::CPU0);
    for (index, used) in [(16, true), (17, false), (23, true), (18, false)] {
        assert_eq!(guest.lab.space.test_young(page(index)), Some(used), "page {index}");
        assert_eq!(is_young(&guest, index), Some(used), "page {index}");
    }
    guest.reads(0x11_000, 17)?;
    assert_eq!(is_young(&guest, 17), Some(true));
    guest.finish()
}

#[test]
fn what_the_guest_has_used_and_flushed_was_used() -> Outcome {
    let guest = prepared()?;
    // Maps around in the ground what is too far away in the guest's table.
    guest.reads(0x10_000, 16)?;
    assert_eq!(shadow_entry(&guest, 0x1e_000), 0);
    guest.reads(0x1e_000, 30)?;
    guest.map(30, 0, 0)?;
    guest.loads_cr3();
    assert_eq!(shadow_entry(&guest, 0x1e_000), 0);
    assert_eq!(is_young(&guest, 30), Some(true));
    assert_eq!(is_young(&guest, 29), Some(false));
    guest.finish()
}

/// Where there is no RAM, the ground's page table of the others has the place of another page.
#[test]
fn what_leads_elsewhere_is_not_taken_from_the_table_of_the_others() -> Outcome {
    let guest = prepared()?;
    // The last of those that are looked at.
    guest.map(23, 512 + 23, P | W | A | D)?;
    guest.loads_cr3();
    guest.reads(0x10_000, 16)?;
    assert_eq!(guest.access(0x17_000, None)?, End::Device(gpage(512 + 23)));
    guest.finish()
}
