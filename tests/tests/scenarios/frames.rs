//! Frames that are freed together: all come back, and what somebody holds does not go.

use crate::{CPU0, HUGE, SMALL, lab};
use addr::{PageSize, Pfn};
use mm::Host;
use tests::lab::Lab;

/// A page that nobody refers to any more.
fn unowned(lab: &Lab, size: PageSize) -> Option<Pfn> {
    let first = lab.machine.allocate_zeroed(size).ok()?;
    let all = (0..size.base_pages()).map(|index| first.add(index));
    all.for_each(|frame| assert!(lab.machine.frames().meta(frame).put()));
    Some(first)
}

#[test]
fn what_is_freed_together_comes_back() {
    let lab = lab(1);
    let all = || -> Vec<Pfn> { std::iter::from_fn(|| unowned(&lab, SMALL)).collect() };
    let (taken, frames) = (all(), lab.machine.frames());
    frames.free_pages(CPU0, &taken);
    assert_eq!(all().len(), taken.len());
}

#[test]
#[should_panic(expected = "freed with 1 references left")]
fn a_huge_page_of_which_a_frame_is_held_does_not_go() {
    let lab = lab(1);
    let first = unowned(&lab, HUGE).expect("a huge page");
    lab.machine.frames().meta(first.add(12)).get();
    lab.machine.frames().free(CPU0, first, HUGE);
}
