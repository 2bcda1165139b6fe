//! Frames that an idle CPU zeroes ahead: whoever wants zeros gets them, they are zeros, and nobody is short of memory for them.

use crate::{CPU0, GUEST, HUGE, Outcome, SMALL, lab, lab_with};
use addr::{PageSize, Pfn};
use mm::{Host, zero_ahead};
use std::cell::Cell;
use tests::Violation;
use tests::lab::{Lab, Verdict, gpage, page, pages};
use tests::machine::Options;

/// What is wanted: a part of the machine's 8,191 frames.
const WANTED: u64 = 127;
/// Frames that a CPU takes for itself at a time.
const BATCH: u64 = 16;

/// An idle CPU has time to zero so many.
fn idle(lab: &Lab, frames: u64) {
    // Before each frame it is asked twice where a batch begins.
    let left = Cell::new(frames + frames.div_ceil(BATCH));
    zero_ahead(&*lab.machine, || left.replace(left.get().saturating_sub(1)) > 0);
}

fn zeroed(lab: &Lab) -> u64 {
    lab.machine.frames().zeroed_count()
}

/// All that can be had in pages of this size.
fn take_all(lab: &Lab, size: PageSize) -> Vec<Pfn> {
    std::iter::from_fn(|| lab.machine.frames().allocate_reserved(CPU0, size).ok()).collect()
}

#[test]
fn a_guest_finds_zeros_in_them() -> Outcome {
    let lab = lab_with(Options { quarantine: 0, ..Options::default() }, 300);
    // Frames with junk in them are free again.
    for index in 0..200 {
        assert_eq!(lab.guest_store(GUEST, CPU0, gpage(index), !0)?, Verdict::Done);
    }
    assert_eq!(lab.discard(pages(0, 200))?, Verdict::Done);
    idle(&lab, u64::MAX / 2);
    assert_eq!(zeroed(&lab), WANTED);
    for index in 0..300 {
        assert_eq!(lab.guest_load(GUEST, CPU0, gpage(index))?, Verdict::Value(0));
        assert_eq!(lab.guest_store(GUEST, CPU0, gpage(index), index)?, Verdict::Done);
        assert_eq!(lab.load(CPU0, page(index).add(8))?, Verdict::Value(0));
    }
    assert_eq!(zeroed(&lab), 0, "first touches take them");
    lab.finish()
}

#[test]
fn a_cpu_that_has_no_more_time_gives_the_others_back() -> Outcome {
    let lab = lab(4);
    let free = take_all(&lab, SMALL);
    assert!(free.iter().all(|&frame| lab.machine.frames().meta(frame).put()));
    lab.machine.frames().free_pages(CPU0, &free);
    idle(&lab, 5);
    assert_eq!(zeroed(&lab), 5);
    let again = take_all(&lab, SMALL);
    assert_eq!(again.len(), free.len(), "each can be had, by whoever does not want zeros, too");
    assert!(again.iter().all(|&frame| lab.machine.frames().meta(frame).put()));
    lab.machine.frames().free_pages(CPU0, &again);
    lab.finish()
}

#[test]
fn huge_pages_that_are_set_aside_come_before_them() -> Outcome {
    let lab = lab(4);
    let frames = lab.machine.frames();
    let count = || {
        let taken = take_all(&lab, HUGE);
        for &first in &taken {
            let all = (0..HUGE.base_pages()).map(|index| first.add(index));
            all.for_each(|frame| assert!(frames.meta(frame).put()));
            frames.free(CPU0, first, HUGE);
        }
        taken.len()
    };
    let before = count();
    // There are 511 frames that are part of no huge page, but for these.
    let taken: Vec<_> = (0..450).map(|_| frames.allocate(CPU0, SMALL).expect("memory")).collect();
    assert_eq!(count(), before);
    idle(&lab, u64::MAX / 2);
    assert_eq!(zeroed(&lab), WANTED);
    assert!(count() < before, "who can do without gets none of them");
    lab.mm.grow_pool(HUGE, before).expect("all of them");
    assert_eq!((zeroed(&lab), lab.mm.pooled(HUGE)), (0, before));
    lab.mm.drain_pools();
    assert!(taken.iter().all(|&frame| frames.meta(frame).put()));
    frames.free_pages(CPU0, &taken);
    lab.finish()
}

#[test]
fn where_memory_is_short_none_are_taken() -> Outcome {
    let lab = lab(4);
    let frames = lab.machine.frames();
    let most = frames.total() / 8;
    let mut taken = Vec::new();
    while frames.spare() >= most {
        taken.push(frames.allocate(CPU0, SMALL).expect("memory"));
    }
    idle(&lab, u64::MAX / 2);
    assert_eq!(zeroed(&lab), 0);
    assert!(taken.iter().all(|&frame| frames.meta(frame).put()));
    frames.free_pages(CPU0, &taken);
    lab.finish()
}

/// The guest touches pages here and there; how often an idle CPU was told meanwhile.
fn told(lab: &Lab, pages: std::ops::Range<u64>) -> Result<u64, Violation> {
    let before = lab.machine.zeroed_ran_low();
    for index in pages {
        assert_eq!(lab.guest_store(GUEST, CPU0, gpage(index * 7 % 500), index)?, Verdict::Done);
    }
    Ok(lab.machine.zeroed_ran_low() - before)
}

#[test]
fn an_idle_cpu_hears_that_they_are_few_until_it_does_something() -> Outcome {
    let lab = lab(500);
    assert_eq!(told(&lab, 0..40)?, 0, "nobody zeroes any");
    idle(&lab, u64::MAX / 2);
    assert_eq!(told(&lab, 40..80)?, 0, "with {} left", zeroed(&lab));
    assert!(told(&lab, 80..110)? > 0, "with {} left", zeroed(&lab));
    assert!(lab.machine.frames().recall_zeroed() && zeroed(&lab) == 0);
    assert!(told(&lab, 160..240)? > 0, "with none left");
    let zeroing = lab.machine.frames().begin_zeroing();
    assert_eq!(told(&lab, 240..320)?, 0, "a CPU zeroes some");
    drop(zeroing);
    assert!(told(&lab, 320..400)? > 0, "it has done too few");
    lab.finish()
}
