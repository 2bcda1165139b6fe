//! Where time goes, in TSC ticks: in the guest, in Herald on behalf of the guest, or idle.
//!
//! ```text
//!           enter            exit       enter              exit   idle        enter
//!    ─────────┼────── guest ───┼─ outside ─┼────── guest ───┼─ outside ┼╌ idle ╌┼──── guest
//! ```
//!
//! A halted processor's wait is idle: it is nobody's cost.

/// Running totals of one virtual processor.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Ticks {
    first_entry: Option<u64>,
    last_exit: u64,
    outside: u64,
    boot: Option<Boot>,
}

/// From the first guest instruction to /init.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Boot {
    total: u64,
    outside: u64,
}

impl Ticks {
    /// The processor is about to enter the guest.
    #[inline]
    pub(crate) fn enter(&mut self, now: u64) {
        match self.first_entry {
            None => self.first_entry = Some(now),
            Some(_) => self.outside += now.saturating_sub(self.last_exit),
        }
    }

    /// The processor has left the guest.
    #[inline]
    pub(crate) fn exit(&mut self, now: u64) {
        self.last_exit = now;
    }

    /// The time from `since` to `now`, after the last exit, was spent waiting for the halted guest.
    pub(crate) fn idle(&mut self, since: u64, now: u64) {
        self.last_exit += now.saturating_sub(since);
    }

    /// /init has started. Only the first call counts.
    pub(crate) fn mark_init(&mut self, now: u64) {
        let (total, outside) = (self.run(now), self.outside(now));
        self.boot.get_or_insert(Boot { total, outside });
    }

    /// Ticks since the first guest instruction.
    #[must_use]
    pub(crate) fn run(&self, now: u64) -> u64 {
        self.first_entry.map_or(0, |first| now.saturating_sub(first))
    }

    /// Of these, those spent outside the guest and not idle. To be asked outside the guest.
    #[must_use]
    pub(crate) fn outside(&self, now: u64) -> u64 {
        self.first_entry.map_or(0, |_| self.outside + now.saturating_sub(self.last_exit))
    }

    /// Ticks from the first guest instruction to /init; 0 before that.
    #[must_use]
    pub(crate) fn boot(&self) -> u64 {
        self.boot.map_or(0, |boot| boot.total)
    }

    /// Of these, those spent outside the guest and not idle.
    #[must_use]
    pub(crate) fn boot_outside(&self) -> u64 {
        self.boot.map_or(0, |boot| boot.outside)
    }
}
