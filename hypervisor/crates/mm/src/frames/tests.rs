//! The allocator never hands out a frame twice, joins what it split, and refuses double frees.

use super::{FrameMeta, Frames};
use crate::host::CpuIndex;
use addr::{PageSize, Pfn, PfnRange};
use alloc::vec::Vec;
use std::collections::BTreeSet;

const CPU: CpuIndex = CpuIndex(0);

fn frames(count: u64) -> Frames {
    let meta: Vec<_> = (0..count).map(|_| FrameMeta::reserved()).collect();
    let frames = Frames::new(meta.into_boxed_slice(), 1);
    frames.add(PfnRange::new(Pfn::new(0), Pfn::new(count)));
    frames
}

fn put(frames: &Frames, frame: Pfn, size: PageSize) {
    for index in 0..size.base_pages() {
        assert!(frames.meta(frame.add(index)).put());
    }
    frames.free(CPU, frame, size);
}

#[test]
fn each_frame_is_handed_out_once() {
    let frames = frames(1000);
    let taken: Vec<_> = core::iter::from_fn(|| frames.allocate(CPU, PageSize::Size4K).ok()).collect();
    assert_eq!(taken.iter().collect::<BTreeSet<_>>().len(), 1000);
    assert_eq!(frames.free_count(), 0);
    taken.into_iter().for_each(|frame| put(&frames, frame, PageSize::Size4K));
    assert_eq!(frames.free_count(), 1000);
}

#[test]
fn huge_blocks_split_and_join() {
    let frames = frames(1024);
    let first = frames.allocate(CPU, PageSize::Size2M).expect("first");
    let second = frames.allocate(CPU, PageSize::Size2M).expect("second");
    assert!(first.is_aligned(PageSize::Size2M) && second.is_aligned(PageSize::Size2M));
    assert!(frames.allocate(CPU, PageSize::Size4K).is_err());
    // Freed in pieces, as after a split; the cache keeps some, so free everything twice over.
    for index in 0..512 {
        put(&frames, first.add(index), PageSize::Size4K);
    }
    put(&frames, second, PageSize::Size2M);
    assert_eq!(frames.free_count(), 1024);
    assert!(frames.allocate(CPU, PageSize::Size2M).is_ok());
}

#[test]
fn neighbours_that_are_freed_together_are_one_block_again() {
    for backwards in [false, true] {
        let frames = frames(1024);
        let mut taken: Vec<_> = core::iter::from_fn(|| frames.allocate(CPU, PageSize::Size4K).ok()).collect();
        taken.sort_unstable();
        if backwards {
            taken.reverse();
        }
        assert!(taken.iter().all(|frame| frames.meta(*frame).put()));
        frames.free_pages(CPU, &taken[..100]);
        frames.free_pages(CPU, &[]);
        frames.free_pages(CPU, &taken[100..]);
        assert_eq!(frames.free_count(), 1024);
        assert!(frames.allocate(CPU, PageSize::Size2M).is_ok(), "the cache has but some of the first");
        let rest = core::iter::from_fn(|| frames.allocate(CPU, PageSize::Size4K).ok());
        assert_eq!(rest.collect::<BTreeSet<_>>().len(), 512, "each is handed out once");
    }
}

#[test]
#[should_panic(expected = "freed while Free")]
fn a_frame_that_is_twice_among_many_is_caught() {
    let frames = frames(16);
    let frame = frames.allocate(CPU, PageSize::Size4K).expect("frame");
    assert!(frames.meta(frame).put());
    frames.free_pages(CPU, &[frame, frame]);
}

#[test]
fn reserved_frames_stay_so() {
    let meta: Vec<_> = (0..64).map(|_| FrameMeta::reserved()).collect();
    let frames = Frames::new(meta.into_boxed_slice(), 1);
    frames.add(PfnRange::new(Pfn::new(8), Pfn::new(16)));
    frames.add(PfnRange::new(Pfn::new(12), Pfn::new(1000)));
    assert_eq!(frames.total(), 56, "overlaps count once, frames beyond the metadata not at all");
    while let Ok(frame) = frames.allocate(CPU, PageSize::Size4K) {
        assert!(frame >= Pfn::new(8));
    }
}

#[test]
#[should_panic(expected = "freed while Free")]
fn a_double_free_is_caught() {
    let frames = frames(16);
    let frame = frames.allocate(CPU, PageSize::Size4K).expect("frame");
    put(&frames, frame, PageSize::Size4K);
    frames.free(CPU, frame, PageSize::Size4K);
}

#[test]
#[should_panic(expected = "references left")]
fn a_shared_frame_is_not_freed() {
    let frames = frames(16);
    let frame = frames.allocate(CPU, PageSize::Size4K).expect("frame");
    frames.free(CPU, frame, PageSize::Size4K);
}
