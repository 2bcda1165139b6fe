//! A CPU in a few lines: threads that run until their turn is over, and what each of them got.

use super::{Account, RunQueue, Share};
use alloc::vec;
use alloc::vec::Vec;

const SLICE: u64 = 1000;
const RUN: u64 = 10_000_000;

/// Runs threads of these shares, which never sleep; ticks that each got. As on a CPU, the next one is chosen before the
/// one that leaves is back in the queue.
fn race(shares: &[Share]) -> Vec<u64> {
    let mut queue = RunQueue::new();
    (0..shares.len()).for_each(|thread| queue.push(Account::default(), thread));
    let (mut had, mut now) = (vec![0; shares.len()], 0);
    let (mut account, mut thread) = queue.pop(&mut Account::default()).expect("nobody sleeps");
    while now < RUN {
        let ran = queue.ticks_left(account, shares[thread], SLICE).unwrap_or(SLICE).max(1);
        assert!(ran <= longest_turn(shares, thread), "{ran} ticks, after {now}");
        account.charge(ran, shares[thread]);
        had[thread] += ran;
        now += ran;
        let (chosen, next) = queue.pop(&mut account).expect("nobody sleeps");
        queue.push(account, thread);
        (account, thread) = (chosen, next);
    }
    had
}

/// From a slice behind to a slice ahead, in the thread's own time.
fn longest_turn(shares: &[Share], thread: usize) -> u64 {
    2 * shares[thread].ticks(SLICE as i64) + 1
}

/// `had` as parts of the whole, within 1 per cent of `wanted`.
fn assert_parts(had: &[u64], wanted: &[f64]) {
    let all: u64 = had.iter().sum();
    for (had, wanted) in had.iter().zip(wanted) {
        let part = *had as f64 / all as f64;
        assert!((part - wanted).abs() < wanted * 0.01, "{part} instead of {wanted}");
    }
}

#[test]
fn equal_weights_get_equal_parts() {
    assert_parts(&race(&[Share::new(100, 1); 2]), &[0.5, 0.5]);
    assert_parts(&race(&[Share::new(37, 1); 3]), &[1.0 / 3.0; 3]);
}

#[test]
fn weights_are_kept() {
    assert_parts(&race(&[Share::new(100, 1), Share::new(300, 1)]), &[0.25, 0.75]);
    assert_parts(&race(&[Share::new(1, 1), Share::new(10_000, 1)]), &[1.0 / 10_001.0, 10_000.0 / 10_001.0]);
}

#[test]
fn a_group_gets_no_more_for_more_members() {
    let pair = Share::new(100, 2);
    assert_parts(&race(&[Share::new(100, 1), pair, pair]), &[0.5, 0.25, 0.25]);
}

#[test]
fn whoever_wakes_runs_soon_and_not_for_long() {
    let share = Share::new(100, 1);
    let mut queue = RunQueue::new();
    queue.push(Account::default(), "busy");
    let (mut busy, _) = queue.pop(&mut Account::default()).expect("one");
    busy.charge(1_000_000, share);
    assert_eq!(queue.ticks_left(busy, share, SLICE), None, "nobody waits");
    queue.push(busy, "busy");
    let (busy, _) = queue.pop(&mut Account::default()).expect("one");
    let mut sleeper = Account::default();
    sleeper.credit(1 << 60, share, SLICE);
    queue.push(sleeper, "sleeper");
    assert_eq!(queue.ticks_left(busy, share, SLICE), Some(0), "at once");
    queue.push(busy, "busy");
    let (sleeper, name) = queue.pop(&mut Account::default()).expect("two");
    assert_eq!(name, "sleeper");
    assert_eq!(queue.ticks_left(sleeper, share, SLICE), Some(2 * SLICE), "its credit, and a slice");
}

#[test]
fn short_sleeps_earn_what_they_last() {
    let share = Share::new(100, 1);
    let mut account = Account::default();
    account.charge(5000, share);
    account.credit(300, share, SLICE);
    let mut queue = RunQueue::new();
    queue.push(Account::default(), "other");
    queue.push(account, "short");
    assert_eq!(queue.pop(&mut Account::default()).expect("two").1, "other");
    let mut again = Account::default();
    again.charge(4699, share);
    queue.push(again, "other");
    assert_eq!(queue.pop(&mut Account::default()).expect("two").1, "other", "4699 of 4700");
}

#[test]
fn lag_travels_between_queues() {
    let share = Share::new(100, 1);
    let (mut here, mut there) = (RunQueue::new(), RunQueue::new());
    let mut ahead = Account::default();
    ahead.charge(500, share);
    here.push(Account::default(), "first");
    here.push(ahead, "last");
    let (lag, thread) = here.take_last().expect("two");
    assert_eq!((lag, thread), (ahead, "last"));
    there.push(lag, thread);
    there.push(Account::default(), "level");
    assert_eq!(there.pop(&mut Account::default()).expect("two").1, "level");
    assert_eq!((here.len(), there.len()), (1, 1));
    assert!(!here.is_empty());
}

#[test]
fn absurd_numbers_saturate() {
    let mut account = Account::default();
    account.charge(u64::MAX, Share::new(0, u32::MAX));
    account.charge(u64::MAX, Share::new(0, u32::MAX));
    let mut queue = RunQueue::new();
    queue.push(account, 0);
    queue.push(account, 1);
    assert_eq!(queue.pop(&mut Account::default()).expect("two").1, 0, "first come first");
    assert!(queue.ticks_left(account, Share::new(u32::MAX, 1), u64::MAX).is_some());
}
