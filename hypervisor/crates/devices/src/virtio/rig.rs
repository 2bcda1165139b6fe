//! For tests: RAM that keeps what was discarded, and a driver that sets a queue up and fills it as drivers do.

use super::Memory;
use super::queue::{Places, Queue};
use addr::{Gpa, GpaRange};
use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;

pub(crate) const PAGE: u64 = 4096;
/// Where a driver of these tests has its queue.
pub(crate) const DESCRIPTORS: u64 = 0x1000;
pub(crate) const AVAILABLE: u64 = 0x2000;
pub(crate) const USED: u64 = 0x3000;
/// Free for buffers.
pub(crate) const BUFFERS: u64 = 0x4000;

/// RAM from 0 on.
pub(crate) struct Ram {
    bytes: RefCell<Vec<u8>>,
    pub(crate) discarded: RefCell<Vec<GpaRange>>,
}

impl Ram {
    pub(crate) fn new(pages: u64) -> Self {
        Self { bytes: RefCell::new(vec![0; (pages * PAGE) as usize]), discarded: RefCell::default() }
    }

    /// The part of the bytes that lies in RAM, whole or not at all.
    fn part(&self, at: u64, len: usize) -> Option<core::ops::Range<usize>> {
        let start = usize::try_from(at).ok()?;
        let end = start.checked_add(len)?;
        (end <= self.bytes.borrow().len()).then_some(start..end)
    }

    pub(crate) fn put(&self, at: u64, bytes: &[u8]) {
        assert!(self.write(Gpa::new(at), bytes));
    }

    pub(crate) fn put_u16(&self, at: u64, value: u16) {
        self.put(at, &value.to_le_bytes());
    }

    pub(crate) fn get_u16(&self, at: u64) -> u16 {
        let mut bytes = [0; 2];
        assert!(self.read(Gpa::new(at), &mut bytes));
        u16::from_le_bytes(bytes)
    }

    /// What was discarded, in pages, and forgets it.
    pub(crate) fn take_discarded(&self) -> Vec<(u64, u64)> {
        let ranges = self.discarded.take();
        ranges.iter().map(|range| (range.start().as_u64() / PAGE, range.end().as_u64() / PAGE)).collect()
    }

    /// A descriptor of the queue.
    pub(crate) fn describe(&self, number: u16, gpa: u64, len: u32, flags: u16, next: u16) {
        let at = DESCRIPTORS + 16 * u64::from(number);
        self.put(at, &gpa.to_le_bytes());
        self.put(at + 8, &len.to_le_bytes());
        self.put_u16(at + 12, flags);
        self.put_u16(at + 14, next);
    }

    /// Makes a chain available.
    pub(crate) fn offer(&self, size: u16, head: u16) {
        let index = self.get_u16(AVAILABLE + 2);
        self.put_u16(AVAILABLE + 4 + 2 * u64::from(index % size), head);
        self.put_u16(AVAILABLE + 2, index.wrapping_add(1));
    }
}

impl Memory for Ram {
    fn read(&self, gpa: Gpa, bytes: &mut [u8]) -> bool {
        let Some(part) = self.part(gpa.as_u64(), bytes.len()) else { return false };
        bytes.copy_from_slice(&self.bytes.borrow()[part]);
        true
    }

    fn write(&self, gpa: Gpa, bytes: &[u8]) -> bool {
        let Some(part) = self.part(gpa.as_u64(), bytes.len()) else { return false };
        self.bytes.borrow_mut()[part].copy_from_slice(bytes);
        true
    }

    fn discard(&self, range: GpaRange) -> bool {
        assert!(!range.is_empty() && range.start().as_u64().is_multiple_of(PAGE));
        assert!(range.len().is_multiple_of(PAGE));
        let is_ram = self.part(range.start().as_u64(), range.len() as usize).is_some();
        if is_ram {
            self.discarded.borrow_mut().push(range);
        }
        is_ram
    }
}

pub(crate) fn places(size: u16) -> Places {
    Places { size: size.into(), descriptors: DESCRIPTORS, available: AVAILABLE, used: USED }
}

pub(crate) fn queue(size: u16) -> Queue {
    Queue::new(&places(size)).expect("a good queue")
}
