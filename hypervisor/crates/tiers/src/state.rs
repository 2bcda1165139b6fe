//! The table of slots, and what hangs on it. All of it lies under one lock, which is held for a copy of a page at most.

use crate::NewError;
use crate::ahead::Ahead;
use crate::blocks::{Blocks, Run};
use crate::entry::{Entry, Object};
use crate::spans::Spans;
use alloc::vec::Vec;
use mm::{Host, SwapCounts};

/// Requests that fail one after the other before nothing is written to the disk any more.
const MOST_FAILURES: u32 = 16;
/// Slots that are looked at under one hold of the lock.
const STEP: usize = 4096;

pub(crate) struct State<H: Host> {
    entries: Vec<Entry>,
    pub(crate) spans: Spans<H>,
    pub(crate) blocks: Blocks,
    pub(crate) ahead: Ahead,
    pub(crate) counts: SwapCounts,
    /// Writes that have failed since one was good.
    failures: u32,
    /// Pages in memory as they are.
    raw: u64,
    /// Slots are looked at in turn: they were written in about this order.
    hand: usize,
    /// The block behind the last request.
    behind: u64,
}

/// Slots that go down together.
pub(crate) type Batch = heapless::Vec<u64, { crate::MOST_PAGES }>;

impl<H: Host> State<H> {
    pub(crate) fn new(slots: u64, spans: Spans<H>, blocks: Blocks, ahead: Ahead) -> Result<Self, NewError> {
        let mut entries = Vec::new();
        entries.try_reserve_exact(slots as usize).map_err(|_| NewError::NoTable { slots })?;
        entries.resize(slots as usize, Entry::Nothing);
        let counts = SwapCounts::default();
        Ok(Self { entries, spans, blocks, ahead, counts, failures: 0, raw: 0, hand: 0, behind: u64::MAX })
    }

    pub(crate) const fn slots(&self) -> u64 {
        self.entries.len() as u64
    }

    pub(crate) fn entry(&self, slot: u64) -> Entry {
        self.entries[slot as usize]
    }

    /// What the slot held before goes.
    pub(crate) fn replace(&mut self, slot: u64, entry: Entry) {
        let old = core::mem::replace(&mut self.entries[slot as usize], entry);
        self.count(old, |count, by| *count -= by);
        self.count(entry, |count, by| *count += by);
        match old {
            Entry::OnDisk(block) => self.free_block(block.into()),
            // The block is freed by whoever writes to it.
            old => {
                let stays = |object: &Object| entry.object() == Some(*object);
                old.object().filter(|object| !stays(object)).inspect(|object| self.spans.free(object.place));
            }
        }
    }

    fn count(&mut self, entry: Entry, change: impl Fn(&mut u64, u64)) {
        match entry {
            Entry::Nothing => {}
            Entry::Filled(_) => {
                change(&mut self.counts.pages, 1);
                change(&mut self.counts.filled, 1);
            }
            Entry::Kept(object) | Entry::Leaving(object, _) => {
                change(&mut self.counts.pages, 1);
                change(&mut self.counts.bytes, object.len.into());
                change(&mut self.raw, object.is_raw().into());
            }
            Entry::OnDisk(_) => change(&mut self.counts.on_disk, 1),
        }
    }

    fn free_block(&mut self, block: u64) {
        self.ahead.forget(block);
        self.blocks.free(block);
    }

    /// Whether a page can go down.
    fn takes_pages(&self) -> bool {
        self.blocks.free_count() > 0 && self.failures < MOST_FAILURES
    }

    /// Whether a page that does not compress can be kept until it goes down.
    pub(crate) fn takes_raw(&self) -> bool {
        self.takes_pages() && self.blocks.free_count() > self.raw
    }

    /// Whether it is time for pages to go down: memory is short, or there are enough that should not be there.
    pub(crate) fn is_crowded(&self) -> bool {
        self.takes_pages() && (self.spans.is_crowded() || self.raw >= crate::MOST_PAGES as u64)
    }

    /// The next pages that go down, the oldest as far as that is known, and where to: they are leaving from now on. `all`:
    /// also those that compress.
    pub(crate) fn send(&mut self, all: bool) -> Option<(Batch, Run)> {
        let mut batch = Batch::new();
        let count = self.entries.len();
        let mut left = if self.takes_pages() { count } else { 0 };
        while left > 0 && !batch.is_full() {
            let slot = self.hand;
            if let Entry::Kept(object) = self.entries[slot]
                && (all || object.is_raw())
            {
                let _ = batch.push(slot as u64);
            }
            self.hand = (slot + 1) % count;
            left -= 1;
            if left.is_multiple_of(STEP) && !batch.is_empty() {
                break;
            }
        }
        if batch.is_empty() {
            return None;
        }
        let run = self.blocks.take(batch.len() as u64)?;
        // What finds no block stays, and is seen in the next round.
        batch.truncate(run.len as usize);
        for (&slot, block) in batch.iter().zip(run.first..) {
            if let Some(object) = self.entry(slot).object() {
                self.replace(slot, Entry::Leaving(object, block as u32));
            }
        }
        Some((batch, run))
    }

    /// The pages have been written, or have not. Those that nobody has wanted meanwhile are on disk now; blocks that
    /// cannot be written stay in use for ever.
    pub(crate) fn arrive(&mut self, batch: &Batch, run: Run, written: bool) {
        self.note_request(run);
        self.counts.writes += if written { run.len } else { 0 };
        self.counts.write_errors += u64::from(!written);
        self.failures = if written { 0 } else { self.failures + 1 };
        for (&slot, block) in batch.iter().zip(run.first..) {
            match self.entry(slot) {
                Entry::Leaving(_, sent) if u64::from(sent) == block && written => {
                    self.blocks.set_written(block);
                    self.replace(slot, Entry::OnDisk(sent));
                }
                Entry::Leaving(object, sent) if u64::from(sent) == block => {
                    self.replace(slot, Entry::Kept(object));
                }
                _ if written => self.free_block(block),
                _ => {}
            }
        }
    }

    /// Counts a request.
    pub(crate) fn note_request(&mut self, run: Run) {
        self.counts.requests += 1;
        self.counts.sequential += u64::from(self.behind == run.first);
        self.behind = run.first + run.len;
    }
}
