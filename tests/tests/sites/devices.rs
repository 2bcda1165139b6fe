//! What stands behind the memory manager: a swap device, a file on a disk, an execute-in-place store.

use addr::{PageSize, Pfn};
use mm::{CpuIndex, Direct, FrameMemory, Host, SlotError, Store, StoreError, SwapDevice, Unwritten};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use sync::{Held, Rank};
use tests::machine::Machine;

/// What page 0 of a new disk holds in its first word; page n holds n more.
pub(crate) const DISK: u64 = 0xd15c_0000;

/// Pages that last, in frames of the machine set aside, with switches that break it.
pub(crate) struct Platter {
    machine: Arc<Machine>,
    frames: Vec<Pfn>,
    pub(crate) fails_reads: AtomicBool,
    pub(crate) fails_writes: AtomicBool,
    /// As the store of a file it takes its time: whoever asks holds no lock of any rank.
    pub(crate) waits: AtomicBool,
    /// As a swap device it takes no time: whoever asks may hold locks.
    pub(crate) at_once: AtomicBool,
    /// Copies may stay while their pages are in memory.
    pub(crate) keeps: AtomicBool,
    /// As a swap device it has no room for now, once so many pages were written.
    pub(crate) room: AtomicU64,
    /// As a swap device: how often what is moved on makes no room yet, in pieces as it is.
    pub(crate) crowded: AtomicU64,
    /// As the store of a file: pages that it has, by bits; all others are said to hold zeros.
    pub(crate) holds: AtomicU64,
    reads: AtomicU64,
    writes: AtomicU64,
    before_mapped: Next,
    after_read: Next,
    after_write: Next,
}

/// What runs once, after the next page was read or written and before the memory manager goes on.
type Next = Mutex<Option<Box<dyn FnOnce() + Send>>>;

fn take(next: &Next) {
    let work = next.lock().unwrap_or_else(PoisonError::into_inner).take();
    work.into_iter().for_each(|work| work());
}

fn set(next: &Next, work: impl FnOnce() + Send + 'static) {
    let work = || std::thread::spawn(work).join().expect("the other thread's work");
    *next.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(work));
}

impl Platter {
    pub(crate) fn new(machine: &Arc<Machine>, pages: u64) -> Arc<Self> {
        let take = |index| {
            let frame = machine.frames().allocate(CpuIndex(0), PageSize::Size4K).expect("a frame");
            machine.zero(frame, PageSize::Size4K);
            machine.poke(frame, 0, DISK + index);
            frame
        };
        Arc::new(Self {
            machine: Arc::clone(machine),
            frames: (0..pages).map(take).collect(),
            fails_reads: AtomicBool::new(false),
            fails_writes: AtomicBool::new(false),
            waits: AtomicBool::new(false),
            at_once: AtomicBool::new(false),
            keeps: AtomicBool::new(false),
            room: AtomicU64::new(u64::MAX),
            crowded: AtomicU64::new(0),
            holds: AtomicU64::new(u64::MAX),
            reads: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            before_mapped: Mutex::default(),
            after_read: Mutex::default(),
            after_write: Mutex::default(),
        })
    }

    /// Frames that it is made of.
    pub(crate) fn held(&self) -> u64 {
        self.frames.len() as u64
    }

    /// Pages read so far.
    pub(crate) fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    /// Pages written so far.
    pub(crate) fn writes(&self) -> u64 {
        self.writes.load(Ordering::Relaxed)
    }

    /// The first word of a page.
    pub(crate) fn word(&self, index: u64) -> u64 {
        self.machine.peek(self.frames[index as usize], 0)
    }

    fn read(&self, index: u64, frame: Pfn) -> bool {
        let works = !self.fails_reads.load(Ordering::Relaxed);
        if works {
            self.machine.copy(self.frames[index as usize], frame);
            self.reads.fetch_add(1, Ordering::Relaxed);
            take(&self.after_read);
        }
        works
    }

    /// Runs `work`, on another thread, once a fault is about to map a page of a file that needs no reading.
    pub(crate) fn before_next_mapped(&self, work: impl FnOnce() + Send + 'static) {
        set(&self.before_mapped, work);
    }

    /// Runs `work`, on another thread, once the next page was read and before the reader goes on.
    pub(crate) fn after_next_read(&self, work: impl FnOnce() + Send + 'static) {
        set(&self.after_read, work);
    }

    /// The same, once the next page was written.
    pub(crate) fn after_next_write(&self, work: impl FnOnce() + Send + 'static) {
        set(&self.after_write, work);
    }

    fn write(&self, index: u64, frame: Pfn) -> bool {
        let works = !self.fails_writes.load(Ordering::Relaxed);
        if works {
            self.machine.copy(frame, self.frames[index as usize]);
            self.writes.fetch_add(1, Ordering::Relaxed);
            take(&self.after_write);
        }
        works
    }

    /// Gives its frames back to the machine.
    pub(crate) fn scrap(&self) {
        for &frame in &self.frames {
            assert!(self.machine.frames().meta(frame).put(), "{frame} has other owners");
            self.machine.frames().free(CpuIndex(0), frame, PageSize::Size4K);
        }
    }
}

/// A platter as a swap device.
pub(crate) struct Swap(pub(crate) Arc<Platter>);

impl SwapDevice for Swap {
    fn slots(&self) -> u64 {
        self.0.held()
    }

    fn has_room(&self) -> bool {
        self.0.writes() < self.0.room.load(Ordering::Relaxed)
    }

    fn waits(&self, _slot: u64) -> bool {
        !self.0.at_once.load(Ordering::Relaxed)
    }

    fn make_room(&self) -> bool {
        let fewer = |crowded: u64| crowded.checked_sub(1);
        if self.0.crowded.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fewer).is_ok() {
            return true;
        }
        let more = |room| (room < u64::MAX).then(|| self.0.writes() + 1);
        self.0.room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    fn keeps(&self, _slot: u64) -> bool {
        self.0.keeps.load(Ordering::Relaxed)
    }

    fn write(&self, slot: u64, frame: Pfn) -> Result<(), Unwritten> {
        if self.0.write(slot, frame) { Ok(()) } else { Err(SlotError { slot }.into()) }
    }

    fn read(&self, slot: u64, frame: Pfn) -> Result<(), SlotError> {
        if self.waits(slot) {
            drop(Held::acquire(Rank::Board));
        }
        if self.0.read(slot, frame) { Ok(()) } else { Err(SlotError { slot }) }
    }

    /// What was kept is overwritten: whoever reads it all the same finds junk.
    fn discard(&self, slot: u64) {
        self.0.machine.poison(self.0.frames[slot as usize], PageSize::Size4K);
    }
}

/// A platter as the store of a file.
pub(crate) struct Disk(pub(crate) Arc<Platter>);

impl Store for Disk {
    fn read(&self, index: u64, frame: Pfn) -> Result<(), StoreError> {
        if self.waits() {
            drop(Held::acquire(Rank::Board));
        }
        if self.0.read(index, frame) { Ok(()) } else { Err(StoreError { index }) }
    }

    fn write(&self, index: u64, frame: Pfn) -> Result<(), StoreError> {
        if self.0.write(index, frame) { Ok(()) } else { Err(StoreError { index }) }
    }

    fn truncate(&self, len: u64) {
        let behind = self.0.frames.iter().skip(len as usize);
        behind.for_each(|&frame| self.0.machine.zero(frame, PageSize::Size4K));
    }

    fn next_used(&self, index: u64) -> Option<u64> {
        let holds = self.0.holds.load(Ordering::Relaxed);
        (index..).find(|&index| index >= 64 || holds >> index & 1 != 0)
    }

    fn waits(&self) -> bool {
        self.0.waits.load(Ordering::Relaxed)
    }

    /// Not execute-in-place; but a fault asks.
    fn direct(&self, _index: u64) -> Option<Direct> {
        take(&self.0.before_mapped);
        None
    }
}

/// First frame of execute-in-place memory: below the frames that the allocator has.
const XIP_BASE: u64 = 4;

/// An execute-in-place store: page n is frame `XIP_BASE + n`, where it is no hole.
pub(crate) struct InPlace {
    machine: Arc<Machine>,
    filled: Mutex<Vec<bool>>,
}

impl InPlace {
    /// A store of holes, but for page 0, which holds [`DISK`].
    pub(crate) fn new(machine: &Arc<Machine>, pages: usize) -> Self {
        assert!(pages <= 12, "execute-in-place memory has 12 frames");
        let filled = (0..pages).map(|page| page == 0).collect();
        machine.zero(Pfn::new(XIP_BASE), PageSize::Size4K);
        machine.poke(Pfn::new(XIP_BASE), 0, DISK);
        Self { machine: Arc::clone(machine), filled: Mutex::new(filled) }
    }

    /// The frame of a page.
    pub(crate) fn frame(index: u64) -> Pfn {
        Pfn::new(XIP_BASE + index)
    }
}

impl Store for InPlace {
    fn read(&self, index: u64, _frame: Pfn) -> Result<(), StoreError> {
        Err(StoreError { index })
    }

    fn write(&self, index: u64, _frame: Pfn) -> Result<(), StoreError> {
        Err(StoreError { index })
    }

    /// No test truncates it.
    fn truncate(&self, _len: u64) {}

    fn direct(&self, index: u64) -> Option<Direct> {
        let filled = self.filled.lock().unwrap_or_else(PoisonError::into_inner)[index as usize];
        Some(if filled { Direct::Frame(Self::frame(index)) } else { Direct::Hole })
    }

    fn fill_hole(&self, index: u64) -> Result<Pfn, StoreError> {
        let frame = Self::frame(index);
        let mut filled = self.filled.lock().unwrap_or_else(PoisonError::into_inner);
        if !filled[index as usize] {
            self.machine.zero(frame, PageSize::Size4K);
            filled[index as usize] = true;
        }
        Ok(frame)
    }
}
