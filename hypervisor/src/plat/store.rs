//! Pages kept in other frames of the machine: the store of a file that is all in memory, and a swap device for tests
//! of the mechanism.

use addr::{PageSize, Pfn};
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use mm::{Host, SlotError, Store, StoreError, SwapDevice, Unwritten};
use spin::Mutex;

/// Copies of pages, by number.
pub(super) struct FrameStore<H: Host> {
    host: Arc<H>,
    copies: Mutex<BTreeMap<u64, Pfn>>,
    slots: u64,
}

impl<H: Host> FrameStore<H> {
    /// An empty store. What was never written reads as zeros.
    pub(super) const fn new(host: Arc<H>) -> Self {
        Self::with_slots(host, 0)
    }

    /// An empty swap device.
    pub(super) const fn with_slots(host: Arc<H>, slots: u64) -> Self {
        Self { host, copies: Mutex::new(BTreeMap::new()), slots }
    }

    /// Fills a frame from a copy; whether there is one.
    fn fill(&self, number: u64, frame: Pfn) -> bool {
        let copies = self.copies.lock();
        let copy = copies.get(&number);
        copy.inspect(|&&copy| self.host.copy(copy, frame)).is_some()
    }

    /// `false`: there is no frame for the copy.
    fn keep(&self, number: u64, frame: Pfn) -> bool {
        let mut copies = self.copies.lock();
        let copy = match copies.get(&number) {
            Some(&copy) => copy,
            None => match self.host.allocate_zeroed(PageSize::Size4K) {
                Ok(copy) => copy,
                Err(_) => return false,
            },
        };
        self.host.copy(frame, copy);
        copies.insert(number, copy);
        true
    }

    fn forget(&self, number: u64) {
        if let Some(copy) = self.copies.lock().remove(&number) {
            self.free(copy);
        }
    }

    fn free(&self, copy: Pfn) {
        if self.host.frames().meta(copy).put() {
            self.host.retire(copy, PageSize::Size4K);
        }
    }
}

impl<H: Host> Store for FrameStore<H> {
    fn read(&self, index: u64, frame: Pfn) -> Result<(), StoreError> {
        // Into a zeroed frame.
        self.fill(index, frame);
        Ok(())
    }

    fn write(&self, index: u64, frame: Pfn) -> Result<(), StoreError> {
        if self.keep(index, frame) { Ok(()) } else { Err(StoreError { index }) }
    }

    fn truncate(&self, len: u64) {
        let behind = self.copies.lock().split_off(&len);
        behind.into_values().for_each(|copy| self.free(copy));
    }
}

impl<H: Host> SwapDevice for FrameStore<H> {
    fn slots(&self) -> u64 {
        self.slots
    }

    fn waits(&self, _slot: u64) -> bool {
        false
    }

    fn write(&self, slot: u64, frame: Pfn) -> Result<(), Unwritten> {
        if self.keep(slot, frame) { Ok(()) } else { Err(SlotError { slot }.into()) }
    }

    fn read(&self, slot: u64, frame: Pfn) -> Result<(), SlotError> {
        if self.fill(slot, frame) { Ok(()) } else { Err(SlotError { slot }) }
    }

    fn discard(&self, slot: u64) {
        self.forget(slot);
    }
}

impl<H: Host> Drop for FrameStore<H> {
    fn drop(&mut self) {
        for (_, copy) in core::mem::take(self.copies.get_mut()) {
            self.free(copy);
        }
    }
}
