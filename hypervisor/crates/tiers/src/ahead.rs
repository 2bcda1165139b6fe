//! Blocks that were read ahead of need: their neighbours were wanted, and the disk was there already.
//!
//! ```text
//!   begin: place taken, FILLING ─► read ─► end: READY ─► found, copied, gone
//!                          └── the block is freed: nobody's ── end: nothing to find
//! ```
//!
//! How far to read depends on what it was good for: twice as far after each read that brought what was wanted later, half
//! as far after one that did not (Linux: `swap_readahead`).

use crate::blocks::{Blocks, Run};
use addr::Pfn;
use alloc::vec::Vec;

/// Frames that hold blocks.
pub(crate) const FRAMES: usize = 32;
/// Most blocks that are read at a time.
pub(crate) const MOST: u64 = 8;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Free,
    /// A read into the frame is under way. `None`: the block was freed since.
    Filling(Option<u64>),
    Ready(u64),
}

/// All of them.
pub(crate) struct Ahead {
    frames: Vec<Pfn>,
    places: Vec<Place>,
    /// The oldest place.
    next: usize,
    window: u64,
    /// Blocks found since the last read.
    hits: u64,
    last: u64,
}

/// Places that are being filled, for the blocks of a run, in their order; none for the one that is wanted.
pub(crate) type Filling = heapless::Vec<usize, { MOST as usize }>;

impl Ahead {
    /// With these frames.
    pub(crate) fn new(frames: Vec<Pfn>) -> Self {
        let places = frames.iter().map(|_| Place::Free).collect();
        Self { frames, places, next: 0, window: 1, hits: 0, last: u64::MAX }
    }

    /// The frames, to be freed.
    pub(crate) fn frames(&self) -> &[Pfn] {
        &self.frames
    }

    /// The frame of a place.
    pub(crate) fn frame(&self, place: usize) -> Pfn {
        self.frames[place]
    }

    /// The frame that has the block, for the last time: its page is in memory from now on.
    pub(crate) fn find(&mut self, block: u64) -> Option<Pfn> {
        let place = self.places.iter().position(|&place| place == Place::Ready(block))?;
        self.places[place] = Place::Free;
        self.hits += 1;
        Some(self.frames[place])
    }

    /// What to read, now that `block` has to be: a run with it in the middle, and places for the others.
    pub(crate) fn begin(&mut self, block: u64, blocks: &Blocks) -> (Run, Filling) {
        self.adapt(block);
        let group = block / self.window * self.window;
        let wanted = |&other: &u64| blocks.is_written(other) && !self.has(other);
        let mut run = Run { first: block, len: 1 };
        while run.first > group && wanted(&(run.first - 1)) {
            run = Run { first: run.first - 1, len: run.len + 1 };
        }
        while run.first + run.len < group + self.window && wanted(&(run.first + run.len)) {
            run.len += 1;
        }
        let mut filling = Filling::new();
        for other in (run.first..run.first + run.len).filter(|&other| other != block) {
            let Some(place) = self.oldest() else {
                return (Run { first: block, len: 1 }, self.give_up(&filling));
            };
            self.places[place] = Place::Filling(Some(other));
            let _ = filling.push(place);
        }
        (run, filling)
    }

    fn adapt(&mut self, block: u64) {
        self.window = match core::mem::take(&mut self.hits) {
            0 if self.last.abs_diff(block) == 1 => self.window.max(2),
            0 => (self.window / 2).max(1),
            _ => (self.window * 2).min(MOST),
        };
        self.last = block;
    }

    fn has(&self, block: u64) -> bool {
        self.places.iter().any(|&place| place == Place::Ready(block) || place == Place::Filling(Some(block)))
    }

    /// The next place that nobody fills.
    fn oldest(&mut self) -> Option<usize> {
        let count = self.places.len();
        let found = (0..count).map(|step| (self.next + step) % count);
        let place = found.into_iter().find(|&place| !matches!(self.places[place], Place::Filling(_)))?;
        self.next = (place + 1) % count;
        Some(place)
    }

    fn give_up(&mut self, filling: &Filling) -> Filling {
        self.end(filling, false);
        Filling::new()
    }

    /// The read is done. What was freed meanwhile is not to be found: the block may be another page's by now.
    pub(crate) fn end(&mut self, filling: &Filling, good: bool) {
        for &place in filling {
            self.places[place] = match self.places[place] {
                Place::Filling(Some(block)) if good => Place::Ready(block),
                _ => Place::Free,
            };
        }
    }

    /// The block was freed.
    pub(crate) fn forget(&mut self, block: u64) {
        for place in &mut self.places {
            match *place {
                Place::Ready(other) if other == block => *place = Place::Free,
                Place::Filling(Some(other)) if other == block => *place = Place::Filling(None),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Ahead, Blocks, Run};
    use addr::Pfn;

    fn ahead() -> (Ahead, Blocks) {
        let mut blocks = Blocks::new(64).expect("memory");
        assert!(blocks.take(32).is_some());
        (0..32).for_each(|block| blocks.set_written(block));
        (Ahead::new((0..8).map(Pfn::new).collect()), blocks)
    }

    #[test]
    fn the_window_grows_where_it_is_of_use() {
        let (mut ahead, blocks) = ahead();
        assert_eq!(ahead.begin(0, &blocks).0, Run { first: 0, len: 1 });
        let (run, filling) = ahead.begin(1, &blocks);
        assert_eq!(run, Run { first: 0, len: 2 });
        ahead.end(&filling, true);
        assert!(ahead.find(0).is_some(), "block 0 came with block 1");
        assert_eq!(ahead.begin(4, &blocks).0, Run { first: 4, len: 4 });
    }

    #[test]
    fn what_was_freed_meanwhile_is_not_found() {
        let (mut ahead, blocks) = ahead();
        ahead.begin(2, &blocks);
        let (_, filling) = ahead.begin(3, &blocks);
        ahead.forget(2);
        ahead.end(&filling, true);
        assert_eq!(ahead.find(2), None);
    }

    #[test]
    fn nothing_is_read_behind_what_was_written() {
        let (mut ahead, blocks) = ahead();
        for block in [30, 31] {
            let (run, filling) = ahead.begin(block, &blocks);
            ahead.end(&filling, true);
            assert!(run.first + run.len <= 32, "{run:?}");
        }
    }
}
