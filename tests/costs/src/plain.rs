//! A machine that costs as little as possible: tables in an array, no contents, no CPU that caches anything.

use addr::{PageSize, Pfn, PfnRange};
use mm::frames::{FrameMeta, Frames};
use mm::{CpuIndex, FrameMemory, Host, SlotError, SwapDevice, Unwritten};
use paging::{EntryRef, FlushScope, FlushToken, OutOfTables, Shootdown, TableMemory};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Entries in a table.
const ENTRIES: usize = 512;

/// The machine.
pub(crate) struct Plain {
    frames: Frames,
    /// Entries of each frame, whether or not it holds a table.
    entries: Vec<[AtomicU64; ENTRIES]>,
    /// What is in each frame, as a number: equal pages have the same.
    contents: Vec<AtomicU64>,
    /// What the memory manager notes in frames of its own.
    words: Vec<[AtomicU64; ENTRIES]>,
    tables: AtomicU64,
    /// Which frames are tables: these alone have something in them to be zeroed.
    are_tables: Vec<AtomicBool>,
}

impl Plain {
    /// A machine with this many frames.
    pub(crate) fn new(count: u64) -> Self {
        let frames = Frames::new((0..count).map(|_| FrameMeta::reserved()).collect(), 1);
        frames.add(PfnRange::new(Pfn::new(1), Pfn::new(count)));
        let words = || (0..count).map(|_| [const { AtomicU64::new(0) }; ENTRIES]).collect();
        let (entries, words) = (words(), words());
        let contents = (0..count).map(|_| AtomicU64::new(0)).collect();
        let are_tables = (0..count).map(|_| AtomicBool::new(false)).collect();
        Self { frames, entries, contents, words, tables: AtomicU64::new(0), are_tables }
    }

    /// Puts something into a frame.
    pub(crate) fn fill(&self, frame: Pfn, contents: u64) {
        self.contents[frame.as_u64() as usize].store(contents, Ordering::Relaxed);
    }

    fn contents(&self, frame: Pfn) -> u64 {
        self.contents[frame.as_u64() as usize].load(Ordering::Relaxed)
    }

    /// Tables in use.
    pub(crate) fn tables(&self) -> u64 {
        self.tables.load(Ordering::Relaxed)
    }

    fn entry(&self, at: EntryRef) -> &AtomicU64 {
        &self.entries[at.table().as_u64() as usize][usize::from(at.index())]
    }
}

impl TableMemory for Plain {
    type Entries<'m> = &'m [AtomicU64; ENTRIES];

    fn entries(&self, table: Pfn) -> Self::Entries<'_> {
        &self.entries[table.as_u64() as usize]
    }

    fn load(&self, at: EntryRef) -> u64 {
        self.entry(at).load(Ordering::Acquire)
    }

    fn store(&self, at: EntryRef, value: u64) {
        self.entry(at).store(value, Ordering::Release);
    }

    fn compare_exchange(&self, at: EntryRef, old: u64, new: u64) -> Result<(), u64> {
        self.entry(at).compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire).map(|_| ())
    }

    fn allocate_table(&self) -> Result<Pfn, OutOfTables> {
        let table = self.frames.allocate(CpuIndex(0), PageSize::Size4K).map_err(|_| OutOfTables)?;
        self.tables.fetch_add(1, Ordering::Relaxed);
        self.are_tables[table.as_u64() as usize].store(true, Ordering::Relaxed);
        Ok(table)
    }

    /// A table that is freed is empty: the next one starts zeroed.
    fn free_table(&self, table: Pfn) {
        self.tables.fetch_sub(1, Ordering::Relaxed);
        self.are_tables[table.as_u64() as usize].store(false, Ordering::Relaxed);
        if self.frames.meta(table).put() {
            self.retire(table, PageSize::Size4K);
        }
    }
}

/// Contents are a number: zeroing, copying and comparing cost what the processor's `rep` forms cost, and nothing else.
impl FrameMemory for Plain {
    fn zero(&self, frame: Pfn, _: PageSize) {
        if self.are_tables[frame.as_u64() as usize].load(Ordering::Relaxed) {
            self.entries(frame).iter().for_each(|entry| entry.store(0, Ordering::Relaxed));
        }
    }

    fn copy(&self, from: Pfn, to: Pfn) {
        self.fill(to, self.contents(from));
    }

    fn equal(&self, a: Pfn, b: Pfn) -> bool {
        self.contents(a) == self.contents(b)
    }

    fn checksum(&self, frame: Pfn) -> u32 {
        (self.contents(frame) as u32).wrapping_mul(0x9e37_79b1)
    }

    fn poison(&self, _: Pfn, _: PageSize) {}

    fn read_bytes(&self, _: Pfn, _: usize, _: &mut [u8]) {}

    fn write_bytes(&self, _: Pfn, _: usize, _: &[u8]) {}

    fn load_word(&self, frame: Pfn, word: u16) -> u64 {
        self.words[frame.as_u64() as usize][usize::from(word)].load(Ordering::Acquire)
    }

    fn store_word(&self, frame: Pfn, word: u16, value: u64) {
        self.words[frame.as_u64() as usize][usize::from(word)].store(value, Ordering::Release);
    }

    fn exchange_word(&self, _: Pfn, _: u16, _: u64, _: u64) -> Result<(), u64> {
        Ok(())
    }
}

impl Shootdown for Plain {
    fn request(&self, _: FlushScope) -> FlushToken {
        FlushToken(0)
    }

    fn wait(&self, FlushToken(_): FlushToken) {}
}

/// A swap device that keeps nothing, and costs nothing.
pub(crate) struct Nowhere(pub(crate) u64);

impl SwapDevice for Nowhere {
    fn slots(&self) -> u64 {
        self.0
    }

    fn waits(&self, _: u64) -> bool {
        false
    }

    fn write(&self, _: u64, _: Pfn) -> Result<(), Unwritten> {
        Ok(())
    }

    fn read(&self, _: u64, _: Pfn) -> Result<(), SlotError> {
        Ok(())
    }

    fn discard(&self, _: u64) {}
}

impl Host for Plain {
    fn frames(&self) -> &Frames {
        &self.frames
    }

    fn current_cpu(&self) -> CpuIndex {
        CpuIndex(0)
    }
}
