//! Swap in compressed memory: a page that goes out stays in the machine, smaller.
//!
//! ```text
//!            ┌─ one word over and over ──► noted, no memory
//!   write ───┼─ compresses well ─────────► an object of a size class, in a span of four frames
//!            └─ does not ────────────────► refused: the page stays where it is
//! ```
//!
//! LZ4, since a page is read as often as it is written, and somebody waits for the read.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod scratch;
mod spans;

use addr::{PAGE_SIZE, Pfn};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use mm::{Host, SlotError, SwapDevice};
use scratch::Scratch;
use spans::{MOST_BYTES, Place, Spans};
use sync::{Mutex, Rank};

/// What a slot holds.
#[derive(Clone, Copy, Default)]
enum Entry {
    #[default]
    Nothing,
    /// This word, 512 times.
    Filled(u64),
    /// So many bytes of compressed data.
    Packed(Place, u16),
}

struct State<H: Host> {
    entries: Vec<Entry>,
    spans: Spans<H>,
    counts: Counts,
}

/// What is kept, and what was not.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Pages kept.
    pub pages: u64,
    /// Of these, pages of one word.
    pub filled: u64,
    /// Bytes of compressed data.
    pub bytes: u64,
    /// Frames in use.
    pub frames: u64,
    /// Pages refused because they do not compress.
    pub refused: u64,
}

/// The swap device.
pub struct Zram<H: Host> {
    host: Arc<H>,
    state: Mutex<State<H>>,
    scratch: Scratch,
}

/// There is no memory for the table of slots.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoTable {
    /// Slots that were wanted.
    pub slots: u64,
}

impl fmt::Display for NoTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no memory for a table of {} swap slots", self.slots)
    }
}

impl<H: Host> Zram<H> {
    /// A device of so many slots that uses at most `frames` frames, and takes them as it needs them.
    ///
    /// # Errors
    /// [`NoTable`].
    pub fn new(host: Arc<H>, slots: u64, frames: u64) -> Result<Self, NoTable> {
        let mut entries = Vec::new();
        entries.try_reserve_exact(slots as usize).map_err(|_| NoTable { slots })?;
        entries.resize(slots as usize, Entry::Nothing);
        let spans = Spans::new(Arc::clone(&host), frames).ok_or(NoTable { slots })?;
        let state = State { entries, spans, counts: Counts::default() };
        Ok(Self { host, state: Mutex::new(Rank::SwapStore, state), scratch: Scratch::default() })
    }

    /// What is kept.
    pub fn counts(&self) -> Counts {
        let state = self.state.lock();
        Counts { frames: state.spans.frames(), ..state.counts }
    }

    /// Compresses the frame, into the scratch memory, and keeps that.
    fn pack(&self, slot: u64, frame: Pfn) -> bool {
        let mut scratch = self.scratch.take();
        self.host.read_bytes(frame, 0, &mut scratch.page);
        let entry = match scratch.same_word() {
            Some(word) => Some(Entry::Filled(word)),
            None => scratch.compress().filter(|data| data.len() <= MOST_BYTES).and_then(|data| {
                let place = self.state.lock().spans.store(data)?;
                Some(Entry::Packed(place, data.len() as u16))
            }),
        };
        self.scratch.give_back(scratch);
        let mut state = self.state.lock();
        match entry {
            Some(entry) => state.replace(slot, entry),
            None => state.counts.refused += 1,
        }
        entry.is_some()
    }
}

impl<H: Host> State<H> {
    /// What the slot held before goes.
    fn replace(&mut self, slot: u64, entry: Entry) {
        let old = core::mem::replace(&mut self.entries[slot as usize], entry);
        self.count(old, |count, by| *count -= by);
        if let Entry::Packed(place, _) = old {
            self.spans.free(place);
        }
        self.count(entry, |count, by| *count += by);
    }

    fn count(&mut self, entry: Entry, change: impl Fn(&mut u64, u64)) {
        match entry {
            Entry::Nothing => {}
            Entry::Filled(_) => {
                change(&mut self.counts.pages, 1);
                change(&mut self.counts.filled, 1);
            }
            Entry::Packed(_, len) => {
                change(&mut self.counts.pages, 1);
                change(&mut self.counts.bytes, len.into());
            }
        }
    }
}

impl<H: Host> SwapDevice for Zram<H> {
    fn slots(&self) -> u64 {
        self.state.lock().entries.len() as u64
    }

    fn has_room(&self) -> bool {
        self.state.lock().spans.has_room()
    }

    fn write(&self, slot: u64, frame: Pfn) -> Result<(), SlotError> {
        if self.pack(slot, frame) { Ok(()) } else { Err(SlotError { slot }) }
    }

    fn read(&self, slot: u64, frame: Pfn) -> Result<(), SlotError> {
        let mut scratch = self.scratch.take();
        let done = {
            let state = self.state.lock();
            match state.entries[slot as usize] {
                Entry::Nothing => false,
                Entry::Filled(word) => {
                    scratch.fill(word);
                    true
                }
                Entry::Packed(place, len) => {
                    state.spans.load(place, scratch.packed_mut(len));
                    true
                }
            }
            .then_some(state.entries[slot as usize])
        };
        let done = match done {
            Some(Entry::Packed(_, len)) => scratch.decompress(len),
            Some(_) => true,
            None => false,
        };
        if done {
            self.host.write_bytes(frame, 0, &scratch.page);
        }
        self.scratch.give_back(scratch);
        if done { Ok(()) } else { Err(SlotError { slot }) }
    }

    fn discard(&self, slot: u64) {
        self.state.lock().replace(slot, Entry::Nothing);
    }
}

impl<H: Host> fmt::Debug for Zram<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Zram").field("counts", &self.counts()).finish_non_exhaustive()
    }
}

const _: () = assert!(MOST_BYTES < PAGE_SIZE as usize);
