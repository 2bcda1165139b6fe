//! What a thread has had, in virtual time.

/// The weight at which virtual time runs like real time.
const NORMAL: i64 = 100;

/// The speed of a thread's virtual time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Share {
    weight: u32,
    members: u32,
}

impl Share {
    /// A member's share of a group of `weight`, `members` of which want to run now.
    #[must_use]
    pub const fn new(weight: u32, members: u32) -> Self {
        let weight = if weight == 0 { 1 } else { weight };
        Self { weight, members: if members == 0 { 1 } else { members } }
    }

    /// Virtual time that passes in `ticks`.
    pub(crate) const fn virtual_time(self, ticks: u64) -> i64 {
        let ticks = if ticks > i64::MAX as u64 >> 16 { i64::MAX >> 16 } else { ticks as i64 };
        ticks.saturating_mul(NORMAL * self.members as i64) / self.weight as i64
    }

    /// Ticks until so much virtual time has passed; at least one.
    pub(crate) const fn ticks(self, virtual_time: i64) -> u64 {
        let ticks = virtual_time.saturating_mul(self.weight as i64) / (NORMAL * self.members as i64);
        if ticks < 1 { 1 } else { ticks as u64 }
    }
}

/// How far a thread's virtual time is ahead of the floor of the queue that it was taken from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Account(pub(crate) i64);

impl Account {
    /// It has run.
    pub fn charge(&mut self, ticks: u64, share: Share) {
        self.0 = self.0.saturating_add(share.virtual_time(ticks));
    }

    /// It has slept, and wants to run again. It earns no more than `slice`.
    pub fn credit(&mut self, slept: u64, share: Share, slice: u64) {
        let earned = self.0.saturating_sub(share.virtual_time(slept));
        self.0 = earned.max(-Share::new(NORMAL as u32, 1).virtual_time(slice)).min(self.0);
    }
}
