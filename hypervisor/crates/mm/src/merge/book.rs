//! The book of merged pages: which pages each stands for, and what it is found by. It is in frames of its own, in chunks of a
//! line each; the heap has some bytes for a frame. Where no frame is free, nothing more is merged.
//!
//! ```text
//!   frame's owner ─► first chunk: frame, checksum │ next of its group, more │ last, count │ 5 sharers
//!                                                                     └─► chunk: more │ 7 sharers ─► ...
//!   a sharer: the number of a reverse map, and an index there, as a frame's owner
//! ```
//!
//! A sharer is a name, and holds nothing: where a reverse map has gone, so have its areas and their entries. Its number may be another's
//! by then; a visitor finds that out by the entries that he is led to.
//!
//! Only who merges writes here, one at a time (rank `Merge`). A sharer is added behind the others, and only the newest is taken back: so
//! who reads them part by part misses none that was there when he began.

use crate::frames::INDEX_BITS;
use crate::host::Host;
use crate::rmap::RmapId;
use addr::Pfn;
use alloc::vec::Vec;
use mutants::{Mutant, intact};
use sync::{Mutex, MutexGuard, Rank};

/// Words of a chunk: 64 bytes.
const WORDS: u16 = 8;
/// Chunks of a frame: a bit of a word for each.
const CHUNKS: u32 = u64::BITS;
/// Words of a page's first chunk that are before its sharers.
const HEAD: u16 = 3;
/// The same of any other.
const LINK: u16 = 1;
/// Sharers in the first chunk.
const FIRST: usize = (WORDS - HEAD) as usize;
/// Sharers in any other.
const MORE: usize = (WORDS - LINK) as usize;

/// A page that a merged one stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Sharer(u64);

impl Sharer {
    /// `None`: no frame has such an index, or there is no room for the number.
    pub(crate) fn new(rmap: RmapId, index: u64) -> Option<Self> {
        let fits = index >> INDEX_BITS == 0 && rmap.get() >> (u64::BITS - INDEX_BITS) == 0;
        fits.then(|| Self(u64::from(rmap.get()) << INDEX_BITS | index))
    }

    /// The reverse map that finds its entries.
    pub(crate) fn rmap(self) -> Option<RmapId> {
        RmapId::new((self.0 >> INDEX_BITS) as u32)
    }

    /// Its place there.
    pub(crate) const fn index(self) -> u64 {
        self.0 & ((1 << INDEX_BITS) - 1)
    }
}

/// Whether a merged page stands for a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Added {
    /// From now on.
    New,
    /// It has before, and may still: for an area that has the same map and index, or by the name of a map that has gone, whose number this one has.
    Known,
    /// There are as many as there may be, or there is no frame for one more.
    Refused,
}

/// What a merged page is found by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Noted {
    pub(crate) frame: Pfn,
    pub(crate) checksum: u32,
    /// The next of its group.
    pub(crate) next: Option<RmapId>,
    /// Its sharers.
    pub(crate) count: usize,
}

/// Frames, and words in them.
pub(crate) trait Memory {
    fn load(&self, frame: Pfn, place: u16) -> u64;
    fn store(&self, frame: Pfn, place: u16, word: u64);
    /// Nobody else's, contents unspecified; `None`: none is free.
    fn take(&self) -> Option<Pfn>;
    fn give_back(&self, frame: Pfn);
}

impl<H: Host> Memory for H {
    #[inline]
    fn load(&self, frame: Pfn, place: u16) -> u64 {
        self.load_word(frame, place)
    }

    #[inline]
    fn store(&self, frame: Pfn, place: u16, word: u64) {
        self.store_word(frame, place, word);
    }

    fn take(&self) -> Option<Pfn> {
        self.allocate_to_fill().ok()
    }

    fn give_back(&self, frame: Pfn) {
        if self.frames().meta(frame).put() {
            self.retire(frame, addr::PageSize::Size4K);
        }
    }
}

/// The book. What is asked of a number that is no page's is answered as of a page without sharers.
pub(crate) struct Book {
    chunks: Mutex<Chunks>,
}

impl Book {
    pub(crate) fn new() -> Self {
        Self { chunks: Mutex::new(Rank::Book, Chunks::default()) }
    }

    fn open<'a, M: Memory>(&'a self, memory: &'a M) -> Open<'a, M> {
        Open { chunks: self.chunks.lock(), memory }
    }

    /// A number for a page that so far stands for one; `None`: there is no frame for it.
    pub(crate) fn begin(&self, memory: &impl Memory, sharer: Sharer) -> Option<RmapId> {
        let mut open = self.open(memory);
        let page = open.take()?;
        let chunk = open.chunk(page)?;
        open.write(chunk, 1, 0);
        open.write(chunk, 2, 1);
        open.write(chunk, HEAD, sharer.0);
        Some(page)
    }

    /// The page was none after all.
    pub(crate) fn end(&self, memory: &impl Memory, page: RmapId) {
        let mut open = self.open(memory);
        if let Some(first) = open.chunk(page) {
            open.end(page, first);
        }
    }

    /// What it is found by from now on.
    pub(crate) fn note(
        &self,
        memory: &impl Memory,
        page: RmapId,
        (frame, checksum): (Pfn, u32),
        next: Option<RmapId>,
    ) {
        let open = self.open(memory);
        let Some(chunk) = open.chunk(page) else { return };
        open.write(chunk, 0, frame.as_u64() << 32 | u64::from(checksum));
        open.write(chunk, 1, pair(next, low(open.read(chunk, 1))));
    }

    /// Those of a group that stay, of which the newest is given; the others have gone. The newest then. The lock is let go after each.
    pub(crate) fn retain(
        &self,
        memory: &impl Memory,
        mut newest: Option<RmapId>,
        stays: impl Fn(Pfn, RmapId) -> bool,
    ) -> Option<RmapId> {
        let (mut last, mut next) = (None, newest);
        while let Some((page, noted)) = next.and_then(|page| Some((page, self.noted(memory, page)?))) {
            next = noted.next;
            if stays(noted.frame, page) {
                last = Some(page);
                continue;
            }
            let mut open = self.open(memory);
            match last.and_then(|last| open.chunk(last)) {
                Some(last) => open.write(last, 1, pair(next, low(open.read(last, 1)))),
                None => newest = next,
            }
            if let Some(first) = open.chunk(page).filter(|_| intact(Mutant::BookKeepsGone)) {
                open.end(page, first);
            }
        }
        newest
    }

    /// Calls `visit` with each frame of a group, of which the newest is given, and what it is there. The lock is not held meanwhile.
    pub(crate) fn each(
        &self,
        memory: &impl Memory,
        newest: Option<RmapId>,
        mut visit: impl FnMut(Pfn, RmapId),
    ) {
        let mut next = newest;
        while let Some((page, noted)) = next.and_then(|page| Some((page, self.noted(memory, page)?))) {
            next = noted.next;
            visit(noted.frame, page);
        }
    }

    /// What it is found by.
    pub(crate) fn noted(&self, memory: &impl Memory, page: RmapId) -> Option<Noted> {
        let open = self.open(memory);
        let chunk = open.chunk(page)?;
        let (frame, checksum) = (open.frame(chunk), open.read(chunk, 0) as u32);
        Some(Noted { frame, checksum, next: high(open.read(chunk, 1)), count: open.count(chunk) })
    }

    /// One more page is about to be merged into this one, if it has fewer than `most`.
    pub(crate) fn add(&self, memory: &impl Memory, page: RmapId, sharer: Sharer, most: usize) -> Added {
        let mut open = self.open(memory);
        let Some(first) = open.chunk(page) else { return Added::Refused };
        let counts = open.read(first, 2);
        let count = counts as u32 as usize;
        if open.names(first, count, sharer) {
            return Added::Known;
        }
        if count >= most {
            return Added::Refused;
        }
        open.push(first, counts, sharer).map_or(Added::Refused, |()| Added::New)
    }

    /// The newest one was not merged after all.
    pub(crate) fn drop_newest(&self, memory: &impl Memory, page: RmapId) {
        let mut open = self.open(memory);
        if let Some(first) = open.chunk(page) {
            open.pop(first);
        }
    }

    /// Whether the page stands for that one, or has.
    pub(crate) fn names(&self, memory: &impl Memory, page: RmapId, sharer: Sharer) -> bool {
        let open = self.open(memory);
        open.chunk(page).is_some_and(|first| open.names(first, open.count(first), sharer))
    }

    /// The sharers of a page, part by part, the lock let go in between; `None` where it has no such part.
    pub(crate) fn part(&self, memory: &impl Memory, page: RmapId, part: usize) -> Option<Part> {
        let open = self.open(memory);
        let mut chunk = open.chunk(page)?;
        let (mut before, mut left) = (HEAD, open.count(chunk));
        for _ in 0..part {
            left = left.checked_sub(usize::from(WORDS - before))?;
            chunk = open.behind(chunk, before).and_then(|id| open.chunk(id))?;
            before = LINK;
        }
        let words = (before..WORDS).take(left);
        (left > 0).then(|| words.map(|word| Sharer(open.read(chunk, word))).collect())
    }

    /// Frames that it has.
    pub(crate) fn frames(&self) -> u64 {
        self.chunks.lock().frames.iter().filter(|frame| frame.free != ALL).count() as u64
    }

    /// No page is merged any more.
    pub(crate) fn close(&self, memory: &impl Memory) {
        for InFrame { frame, free } in core::mem::take(&mut self.chunks.lock().frames) {
            if free != ALL {
                memory.give_back(frame);
            }
        }
    }
}

/// Some sharers.
pub(crate) type Part = heapless::Vec<Sharer, MORE>;

/// Two numbers of chunks in a word.
fn pair(high: Option<RmapId>, low: Option<RmapId>) -> u64 {
    let raw = |id: Option<RmapId>| u64::from(id.map_or(0, RmapId::get));
    raw(high) << 32 | raw(low)
}

fn high(word: u64) -> Option<RmapId> {
    RmapId::new((word >> 32) as u32)
}

fn low(word: u64) -> Option<RmapId> {
    RmapId::new(word as u32)
}

/// All chunks of a frame, which is then given back.
const ALL: u64 = u64::MAX;
/// Chunks have numbers of 31 bits.
const MOST_FRAMES: usize = 1 << 25;

/// A frame of chunks, and which are free.
struct InFrame {
    frame: Pfn,
    free: u64,
}

/// All chunks, by number: that of their frame, and their place in it.
#[derive(Default)]
struct Chunks {
    frames: Vec<InFrame>,
    /// No frame before this one has a free chunk.
    lowest: usize,
}

/// Where a chunk is.
#[derive(Clone, Copy)]
struct Chunk {
    frame: Pfn,
    first: u16,
}

/// The book, while nobody else reads or writes it.
struct Open<'a, M: Memory> {
    chunks: MutexGuard<'a, Chunks>,
    memory: &'a M,
}

impl<M: Memory> Open<'_, M> {
    #[inline]
    fn read(&self, chunk: Chunk, word: u16) -> u64 {
        self.memory.load(chunk.frame, chunk.first + word)
    }

    #[inline]
    fn write(&self, chunk: Chunk, word: u16, value: u64) {
        self.memory.store(chunk.frame, chunk.first + word, value);
    }

    /// The chunk with that number, if it is in use.
    #[inline]
    fn chunk(&self, id: RmapId) -> Option<Chunk> {
        let number = id.merged()?;
        let place = number % CHUNKS;
        let InFrame { frame, free } = *self.chunks.frames.get((number / CHUNKS) as usize)?;
        (free >> place & 1 == 0).then_some(Chunk { frame, first: place as u16 * WORDS })
    }

    /// A chunk that was free, contents unspecified.
    fn take(&mut self) -> Option<RmapId> {
        let has_room = |frame: &InFrame| frame.free != 0 && frame.free != ALL;
        let rest = self.chunks.frames.get(self.chunks.lowest..).unwrap_or_default();
        let index = match rest.iter().position(has_room) {
            Some(place) => self.chunks.lowest + place,
            None => self.grow()?,
        };
        self.chunks.lowest = index;
        let InFrame { free, .. } = self.chunks.frames.get_mut(index)?;
        let place = free.trailing_zeros();
        *free &= *free - 1;
        Some(RmapId::of_merged(index as u32 * CHUNKS + place))
    }

    /// One frame more.
    fn grow(&mut self) -> Option<usize> {
        let frames = &mut self.chunks.frames;
        let index = frames.iter().position(|frame| frame.free == ALL).unwrap_or(frames.len());
        if index >= MOST_FRAMES || index == frames.len() && frames.try_reserve(1).is_err() {
            return None;
        }
        let new = InFrame { frame: self.memory.take()?, free: ALL };
        match frames.get_mut(index) {
            Some(gone) => *gone = new,
            None => frames.push(new),
        }
        Some(index)
    }

    /// A chunk is free again, and its frame, if it was the last.
    fn free(&mut self, id: RmapId) {
        let Some(number) = id.merged() else { return };
        let index = (number / CHUNKS) as usize;
        self.chunks.lowest = self.chunks.lowest.min(index);
        let Some(InFrame { frame, free }) = self.chunks.frames.get_mut(index) else { return };
        *free |= 1 << (number % CHUNKS);
        if *free == ALL {
            self.memory.give_back(*frame);
        }
    }

    /// The frame of the page whose first chunk that is.
    #[inline]
    fn frame(&self, first: Chunk) -> Pfn {
        Pfn::new(self.read(first, 0) >> 32)
    }

    /// A page has gone: its chunks are free.
    fn end(&mut self, page: RmapId, first: Chunk) {
        let mut more = self.behind(first, HEAD);
        self.free(page);
        while let Some((id, chunk)) = more.and_then(|id| Some((id, self.chunk(id)?))) {
            more = self.behind(chunk, LINK);
            self.free(id);
        }
    }

    /// Sharers of the page whose first chunk that is.
    #[inline]
    fn count(&self, first: Chunk) -> usize {
        self.read(first, 2) as u32 as usize
    }

    /// The chunk behind one that has so many words before its sharers.
    fn behind(&self, chunk: Chunk, before: u16) -> Option<RmapId> {
        low(self.read(chunk, if before == HEAD { 1 } else { 0 }))
    }

    #[inline]
    fn names(&self, first: Chunk, count: usize, sharer: Sharer) -> bool {
        let own = HEAD + count.min(FIRST) as u16;
        (HEAD..own).any(|word| self.read(first, word) == sharer.0)
            || count > FIRST && self.names_behind(first, count - FIRST, sharer)
    }

    /// The same of the `left` sharers behind the first chunk.
    #[inline(never)]
    fn names_behind(&self, first: Chunk, mut left: usize, sharer: Sharer) -> bool {
        let mut next = self.behind(first, HEAD);
        while let Some(chunk) = next.filter(|_| left > 0).and_then(|id| self.chunk(id)) {
            let held = left.min(MORE);
            if (LINK..LINK + held as u16).any(|word| self.read(chunk, word) == sharer.0) {
                return true;
            }
            left -= held;
            next = self.behind(chunk, LINK);
        }
        false
    }

    /// `None`: there is no room.
    #[inline]
    fn push(&mut self, first: Chunk, counts: u64, sharer: Sharer) -> Option<()> {
        let count = counts as u32 as usize;
        let (chunk, word, counts) = match count.checked_sub(FIRST) {
            None => (first, HEAD + count as u16, counts),
            Some(behind) => self.room_behind(first, counts, behind % MORE)?,
        };
        if intact(Mutant::BookForgetsSharer) {
            self.write(chunk, word, sharer.0);
        }
        self.write(first, 2, counts + 1);
        Some(())
    }

    /// Where one more sharer goes that finds no room in a page's first chunk: the last one, which has `more`, or a new one, if that is
    /// none; and what the page's word of last and count is then.
    #[inline(never)]
    fn room_behind(&mut self, first: Chunk, counts: u64, more: usize) -> Option<(Chunk, u16, u64)> {
        let last = high(counts);
        if more > 0 {
            return Some((self.chunk(last?)?, LINK + more as u16, counts));
        }
        let new = self.take()?;
        let chunk = self.chunk(new)?;
        self.write(chunk, 0, 0);
        if intact(Mutant::BookLosesChunk) {
            self.link(first, last, Some(new));
        }
        Some((chunk, LINK, pair(Some(new), None) | u64::from(counts as u32)))
    }

    /// Links a chunk, or none, behind the last one, or behind the first.
    fn link(&self, first: Chunk, last: Option<RmapId>, more: Option<RmapId>) {
        match last.and_then(|last| self.chunk(last)) {
            Some(last) => self.write(last, 0, pair(None, more)),
            None => self.write(first, 1, pair(high(self.read(first, 1)), more)),
        }
    }

    fn pop(&mut self, first: Chunk) {
        let Some(count) = self.count(first).checked_sub(1) else { return };
        let mut last = high(self.read(first, 2));
        if let Some(empty) = last.filter(|_| count >= FIRST && (count - FIRST).is_multiple_of(MORE)) {
            last = self.before(first, empty);
            self.link(first, last, None);
            self.free(empty);
        }
        self.write(first, 2, pair(last, None) | count as u64);
    }

    /// The chunk before the last one; none before the first of those behind a page's own.
    fn before(&self, first: Chunk, last: RmapId) -> Option<RmapId> {
        let mut before = None;
        let mut next = self.behind(first, HEAD);
        while let Some(id) = next.filter(|&id| id != last) {
            before = Some(id);
            next = self.chunk(id).and_then(|chunk| self.behind(chunk, LINK));
        }
        before
    }
}

#[cfg(test)]
mod tests;
