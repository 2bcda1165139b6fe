//! The queue of one CPU.

use crate::account::{Account, Share};
use alloc::collections::BTreeMap;

/// Those who wait for a CPU, least virtual time first; among equals, first come first.
#[derive(Debug)]
pub struct RunQueue<T> {
    waiting: BTreeMap<(i64, u64), T>,
    floor: i64,
    arrivals: u64,
}

impl<T> RunQueue<T> {
    /// Nobody waits.
    #[must_use]
    pub const fn new() -> Self {
        Self { waiting: BTreeMap::new(), floor: 0, arrivals: 0 }
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// `thread` wants to run.
    pub fn push(&mut self, account: Account, thread: T) {
        self.arrivals += 1;
        self.waiting.insert((self.floor.saturating_add(account.0), self.arrivals), thread);
    }

    /// Whoever has had least is to run now. `leaver`: the account of whoever ran until now; it stays relative to the
    /// floor, which may rise.
    pub fn pop(&mut self, leaver: &mut Account) -> Option<(Account, T)> {
        let ((time, _), thread) = self.waiting.pop_first()?;
        let ahead = time.saturating_sub(self.floor);
        let rise = ahead.max(0);
        self.floor = self.floor.saturating_add(rise);
        leaver.0 = leaver.0.saturating_sub(rise);
        Some((Account(ahead.min(0)), thread))
    }

    /// The one who would run last is to run on another CPU.
    pub fn take_last(&mut self) -> Option<(Account, T)> {
        let ((time, _), thread) = self.waiting.pop_last()?;
        Some((Account(time.saturating_sub(self.floor)), thread))
    }

    /// Ticks until a running thread has had `slice` more of virtual time than the first of those who wait: then it is
    /// his turn. `None`: nobody waits; 0: it is his turn now.
    #[must_use]
    pub fn ticks_left(&self, running: Account, share: Share, slice: u64) -> Option<u64> {
        let (&(first, _), _) = self.waiting.first_key_value()?;
        let ahead = self.floor.saturating_add(running.0).saturating_sub(first);
        let left = Share::new(100, 1).virtual_time(slice).saturating_sub(ahead);
        Some(if left <= 0 { 0 } else { share.ticks(left) })
    }
}

impl<T> Default for RunQueue<T> {
    fn default() -> Self {
        Self::new()
    }
}
