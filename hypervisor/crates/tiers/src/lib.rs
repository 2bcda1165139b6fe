//! Swap in two tiers: a page that goes out stays in the machine, smaller, and moves on to a disk if nobody asks for it.
//!
//! ```text
//!            ┌─ one word over and over ──► noted, no memory
//!            ├─ zeros but for a few words ► these words, an object of the smallest class ────────┐
//!   write ───┼─ compresses well ─────────► an object of a size class, in a span of four frames ──┐  cold, memory short
//!            └─ does not ─┬─ disk ───────► the same, a page as it is ────────────────────────────┤  soon
//!                         └─ no disk ────► refused: the page stays where it is                   ▼
//!   read ◄───────────────────────────────── memory ◄──────── read ahead ◄─────────────────────── disk
//! ```
//!
//! A write is done at once, since its page is locked; only [`Tiers::move_down`], [`SwapDevice::make_room`] and a read wait for the
//! disk. LZ4, since a page is read as often as it is written, and somebody waits for the read.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod ahead;
mod block;
mod blocks;
mod down;
mod entry;
mod scratch;
mod spans;
mod sparse;
mod state;

pub use block::{BlockDevice, BlockError, MOST_PAGES};

use addr::{PAGE_SIZE, PageSize, Pfn};
use ahead::Ahead;
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use blocks::Blocks;
use core::fmt;
use down::{Staging, retire};
use entry::{Entry, Form, Object};
use mm::{Host, OutOfFrames, SlotError, SwapCounts, SwapDevice, Unwritten};
use scratch::Scratch;
use spans::{MOST_BYTES, Spans};
use state::State;
use sync::{Mutex, Rank};

/// Slots for each frame of compressed memory: pages may become so much smaller.
pub const PAGES_PER_FRAME: u64 = 2;
/// Bytes of the table for each slot.
pub const BYTES_PER_SLOT: u64 = size_of::<Entry>() as u64;
/// Most blocks of a disk: an entry has 32 bits for their numbers.
const MOST_BLOCKS: u64 = u32::MAX as u64;

/// Why there is no swap device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NewError {
    /// There is no memory for the table of slots.
    NoTable {
        /// Slots that were wanted.
        slots: u64,
    },
    /// There are no frames to read and write with.
    OutOfFrames(OutOfFrames),
}

impl fmt::Display for NewError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoTable { slots } => write!(f, "no memory for a table of {slots} swap slots"),
            Self::OutOfFrames(error) => error.fmt(f),
        }
    }
}

/// What the tier in memory is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Memory {
    /// Pages are compressed, and stay.
    Compressed,
    /// Pages only pass through on their way to the disk.
    Passed,
}

/// The swap device.
pub struct Tiers<H: Host> {
    host: Arc<H>,
    memory: Memory,
    disk: Option<Box<dyn BlockDevice>>,
    state: Mutex<State<H>>,
    scratch: Scratch,
    /// `None`: in use.
    staging: Mutex<Option<Staging>>,
}

impl<H: Host> Tiers<H> {
    /// Swap in at most `frames` frames of memory, which are taken as they are needed, and on a disk.
    ///
    /// # Errors
    /// [`NewError`].
    pub fn new(
        host: Arc<H>,
        (memory, frames): (Memory, u64),
        disk: Option<Box<dyn BlockDevice>>,
    ) -> Result<Self, NewError> {
        let count = disk.as_ref().map_or(0, |disk| disk.blocks().min(MOST_BLOCKS));
        let slots = count + if memory == Memory::Compressed { frames * PAGES_PER_FRAME } else { 0 };
        let no_table = NewError::NoTable { slots };
        let spans = Spans::new(Arc::clone(&host), frames).ok_or(no_table)?;
        let blocks = Blocks::new(count).ok_or(no_table)?;
        let mut own = Vec::new();
        let no_frames = NewError::OutOfFrames(OutOfFrames { size: PageSize::Size4K });
        let with_disk = disk.is_some();
        let mut state = State::new(slots, spans, blocks, Ahead::new(Vec::new()))?;
        let staging = if with_disk {
            for _ in 0..ahead::FRAMES {
                own.push(host.allocate_zeroed(PageSize::Size4K).map_err(NewError::OutOfFrames)?);
            }
            Some(Self::make_staging(&host).ok_or(no_frames)?)
        } else {
            None
        };
        state.ahead = Ahead::new(own);
        let (state, staging) = (Mutex::new(Rank::SwapStore, state), Mutex::new(Rank::SwapStore, staging));
        Ok(Self { host, memory, disk, state, scratch: Scratch::default(), staging })
    }

    /// What becomes of a page in memory, if anything can. It is for this slot.
    fn pack(&self, slot: u64, frame: Pfn) -> Result<Entry, Unwritten> {
        if self.memory == Memory::Compressed
            && let Some(words) = sparse::words_of(&*self.host, frame)
        {
            return self.pack_words(slot, &words);
        }
        let mut scratch = self.scratch.take();
        self.host.read_bytes(frame, 0, &mut scratch.page);
        let entry = match scratch.same_word() {
            Some(word) => Ok(Entry::Filled(word)),
            None => self.pack_into(slot, &mut scratch),
        };
        self.scratch.give_back(scratch);
        entry
    }

    fn pack_words(&self, slot: u64, words: &sparse::Words) -> Result<Entry, Unwritten> {
        if words.is_empty() {
            return Ok(Entry::Filled(0));
        }
        let data = sparse::encode(words);
        let place = self.state.lock().spans.store(&data).ok_or(SlotError { slot })?;
        Ok(Entry::Kept(Object { place, len: data.len() as u16, form: Form::Words }))
    }

    fn pack_into(&self, slot: u64, scratch: &mut scratch::Buffers) -> Result<Entry, Unwritten> {
        let compressed = match self.memory {
            Memory::Compressed => scratch.compress().filter(|data| data.len() <= MOST_BYTES),
            Memory::Passed => None,
        };
        let mut state = self.state.lock();
        let (data, form) = match compressed {
            Some(data) => (data, Form::Packed),
            None if state.takes_raw() => (&*scratch.page, Form::Raw),
            None => {
                state.counts.refused += 1;
                return Err(Unwritten::Refused);
            }
        };
        let place = state.spans.store(data).ok_or(SlotError { slot })?;
        Ok(Entry::Kept(Object { place, len: data.len() as u16, form }))
    }

    /// Makes the page of what the slot holds in memory, or says where it is on disk.
    fn unpack(&self, slot: u64, frame: Pfn) -> Result<(), Where> {
        let mut scratch = self.scratch.take();
        let found = self.load(slot, &mut scratch, frame);
        self.scratch.give_back(scratch);
        found
    }

    fn load(&self, slot: u64, scratch: &mut scratch::Buffers, frame: Pfn) -> Result<(), Where> {
        let state = self.state.lock();
        match state.entry(slot) {
            Entry::Nothing => Err(Where::Nowhere),
            Entry::Filled(word) => {
                drop(state);
                self.fill(word, scratch, frame);
                Ok(())
            }
            Entry::Kept(object) | Entry::Leaving(object, _) => {
                state.spans.load(object.place, scratch.place_for(object));
                drop(state);
                if self.make_page(object, scratch, frame) { Ok(()) } else { Err(Where::Nowhere) }
            }
            Entry::OnDisk(block) => Err(Where::Block(block.into())),
        }
    }

    fn fill(&self, word: u64, scratch: &mut scratch::Buffers, frame: Pfn) {
        if word == 0 {
            return self.host.zero(frame, PageSize::Size4K);
        }
        scratch.fill(word);
        self.host.write_bytes(frame, 0, &scratch.page);
    }

    /// Makes the page of an object whose bytes have been read. `false`: they are none.
    fn make_page(&self, object: Object, scratch: &mut scratch::Buffers, frame: Pfn) -> bool {
        if object.form == Form::Words {
            sparse::decode(&*self.host, frame, scratch.place_for(object));
            return true;
        }
        let is_page = scratch.unpack(object);
        if is_page {
            self.host.write_bytes(frame, 0, &scratch.page);
        }
        is_page
    }

    /// Reads a block, and its neighbours ahead of need.
    fn read_block(&self, block: u64, frame: Pfn) -> Option<()> {
        let disk = self.disk.as_ref()?;
        let mut state = self.state.lock();
        if let Some(found) = state.ahead.find(block) {
            self.host.copy(found, frame);
            return Some(());
        }
        let State { ahead, blocks, .. } = &mut *state;
        let (run, filling) = ahead.begin(block, blocks);
        let mut others = filling.iter().map(|&place| ahead.frame(place));
        let in_order = |other: u64| if other == block { Some(frame) } else { others.next() };
        let frames: Staging = (run.first..run.first + run.len).filter_map(in_order).collect();
        state.note_request(run);
        drop(state);
        let read = disk.read(run.first, &frames).is_ok();
        let mut state = self.state.lock();
        state.ahead.end(&filling, read);
        state.counts.reads += if read { run.len } else { 0 };
        state.counts.read_errors += u64::from(!read);
        drop(state);
        // A neighbour may be to blame.
        if read || (run.len > 1 && disk.read(block, &[frame]).is_ok()) { Some(()) } else { None }
    }
}

/// Where a page is that is not in memory.
enum Where {
    Nowhere,
    Block(u64),
}

impl<H: Host> SwapDevice for Tiers<H> {
    fn slots(&self) -> u64 {
        self.state.lock().slots()
    }

    fn has_room(&self) -> bool {
        self.state.lock().spans.has_room()
    }

    fn takes_anything(&self) -> bool {
        let state = self.state.lock();
        state.takes_raw() && state.spans.has_room()
    }

    /// On disk it does; in memory it takes what the page itself could have.
    fn keeps(&self, slot: u64) -> bool {
        matches!(self.state.lock().entry(slot), Entry::OnDisk(_))
    }

    /// What is in memory now may be on its way to the disk.
    fn waits(&self, _slot: u64) -> bool {
        self.disk.is_some()
    }

    fn make_room(&self) -> bool {
        self.write_batch(true)
    }

    fn counts(&self) -> SwapCounts {
        let state = self.state.lock();
        SwapCounts { frames: state.spans.frames(), ..state.counts }
    }

    fn write(&self, slot: u64, frame: Pfn) -> Result<(), Unwritten> {
        let entry = self.pack(slot, frame)?;
        self.state.lock().replace(slot, entry);
        Ok(())
    }

    fn read(&self, slot: u64, frame: Pfn) -> Result<(), SlotError> {
        let read = match self.unpack(slot, frame) {
            Ok(()) => Some(()),
            Err(Where::Block(block)) => self.read_block(block, frame),
            Err(Where::Nowhere) => None,
        };
        read.ok_or(SlotError { slot })
    }

    fn discard(&self, slot: u64) {
        self.state.lock().replace(slot, Entry::Nothing);
    }
}

impl<H: Host> Drop for Tiers<H> {
    fn drop(&mut self) {
        let frames = core::mem::take(self.staging.get_mut()).into_iter().flatten();
        frames.for_each(|frame| retire(&*self.host, frame));
        let state = self.state.get_mut();
        state.ahead.frames().iter().for_each(|&frame| retire(&*self.host, frame));
    }
}

impl<H: Host> fmt::Debug for Tiers<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tiers").field("counts", &self.counts()).finish_non_exhaustive()
    }
}

const _: () = assert!(MOST_BYTES < PAGE_SIZE as usize);
