//! Formats round-trip; walks, cursors, splits and prunes agree with each other on a small memory.

extern crate std;

use crate::{
    Cursor, EachAlone, Entries, EntryRef, EptEntry, Found, HostEntry, Leaf, Level, Note, OutOfTables, Part,
    Parts, Rights, TableEntry, TableMemory, TableReserve, View, collect_young, find_used, prune, split, walk,
    walk_or_grow, walk_owned, walk_to, walk_to_page,
};
use addr::{PAGE_SHIFT, PageSize, Pfn};
use std::boxed::Box;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::vec::Vec;

type Rival = Box<dyn FnOnce(&Memory)>;

#[derive(Default)]
struct Memory {
    tables: RefCell<BTreeMap<u64, Vec<u64>>>,
    limit: Option<usize>,
    /// What another CPU does right before the next compare-exchange.
    rival: RefCell<Option<Rival>>,
}

impl TableMemory for Memory {
    type Entries<'m> = EachAlone<'m, Self>;

    fn entries(&self, table: Pfn) -> Self::Entries<'_> {
        EachAlone(self, table)
    }

    fn load(&self, at: EntryRef) -> u64 {
        self.tables.borrow()[&at.table().as_u64()][usize::from(at.index())]
    }
    fn store(&self, at: EntryRef, value: u64) {
        let mut tables = self.tables.borrow_mut();
        tables.get_mut(&at.table().as_u64()).expect("live table")[usize::from(at.index())] = value;
    }
    fn compare_exchange(&self, at: EntryRef, old: u64, new: u64) -> Result<(), u64> {
        if let Some(rival) = self.rival.take() {
            rival(self);
        }
        let found = self.load(at);
        if found != old {
            return Err(found);
        }
        self.store(at, new);
        Ok(())
    }
    fn allocate_table(&self) -> Result<Pfn, OutOfTables> {
        let mut tables = self.tables.borrow_mut();
        if self.limit.is_some_and(|limit| tables.len() >= limit) {
            return Err(OutOfTables);
        }
        let pfn = tables.last_key_value().map_or(100, |(&pfn, _)| pfn + 1);
        tables.insert(pfn, std::vec![0; 512]);
        Ok(Pfn::new(pfn))
    }
    fn free_table(&self, table: Pfn) {
        assert!(self.tables.borrow_mut().remove(&table.as_u64()).is_some(), "freed twice");
    }
}

fn small(pfn: u64, rights: Rights) -> Leaf {
    Leaf { pfn: Pfn::new(pfn), size: PageSize::Size4K, rights, accessed: false, dirty: false }
}

fn install<E: TableEntry>(memory: &Memory, root: Pfn, address: u64, leaf: Leaf) {
    let mut reserve = TableReserve::new(memory);
    reserve.top_up(3).expect("tables");
    let found = walk_or_grow::<E, _>(memory, root, address, Level::of_leaf(leaf.size), &mut reserve);
    memory.store(found.at, E::leaf(leaf).bits());
}

#[test]
fn host_entries_keep_their_frame_without_rights() {
    let entry = HostEntry::leaf(small(7, Rights::NONE));
    assert_eq!(entry.bits() & HostEntry::PRESENT, 0);
    assert_eq!(entry.view(Level::Pt), View::Leaf(small(7, Rights::NONE)));
    assert_eq!(
        entry.with_rights(Rights::READ_WRITE).view(Level::Pt),
        View::Leaf(small(7, Rights::READ_WRITE))
    );
    assert_eq!(HostEntry::EMPTY.view(Level::Pt), View::Empty);
}

#[test]
fn a_walk_follows_just_the_entries_that_are_tables() {
    fn check<E: TableEntry>(entries: &[E]) {
        for entry in entries {
            let viewed = match entry.view(Level::Pd) {
                View::Table(table) => Some(table),
                View::Empty | View::Leaf(_) | View::Note(_) => None,
            };
            assert_eq!(entry.next_table(), viewed, "{entry:?}");
        }
    }
    let huge = Leaf { size: PageSize::Size2M, pfn: Pfn::new(512), ..small(0, Rights::READ_WRITE) };
    let held = Leaf { rights: Rights::NONE, ..huge };
    check(&[HostEntry::EMPTY, HostEntry::table(Pfn::new(3)), HostEntry::leaf(huge), HostEntry::leaf(held)]);
    check(&[HostEntry::note(Note::Swap(1)), HostEntry::note(Note::Offset(7))]);
    check(&[EptEntry::from_bits(0), EptEntry::table(Pfn::new(3)), EptEntry::leaf(huge)]);
}

#[test]
fn notes_hold_no_frame_and_keep_their_number() {
    for note in [Note::Swap(0), Note::Swap(12345), Note::Offset(0), Note::Offset((1 << 52) - 1)] {
        let entry = HostEntry::note(note);
        assert_eq!(entry.view(Level::Pt), View::Note(note));
        assert_eq!(entry.bits() & (HostEntry::PRESENT | HostEntry::HELD), 0);
    }
}

#[test]
fn formats_round_trip() {
    for size in [PageSize::Size4K, PageSize::Size2M, PageSize::Size1G] {
        for rights in [Rights::READ, Rights::READ_WRITE, Rights::ALL] {
            for bits in 0..4 {
                let (accessed, dirty) = (bits & 1 != 0, bits & 2 != 0);
                let leaf = Leaf { pfn: Pfn::new(1 << 18), size, rights, accessed, dirty };
                let level = Level::of_leaf(size);
                assert_eq!(HostEntry::leaf(leaf).view(level), View::Leaf(leaf));
                assert_eq!(EptEntry::leaf(leaf).view(level), View::Leaf(leaf));
            }
        }
    }
    assert_eq!(EptEntry::table(Pfn::new(3)).view(Level::Pd), View::Table(Pfn::new(3)));
    assert_eq!(HostEntry::table(Pfn::new(3)).view(Level::Pd), View::Table(Pfn::new(3)));
}

#[test]
fn a_cursor_visits_leaves_in_order_and_nothing_else() {
    let memory = Memory::default();
    let root = memory.allocate_table().expect("root");
    let addresses = [0x1000, 0x1f_f000, 0x20_0000, 0x4000_0000, 0x7f00_0000_0000];
    for (index, address) in addresses.into_iter().enumerate() {
        install::<EptEntry>(&memory, root, address, small(index as u64, Rights::ALL));
    }
    let visit = |start, end| -> Vec<u64> {
        Cursor::<_, EptEntry>::new(&memory, root, start, end).map(|visit| visit.address).collect()
    };
    assert_eq!(visit(0, 1 << 47), addresses);
    assert_eq!(visit(0x1001, 0x20_0001), [0x1000, 0x1f_f000, 0x20_0000]);
    assert_eq!(visit(0x2000, 0x1f_f000), []);
}

#[test]
fn what_a_cursor_visits_is_in_the_parts_and_nothing_else() {
    let memory = Memory::default();
    let root = memory.allocate_table().expect("root");
    for (index, address) in
        [0x1000, 0x1f_f000, 0x20_0000, 0x4000_0000, 0x7f00_0000_0000].into_iter().enumerate()
    {
        install::<HostEntry>(&memory, root, address, small(index as u64, Rights::NONE));
    }
    install::<HostEntry>(
        &memory,
        root,
        0x60_0000,
        Leaf { size: PageSize::Size2M, ..small(512, Rights::READ) },
    );
    let pages = |part| match part {
        Part::Leaf(visit) => Vec::from([visit.address]),
        Part::Table(table) => {
            let entry = |index| HostEntry::from_bits(memory.entries(table.table).load(index));
            let mapped = table.entries.clone().filter(|&index| entry(index).is_page());
            mapped.map(|index| table.visit(index, entry(index)).address).collect()
        }
    };
    for (start, end) in
        [(0, 1 << 47), (0x1001, 0x20_0001), (0x2000, 0x1f_f000), (0x1000, 0x70_0000), (0x61_0000, 0x80_0000)]
    {
        let parts: Vec<u64> = Parts::<_, HostEntry>::new(&memory, root, start, end).flat_map(pages).collect();
        let visits = Cursor::<_, HostEntry>::new(&memory, root, start, end).map(|visit| visit.address);
        assert_eq!(parts, visits.collect::<Vec<_>>(), "{start:#x}..{end:#x}");
    }
}

#[test]
fn a_split_changes_no_translation() {
    let memory = Memory::default();
    let root = memory.allocate_table().expect("root");
    let huge = Leaf {
        pfn: Pfn::new(512),
        size: PageSize::Size2M,
        rights: Rights::READ_WRITE,
        accessed: true,
        dirty: true,
    };
    install::<HostEntry>(&memory, root, 0x20_0000, huge);
    let found = walk::<HostEntry, _>(&memory, root, 0x20_5000);
    assert_eq!(found.leaf(), Some(huge));
    let mut reserve = TableReserve::new(&memory);
    assert!(!split(&memory, &found, &mut reserve), "an empty reserve splits nothing");
    reserve.top_up(1).expect("table");
    assert!(split(&memory, &found, &mut reserve));
    let after = walk::<HostEntry, _>(&memory, root, 0x20_5000).leaf().expect("leaf");
    assert_eq!(after, Leaf { pfn: Pfn::new(517), size: PageSize::Size4K, ..huge });
}

#[test]
fn prune_unlinks_empty_tables_inside_the_range_only() {
    let memory = Memory::default();
    let root = memory.allocate_table().expect("root");
    install::<HostEntry>(&memory, root, 0x1000, small(1, Rights::READ));
    install::<HostEntry>(&memory, root, 0x4000_0000, small(2, Rights::READ));
    let before = memory.tables.borrow().len();
    memory.store(walk::<HostEntry, _>(&memory, root, 0x1000).at, 0);
    let mut unlinked = Vec::new();
    prune::<HostEntry, _>(&memory, root, (0x1000, 0x2000), &mut |table| unlinked.push(table));
    assert!(unlinked.is_empty(), "the tables span more than the range");
    prune::<HostEntry, _>(&memory, root, (0, 0x4000_0000), &mut |table| unlinked.push(table));
    assert_eq!(
        unlinked.len(),
        2,
        "page table and page directory; the table above still serves the other page"
    );
    unlinked.into_iter().for_each(|table| memory.free_table(table));
    assert_eq!(memory.tables.borrow().len(), before - 2);
    assert!(walk::<HostEntry, _>(&memory, root, 0x4000_0000).leaf().is_some());
}

const RIVALS: u64 = 0x20_0000;
const OURS: u64 = 0x20_1000;

/// Grows for [`OURS`] where another CPU installs a leaf for [`RIVALS`] first; what was found, and tables left over.
fn grow_against(leaf: Leaf) -> (Memory, Pfn, Found<EptEntry>, usize) {
    let memory = Memory::default();
    let root = memory.allocate_table().expect("root");
    let rival = move |memory: &Memory| install::<EptEntry>(memory, root, RIVALS, leaf);
    let mut reserve = TableReserve::new(&memory);
    reserve.top_up(3).expect("tables");
    *memory.rival.borrow_mut() = Some(Box::new(rival));
    let found = walk_or_grow::<EptEntry, _>(&memory, root, OURS, Level::Pt, &mut reserve);
    let left = std::iter::from_fn(|| reserve.take()).map(|table| memory.free_table(table)).count();
    drop(reserve);
    (memory, root, found, left)
}

#[test]
fn tables_that_another_cpu_links_first_are_used_and_ones_own_stay_in_the_reserve() {
    let theirs = small(7, Rights::ALL);
    let (memory, root, found, left) = grow_against(theirs);
    assert_eq!((found.level, found.entry, left), (Level::Pt, EptEntry::EMPTY, 3));
    memory.store(found.at, EptEntry::leaf(small(8, Rights::ALL)).bits());
    assert_eq!(walk::<EptEntry, _>(&memory, root, RIVALS).leaf(), Some(theirs));
    assert_eq!(walk::<EptEntry, _>(&memory, root, OURS).leaf(), Some(small(8, Rights::ALL)));
    assert_eq!(memory.tables.borrow().len(), 4, "the root and one path");
}

#[test]
fn growth_ends_at_a_huge_leaf_that_another_cpu_installs_first() {
    let theirs = Leaf { size: PageSize::Size2M, ..small(512, Rights::ALL) };
    let (memory, _, found, left) = grow_against(theirs);
    assert_eq!((found.level, found.leaf(), left), (Level::Pd, Some(theirs), 3));
    assert_eq!(memory.tables.borrow().len(), 3);
}

#[test]
fn a_reserve_gives_back_what_was_not_used() {
    let memory = Memory { limit: Some(2), ..Memory::default() };
    let mut reserve = TableReserve::new(&memory);
    assert_eq!(reserve.top_up(3), Err(OutOfTables));
    drop(reserve);
    assert!(memory.tables.borrow().is_empty());
}

/// Entries of which all were used, none, and some, in one group and in a whole table: the answer, the frames that are told, and A of
/// each entry agree.
#[test]
fn which_pages_were_used_is_told_for_each_and_all_lose_a() {
    for pattern in [0, u64::MAX, 0b1000_1111, 0x00f0_f0ff_1234_8001, !1, 1 << 63] {
        let memory = Memory::default();
        let root = memory.allocate_table().expect("root");
        let was_used = |page: u64| pattern >> (page % 64) & 1 != 0;
        for page in 0..512 {
            let leaf = Leaf { accessed: was_used(page), ..small(1000 + page, Rights::ALL) };
            install::<EptEntry>(&memory, root, page << PAGE_SHIFT, leaf);
        }
        let table = walk_to::<EptEntry, _>(&memory, root, 0, Level::Pd).at;
        memory.store(table, memory.load(table) | EptEntry::ACCESSED);
        let found = walk_to::<EptEntry, _>(&memory, root, 0, Level::Pd);
        let told = RefCell::new(Vec::new());
        let bits =
            collect_young(&memory, &found, (0, Level::Pd.span()), |frame| told.borrow_mut().push(frame));
        assert_eq!(bits, [pattern; 8]);
        let expected: Vec<u64> = (0..512).filter(|page| was_used(*page)).map(|page| 1000 + page).collect();
        assert_eq!(told.into_inner(), expected);
        let leaves = Cursor::<_, EptEntry>::new(&memory, root, 0, Level::Pd.span());
        assert!(leaves.filter_map(|visit| visit.found.leaf()).all(|leaf| !leaf.accessed));
    }
}

/// Blocks are found by A of the entry that names their table, or of the leaf that they are in, also where a range begins and ends in one.
#[test]
fn blocks_that_may_have_been_used_are_found_by_the_entries_above_them() {
    let (memory, block, region) = (Memory::default(), Level::Pd.span(), Level::Pdpt.span());
    let root = memory.allocate_table().expect("root");
    let used = [0, 3, 511, 512, 700];
    for index in used.into_iter().chain([1, 4, 510, 513]) {
        install::<EptEntry>(&memory, root, index * block, small(index, Rights::ALL));
        let at = walk_to::<EptEntry, _>(&memory, root, index * block, Level::Pd).at;
        let bit = if used.contains(&index) { EptEntry::ACCESSED } else { 0 };
        memory.store(at, memory.load(at) | bit);
    }
    let huge = |accessed| Leaf { size: PageSize::Size1G, accessed, ..small(1 << 18, Rights::ALL) };
    install::<EptEntry>(&memory, root, 2 * region, huge(true));
    install::<EptEntry>(&memory, root, 3 * region, huge(false));
    let found = |start, end| {
        let mut found = Vec::new();
        find_used::<EptEntry, _>(&memory, root, (start, end), |first| found.push(first / block));
        found
    };
    assert_eq!(found(0, 2 * region), used);
    assert_eq!(found(3 * block + 4096, 511 * block), [3]);
    assert_eq!(found(511 * block, 512 * block + 4096), [511, 512]);
    assert_eq!(found(1025 * block, 1027 * block), [1025, 1026]);
    assert_eq!(found(3 * region, 5 * region), [0; 0]);
}

/// A walk to a page table, and one that stops at shared tables, find what a plain walk finds, where that is to be found.
#[test]
fn walks_that_want_less_find_the_same() {
    let memory = Memory::default();
    let root = memory.allocate_table().expect("root");
    let [page, none, shared, empty] = [0x1000, 0x2000, 0x20_0000, 0x40_0000];
    install::<HostEntry>(&memory, root, page, small(7, Rights::READ));
    install::<HostEntry>(&memory, root, none, small(8, Rights::NONE));
    install::<HostEntry>(&memory, root, shared, small(9, Rights::READ));
    let above = walk_to::<HostEntry, _>(&memory, root, shared, Level::Pd);
    let View::Table(table) = above.view() else { panic!("{above:?}") };
    memory.store(above.at, HostEntry::shared_table(table).bits());
    for (size, address) in [(PageSize::Size2M, 0x60_0000), (PageSize::Size1G, 0x4000_0000)] {
        install::<HostEntry>(&memory, root, address, Leaf { size, ..small(1 << 18, Rights::READ) });
    }
    for address in [page, none, 0x3000, shared, empty, 0x60_0000, 0x4000_0000, 0x8000_0000, 1 << 40] {
        let plain = walk::<HostEntry, _>(&memory, root, address);
        let parts = |found: Found<HostEntry>| (found.at, found.level, found.entry, found.shared);
        let expected = Some(plain).filter(|found| found.level == Level::Pt).map(parts);
        assert_eq!(walk_to_page(&memory, root, address).map(parts), expected, "{address:#x}");
        let owned = walk_owned::<HostEntry, _>(&memory, root, address);
        if plain.shared {
            assert_eq!((owned.at, owned.shared), (above.at, false));
        } else {
            assert_eq!(parts(owned), parts(plain), "{address:#x}");
        }
    }
}
