//! Free base frames that hold zeros: a queue through their metadata. What was zeroed first goes first, so that frames that lay in a row
//! are handed out in that order, and are freed as runs.

use super::meta::{FrameMeta, NIL};
use addr::Pfn;

/// The ends of the queue.
#[derive(Debug)]
pub(super) struct Zeroed {
    first: u32,
    last: u32,
    count: u64,
}

impl Zeroed {
    pub(super) const fn new() -> Self {
        Self { first: NIL, last: NIL, count: 0 }
    }

    pub(super) const fn count(&self) -> u64 {
        self.count
    }

    pub(super) fn push(&mut self, meta: &[FrameMeta], frame: Pfn) {
        let number = frame.as_u64() as u32;
        meta[number as usize].set_next(NIL);
        match self.last {
            NIL => self.first = number,
            last => meta[last as usize].set_next(number),
        }
        self.last = number;
        self.count += 1;
    }

    pub(super) fn pop(&mut self, meta: &[FrameMeta]) -> Option<Pfn> {
        let number = self.first;
        if number == NIL {
            return None;
        }
        let (_, next) = meta[number as usize].links();
        self.first = next;
        if next == NIL {
            self.last = NIL;
        }
        self.count -= 1;
        Some(Pfn::new(u64::from(number)))
    }
}
