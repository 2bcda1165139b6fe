//! The plan of a machine's memory, from maps as wild as they come.
//!
//! ```text
//!   input = largest page, other tables │ 17 bytes each: first byte, length, kind (a high bit: reserved by the loader)
//! ```
//!
//! What Herald takes is usable, mapped, and nobody else's; there are tables enough for what is mapped; every byte is
//! used, Herald's, or left out for a reason that holds.
#![no_main]

use abi::handoff::{REGION_USABLE, Region};
use abi::memmap::MemoryMap;
use addr::{Hpa, HpaRange, PAGE_SIZE, PageSize};
use arbitrary::{Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;
use startup::memory::{
    FAIR_PART, LEAST_HEAP, Limits, Plan, PlanError, Request, Why, firmware_pages, pages_of, range_of,
    tables_for,
};
use std::collections::BTreeSet;

const RESERVED: u8 = 0x80;
const META: u64 = 32;
/// As Herald's.
const DIRECT_MAP: u64 = 1 << 46;
const FRAMES: u64 = u32::MAX as u64;
/// Pages that are mapped one by one in a set of tables.
const MOST_PAGES: u64 = 4096;

#[derive(Debug)]
struct Input {
    gigantic: bool,
    other_tables: u8,
    regions: Vec<Region>,
    reserved: Vec<HpaRange>,
}

impl<'a> Arbitrary<'a> for Input {
    fn arbitrary(u: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        let [gigantic, other_tables] = u.arbitrary()?;
        let mut input =
            Self { gigantic: gigantic & 1 != 0, other_tables, regions: Vec::new(), reserved: Vec::new() };
        while u.len() >= 17 {
            let (start, len, kind) = (u.arbitrary()?, u.arbitrary()?, u.arbitrary::<u8>()?);
            if kind & RESERVED != 0 {
                input.reserved.extend(range_of(start, len));
            } else {
                input.regions.push(Region { start, len, kind: (kind & 7).into(), reserved: 0 });
            }
        }
        Ok(input)
    }
}

fuzz_target!(|input: Input| {
    let limits = Limits {
        reached: Hpa::new(1 << 32),
        direct_map: DIRECT_MAP,
        frames: FRAMES,
        frame_meta: META,
        other_tables: input.other_tables.into(),
        largest_page: if input.gigantic { PageSize::Size1G } else { PageSize::Size2M },
    };
    let request = Request { regions: &input.regions, reserved: &input.reserved, limits };
    let usable = MemoryMap::new(request.regions);
    let mut free = usable.clone();
    request.reserved.iter().for_each(|range| free.reserve(*range));
    match request.plan() {
        Ok(plan) => {
            check_own(&request, &plan, &free);
            check_map(&request, &plan, &usable);
            check_left_out(&plan, &free);
            check_fair(&plan, &free);
            check_tables(&request, &plan);
        }
        Err(error) => check_refusal(&request, &free, error),
    }
});

/// Everything that Herald uses is free memory, and used once.
fn check_own(request: &Request<'_>, plan: &Plan, free: &MemoryMap) {
    assert!(plan.tables.end() <= request.limits.reached, "{:?}", plan.tables);
    assert!(plan.heap.len() >= plan.frames * META + LEAST_HEAP, "{:?}", plan.heap);
    assert!(plan.frames <= FRAMES);
    let mut used: Vec<HpaRange> = plan.free.ranges().to_vec();
    used.extend([plan.tables, plan.heap]);
    used.sort_by_key(HpaRange::start);
    assert!(used.windows(2).all(|pair| pair[0].end() <= pair[1].start()), "{used:?}");
    let firmware = firmware_pages(request);
    for range in &used {
        assert!(range.is_aligned(PageSize::Size4K) && free.contains(range) && plan.mapped.contains(range));
        assert!(range.end().as_u64() <= plan.frames * PAGE_SIZE, "{range:?} has no metadata");
        assert!(firmware.ranges().iter().all(|pages| !pages.overlaps(range)), "{range:?} is firmware's");
    }
}

/// What is mapped is usable; what the loader has put into usable memory is mapped.
fn check_map(request: &Request<'_>, plan: &Plan, usable: &MemoryMap) {
    assert!(plan.mapped.ranges().iter().all(|range| usable.contains(range)), "{:?}", plan.mapped);
    let limit = Hpa::new(DIRECT_MAP.min(FRAMES * PAGE_SIZE));
    assert!(plan.mapped.end() <= limit);
    for range in request.reserved {
        for part in usable.ranges().iter().filter_map(|usable| usable.intersection(range)) {
            assert!(part.end() > limit || plan.mapped.contains(&part), "{part:?} is not mapped");
        }
    }
}

/// No byte is forgotten.
fn check_left_out(plan: &Plan, free: &MemoryMap) {
    let left_out = plan.left_out.iter().flatten();
    let beyond: u64 = left_out.clone().map(|left_out| left_out.bytes).sum();
    let used = plan.free.len() + plan.tables.len() + plan.heap.len();
    // What lies beyond the limit is told with what is reserved there.
    assert!(used + beyond >= free.len(), "{used} used, {beyond} left out of {}", free.len());
    for left_out in left_out {
        assert!(!left_out.to_string().is_empty() && left_out.bytes > 0);
        assert!(plan.free.end() <= left_out.above, "{left_out:?}");
        if let Why::Sparse(cost) = left_out.why {
            assert!(cost > (used + left_out.bytes) / FAIR_PART, "{left_out:?}");
        }
    }
}

/// More than the fair part is only paid where no end of memory that has room for all would be fair.
fn check_fair(plan: &Plan, free: &MemoryMap) {
    let used = plan.free.len() + plan.tables.len() + plan.heap.len();
    if plan.frames * META * FAIR_PART <= used {
        return;
    }
    let (mut memory, mut room) = (0, 0);
    for range in free.ranges().iter().filter(|range| range.end().as_u64() <= FRAMES * PAGE_SIZE) {
        memory += range.len();
        let metadata = range.end().as_u64() / PAGE_SIZE * META;
        if range.end().as_u64() <= 1 << 32 {
            room = room.max(range.len());
        }
        let fits = room >= metadata + LEAST_HEAP + plan.tables.len() + (8 << 20);
        assert!(!fits || metadata * FAIR_PART > memory, "{plan:?} is less fair than up to {range:?}");
    }
}

/// Tables as a processor needs them, one by one.
fn check_tables(request: &Request<'_>, plan: &Plan) {
    let largest = request.limits.largest_page;
    let room = plan.tables.len() / PAGE_SIZE - request.limits.other_tables;
    let ranges = plan.mapped.ranges();
    assert!(tables_for(ranges.iter().copied(), largest) <= room);
    let mut tables = BTreeSet::from([(0, 0)]);
    let mut left = MOST_PAGES;
    for range in ranges {
        let mut next = range.start();
        for (page, size) in pages_of(*range, largest) {
            assert!(page == next && page.is_aligned(size) && size <= largest);
            next = page.add(size.bytes());
            for shift in [39, 30, 21].into_iter().filter(|&shift| shift > size.shift()) {
                tables.insert((shift, page.as_u64() >> shift));
            }
            left -= 1;
            if left == 0 {
                return;
            }
        }
        assert_eq!(next, range.end());
    }
    assert!(tables.len() as u64 <= room, "{} tables in room for {room}", tables.len());
    assert_eq!(tables.len() as u64, tables_for(ranges.iter().copied(), largest));
}

/// Nothing is refused that would do with the lowest memory alone.
fn check_refusal(request: &Request<'_>, free: &MemoryMap, error: PlanError) {
    assert!(!error.to_string().is_empty());
    let Some(lowest) = free.ranges().first() else {
        return assert!(matches!(error, PlanError::NoMemory | PlanError::TooMany { .. }), "{error:?}");
    };
    let reserved: u64 = request.reserved.iter().map(|range| range.len().div_ceil(1 << 21) + 8).sum();
    // A table for each 2 MiB is more than enough.
    let tables = lowest.len().div_ceil(1 << 21) + 16 + reserved + request.limits.other_tables;
    let usable = request.regions.iter().filter(|region| region.kind == REGION_USABLE).count() as u64 * 8;
    let wanted = (tables + usable) * PAGE_SIZE + lowest.end().as_u64() / 128 + LEAST_HEAP + 2 * PAGE_SIZE;
    let enough = lowest.len() >= wanted && lowest.end() <= request.limits.reached;
    assert!(!enough || matches!(error, PlanError::TooMany { .. }), "{error:?} with {lowest:?}");
}
