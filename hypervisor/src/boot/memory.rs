//! The machine's memory passes to Herald: what is free is found, mapped, and given to the allocator.
//!
//! What goes where is decided in `startup::memory`.

use super::BootError;
use crate::cpu::pages::{self, EarlyMemory};
use crate::layout;
use crate::physmem::PhysicalMemory;
use abi::handoff::HandOff;
use abi::memmap::MemoryMap;
use addr::{Hpa, HpaRange, PAGE_SIZE, PageSize, Pfn, PfnRange};
use alloc::sync::Arc;
use alloc::vec::Vec;
use mm::Host;
use mm::frames::{FrameMeta, Frames, MAX_FRAMES, METADATA_BYTES};
use startup::memory::{self, Limits, Request};
use talc::{ErrOnOom, Span, Talc, Talck};

#[global_allocator]
static HEAP: Talck<spin::Mutex<()>, ErrOnOom> = Talc::new(ErrOnOom).lock();

/// Tables for the image and for devices, in 4 KiB pages.
const OTHER_TABLES: u64 = 256;
/// What the loader's identity map reaches.
const REACHED: Hpa = Hpa::new(1 << 32);
/// Below Herald's image: firmware's, the loader's tables, which are in use until Herald has its own, and the start-up
/// code of other CPUs.
const LOW_END: u64 = 2 << 20;

/// What the loader has put into memory, and what it uses itself.
fn reserved(handoff: &HandOff, handoff_at: Hpa) -> heapless::Vec<HpaRange, 4> {
    [
        (0, LOW_END),
        (handoff.image_start, handoff.image_len),
        (handoff.package_start, handoff.package_len),
        (handoff_at.as_u64(), size_of::<HandOff>() as u64),
    ]
    .into_iter()
    .filter_map(|(start, len)| memory::range_of(start, len))
    .collect()
}

fn limits() -> Limits {
    Limits {
        reached: REACHED,
        direct_map: layout::DIRECT_MAP_BYTES,
        frames: MAX_FRAMES,
        frame_meta: METADATA_BYTES,
        other_tables: OTHER_TABLES,
        largest_page: if crate::cpu::has_gigantic_pages() { PageSize::Size1G } else { PageSize::Size2M },
    }
}

/// Where other processors can be started from. Not inlined: maps of memory are large, and the stack is not.
#[inline(never)]
#[must_use]
pub(super) fn low_pages(handoff: &HandOff, handoff_at: Hpa) -> Option<HpaRange> {
    let mut map = MemoryMap::new(handoff.regions());
    // The first is all low memory, which is asked for here.
    reserved(handoff, handoff_at).into_iter().skip(1).for_each(|range| map.reserve(range));
    crate::cpu::smp::low_pages(&map)
}

/// The pages that hold firmware's data.
#[must_use]
pub(super) fn firmware_pages(handoff: &HandOff, handoff_at: Hpa) -> MemoryMap {
    let reserved = reserved(handoff, handoff_at);
    memory::firmware_pages(&Request { regions: handoff.regions(), reserved: &reserved, limits: limits() })
}

/// Takes over what the hand-off describes. Not inlined: the plan is large, and the stack is not.
///
/// # Errors
/// [`BootError::Memory`], [`BootError::Tables`], [`BootError::PackagePlace`].
#[inline(never)]
pub(super) fn take_over(handoff: &HandOff, handoff_at: Hpa) -> Result<Arc<PhysicalMemory>, BootError> {
    let reserved = reserved(handoff, handoff_at);
    let request = Request { regions: handoff.regions(), reserved: &reserved, limits: limits() };
    let plan = request.plan().map_err(BootError::Memory)?;
    let (start, len) = (handoff.package_start, handoff.package_len);
    if !memory::range_of(start, len).is_some_and(|package| plan.mapped.contains(&package)) {
        return Err(BootError::PackagePlace { start, len });
    }
    let early = EarlyMemory::new(plan.tables);
    let image = Hpa::new(handoff.image_start);
    let root =
        pages::build(&early, plan.mapped.ranges(), request.limits.largest_page, image, &handoff.screen)
            .map_err(BootError::Tables)?;
    add_heap(plan.heap);
    let frames = frames(plan.frames);
    for range in plan.free.ranges().iter().chain([&early.rest()]) {
        frames.add(pages_of(range));
    }
    plan.left_out.iter().flatten().for_each(|left_out| log::warn!("{left_out}"));
    Ok(Arc::new(PhysicalMemory::new(frames, root)))
}

/// Adds so many bytes to the heap, in a row, where memory has them; if it has not, whoever needs them will say so.
pub(crate) fn extend_heap(memory: &PhysicalMemory, bytes: u64) {
    let wanted = bytes.div_ceil(PageSize::Size2M.bytes()) as usize;
    let mut blocks: Vec<Pfn> = Vec::new();
    let step = PageSize::Size2M.base_pages();
    let row = |blocks: &[Pfn]| {
        blocks.windows(wanted).position(|row| row[wanted - 1] == row[0].add(step * (wanted as u64 - 1)))
    };
    let (mut found, cpu) = (None, memory.current_cpu());
    while wanted > 0 && found.is_none() {
        let Ok(block) = memory.frames().allocate(cpu, PageSize::Size2M) else { break };
        let place = blocks.partition_point(|&other| other < block);
        blocks.insert(place, block);
        found = row(&blocks);
    }
    if let Some(first) = found {
        let start = blocks[first].base();
        blocks.drain(first..first + wanted);
        add_heap(HpaRange::new(start, start.add(PageSize::Size2M.bytes() * wanted as u64)));
    }
    for block in blocks {
        for index in 0..step {
            let _ = memory.frames().meta(block.add(index)).put();
        }
        memory.frames().free(cpu, block, PageSize::Size2M);
    }
}

fn add_heap(range: HpaRange) {
    let start = layout::direct(range.start()).as_u64() as *mut u8;
    // SAFETY: memory that was taken for this, mapped for ever, used by nobody else. A claim fails only where
    // there is no room for the allocator's own data, and this is megabytes.
    let _ = unsafe { HEAP.lock().claim(Span::from_base_size(start, range.len() as usize)) };
}

fn frames(count: u64) -> Frames {
    let meta: Vec<FrameMeta> = (0..count).map(|_| FrameMeta::reserved()).collect();
    Frames::new(meta.into_boxed_slice(), crate::cpu::local::MAX_CPUS)
}

/// Whole pages: the ranges of a memory map are aligned.
fn pages_of(range: &HpaRange) -> PfnRange {
    let page = |address: Hpa| Pfn::new(address.as_u64() / PAGE_SIZE);
    PfnRange::new(page(range.start()), page(range.end()))
}
