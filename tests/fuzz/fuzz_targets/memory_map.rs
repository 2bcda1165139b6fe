//! Firmware's memory map, as wild as it comes, against a calculation page by page.
//!
//! A page may be allocated where usable regions cover it and no other region touches it; what is reserved later is
//! taken out page by page.
#![no_main]

use abi::handoff::{REGION_USABLE, Region};
use abi::memmap::MemoryMap;
use addr::{Hpa, HpaRange, PAGE_SIZE, PageSize};
use arbitrary::{Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;

/// Few enough that no range is ever left out for want of room.
const REGIONS: usize = 48;
/// Past the last byte that a map can name.
const END: u64 = (1 << 52) - 1;

#[derive(Arbitrary, Debug)]
struct Input {
    regions: Vec<Bytes>,
    reserved: Vec<Bytes>,
    wanted: u32,
    ceiling: Place,
}

/// A range of bytes, usable or of another kind.
#[derive(Arbitrary, Debug)]
struct Bytes {
    start: Place,
    len: Length,
    usable: bool,
}

/// An address: mostly near others.
#[derive(Debug)]
struct Place(u64);

impl<'a> Arbitrary<'a> for Place {
    fn arbitrary(u: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        Ok(Self(match u.int_in_range(0..=7)? {
            0 => u.arbitrary()?,
            1 => (1 << 52) - u64::from(u.arbitrary::<u16>()?),
            2 => u.arbitrary::<u32>()?.into(),
            3 => u.arbitrary::<u16>()?.into(),
            _ => u64::from(u.arbitrary::<u8>()?) << 12,
        }))
    }
}

#[derive(Debug)]
struct Length(u64);

impl<'a> Arbitrary<'a> for Length {
    fn arbitrary(u: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        Ok(Self(match u.int_in_range(0..=7)? {
            0 => u.arbitrary()?,
            1 => u.arbitrary::<u32>()?.into(),
            2 | 3 => u.arbitrary::<u16>()?.into(),
            _ => u64::from(u.arbitrary::<u8>()? & 15) << 12,
        }))
    }
}

/// First byte and the one past the last, cut to what a map can name; nothing where nothing is left.
type Run = (u64, u64);

impl Bytes {
    fn run(&self) -> Option<Run> {
        let (start, end) = (self.start.0, self.start.0.saturating_add(self.len.0).min(END));
        (start < end).then_some((start, end))
    }
}

fuzz_target!(|input: Input| {
    let regions = &input.regions[..input.regions.len().min(REGIONS)];
    let firmware: Vec<Region> = regions.iter().map(region).collect();
    let mut map = MemoryMap::new(&firmware);
    let mut others: Vec<Run> = runs(regions.iter().filter(|region| !region.usable));
    let usable = merged(runs(regions.iter().filter(|region| region.usable)));
    check(&map, &usable, &others);
    for hole in runs(input.reserved.iter().take(8)) {
        map.reserve(HpaRange::new(Hpa::new(hole.0), Hpa::new(hole.1)));
        others.push(hole);
    }
    check(&map, &usable, &others);
    check_fit(&map, input.wanted.into(), input.ceiling.0 & END);
});

fn region(bytes: &Bytes) -> Region {
    let kind = if bytes.usable { REGION_USABLE } else { 2 };
    Region { start: bytes.start.0, len: bytes.len.0, kind, reserved: 0 }
}

fn runs<'a>(bytes: impl Iterator<Item = &'a Bytes>) -> Vec<Run> {
    bytes.filter_map(Bytes::run).collect()
}

/// Sorted, and joined where they touch.
fn merged(mut runs: Vec<Run>) -> Vec<Run> {
    runs.sort_unstable();
    let mut merged: Vec<Run> = Vec::new();
    for (start, end) in runs {
        match merged.last_mut() {
            Some(last) if start <= last.1 => last.1 = last.1.max(end),
            _ => merged.push((start, end)),
        }
    }
    merged
}

/// The map's ranges are in order, and around every border the pages are right.
fn check(map: &MemoryMap, usable: &[Run], others: &[Run]) {
    for pair in map.ranges().windows(2) {
        assert!(pair[0].end() <= pair[1].start(), "{pair:?}");
    }
    for range in map.ranges() {
        assert!(!range.is_empty() && range.is_aligned(PageSize::Size4K), "{range:?}");
    }
    assert_eq!(map.len(), map.ranges().iter().map(HpaRange::len).sum::<u64>());
    assert_eq!(map.is_empty(), map.ranges().is_empty());
    let borders = usable.iter().chain(others).flat_map(|&(start, end)| [start, end]);
    for page in borders.flat_map(|border| [border.saturating_sub(PAGE_SIZE), border, border + PAGE_SIZE]) {
        let start = page & !(PAGE_SIZE - 1);
        let end = start + PAGE_SIZE;
        if end > END {
            continue;
        }
        let covered = usable.iter().any(|run| run.0 <= start && end <= run.1);
        let touched = others.iter().any(|run| run.0 < end && start < run.1);
        let page = HpaRange::new(Hpa::new(start), Hpa::new(end));
        assert_eq!(map.contains(&page), covered && !touched, "{page:?}");
    }
}

/// A fit lies in the map below the ceiling, and none is higher in its range.
fn check_fit(map: &MemoryMap, bytes: u64, ceiling: u64) {
    for align in [PageSize::Size4K, PageSize::Size2M] {
        let fits = |range: &HpaRange| map.contains(range) && range.end().as_u64() <= ceiling;
        match map.highest_fit(bytes, align, Hpa::new(ceiling)) {
            Some(fit) => {
                assert!(fit.len() == bytes && fit.start().is_aligned(align), "{fit:?}");
                assert!(bytes == 0 || fits(&fit), "{fit:?}");
                let higher = fit.start().checked_add(align.bytes()).and_then(|at| HpaRange::sized(at, bytes));
                assert!(
                    bytes == 0 || !higher.is_some_and(|higher| fits(&higher)),
                    "{fit:?} is not the highest"
                );
            }
            None => {
                let lowest = map.ranges().iter().filter_map(|range| range.start().align_up(align));
                let mut places = lowest.filter_map(|at| HpaRange::sized(at, bytes));
                assert!(bytes == 0 || !places.any(|place| fits(&place)), "there was room for {bytes}");
            }
        }
    }
}
