//! Tables of a shadow that are kept over the guest's flushes: who writes the guest's table is noticed, whoever it is, and what has
//! changed goes.

use super::{A, D, End, Guest, P, PROCESSOR, PS, U, W, WRITE, numbered, shadow_entry};
use crate::{CPU0, CPU1, GUEST, Outcome};
use mmu::{GuestPaging, LinearAccess, LinearFault, PageFault};
use std::sync::Arc;
use tests::lab::{DeviceId, gpage, page, pages};
use tests::machine::Event;

/// The shadow faults of an access: 0 where its shadow is there.
fn faults(guest: &Guest, linear: u64, value: Option<u64>) -> Result<u64, tests::Violation> {
    let before = guest.lab.machine.faults();
    guest.access(linear, value)?;
    Ok(guest.lab.machine.faults() - before)
}

/// Another root, page 8, that shares what is below its first 512 GiB.
fn other_root(guest: &Guest) -> Result<GuestPaging, tests::Violation> {
    guest.write(gpage(8), gpage(2).as_u64() | P | W | U)?;
    Ok(GuestPaging { cr3: 0x8000, ..guest.paging })
}

#[test]
fn tables_that_were_used_lately_are_found_again() -> Outcome {
    let mut guest = Guest::long()?;
    numbered(&guest)?;
    let (first, second) = (guest.paging, other_root(&guest)?);
    guest.map(5, 20, P | W | A | D)?;
    guest.writes(0x5000, 20)?;
    guest.paging = second;
    guest.loads_cr3();
    // What both have below their roots is there already; the other root's entry is not.
    assert_eq!(faults(&guest, 0x5000, None)?, 1);
    for paging in [first, second, first] {
        guest.paging = paging;
        guest.loads_cr3();
        assert_eq!(faults(&guest, 0x5000, Some(20))?, 0);
    }
    guest.finish()
}

#[test]
fn a_root_that_has_changed_meanwhile_is_not_what_it_was() -> Outcome {
    let mut guest = Guest::long()?;
    numbered(&guest)?;
    guest.map(5, 20, P | W | A | D)?;
    let (first, second) = (guest.paging, other_root(&guest)?);
    for level in [gpage(1), gpage(2), gpage(3), gpage(4).add(5 * 8)] {
        guest.reads(0x5000, 20)?;
        guest.paging = second;
        guest.loads_cr3();
        // In none of its tables it is there now.
        let entry = guest.word(level);
        guest.write(level, 0)?;
        guest.paging = first;
        guest.loads_cr3();
        assert_eq!(guest.access(0x5000, None)?, End::Fault(0), "{level}");
        guest.write(level, entry)?;
    }
    guest.finish()
}

#[test]
fn only_entries_that_have_changed_go_with_a_flush() -> Outcome {
    let guest = Guest::long()?;
    numbered(&guest)?;
    for index in 0..8 {
        guest.map(8 + index, 20 + index, P | W | A | D)?;
        guest.reads((8 + index) << 12, 20 + index)?;
    }
    guest.loads_cr3();
    // The table is known now. It is written, by another processor and twice, and has to be looked at once more.
    for to in [30, 31] {
        guest.map(9, to, P | W | A | D)?;
    }
    guest.loads_cr3();
    guest.reads(9 << 12, 31)?;
    for index in [0, 2, 3, 4, 5, 6, 7] {
        assert_eq!(faults(&guest, (8 + index) << 12, None)?, 0, "{index}");
    }
    guest.finish()
}

#[test]
fn a_guest_writes_its_tables_through_themselves() -> Outcome {
    let guest = Guest::long()?;
    numbered(&guest)?;
    // Linear page 6 is the page table itself, and page 7 its directory.
    guest.map(6, 4, P | W)?;
    guest.map(7, 3, P | W)?;
    let entry = |to: u64| gpage(to).as_u64() | P | W | A | D;
    for to in [20, 21, 22] {
        guest.writes(0x6000 + 5 * 8, entry(to))?;
        guest.invalidates(0x5000);
        guest.reads(0x5000, to)?;
        guest.loads_cr3();
        guest.reads(0x5000, to)?;
    }
    // A load of a table that is known does not make it unknown.
    guest.loads_cr3();
    assert_eq!(guest.access(0x6000 + 5 * 8, None)?, End::Value(entry(22)));
    assert_eq!(faults(&guest, 0x5000, None)?, 0);
    // One of the second 2 MiB, by the directory.
    guest.writes(0x7008, gpage(4).as_u64() | P | W)?;
    guest.reads(0x20_5000, 22)?;
    guest.loads_cr3();
    guest.writes(0x7008, 0)?;
    guest.invalidates(0x20_9000);
    assert_eq!(guest.access(0x20_5000, None)?, End::Fault(0), "INVLPG drops what is cached of directories");
    guest.finish()
}

#[test]
fn another_processor_that_may_write_a_table_is_flushed_before_it_is_compared() -> Outcome {
    let guest = Guest::long()?;
    numbered(&guest)?;
    guest.map(5, 20, P | W | A | D)?;
    guest.reads(0x5000, 20)?;
    // CPU 1 has cached that it may write the page table, and goes on writing.
    for to in [21, 22, 23] {
        guest.map(5, to, P | W | A | D)?;
        assert!(guest.lab.guest_has_cached(CPU1, gpage(4)));
        guest.loads_cr3();
        guest.lab.check()?;
        guest.reads(0x5000, to)?;
    }
    guest.finish()
}

#[test]
fn what_another_processor_writes_until_its_flush_is_seen() -> Outcome {
    let guest = Guest::long()?;
    numbered(&guest)?;
    guest.map(5, 20, P | W | A | D)?;
    guest.reads(0x5000, 20)?;
    let entry = gpage(21).as_u64() | P | W | A | D;
    // The flush has been asked for, and CPU 1 does not know of it yet.
    let (machine, mut late) = (Arc::downgrade(&guest.lab.machine), Some(entry));
    guest.lab.machine.set_hook(move |event| {
        if let (Event::Wait, Some(machine)) = (event, machine.upgrade())
            && let Some(entry) = late.take()
        {
            machine.guest_store(CPU1, gpage(4).add(5 * 8), entry).expect("it has that cached");
        }
    });
    guest.loads_cr3();
    assert_eq!(guest.word(gpage(4).add(5 * 8)), entry);
    guest.reads(0x5000, 21)?;
    guest.finish()
}

#[test]
fn a_device_that_writes_a_table_is_noticed() -> Outcome {
    let guest = Guest::long()?;
    numbered(&guest)?;
    guest.map(5, 20, P | W | A | D)?;
    guest.reads(0x5000, 20)?;
    guest.loads_cr3();
    let entry = gpage(21).as_u64() | P | W | A | D;
    guest.lab.device_store(DeviceId(0), page(4).add(5 * 8), entry)?;
    guest.loads_cr3();
    guest.reads(0x5000, 21)?;
    guest.finish()
}

#[test]
fn an_instruction_in_software_that_writes_a_table_is_noticed() -> Outcome {
    let guest = Guest::long()?;
    numbered(&guest)?;
    guest.map(5, 20, P | W | A | D)?;
    guest.reads(0x5000, 20)?;
    guest.loads_cr3();
    let (at, entry) = (gpage(4).add(5 * 8), gpage(21).as_u64() | P | W | A | D);
    let old = guest.word(at).to_le_bytes();
    assert_eq!(guest.lab.guest(GUEST).mmu.exchange(at, &old, &entry.to_le_bytes()), Ok(Some(true)));
    guest.loads_cr3();
    guest.reads(0x5000, 21)?;
    guest.finish()
}

#[test]
fn a_table_whose_page_the_host_takes_is_looked_at_again() -> Outcome {
    let guest = Guest::long()?;
    numbered(&guest)?;
    guest.map(5, 20, P | W | A | D)?;
    guest.reads(0x5000, 20)?;
    guest.loads_cr3();
    guest.lab.migrate(page(4))?;
    guest.reads(0x5000, 20)?;
    // The guest gives it back: it reads zeros from now on.
    guest.loads_cr3();
    guest.lab.discard(pages(4, 1))?;
    guest.loads_cr3();
    assert_eq!(guest.access(0x5000, None)?, End::Fault(0));
    guest.finish()
}

#[test]
fn a_page_that_is_no_table_any_more_is_written_without_faults() -> Outcome {
    let mut guest = Guest::long()?;
    numbered(&guest)?;
    let (first, second) = (guest.paging, other_root(&guest)?);
    guest.map(5, 20, P | W | A | D)?;
    guest.reads(0x5000, 20)?;
    guest.paging = second;
    guest.loads_cr3();
    guest.reads(0x5000, 20)?;
    // The first root's page is used for something else. What was its entry stays as it was.
    let written = |guest: &Guest, value| -> Result<u64, tests::Violation> {
        let before = guest.lab.machine.faults();
        guest.write(gpage(1).add(400 * 8), value)?;
        guest.loads_cr3();
        Ok(guest.lab.machine.faults() - before)
    };
    let faults = (0..8).map(|value| written(&guest, value)).collect::<Result<Vec<_>, _>>()?;
    assert_eq!(faults[..2], [1, 1], "a table that is known is protected");
    assert_eq!(faults[5..], [0, 0, 0]);
    guest.paging = first;
    guest.loads_cr3();
    guest.reads(0x5000, 20)?;
    guest.finish()
}

#[test]
fn a_way_that_was_not_there_brings_nothing_back() -> Outcome {
    let guest = Guest::long()?;
    numbered(&guest)?;
    guest.map(9, 29, P | W | A | D)?;
    // The table, or one of two directories above it, that a second way leads to: a part of the first 512 GiB, or the next.
    for (entry, below, by) in [(gpage(3).add(8), gpage(4), 0x20_0000), (gpage(1).add(8), gpage(2), 1 << 39)] {
        guest.map(5, 20, P | W | A | D)?;
        guest.invalidates(0x5000);
        guest.reads(0x5000, 20)?;
        guest.write(entry, below.as_u64() | P | W | U)?;
        guest.reads(by | 0x9000, 29)?;
        // It is gone, for all who ask; so what it led to has no translation by it, and none has to be flushed.
        guest.write(entry, 0)?;
        guest.invalidates(by | 0x9000);
        guest.map(5, 21, P | W | A | D)?;
        guest.write(entry, below.as_u64() | P | W | U)?;
        guest.reads(by | 0x9000, 29)?;
        guest.reads(by | 0x5000, 21)?;
    }
    guest.finish()
}

#[test]
fn a_directory_that_forbids_later_what_its_table_allows() -> Outcome {
    // CVE-2021-38198 again: the table keeps its rights, and so does each way to it.
    let guest = Guest::long()?;
    numbered(&guest)?;
    guest.map(5, 20, P | W | U | A | D)?;
    guest.writes(0x5000, 1)?;
    for (flags, expected) in [(P | U, false), (P | W | U, true), (P | U, false)] {
        guest.write(gpage(3), gpage(4).as_u64() | flags)?;
        guest.loads_cr3();
        let refused = End::Fault(PageFault::PRESENT | PageFault::WRITE);
        assert_eq!(guest.access(0x5000, Some(2))?, if expected { End::Value(2) } else { refused });
    }
    guest.finish()
}

#[test]
fn ways_of_different_rights_without_write_protection_of_the_supervisor() -> Outcome {
    let mut guest = Guest::long()?;
    numbered(&guest)?;
    guest.paging.cr0 &= !(1 << 16);
    guest.loads_cr3();
    // One table, of which one way allows stores.
    guest.write(gpage(3).add(8), gpage(4).as_u64() | P | U)?;
    guest.map(5, 20, P | W | U | A | D)?;
    guest.writes(0x5000, 1)?;
    guest.lab.machine.exit(CPU0);
    let mmu = &guest.lab.guest(GUEST).mmu;
    let store = LinearAccess { user: true, ..WRITE };
    let code = PageFault::PRESENT | PageFault::WRITE | PageFault::USER;
    let fault = |linear| mmu.fault_linear(PROCESSOR, &guest.paging, linear, store);
    assert_eq!(fault(0x20_5000), Ok(LinearFault::Guest(PageFault { code })));
    guest.reads(0x20_5000, 1)?;
    assert_eq!(shadow_entry(&guest, 0x20_5000) & W, 0, "or CPL 3 could write there");
    guest.writes(0x20_5000, 2)?;
    assert_eq!(shadow_entry(&guest, 0x20_5000) & (W | U), W);
    assert_eq!(shadow_entry(&guest, 0x5000) & (W | U), W | U);
    guest.finish()
}

#[test]
fn ways_of_user_and_supervisor_without_write_protection_of_the_supervisor() -> Outcome {
    let mut guest = Guest::long()?;
    guest.paging.cr0 &= !(1 << 16);
    guest.loads_cr3();
    guest.write(gpage(20), 20)?;
    // One table, and the parts of one large page, of which the user has one way and the supervisor another.
    for (first, second, entry) in
        [(0x5000, 0x20_5000, gpage(4).as_u64()), (0x40_0000 + (20 << 12), 0x60_0000 + (20 << 12), PS)]
    {
        guest.map(5, 20, P | W | U | A | D)?;
        for (linear, user) in [(first, U), (second, 0)] {
            guest.write(gpage(3).add((linear >> 21) * 8), entry | P | W | user | A | D)?;
            guest.invalidates(linear);
        }
        for (linear, level) in [(first, U), (second, 0), (first, U)] {
            guest.reads(linear, 20)?;
            assert_eq!(shadow_entry(&guest, linear) & U, level, "SMEP would be no help, at {linear:#x}");
        }
        // What one of them has derived, the other does not find as its own.
        assert_eq!(faults(&guest, first, None)? + faults(&guest, second, None)?, 0);
        assert_eq!(shadow_entry(&guest, first) & U, U);
    }
    guest.finish()
}

#[test]
fn neighbours_without_write_protection_of_the_supervisor() -> Outcome {
    let mut guest = Guest::long()?;
    numbered(&guest)?;
    guest.paging.cr0 &= !(1 << 16);
    // The supervisor's, and one of the user's that nobody may write, but the supervisor may now: this lends it one page.
    for (index, flags, stores) in [(2, W, false), (3, U, true)] {
        guest.write(gpage(3).add(index * 8), PS | P | A | D | flags)?;
        guest.loads_cr3();
        let at = |page: u64| index << 21 | page << 12;
        if stores {
            guest.writes(at(20), 7)?;
            assert_eq!(shadow_entry(&guest, at(20)) & (P | W | U), P | W);
            assert_eq!(shadow_entry(&guest, at(21)) & P, 0, "what was not stored to is lent to nobody");
        } else {
            guest.reads(at(20), 20)?;
            assert_eq!(faults(&guest, at(21), Some(7))?, 0);
        }
    }
    guest.finish()
}

#[test]
fn more_roots_than_there_are_tables() -> Outcome {
    let mut guest = Guest::long()?;
    numbered(&guest)?;
    guest.map(5, 20, P | W | A | D)?;
    for round in 0..3 {
        for root in 32..60 {
            guest.write(gpage(root), gpage(2).as_u64() | P | W | U)?;
            guest.paging.cr3 = gpage(root).as_u64();
            guest.loads_cr3();
            guest.writes(0x5000, 100 * round + root)?;
        }
    }
    guest.finish()
}

#[test]
fn a_shadow_full_of_upper_tables_begins_anew() -> Outcome {
    let guest = Guest::long()?;
    numbered(&guest)?;
    guest.map(5, 20, P | W | A | D)?;
    for round in 0..2 {
        for index in 1..30 {
            guest.write(gpage(1).add(index * 8), gpage(32 + index).as_u64() | P | W | U)?;
            guest.write(gpage(32 + index), gpage(3).as_u64() | P | W | U)?;
            guest.writes(index << 39 | 0x5000, 100 * round + index)?;
        }
    }
    guest.finish()
}

/// An entry that allows stores by now is another way: to what was cached by the old one, without W, nobody stores.
#[test]
fn a_directory_that_allows_more_by_now_lends_it_to_nothing_old() -> Outcome {
    let guest = Guest::long()?;
    numbered(&guest)?;
    let directory = |rights| guest.write(gpage(3), gpage(4).as_u64() | P | rights);
    guest.map(5, 20, P | W | A | D)?;
    guest.map(6, 22, P | W)?;
    directory(0)?;
    guest.loads_cr3();
    guest.reads(0x5000, 20)?;
    guest.map(5, 21, P | W | A | D)?;
    directory(W)?;
    guest.writes(0x6000, 7)?;
    guest.writes(0x5000, 8)?;
    assert_eq!((guest.word(gpage(20)), guest.word(gpage(21))), (20, 8));
    guest.finish()
}
