//! Chains of leaves by page and size, and who is looked for where.

extern crate std;

use super::super::areas::{AREA, Areas, pieces};
use super::super::format::{Rights, ShadowLeaf};
use super::super::rmap::{Named, Page, Place, ReverseMap, around};
use super::super::table::{Table, Unused};
use crate::tests::Memory;
use addr::{Gfn, GfnRange, PageSize, Pfn};
use std::vec::Vec;

const SMALL: PageSize = PageSize::Size4K;

fn gfns(first: u64, end: u64) -> GfnRange {
    GfnRange::new(Gfn::new(first), Gfn::new(end))
}

fn base(gfn: u64) -> Page {
    (Gfn::new(gfn), SMALL)
}

#[test]
fn ranges_are_cut_where_areas_end() {
    let cut =
        |first, end| pieces(gfns(first, end)).map(|piece| (piece.start().as_u64(), piece.end().as_u64()));
    assert_eq!(cut(5, 6).collect::<Vec<_>>(), [(5, 6)]);
    assert_eq!(cut(510, 1025).collect::<Vec<_>>(), [(510, 512), (512, 1024), (1024, 1025)]);
    assert_eq!(cut(512, 1024).collect::<Vec<_>>(), [(512, 1024)]);
    assert_eq!(cut(7, 7).count(), 0);
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
    let leaves = [(0, 1, base(700)), (0, 2, base(700)), (1, 3, around(Gfn::new(700))), (0, 4, base(1))];
    for (table, index, page) in leaves {
        rmap.insert(&mut tables, Place::new(table, index), (Named::Page(page), 0));
    }
    let at = |places: &mut dyn Iterator<Item = Place>| {
        let mut found: Vec<_> = places.map(|place| (place.table(), place.index())).collect();
        found.sort_unstable();
        found
    };
    let of = |rmap: &ReverseMap, tables: &[Table], page| at(&mut rmap.leaves_of(tables, page));
    let within = |rmap: &ReverseMap, tables: &[Table], range| at(&mut rmap.leaves_in(tables, range));
    assert_eq!(of(&rmap, &tables, base(700)), [(0, 1), (0, 2)]);
    assert_eq!(of(&rmap, &tables, (Gfn::new(512), AREA)), [(1, 3)]);
    assert_eq!(of(&rmap, &tables, base(1)), [(0, 4)]);
    assert_eq!(within(&rmap, &tables, gfns(1023, 1024)), [(1, 3)]);
    assert_eq!(within(&rmap, &tables, gfns(0, 701)), [(0, 1), (0, 2), (0, 4), (1, 3)]);
    assert_eq!(within(&rmap, &tables, gfns(2, 512)), []);
    assert_eq!(rmap.leaves(), 4);
    for index in [1, 2] {
        assert!(rmap.has_base_leaves(Gfn::new(900)));
        assert_eq!(rmap.remove(&mut tables, Place::new(0, index)), Named::Page(base(700)));
    }
    assert!(!rmap.has_base_leaves(Gfn::new(900)));
    assert_eq!(within(&rmap, &tables, gfns(512, 1024)), [(1, 3)]);
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
