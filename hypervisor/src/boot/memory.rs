//! The machine's memory passes to Herald: what is free is found, mapped, and given to the allocator.
//!
//! ```text
//!   memory map − first 2 MiB − image − package ─► one range for Herald itself: tables, heap
//!                                             └► the rest, and what was not used: frames
//! ```

use super::BootError;
use crate::cpu::pages::{self, EarlyMemory};
use crate::layout;
use crate::physmem::PhysicalMemory;
use abi::handoff::HandOff;
use abi::memmap::MemoryMap;
use addr::{Hpa, HpaRange, PAGE_SHIFT, PAGE_SIZE, PageSize, Pfn, PfnRange};
use alloc::sync::Arc;
use alloc::vec::Vec;
use mm::frames::{FrameMeta, Frames};
use talc::{ErrOnOom, Span, Talc, Talck};

#[global_allocator]
static HEAP: Talck<spin::Mutex<()>, ErrOnOom> = Talc::new(ErrOnOom).lock();

/// Least heap beside the frames' metadata, in bytes.
const LEAST_HEAP: u64 = 4 << 20;
/// The heap's part of all memory, if that is more.
const HEAP_PART: u64 = 64;
/// Room for page tables: 2 MiB pages for the direct map, 4 KiB pages for the image.
const TABLES: u64 = 4 << 20;
/// What the loader's identity map reaches.
const REACHED: Hpa = Hpa::new(1 << 32);
/// Below Herald's image: firmware's, the loader's tables, which are in use until Herald has its own, and one day
/// the start-up code of other CPUs.
const LOW_END: u64 = 2 << 20;

/// Takes over what the hand-off describes.
///
/// # Errors
/// [`BootError::Memory`], [`BootError::Tables`].
pub(super) fn take_over(handoff: &HandOff, handoff_at: Hpa) -> Result<Arc<PhysicalMemory>, BootError> {
    let mut map = MemoryMap::new(handoff.regions());
    for (start, len) in [
        (0, LOW_END),
        (handoff.image_start, handoff.image_len),
        (handoff.package_start, handoff.package_len),
        (handoff_at.as_u64(), size_of::<HandOff>() as u64),
    ] {
        if let Some(range) = Hpa::try_new(start).and_then(|start| HpaRange::sized(start, len)) {
            map.reserve(range);
        }
    }
    let frame_count = map.end().as_u64().min(layout::DIRECT_MAP_BYTES) >> PAGE_SHIFT;
    let heap_bytes = frame_count * size_of::<FrameMeta>() as u64 + LEAST_HEAP.max(map.len() / HEAP_PART);
    let wanted = (heap_bytes + TABLES).next_multiple_of(PAGE_SIZE);
    let own = map.highest_fit(wanted, PageSize::Size4K, REACHED).ok_or(BootError::Memory { wanted })?;
    map.reserve(own);
    let early = EarlyMemory::new(own);
    let root = pages::build(&early, handoff).map_err(BootError::Tables)?;
    add_heap(early.take(heap_bytes).map_err(BootError::Tables)?);
    let frames = frames(frame_count);
    for range in map.ranges().iter().chain([&early.rest()]) {
        frames.add(pages_of(range));
    }
    Ok(Arc::new(PhysicalMemory::new(frames, root)))
}

fn add_heap(range: HpaRange) {
    let start = layout::direct(range.start()).as_u64() as *mut u8;
    // SAFETY: memory that was taken for this, mapped for ever, used by nobody else. A claim fails only where
    // there is no room for the allocator's own data, and this is megabytes.
    let _ = unsafe { HEAP.lock().claim(Span::from_base_size(start, range.len() as usize)) };
}

fn frames(count: u64) -> Frames {
    let meta: Vec<FrameMeta> = (0..count).map(|_| FrameMeta::reserved()).collect();
    Frames::new(meta.into_boxed_slice(), 1)
}

/// Whole pages: the ranges of a memory map are aligned.
fn pages_of(range: &HpaRange) -> PfnRange {
    let page = |address: Hpa| Pfn::new(address.as_u64() / PAGE_SIZE);
    PfnRange::new(page(range.start()), page(range.end()))
}
