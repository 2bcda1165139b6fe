//! Chains of leaves by page and size, and who is looked for where.

extern crate std;

use super::super::areas::{AREA, Areas};
use super::super::format::{Rights, ShadowLeaf};
use super::super::rmap::{Named, Place, ReverseMap};
use super::super::table::{Table, Unused};
use crate::tests::Memory;
use addr::{Gfn, GfnRange, PageSize, Pfn};
use std::vec::Vec;

const SMALL: PageSize = PageSize::Size4K;

fn gfns(first: u64, end: u64) -> GfnRange {
    GfnRange::new(Gfn::new(first), Gfn::new(end))
}

#[test]
fn areas_count_what_lies_in_them() {
    let mut areas = Areas::new(3).expect("memory");
    [3, 511, 512].into_iter().for_each(|gfn| areas.add(Gfn::new(gfn)));
    let has = |areas: &Areas| [0, 1023, 1024, 5 * 512].map(|gfn| areas.has(Gfn::new(gfn)));
    assert_eq!(has(&areas), [true, true, false, true], "the second and the sixth have one count");
    areas.remove(Gfn::new(512));
    areas.remove(Gfn::new(3));
    assert_eq!(has(&areas), [true, false, false, false]);
}

#[test]
fn a_leaf_is_found_by_its_page_and_by_each_frame_in_it() {
    let memory = Memory::new();
    let mut tables: Vec<Table> = (0..2).map(|_| Table::new(Unused::new(&memory).expect("memory"))).collect();
    let mut rmap = ReverseMap::new(2).expect("memory");
    // One base leaf twice, a large leaf over it, and a base leaf whose number is that of the area.
    let (small, large, other) =
        (Named::Frame(Gfn::new(700)), Named::around(Gfn::new(700)), Named::Frame(Gfn::new(1)));
    for (table, index, named) in [(0, 1, small), (0, 2, small), (1, 3, large), (0, 4, other)] {
        rmap.insert(&mut tables, Place::new(table, index), (named, 0));
    }
    let plain = |place: Place| (place.table(), place.index());
    let of = |rmap: &ReverseMap, tables: &[Table], named| {
        let mut found: Vec<_> = rmap.leaves_of(tables, named).map(plain).collect();
        found.sort_unstable();
        found
    };
    let within = |rmap: &ReverseMap, tables: &[Table], range| {
        let mut found = Vec::new();
        rmap.each_leaf(tables, range, |place| found.push(plain(place)));
        found.sort_unstable();
        found
    };
    assert_eq!(of(&rmap, &tables, small), [(0, 1), (0, 2)]);
    assert_eq!(of(&rmap, &tables, Named::Large(Gfn::new(512))), [(1, 3)]);
    assert_eq!(of(&rmap, &tables, other), [(0, 4)]);
    assert_eq!(within(&rmap, &tables, gfns(1023, 1024)), [(1, 3)]);
    assert_eq!(within(&rmap, &tables, gfns(0, 701)), [(0, 1), (0, 2), (0, 4), (1, 3)]);
    assert_eq!(within(&rmap, &tables, gfns(2, 512)), []);
    assert_eq!(rmap.large(gfns(511, 1025)).count(), 3, "wherever one may be");
    for index in [1, 2] {
        assert_eq!(rmap.next_base(gfns(600, 2000)), Some(Gfn::new(600)));
        assert_eq!(rmap.remove(&mut tables, Place::new(0, index)), small);
    }
    assert_eq!(rmap.next_base(gfns(600, 1024)), None);
    assert_eq!(rmap.next_base(gfns(600, 2000)), Some(Gfn::new(1024)), "has one count with the first");
    assert_eq!(within(&rmap, &tables, gfns(512, 1024)), [(1, 3)]);
    assert_eq!(rmap.remove(&mut tables, Place::new(1, 3)), large);
    assert_eq!(rmap.large(gfns(511, 1025)).count(), 0);
}

#[test]
fn a_leaf_has_the_size_that_its_entry_says() {
    for (size, large) in [(SMALL, 0), (AREA, 1 << 7)] {
        let rights = Rights { write: true, user: false, execute: true };
        let leaf = ShadowLeaf::new((Pfn::new(1024), size), rights);
        assert_eq!(leaf.encode() & (0xfff | 1 << 63), 0b110_0011 | large);
        assert_eq!(ShadowLeaf::decode(leaf.encode()), Some(leaf));
    }
}
