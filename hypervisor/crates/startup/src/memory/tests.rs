//! Maps of machines, large, small and odd.

use super::{
    LEAST_HEAP, Limits, MAX_RESERVED, Plan, PlanError, Request, Why, firmware_pages, pages_of, range_of,
    tables_for,
};
use abi::handoff::{MAX_REGIONS, Region};
use addr::{Hpa, HpaRange, PAGE_SIZE, PageSize};
use alloc::string::ToString;
use alloc::vec::Vec;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;
const META: u64 = 32;

const LIMITS: Limits = Limits {
    reached: Hpa::new(4 * GIB),
    direct_map: 64 * TIB,
    frames: u32::MAX as u64,
    frame_meta: META,
    other_tables: 16,
    largest_page: PageSize::Size2M,
};

fn region(start: u64, end: u64, kind: u32) -> Region {
    Region { start, len: end - start, kind, reserved: 0 }
}

fn range(start: u64, end: u64) -> HpaRange {
    HpaRange::new(Hpa::new(start), Hpa::new(end))
}

/// The low 2 MiB, an image, a package.
fn reserved() -> [HpaRange; 3] {
    [range(0, 2 * MIB), range(2 * MIB, 3 * MIB), range(16 * MIB, 20 * MIB + 5)]
}

fn plan(regions: &[Region]) -> Plan {
    let reserved = reserved();
    let request = Request { regions, reserved: &reserved, limits: LIMITS };
    let plan = request.plan().expect("a plan");
    check(&request, &plan);
    plan
}

/// What every plan keeps.
fn check(request: &Request<'_>, plan: &Plan) {
    let own = [plan.tables, plan.heap];
    assert!(plan.tables.end() <= request.limits.reached);
    assert!(own.iter().all(|own| plan.mapped.contains(own)) && !plan.tables.overlaps(&plan.heap));
    let metadata = plan.frames * request.limits.frame_meta;
    assert!(plan.heap.len() >= metadata + LEAST_HEAP, "{:?} for {metadata}", plan.heap);
    for range in plan.free.ranges() {
        assert!(plan.mapped.contains(range) && range.end().as_u64() <= plan.frames * PAGE_SIZE);
        assert!(request.reserved.iter().chain(&own).all(|taken| !taken.overlaps(range)));
    }
    let tables = tables_for(plan.mapped.ranges().iter().copied(), request.limits.largest_page)
        + request.limits.other_tables;
    assert!(tables * PAGE_SIZE <= plan.tables.len());
}

/// A PC's memory below and above the hole.
fn pc(low: u64, high: u64) -> Vec<Region> {
    let mut regions = Vec::from([
        region(0, 0x9fc00, 1),
        region(0x9fc00, 0xa0000, 2),
        region(0xf0000, 0x100000, 2),
        region(MIB, low - 0x20000, 1),
        region(low - 0x20000, low, 3),
        region(0xfec0_0000, 0xfec0_1000, 2),
        region(0xfffc_0000, 4 * GIB, 2),
    ]);
    if high > 0 {
        regions.push(region(4 * GIB, 4 * GIB + high, 1));
    }
    regions
}

#[test]
fn a_small_machine() {
    let regions = pc(128 * MIB, 0);
    let plan = plan(&regions);
    assert_eq!(plan.left_out, [None, None]);
    assert_eq!(plan.frames, (128 * MIB - 0x20000) / PAGE_SIZE);
    assert_eq!(plan.tables.end(), Hpa::new(128 * MIB - 0x20000));
    assert_eq!(plan.heap.end(), plan.tables.start());
    assert!(plan.tables.len() < 100 << 10, "{:?}", plan.tables);
    // Only what is usable: no ACPI tables, no registers, no firmware.
    assert_eq!(plan.mapped.ranges(), [range(0, 0x9f000), range(MIB, 128 * MIB - 0x20000)]);
}

#[test]
fn the_heap_of_a_large_machine_lies_high() {
    let plan = plan(&pc(2 * GIB, 1022 * GIB));
    assert_eq!(plan.left_out, [None, None]);
    assert!(plan.heap.start() >= Hpa::new(4 * GIB) && plan.heap.len() > 16 * GIB);
    // A page directory for each GiB, 1026 with the holes.
    assert!((4 * MIB..5 * MIB).contains(&plan.tables.len()), "{:?}", plan.tables);
}

#[test]
fn gigantic_pages_need_few_tables() {
    let regions = pc(2 * GIB, 1022 * GIB);
    let reserved = reserved();
    let limits = Limits { largest_page: PageSize::Size1G, ..LIMITS };
    let request = Request { regions: &regions, reserved: &reserved, limits };
    let plan = request.plan().expect("a plan");
    check(&request, &plan);
    assert!(plan.tables.len() < 128 << 10, "{:?}", plan.tables);
}

#[test]
fn memory_far_away_is_used_if_it_is_worth_it() {
    let mut regions = pc(2 * GIB, 0);
    regions.push(region(TIB, TIB + 128 * GIB, 1));
    let whole = plan(&regions);
    assert_eq!(whole.left_out, [None, None]);
    assert_eq!(whole.frames, (TIB + 128 * GIB) / PAGE_SIZE);

    regions[7] = region(TIB, TIB + 8 * GIB, 1);
    let cut = plan(&regions);
    let [None, Some(left_out)] = cut.left_out else { panic!("{:?}", cut.left_out) };
    assert_eq!(
        left_out.to_string(),
        "8192 MiB of memory from hpa:0x10000000000 on are left unused: bookkeeping would take 8256 MiB, more than 1/8 of all memory"
    );
    assert_eq!(cut.frames, (2 * GIB - 0x20000) / PAGE_SIZE);
    assert_eq!(cut.mapped.end(), Hpa::new(2 * GIB - 0x20000));

    // More of it further up makes the whole worth it again.
    regions.push(region(2 * TIB, 3 * TIB, 1));
    assert_eq!(plan(&regions).left_out, [None, None]);
}

#[test]
fn what_is_reserved_is_mapped_wherever_it_lies() {
    let mut regions = pc(2 * GIB, 0);
    regions.push(region(TIB, TIB + 8 * GIB, 1));
    let package = range(TIB + GIB, TIB + GIB + 5 * MIB - 7);
    let reserved = [range(0, 2 * MIB), package];
    let request = Request { regions: &regions, reserved: &reserved, limits: LIMITS };
    let plan = request.plan().expect("a plan");
    check(&request, &plan);
    assert!(plan.mapped.contains(&range(TIB + GIB, TIB + GIB + 5 * MIB)));
    assert_eq!((plan.mapped.ranges().len(), plan.frames), (3, (2 * GIB - 0x20000) / PAGE_SIZE));
}

#[test]
fn limits_of_herald() {
    let mut regions = pc(2 * GIB, 0);
    regions.push(region(4 * GIB, 20 * TIB, 1));
    let most = u64::from(u32::MAX) * PAGE_SIZE;
    let plan = plan(&regions);
    let [Some(left_out), None] = plan.left_out else { panic!("{:?}", plan.left_out) };
    assert_eq!((left_out.above.as_u64(), left_out.why), (most, Why::Limit(Hpa::new(most))));
    assert_eq!(
        left_out.to_string(),
        "4194304 MiB of memory from hpa:0xffffffff000 on are left unused: Herald uses none beyond hpa:0xffffffff000"
    );
    assert_eq!(plan.frames, u64::from(u32::MAX));
}

#[test]
fn little_memory_and_odd_memory() {
    // Bookkeeping is a large part of it, and it must do.
    let regions = [region(0xff00_0000 - 64 * MIB, 0xff00_0000, 1)];
    let request = Request { regions: &regions, reserved: &[], limits: LIMITS };
    let plan = request.plan().expect("a plan");
    check(&request, &plan);
    assert_eq!(plan.left_out, [None, None]);

    let tiny = [region(MIB, 2 * MIB, 1)];
    let error = Request { regions: &tiny, reserved: &[], limits: LIMITS }.plan().expect_err("too little");
    assert_eq!(
        error.to_string(),
        "not enough memory for Herald itself: 81920 bytes in one piece below hpa:0x100000000, and 4210688 anywhere"
    );
    let high = [region(8 * GIB, 16 * GIB, 1)];
    let error =
        Request { regions: &high, reserved: &[], limits: LIMITS }.plan().expect_err("none is reached");
    assert!(matches!(error, PlanError::NoRoom { .. }), "{error:?}");
    for regions in
        [&[][..], &[region(0, GIB, 2)], &[Region { start: u64::MAX, len: 3, kind: 1, reserved: 0 }]]
    {
        let request = Request { regions, reserved: &[], limits: LIMITS };
        assert_eq!(request.plan().expect_err("nothing"), PlanError::NoMemory);
    }
}

#[test]
fn tables_that_do_not_fit_below_leave_memory_out() {
    let mut regions = Vec::from([region(MIB, 32 * MIB, 1)]);
    regions.push(region(4 * GIB, 16 * TIB - GIB, 1));
    let request = Request { regions: &regions, reserved: &[], limits: LIMITS };
    let plan = request.plan().expect("a plan");
    check(&request, &plan);
    assert_eq!(plan.left_out[1].map(|left_out| left_out.why), Some(Why::NoRoom));
    assert_eq!(plan.free.end(), plan.heap.start().min(plan.tables.start()));
}

#[test]
fn too_many_are_refused() {
    let many = [region(0, GIB, 1); MAX_REGIONS + 1];
    let request = Request { regions: &many, reserved: &[], limits: LIMITS };
    assert_eq!(request.plan().expect_err("many"), PlanError::TooMany { regions: 129, reserved: 0 });
    let reserved = [range(0, 1); MAX_RESERVED + 1];
    let request = Request { regions: &[], reserved: &reserved, limits: LIMITS };
    assert!(request.plan().expect_err("many").to_string().starts_with("0 memory regions and 65 reserved"));
}

#[test]
fn firmware_is_read_where_nobody_else_is() {
    let regions = pc(128 * MIB, 0);
    let reserved = reserved();
    let pages = firmware_pages(&Request { regions: &regions, reserved: &reserved, limits: LIMITS });
    let expected = [
        range(0, MIB),
        range(128 * MIB - 0x20000, 128 * MIB),
        range(0xfec0_0000, 0xfec0_1000),
        range(0xfffc_0000, 4 * GIB),
    ];
    assert_eq!(pages.ranges(), expected);
    // Without anything reserved, the first MiB may be handed out.
    let pages = firmware_pages(&Request { regions: &regions, reserved: &[], limits: LIMITS });
    assert_eq!(pages.ranges()[0], range(0x9f000, MIB));
    // Firmware's claim on the image is not believed.
    let overlap = [region(MIB, GIB, 1), region(2 * MIB, 4 * MIB, 2)];
    let pages = firmware_pages(&Request { regions: &overlap, reserved: &reserved, limits: LIMITS });
    assert_eq!(pages.ranges(), [range(0, MIB), range(3 * MIB, 4 * MIB)]);
}

#[test]
fn pages_are_as_large_as_their_place_allows() {
    let two = 2 * MIB;
    let sizes = |start, end, largest| {
        let mut last = start;
        let mut counts = [0, 0, 0];
        for (page, size) in pages_of(range(start, end), largest) {
            assert!(page.as_u64() == last && page.is_aligned(size) && size <= largest);
            last += size.bytes();
            counts[size as usize] += 1;
        }
        assert_eq!(last, end);
        counts
    };
    assert_eq!(sizes(0x3000, 0x5000, PageSize::Size2M), [2, 0, 0]);
    assert_eq!(sizes(two - 0x1000, 3 * two + 0x2000, PageSize::Size2M), [3, 2, 0]);
    assert_eq!(sizes(GIB - two, 3 * GIB + two, PageSize::Size1G), [0, 2, 2]);
    assert_eq!(sizes(GIB - two, 2 * GIB, PageSize::Size2M), [0, 513, 0]);
    assert_eq!(sizes(0, two, PageSize::Size4K), [512, 0, 0]);
}

#[test]
fn tables_are_counted_once() {
    let count = |ranges: &[HpaRange]| {
        [PageSize::Size4K, PageSize::Size2M, PageSize::Size1G]
            .map(|size| tables_for(ranges.iter().copied(), size))
    };
    assert_eq!(count(&[]), [1, 1, 1]);
    assert_eq!(count(&[range(0, GIB)]), [3 + 512, 3, 2]);
    assert_eq!(count(&[range(0, 0x1000), range(0x3000, 0x5000)]), [4, 4, 4]);
    assert_eq!(count(&[range(0x1000, GIB - 0x1000)]), [3 + 512, 5, 5]);
    assert_eq!(count(&[range(0, 512 * GIB), range(512 * GIB, 513 * GIB)])[1..], [1 + 2 + 513, 3]);
}

#[test]
fn ranges_of_numbers() {
    assert_eq!(range_of(5, 6), Some(range(5, 11)));
    assert_eq!(range_of(u64::MAX, 1), None);
    assert_eq!(range_of(1, u64::MAX), None);
}
