//! What aging and the dirty log take from the leaves of shadows: A, and W. The leaves stay.

use super::{A, D, Guest, P, W, numbered, shadow_entry};
use crate::{GUEST, Outcome};
use addr::{Gfn, GfnRange};
use mm::notifier::{MmuNotifier, YoungPages};
use mmu::LogBy;
use tests::lab::{page, pages};

/// Pages 20 and 21 are mapped, and were written.
fn prepared() -> Result<Guest, tests::Violation> {
    let guest = Guest::long()?;
    numbered(&guest)?;
    for index in [20, 21] {
        guest.map(index, index, P | W | A | D)?;
        guest.writes(index << 12, index)?;
    }
    Ok(guest)
}

/// Ages a page, past the bench's opinion: it does not know of accesses through the guest's tables.
fn is_young(guest: &Guest, index: u64) -> Option<bool> {
    guest.lab.space.test_and_clear_young(page(index))
}

#[test]
fn what_was_aged_is_used_again_without_a_fault_and_seen() -> Outcome {
    let guest = prepared()?;
    let faults = guest.lab.machine.faults();
    for round in 0..3 {
        assert_eq!(is_young(&guest, 20), Some(true), "round {round}");
        assert_eq!(shadow_entry(&guest, 20 << 12) & (P | W | A), P | W);
        assert_eq!(is_young(&guest, 20), Some(false), "round {round}");
        guest.lab.check()?;
        guest.writes(20 << 12, round)?;
    }
    assert_eq!(guest.lab.machine.faults(), faults);
    assert_eq!(is_young(&guest, 21), Some(true));
    guest.finish()
}

/// Pages are collected without a flush each, and one flush follows.
#[test]
fn what_was_collected_is_used_again_without_a_fault_and_seen() -> Outcome {
    let guest = prepared()?;
    let mmu = &guest.lab.guest(GUEST).mmu;
    let collected = || {
        let mut young = YoungPages::none(pages(20, 2), 1);
        mmu.collect_young(&mut young);
        mmu.flush_young();
        [20, 21].map(|index| young.contains(page(index)))
    };
    assert_eq!(collected(), [true, true]);
    let faults = guest.lab.machine.faults();
    for round in 0..3 {
        guest.reads(20 << 12, 20)?;
        assert_eq!(collected(), [true, false], "round {round}");
        assert_eq!(collected(), [false, false], "round {round}");
        guest.lab.check()?;
    }
    assert_eq!(guest.lab.machine.faults(), faults);
    guest.finish()
}

/// Above the leaves of a shadow nothing is known of their use: a pass asks for every block.
#[test]
fn a_pass_finds_what_was_used_through_a_shadow() -> Outcome {
    let guest = prepared()?;
    for round in 0..3 {
        assert_eq!(guest.lab.space.test_young(page(20)), Some(true), "round {round}");
        guest.lab.space.mm().age_all();
        assert_eq!(guest.lab.space.test_young(page(20)), Some(false), "round {round}");
        guest.lab.check()?;
        guest.reads(20 << 12, 20)?;
    }
    guest.finish()
}

#[test]
fn a_log_takes_from_leaves_what_it_has_to_see_and_no_more() -> Outcome {
    let guest = prepared()?;
    let mmu = &guest.lab.guest(GUEST).mmu;
    let all = GfnRange::new(Gfn::ZERO, Gfn::new(super::RAM));
    let written = || mmu.harvest(all).iter().map(Gfn::as_u64).collect::<Vec<_>>();
    let faults = guest.lab.machine.faults();
    assert_eq!(mmu.begin_log(Gfn::ZERO, LogBy::WriteFault), Ok(()));
    for round in 1..3 {
        guest.lab.check()?;
        assert_eq!(shadow_entry(&guest, 20 << 12) & (P | W | A), P | A);
        guest.reads(21 << 12, 21)?;
        assert_eq!(guest.lab.machine.faults(), faults + round - 1, "a load costs none");
        guest.writes(20 << 12, round)?;
        assert_eq!(guest.lab.machine.faults(), faults + round);
        assert_eq!(written(), [20], "round {round}");
    }
    guest.finish()
}
