//! What a test keeps pages on: a swap device, the store of a file, an execute-in-place store. All can be made to fail.

use crate::lock;
use crate::machine::Machine;
use addr::{PageSize, Pfn};
use mm::{Direct, FrameMemory, SlotError, Store, StoreError, SwapDevice, Unwritten};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use sync::{Held, Rank};

/// The words of a page that are not zero.
pub type Kept = Vec<(u16, u64)>;

/// Pages outside of the machine, by number.
pub struct Medium {
    machine: Arc<Machine>,
    kept: Mutex<BTreeMap<u64, Kept>>,
    failing: AtomicBool,
}

impl Medium {
    /// Nothing is kept yet.
    #[must_use]
    pub fn new(machine: &Arc<Machine>) -> Arc<Self> {
        let (kept, failing) = (Mutex::default(), AtomicBool::new(false));
        Arc::new(Self { machine: Arc::clone(machine), kept, failing })
    }

    /// Lets every access fail from now on, or none.
    pub fn set_failing(&self, failing: bool) {
        self.failing.store(failing, Ordering::Relaxed);
    }

    /// Whether accesses fail.
    pub fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    /// Pages kept.
    pub fn kept(&self) -> usize {
        lock(&self.kept).len()
    }

    /// A page as it is kept: its words that are not zero.
    pub(super) fn words(&self, page: u64) -> Kept {
        lock(&self.kept).get(&page).cloned().unwrap_or_default()
    }

    /// Keeps a page of which these words are not zero.
    pub fn put(&self, page: u64, words: Kept) {
        lock(&self.kept).insert(page, words);
    }

    /// Forgets the pages from `len` on.
    fn truncate(&self, len: u64) {
        lock(&self.kept).retain(|&page, _| page < len);
    }

    fn save(&self, page: u64, frame: Pfn) -> Option<()> {
        sync::switch_point();
        let words = (!self.is_failing()).then(|| self.machine.memory.nonzero(frame))?;
        self.put(page, words);
        Some(())
    }

    /// What was discarded, or never written, cannot be read from a device that keeps no more than it must.
    fn holds(&self, page: u64) -> Option<()> {
        sync::switch_point();
        lock(&self.kept).contains_key(&page).then_some(())
    }

    /// Fills a frame; with zeros, where nothing is kept.
    fn fill(&self, page: u64, frame: Pfn) -> Option<()> {
        sync::switch_point();
        if self.is_failing() {
            return None;
        }
        let kept = lock(&self.kept);
        let memory = &self.machine.memory;
        self.machine.fill_frame(frame, || {
            memory.fill(frame, 0);
            kept.get(&page).into_iter().flatten().for_each(|&(word, value)| memory.store(frame, word, value));
        });
        Some(())
    }
}

/// A swap device of so many slots.
pub struct Slots(pub Arc<Medium>, pub u64);

impl SwapDevice for Slots {
    fn slots(&self) -> u64 {
        self.1
    }

    /// Some copies cost nothing.
    fn keeps(&self, slot: u64) -> bool {
        slot.is_multiple_of(2)
    }

    /// Others are read at once.
    fn waits(&self, slot: u64) -> bool {
        slot % 4 < 2
    }

    fn write(&self, slot: u64, frame: Pfn) -> Result<(), Unwritten> {
        Ok(self.0.save(slot, frame).ok_or(SlotError { slot })?)
    }

    fn read(&self, slot: u64, frame: Pfn) -> Result<(), SlotError> {
        if self.waits(slot) {
            // A device may sleep: whoever waits for it holds no lock of any rank.
            drop(Held::acquire(Rank::Board));
        }
        self.0.holds(slot).and_then(|()| self.0.fill(slot, frame)).ok_or(SlotError { slot })
    }

    fn discard(&self, slot: u64) {
        lock(&self.0.kept).remove(&slot);
    }
}

/// The store of a file.
pub struct Disk(pub Arc<Medium>);

impl Store for Disk {
    fn read(&self, index: u64, frame: Pfn) -> Result<(), StoreError> {
        self.0.fill(index, frame).ok_or(StoreError { index })
    }

    fn write(&self, index: u64, frame: Pfn) -> Result<(), StoreError> {
        self.0.save(index, frame).ok_or(StoreError { index })
    }

    fn truncate(&self, len: u64) {
        self.0.truncate(len);
    }
}

/// An execute-in-place store: frames that the allocator does not have, and holes.
pub struct Direct4K {
    machine: Arc<Machine>,
    frames: Mutex<Vec<Option<Pfn>>>,
    failing: AtomicBool,
}

impl Direct4K {
    /// `len` pages, every other one a hole; page `i` of the others is frame `i` + 1.
    pub(super) fn new(machine: &Arc<Machine>, len: u64) -> Arc<Self> {
        let frames: Vec<_> = (0..len).map(|index| (index % 2 == 0).then(|| Pfn::new(index + 1))).collect();
        frames.iter().flatten().for_each(|&frame| machine.zero(frame, PageSize::Size4K));
        let failing = AtomicBool::new(false);
        Arc::new(Self { machine: Arc::clone(machine), frames: Mutex::new(frames), failing })
    }

    /// Lets no hole be filled from now on, or every one.
    pub fn set_failing(&self, failing: bool) {
        self.failing.store(failing, Ordering::Relaxed);
    }

    pub(super) fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    /// What lies from `len` on reads as zeros again.
    fn truncate(&self, len: u64) {
        let mut frames = lock(&self.frames);
        let known = frames.len().max(len as usize);
        frames.resize(known, None);
        let behind = frames.iter().skip(len as usize).flatten();
        behind.for_each(|&frame| self.machine.zero(frame, PageSize::Size4K));
    }
}

pub(super) struct InPlace(pub(super) Arc<Direct4K>);

impl Store for InPlace {
    fn read(&self, index: u64, _frame: Pfn) -> Result<(), StoreError> {
        Err(StoreError { index })
    }

    fn write(&self, index: u64, _frame: Pfn) -> Result<(), StoreError> {
        Err(StoreError { index })
    }

    fn truncate(&self, len: u64) {
        self.0.truncate(len);
    }

    fn direct(&self, index: u64) -> Option<Direct> {
        let frame = lock(&self.0.frames).get(index as usize).copied().flatten();
        Some(frame.map_or(Direct::Hole, Direct::Frame))
    }

    fn fill_hole(&self, index: u64) -> Result<Pfn, StoreError> {
        let mut frames = lock(&self.0.frames);
        let place = frames.get_mut(index as usize).filter(|_| !self.0.is_failing());
        let place = place.ok_or(StoreError { index })?;
        let frame = Pfn::new(index + 1);
        self.0.machine.zero(frame, PageSize::Size4K);
        *place = Some(frame);
        Ok(frame)
    }
}
