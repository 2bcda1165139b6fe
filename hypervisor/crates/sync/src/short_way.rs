//! The short way round a virtual processor's run loop: after an exit that changed nothing but memory it enters again as it was
//! prepared.
//!
//! ```text
//!   prepare ─► enter ─► exit, handled ─► are there changes?
//!      ▲         ▲                         │yes      │no
//!      │         └─────────────────────────┼─────────┘
//!      └───────────────────────────────────┘
//! ```

use mutants::{Mutant, intact};

/// What may have changed since the processor was prepared. The last two are asked only where it matters.
#[derive(Debug)]
pub struct Changes<News, Alone> {
    /// The exit came in the midst of an event's delivery, which the next entry has to take up again.
    pub interrupted: bool,
    /// The time of its next timer has come, or the end of its thread's turn.
    pub is_due: bool,
    /// Whether there is news for it, as [`crate::Attention::has_news`] says.
    pub has_news: News,
    /// Whether its thread has had the CPU for itself since, and nobody waits for that.
    pub is_alone: Alone,
}

impl<News: FnOnce() -> bool, Alone: FnOnce() -> bool> Changes<News, Alone> {
    /// Whether there are any.
    #[inline(always)]
    #[must_use]
    pub fn are_any(self) -> bool {
        self.interrupted && intact(Mutant::ShortWayLosesEvent)
            || self.is_due && intact(Mutant::ShortWayOverstays)
            || (self.has_news)() && intact(Mutant::ShortWayDeafToNews)
            || !(self.is_alone)() && intact(Mutant::ShortWayKeepsCpu)
    }
}

#[cfg(test)]
mod tests {
    use super::Changes;

    /// Whether there are changes, where `[interrupted, is due, has news, shares the CPU]`.
    fn are_any([interrupted, is_due, has_news, shares]: [bool; 4]) -> bool {
        Changes { interrupted, is_due, has_news: || has_news, is_alone: || !shares }.are_any()
    }

    #[test]
    fn the_short_way_is_open_where_nothing_has_changed() {
        assert!(!are_any([false; 4]));
    }

    #[test]
    fn an_interrupted_event_is_taken_up_again() {
        assert!(are_any([true, false, false, false]));
    }

    #[test]
    fn timers_and_turns_end_the_short_way() {
        assert!(are_any([false, true, false, false]));
    }

    #[test]
    fn news_ends_the_short_way() {
        assert!(are_any([false, false, true, false]));
    }

    #[test]
    fn who_waits_for_the_cpu_gets_it() {
        assert!(are_any([false, false, false, true]));
    }
}
