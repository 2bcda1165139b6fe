//! Objects of a few sizes in spans of four frames: an allocator for pages, compressed ones mostly.
//!
//! ```text
//!   span: │ frame 0 │ frame 1 │ frame 2 │ frame 3 │
//!         │ object │ object │ object │ object │ . │    all of one class; an object may lie in two frames
//! ```
//!
//! A class has all sizes up to a multiple of 64 bytes. A span is taken when no other of its class has room, and given back
//! with its last object.

use addr::{PAGE_SIZE, PageSize, Pfn};
use alloc::sync::Arc;
use alloc::vec::Vec;
use mm::Host;

const PAGE: usize = PAGE_SIZE as usize;
/// Frames of a span.
const FRAMES: usize = 4;
/// Steps between sizes, in bytes.
const STEP: usize = 64;
/// A span has a bit for each of its objects, so there are no smaller ones.
pub(crate) const LEAST_BYTES: usize = FRAMES * PAGE / u64::BITS as usize;
/// Largest object that saves something: five of them fit into a span.
pub(crate) const MOST_BYTES: usize = 3264;
const CLASSES: usize = PAGE / STEP + 1;

/// Where an object is: the number of its span, and in the low bits its own there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place(u32);

impl Place {
    const OBJECT_BITS: u32 = u64::BITS.trailing_zeros();

    const fn new(span: u32, object: u32) -> Self {
        Self(span << Self::OBJECT_BITS | object)
    }

    const fn span(self) -> u32 {
        self.0 >> Self::OBJECT_BITS
    }

    const fn object(self) -> u32 {
        self.0 & (u64::BITS - 1)
    }
}

struct Span {
    frames: [Pfn; FRAMES],
    /// Class: objects have so many steps.
    class: u8,
    /// Objects in use.
    used: u64,
}

impl Span {
    fn is_full(&self) -> bool {
        self.used.count_ones() as usize == objects_of(self.class)
    }
}

const fn bytes_of(class: u8) -> usize {
    class as usize * STEP
}

const fn objects_of(class: u8) -> usize {
    FRAMES * PAGE / bytes_of(class)
}

/// All spans.
pub(crate) struct Spans<H: Host> {
    host: Arc<H>,
    limit: u64,
    all: Vec<Option<Span>>,
    /// Numbers of `all` that are not in use.
    free: Vec<u32>,
    count: u64,
    /// By class: spans with room.
    open: [Vec<u32>; CLASSES],
}

impl<H: Host> Spans<H> {
    /// None yet, and never more than `limit` frames. `None`: there is no memory for so many spans' places.
    pub(crate) fn new(host: Arc<H>, limit: u64) -> Option<Self> {
        let most = (limit as usize / FRAMES).min(1 << (u32::BITS - Place::OBJECT_BITS));
        let (mut all, mut free) = (Vec::new(), Vec::new());
        all.try_reserve_exact(most).and_then(|()| free.try_reserve_exact(most)).ok()?;
        let limit = (most * FRAMES) as u64;
        Some(Self { host, limit, all, free, count: 0, open: [const { Vec::new() }; CLASSES] })
    }

    /// Whether the frames in use are three quarters of all, or more.
    pub(crate) fn is_crowded(&self) -> bool {
        self.frames() >= self.limit / 4 * 3
    }

    /// Frames in use.
    pub(crate) fn frames(&self) -> u64 {
        self.count * FRAMES as u64
    }

    /// Whether there may be one span more.
    pub(crate) fn has_room(&self) -> bool {
        self.frames() + FRAMES as u64 <= self.limit
    }

    /// Keeps these bytes, at most a page; `None`: there is no room.
    pub(crate) fn store(&mut self, data: &[u8]) -> Option<Place> {
        let class = data.len().max(LEAST_BYTES).div_ceil(STEP) as u8;
        let number = match self.open[usize::from(class)].last() {
            Some(&number) => number,
            None => self.add(class)?,
        };
        let span = self.all[number as usize].as_mut()?;
        let object = span.used.trailing_ones();
        span.used |= 1 << object;
        if span.is_full() {
            self.open[usize::from(class)].pop();
        }
        let place = Place::new(number, object);
        self.pieces(place, data.len(), |frame, offset, part| {
            self.host.write_bytes(frame, offset, &data[part]);
        });
        Some(place)
    }

    /// Reads what was stored.
    pub(crate) fn load(&self, place: Place, data: &mut [u8]) {
        self.pieces(place, data.len(), |frame, offset, part| {
            self.host.read_bytes(frame, offset, &mut data[part]);
        });
    }

    /// Calls `each` for the parts of an object that lie in one frame each: the frame, the offset there, the part.
    fn pieces(&self, place: Place, len: usize, mut each: impl FnMut(Pfn, usize, core::ops::Range<usize>)) {
        let Some(span) = &self.all[place.span() as usize] else { return };
        let start = place.object() as usize * bytes_of(span.class);
        let mut done = 0;
        while done < len {
            let (frame, offset) = ((start + done) / PAGE, (start + done) % PAGE);
            let part = (len - done).min(PAGE - offset);
            each(span.frames[frame], offset, done..done + part);
            done += part;
        }
    }

    /// The object is not needed any more.
    pub(crate) fn free(&mut self, place: Place) {
        let Some(span) = self.all[place.span() as usize].as_mut() else { return };
        let class = usize::from(span.class);
        let was_full = span.is_full();
        span.used &= !(1 << place.object());
        if span.used == 0 {
            if !was_full {
                self.open[class].retain(|&open| open != place.span());
            }
            self.remove(place.span());
        } else if was_full {
            self.open[class].push(place.span());
        }
    }

    /// A span more, of the frames that reclaim may use.
    fn add(&mut self, class: u8) -> Option<u32> {
        if !self.has_room() {
            return None;
        }
        let mut frames = [Pfn::ZERO; FRAMES];
        for index in 0..FRAMES {
            let cpu = self.host.current_cpu();
            match self.host.frames().allocate_reserved(cpu, PageSize::Size4K) {
                Ok(frame) => frames[index] = frame,
                Err(_) => {
                    frames[..index].iter().for_each(|&frame| self.retire(frame));
                    return None;
                }
            }
        }
        let span = Some(Span { frames, class, used: 0 });
        let number = self.free.pop().unwrap_or_else(|| {
            self.all.push(None);
            self.all.len() as u32 - 1
        });
        self.all[number as usize] = span;
        self.open[usize::from(class)].push(number);
        self.count += 1;
        Some(number)
    }

    fn remove(&mut self, number: u32) {
        if let Some(span) = self.all[number as usize].take() {
            span.frames.iter().for_each(|&frame| self.retire(frame));
            self.free.push(number);
            self.count -= 1;
        }
    }

    fn retire(&self, frame: Pfn) {
        if self.host.frames().meta(frame).put() {
            self.host.retire(frame, PageSize::Size4K);
        }
    }
}

impl<H: Host> Drop for Spans<H> {
    fn drop(&mut self) {
        (0..self.all.len() as u32).for_each(|number| self.remove(number));
    }
}
