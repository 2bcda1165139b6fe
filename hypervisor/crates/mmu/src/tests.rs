//! The choke point, where another CPU is faster: what it does comes between the look at an entry and its exchange.

extern crate std;

use crate::entry::Installed;
use crate::spare::Spare;
use crate::tdp::Tdp;
use addr::{Gfn, PageSize, Pfn, PfnRange};
use mm::frames::{FrameMeta, Frames};
use mm::{CpuIndex, FrameMemory, Host};
use paging::{
    EachAlone, EntryRef, EptEntry, FlushScope, FlushToken, Leaf, Level, OutOfTables, Rights, Shootdown,
    TableMemory, TableReserve,
};
use std::boxed::Box;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::vec::Vec;

const FRAMES: usize = 64;
const READ: Rights = Rights { write: false, ..Rights::ALL };

type Rival = Box<dyn FnOnce(&Memory) + Send>;

/// Tables, and nothing else.
pub(crate) struct Memory {
    frames: Frames,
    entries: Vec<AtomicU64>,
    /// What another CPU does right before the next exchange.
    rival: Mutex<Option<Rival>>,
}

impl Memory {
    pub(crate) fn new() -> Self {
        let frames = Frames::new((0..FRAMES).map(|_| FrameMeta::reserved()).collect(), 1);
        frames.add(PfnRange::new(Pfn::new(1), Pfn::new(FRAMES as u64)));
        let entries = (0..FRAMES * 512).map(|_| AtomicU64::new(0)).collect();
        Self { frames, entries, rival: Mutex::new(None) }
    }

    fn before_the_next_exchange(&self, rival: impl FnOnce(&Self) + Send + 'static) {
        *self.rival.lock().expect("no panic") = Some(Box::new(rival));
    }

    fn entry(&self, at: EntryRef) -> &AtomicU64 {
        &self.entries[at.table().as_u64() as usize * 512 + usize::from(at.index())]
    }
}

impl TableMemory for Memory {
    type Entries<'m> = EachAlone<'m, Self>;

    fn entries(&self, table: Pfn) -> Self::Entries<'_> {
        EachAlone(self, table)
    }

    fn load(&self, at: EntryRef) -> u64 {
        self.entry(at).load(Ordering::Acquire)
    }

    fn store(&self, at: EntryRef, value: u64) {
        self.entry(at).store(value, Ordering::Release);
    }

    fn compare_exchange(&self, at: EntryRef, old: u64, new: u64) -> Result<(), u64> {
        let rival = self.rival.lock().expect("no panic").take();
        if let Some(rival) = rival {
            rival(self);
        }
        self.entry(at).compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire).map(|_| ())
    }

    fn allocate_table(&self) -> Result<Pfn, OutOfTables> {
        self.frames.allocate(CpuIndex(0), PageSize::Size4K).map_err(|_| OutOfTables)
    }

    fn free_table(&self, table: Pfn) {
        assert!(self.frames.meta(table).put(), "freed twice");
        self.frames.free(CpuIndex(0), table, PageSize::Size4K);
    }
}

impl FrameMemory for Memory {
    fn zero(&self, _: Pfn, _: PageSize) {}
    fn copy(&self, _: Pfn, _: Pfn) {}
    fn poison(&self, _: Pfn, _: PageSize) {}
    fn read_bytes(&self, _: Pfn, _: usize, _: &mut [u8]) {}
    fn write_bytes(&self, _: Pfn, _: usize, _: &[u8]) {}

    fn load_word(&self, _: Pfn, _: u16) -> u64 {
        0
    }

    fn exchange_word(&self, _: Pfn, _: u16, _: u64, _: u64) -> Result<(), u64> {
        Ok(())
    }
}

impl Shootdown for Memory {
    fn request(&self, _: FlushScope) -> FlushToken {
        FlushToken(0)
    }

    fn wait(&self, FlushToken(_): FlushToken) {}
}

impl Host for Memory {
    fn frames(&self) -> &Frames {
        &self.frames
    }

    fn current_cpu(&self) -> CpuIndex {
        CpuIndex(0)
    }
}

const fn leaf(pfn: u64, size: PageSize, rights: Rights) -> Leaf {
    Leaf { pfn: Pfn::new(pfn), size, rights, accessed: true, dirty: false }
}

const fn small(rights: Rights) -> Leaf {
    leaf(1000, PageSize::Size4K, rights)
}

/// [`Installed`], wherever the entry is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Became {
    New,
    More,
    Spurious,
}

fn install(memory: &Memory, tdp: Tdp, gfn: u64, leaf: Leaf) -> Option<Became> {
    let mut reserve = TableReserve::new(memory);
    reserve.top_up(3).expect("tables");
    Some(match tdp.install(memory, Gfn::new(gfn), leaf, &mut reserve).ok()? {
        Installed::New(at) => {
            assert_eq!(at, tdp.walk(memory, Gfn::new(gfn)).at, "an entry elsewhere");
            Became::New
        }
        Installed::More => Became::More,
        Installed::Spurious => Became::Spurious,
    })
}

/// Empty tables with `first` in them for guest frame 0, if there is one.
fn tables(first: Option<Leaf>) -> (Memory, Tdp) {
    let memory = Memory::new();
    let tdp = Tdp { root: memory.allocate_table().expect("root") };
    if let Some(leaf) = first {
        assert_eq!(install(&memory, tdp, 0, leaf), Some(Became::New));
    }
    (memory, tdp)
}

/// Installs `ours` for guest frame 0, in whose entry or on whose way another CPU is faster with `theirs` for `gfn`.
fn race(first: Option<Leaf>, (gfn, theirs): (u64, Leaf), ours: Leaf) -> (Option<Became>, Option<Leaf>) {
    let (memory, tdp) = tables(first);
    let rival = move |memory: &Memory| assert!(install(memory, tdp, gfn, theirs).is_some());
    memory.before_the_next_exchange(rival);
    let installed = install(&memory, tdp, 0, ours);
    let found = tdp.walk(&memory, Gfn::ZERO).leaf();
    assert!(memory.rival.lock().expect("no panic").is_none(), "nobody came in between");
    let mut spare = Spare::new();
    spare.push(&memory, (tdp.root, Level::ROOT));
    let all = spare.all(&memory).len();
    let freed = core::iter::from_fn(|| spare.pop(&memory)).inspect(|&table| memory.free_table(table)).count();
    assert_eq!(freed, all);
    assert_eq!(memory.frames.free_count(), memory.frames.total(), "a table is lost");
    (installed, found)
}

#[test]
fn who_is_second_with_the_same_entry_has_nothing_to_do() {
    // On the way down, where tables are missing, and in the entry itself.
    let ours = small(READ);
    assert_eq!(race(None, (0, ours), ours), (Some(Became::Spurious), Some(ours)));
    let (memory, tdp) = tables(None);
    let neighbour = leaf(1001, PageSize::Size4K, READ);
    assert_eq!(install(&memory, tdp, 1, neighbour), Some(Became::New));
    memory.before_the_next_exchange(move |memory| {
        assert_eq!(install(memory, tdp, 0, ours), Some(Became::New));
    });
    assert_eq!(install(&memory, tdp, 0, ours), Some(Became::Spurious));
}

#[test]
fn who_is_second_adds_the_rights_that_are_missing() {
    let found = race(None, (0, small(READ)), small(Rights::ALL));
    assert_eq!(found, (Some(Became::More), Some(small(Rights::ALL))));
}

#[test]
fn who_is_second_with_fewer_rights_takes_none_away() {
    let found = race(None, (0, small(Rights::ALL)), small(READ));
    assert_eq!(found, (Some(Became::Spurious), Some(small(Rights::ALL))));
}

#[test]
fn two_upgrades_are_one() {
    let (first, ours) = (Some(small(READ)), small(Rights::ALL));
    assert_eq!(race(first, (0, ours), ours), (Some(Became::Spurious), Some(ours)));
}

#[test]
fn what_the_cpu_notes_during_an_upgrade_is_kept() {
    let (memory, tdp) = tables(Some(Leaf { accessed: false, ..small(READ) }));
    let at = tdp.walk(&memory, Gfn::ZERO).at;
    let notes = move |memory: &Memory| memory.store(at, memory.load(at) | EptEntry::DIRTY);
    memory.before_the_next_exchange(notes);
    assert_eq!(install(&memory, tdp, 0, small(Rights::ALL)), Some(Became::More));
    let found = tdp.walk(&memory, Gfn::ZERO).leaf();
    assert_eq!(found, Some(Leaf { dirty: true, ..small(Rights::ALL) }));
}

#[test]
#[should_panic(expected = "(I5)")]
fn two_frames_for_one_page_are_a_defect_whoever_is_first() {
    race(None, (0, leaf(1002, PageSize::Size4K, READ)), small(READ));
}

#[test]
fn a_base_page_of_a_huge_one_that_another_cpu_maps_first_is_there() {
    let theirs = leaf(1024, PageSize::Size2M, Rights::ALL);
    let ours = leaf(1024, PageSize::Size4K, READ);
    assert_eq!(race(None, (5, theirs), ours), (Some(Became::Spurious), Some(theirs)));
}

#[test]
fn a_huge_page_in_whose_way_another_cpu_links_a_table_is_mapped_in_part() {
    let theirs = (3, leaf(1027, PageSize::Size4K, READ));
    // A table for the directory is there; the exchange that is lost is that of the leaf itself.
    let (memory, tdp) = tables(None);
    assert_eq!(install(&memory, tdp, 512, leaf(7, PageSize::Size4K, READ)), Some(Became::New));
    memory.before_the_next_exchange(move |memory| {
        assert_eq!(install(memory, tdp, theirs.0, theirs.1), Some(Became::New));
    });
    let ours = leaf(1024, PageSize::Size2M, READ);
    assert_eq!(install(&memory, tdp, 0, ours), Some(Became::New));
    let base = Leaf { size: PageSize::Size4K, ..ours };
    assert_eq!(tdp.walk(&memory, Gfn::ZERO).leaf(), Some(base));
    assert_eq!(tdp.walk(&memory, Gfn::new(3)).leaf(), Some(theirs.1));
}

#[test]
fn a_gigabyte_in_whose_way_a_table_stands_is_mapped_by_the_next_smaller_page() {
    let (memory, tdp) = tables(None);
    assert_eq!(install(&memory, tdp, 512, leaf(512, PageSize::Size4K, READ)), Some(Became::New));
    let gigabyte = leaf(0, PageSize::Size1G, READ);
    assert_eq!(install(&memory, tdp, 1030, gigabyte), Some(Became::New));
    let found = tdp.walk(&memory, Gfn::new(1030)).leaf();
    assert_eq!(found, Some(leaf(1024, PageSize::Size2M, READ)));
    // And the other way round: the larger page around it is found, whatever part of it is asked for.
    let (memory, tdp) = tables(Some(gigabyte));
    let part = leaf(1024, PageSize::Size2M, READ);
    assert_eq!(install(&memory, tdp, 1030, part), Some(Became::Spurious));
}

#[test]
fn aging_does_not_take_back_what_is_allowed_meanwhile() {
    let (memory, tdp) = tables(Some(small(READ)));
    memory.before_the_next_exchange(move |memory| {
        assert_eq!(install(memory, tdp, 0, small(Rights::ALL)), Some(Became::More));
    });
    assert!(tdp.age(&memory, addr::GfnRange::new(Gfn::ZERO, Gfn::new(1))));
    let found = tdp.walk(&memory, Gfn::ZERO).leaf();
    assert_eq!(found, Some(Leaf { accessed: false, ..small(Rights::ALL) }));
}
