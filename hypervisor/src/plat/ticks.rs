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
    last_entry: u64,
    last_exit: u64,
    outside: u64,
    guest: u64,
    boot: Option<Boot>,
}

/// From the first guest instruction to /init.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Boot {
    total: u64,
    outside: u64,
}

impl Ticks {
    /// The processor is about to enter the guest; whether for the first time.
    #[inline]
    pub(crate) fn enter(&mut self, now: u64) -> bool {
        self.last_entry = now;
        let first = self.first_entry.is_none();
        if first {
            self.first_entry = Some(now);
        } else {
            self.outside += self.since_exit(now);
        }
        first
    }

    /// The processor has left the guest.
    #[inline]
    pub(crate) fn exit(&mut self, now: u64) {
        self.guest += now.saturating_sub(self.last_entry);
        self.last_exit = now;
    }

    /// Ticks since the processor has left the guest.
    #[inline]
    pub(crate) fn since_exit(&self, now: u64) -> u64 {
        now.saturating_sub(self.last_exit)
    }

    /// From `since` to `now`, after the last exit, the virtual processor had no CPU: it was halted, or another one's turn
    /// had come.
    pub(crate) fn idle(&mut self, since: u64, now: u64) {
        self.last_exit += now.saturating_sub(since);
    }

    /// /init has started, in a guest whose first instruction was at `started`. Only the first call counts.
    pub(crate) fn mark_init(&mut self, started: u64, now: u64) {
        let outside = self.outside + self.since_exit(now);
        let total = now.saturating_sub(started);
        self.boot.get_or_insert(Boot { total, outside });
    }

    /// Ticks since the first guest instruction.
    #[must_use]
    pub(crate) fn run(&self, now: u64) -> u64 {
        self.first_entry.map_or(0, |first| now.saturating_sub(first))
    }

    /// Ticks spent outside the guest and not idle, up to the last entry.
    #[must_use]
    pub(crate) fn outside(&self) -> u64 {
        self.outside
    }

    /// Ticks spent in the guest.
    #[must_use]
    pub(crate) fn guest(&self) -> u64 {
        self.guest
    }

    /// Ticks from the guest's first instruction to /init; 0 before that.
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
