//! The local APIC's timer (SDM vol. 3A 11.5.4). Its input clock is the TSC.
//!
//! ```text
//!               initial count := n
//!   stopped ─────────────────────────► counting ──┐ 0, periodic: from n again
//!      ▲ ▲                               │  ▲     │
//!      │ └──── 0, one-shot; or n = 0 ────┘  └─────┘
//!      │
//!      │  IA32_TSC_DEADLINE := t ≠ 0
//!      ├─────────────────────────────► armed
//!      └──── TSC ≥ t, or t := 0 ────────┘
//! ```

use crate::time::Ticks;
use serde::{Deserialize, Serialize};

/// Bits 18:17 of the timer's LVT entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Mode {
    OneShot,
    Periodic,
    TscDeadline,
}

impl Mode {
    /// The mode of an LVT entry; the reserved one is one-shot.
    pub(crate) const fn of(lvt: u32) -> Self {
        match lvt >> 17 & 3 {
            1 => Self::Periodic,
            2 => Self::TscDeadline,
            _ => Self::OneShot,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum State {
    Stopped,
    /// The count was `from` at `began`.
    Counting {
        began: Ticks,
        from: u32,
    },
    Armed(Ticks),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Timer {
    mode: Mode,
    initial: u32,
    divide: u32,
    state: State,
    /// See [`crate::Config::shortest_period`].
    shortest_period: u64,
}

impl Timer {
    pub(crate) const fn new(shortest_period: u64) -> Self {
        Self { mode: Mode::OneShot, initial: 0, divide: 0, state: State::Stopped, shortest_period }
    }

    pub(crate) const fn shortest_period(&self) -> u64 {
        self.shortest_period
    }

    /// A change to or from TSC-deadline mode disarms.
    pub(crate) fn set_mode(&mut self, mode: Mode) {
        if mode != self.mode && (mode == Mode::TscDeadline || self.mode == Mode::TscDeadline) {
            self.state = State::Stopped;
        }
        self.mode = mode;
    }

    pub(crate) const fn initial(&self) -> u32 {
        self.initial
    }

    /// Starts to count; ignored in TSC-deadline mode.
    pub(crate) fn set_initial(&mut self, count: u32, now: Ticks) {
        if self.mode == Mode::TscDeadline {
            return;
        }
        self.initial = count;
        self.state = if count == 0 { State::Stopped } else { State::Counting { began: now, from: count } };
    }

    pub(crate) const fn divide(&self) -> u32 {
        self.divide
    }

    pub(crate) fn set_divide(&mut self, divide: u32, now: Ticks) {
        let from = self.current(now);
        self.divide = divide & 0b1011;
        if let State::Counting { began, from: count } = &mut self.state {
            (*began, *count) = (now, from);
        }
    }

    /// log2 of the divider: bits 3, 1 and 0; 111 divides by one.
    const fn shift(&self) -> u32 {
        ((self.divide & 3 | self.divide >> 1 & 4) + 1) & 7
    }

    /// The current count.
    pub(crate) fn current(&self, now: Ticks) -> u32 {
        match self.state {
            State::Counting { began, from } => {
                let passed = now.since(began) >> self.shift();
                from.saturating_sub(u32::try_from(passed).unwrap_or(u32::MAX))
            }
            State::Stopped | State::Armed(_) => 0,
        }
    }

    /// IA32_TSC_DEADLINE: 0 unless armed.
    pub(crate) const fn tsc_deadline(&self) -> u64 {
        if let State::Armed(deadline) = self.state { deadline.0 } else { 0 }
    }

    /// Arms, or disarms with 0; ignored in the other modes.
    pub(crate) fn set_tsc_deadline(&mut self, deadline: u64) {
        if self.mode == Mode::TscDeadline {
            self.state = if deadline == 0 { State::Stopped } else { State::Armed(Ticks(deadline)) };
        }
    }

    /// When the timer fires next.
    pub(crate) fn deadline(&self) -> Option<Ticks> {
        match self.state {
            State::Stopped => None,
            State::Counting { began, from } => {
                let left = u64::from(from) << self.shift();
                let periodic = self.mode == Mode::Periodic;
                Some(began.after(if periodic { left.max(self.shortest_period) } else { left }))
            }
            State::Armed(deadline) => Some(deadline),
        }
    }

    /// Whether the timer has fired since it was asked last. Rounds that nobody saw count as one.
    pub(crate) fn take_expiry(&mut self, now: Ticks) -> bool {
        let Some(deadline) = self.deadline().filter(|deadline| *deadline <= now) else { return false };
        let round = u64::from(self.initial) << self.shift();
        self.state = if self.mode == Mode::Periodic && round != 0 {
            let late = now.since(deadline) % round;
            State::Counting { began: Ticks(now.0 - late), from: self.initial }
        } else {
            State::Stopped
        };
        true
    }
}

#[cfg(test)]
mod tests {
    use super::{Mode, Timer};
    use crate::time::Ticks;

    const SHORTEST_PERIOD: u64 = 10_000;

    #[test]
    fn counts_down_once() {
        let mut timer = Timer::new(SHORTEST_PERIOD);
        timer.set_divide(3, Ticks(0));
        timer.set_initial(100, Ticks(50));
        assert_eq!(timer.current(Ticks(50 + 16 * 40)), 60);
        assert_eq!(timer.deadline(), Some(Ticks(1650)));
        assert!(!timer.take_expiry(Ticks(1649)));
        assert!(timer.take_expiry(Ticks(1650)));
        assert_eq!((timer.current(Ticks(1651)), timer.deadline()), (0, None));
    }

    #[test]
    fn periods_do_not_drift() {
        let mut timer = Timer::new(SHORTEST_PERIOD);
        timer.set_mode(Mode::Periodic);
        timer.set_divide(0xb, Ticks(0));
        timer.set_initial(100_000, Ticks(0));
        assert!(timer.take_expiry(Ticks(350_000)));
        assert!(!timer.take_expiry(Ticks(350_000)));
        assert_eq!(timer.current(Ticks(350_000)), 50_000);
        assert_eq!(timer.deadline(), Some(Ticks(400_000)));
    }

    #[test]
    fn a_period_of_one_tick_leaves_the_guest_time() {
        let mut timer = Timer::new(SHORTEST_PERIOD);
        timer.set_mode(Mode::Periodic);
        timer.set_divide(0xb, Ticks(0));
        timer.set_initial(1, Ticks(0));
        assert_eq!(timer.deadline(), Some(Ticks(SHORTEST_PERIOD)));
        assert!(timer.take_expiry(Ticks(SHORTEST_PERIOD + 7)));
        assert_eq!(timer.deadline(), Some(Ticks(2 * SHORTEST_PERIOD + 7)));
    }

    #[test]
    fn tsc_deadline_arms_and_disarms() {
        let mut timer = Timer::new(SHORTEST_PERIOD);
        timer.set_tsc_deadline(9);
        assert_eq!(timer.tsc_deadline(), 0, "wrong mode");
        timer.set_mode(Mode::TscDeadline);
        timer.set_tsc_deadline(9);
        timer.set_initial(5, Ticks(0));
        assert_eq!(timer.deadline(), Some(Ticks(9)));
        assert!(timer.take_expiry(Ticks(10)));
        assert_eq!(timer.tsc_deadline(), 0);
        timer.set_tsc_deadline(20);
        timer.set_mode(Mode::OneShot);
        assert_eq!(timer.deadline(), None);
    }
}
