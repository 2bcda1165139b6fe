//! The lock order and the sequence protocol, step by step.

use crate::{GuestMode, InProgress, InvalidationSequence, Mutex, Rank, RwLock, Stale};
use std::vec::Vec;

#[test]
fn ranks_rise() {
    let outer = RwLock::new(Rank::Mmap, 1);
    let inner = Mutex::new(Rank::Mmu, 2);
    let held = outer.read();
    assert_eq!(*held + *inner.lock(), 3);
    drop(held);
    assert_eq!(*inner.lock(), 2);
    assert_eq!(*outer.write(), 1);
}

#[test]
#[cfg(debug_assertions)]
#[should_panic(expected = "lock order: PageTable taken while Mmu is held")]
fn an_inversion_names_both() {
    let outer = Mutex::new(Rank::PageTable, ());
    let inner = Mutex::new(Rank::Mmu, ());
    let _inner = inner.lock();
    let _outer = outer.lock();
}

#[test]
#[cfg(debug_assertions)]
#[should_panic(expected = "lock order: Mmu taken while Mmu is held")]
fn equal_ranks_do_not_nest() {
    let one = Mutex::new(Rank::Mmu, ());
    let two = Mutex::new(Rank::Mmu, ());
    let _one = one.lock();
    let _two = two.lock();
}

#[test]
fn a_fault_meets_an_active_range_only_where_they_overlap() {
    let (sequence, mut active) = (InvalidationSequence::new(), InProgress::new());
    let before = sequence.snapshot();
    active.begin(10, 20);
    assert_eq!(active.permits(&sequence, before, 19, 20), Err(Stale));
    assert_eq!(active.permits(&sequence, before, 20, 21), Ok(()));
    active.end(&sequence);
    assert_eq!(active.permits(&sequence, before, 20, 21), Err(Stale));
    assert_eq!(active.permits(&sequence, sequence.snapshot(), 10, 20), Ok(()));
}

#[test]
fn nested_ranges_keep_their_hull_until_the_last_end() {
    let (sequence, mut active) = (InvalidationSequence::new(), InProgress::new());
    active.begin(0, 4);
    active.begin(8, 12);
    active.end(&sequence);
    let now = sequence.snapshot();
    assert!(active.is_active());
    assert_eq!(active.permits(&sequence, now, 0, 1), Err(Stale));
    active.end(&sequence);
    assert_eq!(active.permits(&sequence, sequence.snapshot(), 0, 1), Ok(()));
}

#[test]
fn a_stray_end_only_costs_a_retry() {
    let (sequence, mut active) = (InvalidationSequence::new(), InProgress::new());
    let before = sequence.snapshot();
    active.end(&sequence);
    assert!(!active.is_active());
    assert_eq!(active.permits(&sequence, before, 0, 1), Err(Stale));
}

#[test]
fn who_has_raised_the_sequence_himself_sees_what_others_do() {
    let (sequence, mut active) = (InvalidationSequence::new(), InProgress::new());
    let before = sequence.snapshot();
    sequence.raise(&mut active);
    assert_eq!(active.permits(&sequence, before, 0, 1), Err(Stale));
    assert_eq!(active.permits(&sequence, before.after_own(1), 0, 1), Ok(()));
    sequence.raise(&mut active);
    assert_eq!(active.permits(&sequence, before.after_own(1), 0, 1), Err(Stale));
}

/// CPU 0 is in guest mode, CPU 1 is not: only the one is interrupted, the other flushes when it enters.
#[test]
fn only_cpus_in_guest_mode_are_interrupted() {
    let mode = GuestMode::<2>::new();
    mode.enter(0, || ());
    mode.acknowledge(0, || panic!("nothing was asked for"));
    let mut interrupted = Vec::new();
    let requested = mode.request(|cpu| interrupted.push(cpu));
    assert_eq!(interrupted, [0]);
    let mut flushes = 0;
    mode.acknowledge(0, || flushes += 1);
    mode.acknowledge(0, || flushes += 1);
    mode.wait(requested);
    mode.enter(1, || flushes += 10);
    assert_eq!(flushes, 11);
}

#[test]
fn the_first_stay_begins_with_a_flush() {
    let mode = GuestMode::<2>::new();
    let mut flushes = 0;
    mode.enter(0, || flushes += 1);
    mode.exit(0);
    mode.enter(0, || flushes += 1);
    assert_eq!(flushes, 1);
}

#[test]
fn a_cpu_that_has_left_its_guest_is_not_waited_for() {
    let mode = GuestMode::<2>::new();
    mode.enter(0, || ());
    mode.exit(0);
    let requested = mode.request(|cpu| panic!("CPU {cpu} is in root mode"));
    mode.wait(requested);
    let mut flushes = 0;
    mode.enter(0, || flushes += 1);
    mode.exit(0);
    mode.enter(0, || flushes += 1);
    assert_eq!(flushes, 1);
}

/// Whether a reader who comes while another one holds the lock, and a writer waits for it, finds what the writer wrote.
fn reader_comes_behind_writer() -> bool {
    let lock = RwLock::new(Rank::Mmu, false);
    let a_while = || std::thread::sleep(std::time::Duration::from_millis(20));
    std::thread::scope(|scope| {
        let held = lock.read();
        scope.spawn(|| *lock.write() = true);
        a_while();
        let reader = scope.spawn(|| *lock.read());
        a_while();
        drop(held);
        reader.join().expect("no panic")
    })
}

#[test]
fn readers_wait_behind_a_writer_who_waits() {
    // A thread that is late comes in another order: one time of ten will do.
    assert!((0..10).any(|_| reader_comes_behind_writer()));
}
