//! Whether reclaim gets anywhere. Where most of memory holds what cannot go, the little that can goes and comes back, and nobody
//! has more memory by it: guests stand still, though each fault finds a frame in the end.
//!
//! ```text
//!   pages go        ├── a window ──┼── a window ──┼── a window ──┤
//!   back at once          10 %           97 %           99 %        ─► eight windows lost in a row: a standstill
//! ```
//!
//! "At once" is a distance (`swap.rs`): since the page went, no more others have gone than a small part of the frames in use. A guest
//! that needs a little more than it has loses pages too, but not so fast. All of this is counted, none of it timed.

use crate::frames::PageFlags;
use crate::host::Host;
use crate::mm::Mm;
use addr::Pfn;

/// Pages that go in a window, at least.
const WINDOW: u32 = 512;
/// Windows in a row that have to be lost.
const MOST_LOST: u32 = 8;
/// One part in so many of the frames in use is what comes and goes, at most.
const PART: u64 = 16;

/// Pages that went and were back at once.
#[derive(Debug, Default)]
pub(crate) struct Churn {
    /// Pages that had gone when the window began.
    began: u32,
    /// Pages of the window that were back at once.
    back: u32,
    /// Windows lost in a row.
    lost: u32,
}

impl Churn {
    /// A page is back: `distance` pages after it went, of `evictions` altogether.
    pub(crate) fn note(&mut self, evictions: u32, distance: u32, in_use: u64) {
        let gone = evictions.wrapping_sub(self.began);
        if gone >= WINDOW {
            let is_lost = self.back >= gone / 4 * 3;
            let lost = if is_lost { self.lost + 1 } else { 0 };
            *self = Self { began: evictions, back: 0, lost };
        }
        self.back += u32::from(u64::from(distance) <= in_use / PART);
    }

    /// Whether enough windows were lost; from now on they are counted anew.
    pub(crate) fn take(&mut self) -> bool {
        let is_over = self.lost >= MOST_LOST;
        if is_over {
            self.lost = 0;
        }
        is_over
    }
}

impl<H: Host> Mm<H> {
    /// The frames whose pages swap has refused, if they are most of memory and reclaim has got nowhere for long beside them. It
    /// is said once: whoever asks makes an end of it.
    pub fn take_standstill(&self) -> Option<u64> {
        if !self.swap().take_churn() {
            return None;
        }
        let frames = self.host().frames();
        let is_stuck = |&frame: &Pfn| frames.is_used(frame) && frames.meta(frame).has(PageFlags::REFUSED);
        let stuck = (0..frames.known()).map(Pfn::new).filter(is_stuck).count() as u64;
        (stuck > (frames.total() - frames.free_count()) / 2).then_some(stuck)
    }
}

#[cfg(test)]
mod tests {
    use super::{Churn, MOST_LOST, WINDOW};

    const IN_USE: u64 = 1600;

    /// So many windows, in each of which so many of a hundred pages are back, after so many others have gone.
    fn play(churn: &mut Churn, windows: u32, percent: u32, distance: u32) {
        let from = churn.began;
        (from..from + windows * WINDOW)
            .filter(|number| number % 100 < percent)
            .for_each(|number| churn.note(number, distance, IN_USE));
        churn.note(from + windows * WINDOW, u32::MAX, IN_USE);
    }

    #[test]
    fn windows_have_to_be_lost_in_a_row() {
        let mut churn = Churn::default();
        play(&mut churn, MOST_LOST - 1, 100, 100);
        assert!(!churn.take());
        play(&mut churn, 1, 10, 100);
        play(&mut churn, MOST_LOST - 1, 100, 100);
        assert!(!churn.take(), "one window was not lost");
        play(&mut churn, 1, 100, 100);
        assert!(churn.take() && !churn.take(), "it is said once");
    }

    #[test]
    fn who_comes_back_late_or_seldom_gets_on() {
        for (percent, distance) in [(100, 101), (70, 1)] {
            let mut churn = Churn::default();
            play(&mut churn, 4 * MOST_LOST, percent, distance);
            assert!(!churn.take(), "{percent} of 100, {distance} later");
        }
    }
}
