//! Time, as all devices see it: the guest's time-stamp counter, passed in with every access. Devices
//! hold no clock of their own, so a run can be repeated.

use core::num::NonZeroU64;
use serde::{Deserialize, Serialize};

/// A value of the time-stamp counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Ticks(pub u64);

impl Ticks {
    /// Ticks from `origin` on; 0 where that lies ahead.
    #[must_use]
    pub const fn since(self, origin: Self) -> u64 {
        self.0.saturating_sub(origin.0)
    }

    /// The time so many ticks later, at most the end of time.
    #[must_use]
    pub const fn after(self, ticks: u64) -> Self {
        Self(self.0.saturating_add(ticks))
    }
}

/// Converts between ticks of the TSC and periods of a device's input clock. Neither is 0, whatever a file says.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Clock {
    tsc_hz: NonZeroU64,
    hz: NonZeroU64,
}

impl Clock {
    /// A device clock of `hz`, beside a TSC of `tsc_hz`.
    pub(crate) const fn new(tsc_hz: u64, hz: u64) -> Self {
        Self { tsc_hz: at_least_one(tsc_hz), hz: at_least_one(hz) }
    }

    /// Whole device periods in so many ticks.
    pub(crate) fn periods(self, ticks: u64) -> u64 {
        narrow(u128::from(ticks) * u128::from(self.hz.get()) / u128::from(self.tsc_hz.get()))
    }

    /// The ticks after which so many periods have passed, rounded up.
    pub(crate) fn ticks(self, periods: u64) -> u64 {
        narrow((u128::from(periods) * u128::from(self.tsc_hz.get())).div_ceil(u128::from(self.hz.get())))
    }
}

const fn at_least_one(hz: u64) -> NonZeroU64 {
    match NonZeroU64::new(hz) {
        Some(hz) => hz,
        None => NonZeroU64::MIN,
    }
}

fn narrow(value: u128) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::{Clock, Ticks};

    #[test]
    fn a_deadline_is_not_before_its_period_ends() {
        let clock = Clock::new(50_000_000, 1_193_182);
        for periods in [1, 2, 1000, 65536, 1 << 40] {
            assert_eq!(clock.periods(clock.ticks(periods)), periods);
            assert!(clock.periods(clock.ticks(periods) - 1) < periods);
        }
        assert_eq!(clock.periods(50_000_000), 1_193_182);
    }

    #[test]
    fn time_saturates() {
        assert_eq!(Ticks(5).since(Ticks(9)), 0);
        assert_eq!(Ticks(u64::MAX).after(1), Ticks(u64::MAX));
        assert_eq!(Clock::new(0, 10).ticks(1), 1);
    }
}
