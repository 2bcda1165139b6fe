//! Models under loom: every order of a few threads' steps, and everything that weak memory may add to it. Each protocol
//! is also run with one of its orderings missing: then loom must find what goes wrong.
//!
//! Frames are loom's cells: it reports two accesses that nothing orders, if one of them is a write.

use crate::atomic::{AtomicU64, Ordering, fence};
use crate::{Attention, GuestMode, InProgress, InvalidationSequence};
use loom::cell::UnsafeCell;
use loom::sync::{Arc, RwLock};
use loom::thread;

/// Both fences are there.
fn full() {
    fence(Ordering::SeqCst);
}

/// One is missing.
fn none() {}

/// A guest's entry, the frame that it maps at first, and the interrupt line of CPU 0.
struct Machine {
    mode: GuestMode<2>,
    entry: AtomicU64,
    frame: UnsafeCell<u64>,
    interrupt: AtomicU64,
}

impl Machine {
    /// What a guest does on CPU 0, with a translation cached since it last ran there.
    fn run_guest(&self, fence: fn()) {
        let mut cached = Some(1);
        self.mode.enter_behind(0, fence, || cached = None);
        self.stay(cached);
    }

    /// The same of somebody who drops all that is cached whenever he enters, asked or not (`Stays`).
    fn run_space(&self, fence: fn()) {
        self.mode.enter_behind(0, fence, || ());
        self.stay(None);
    }

    /// Uses the frame twice, as long as it is told that it may, and leaves.
    fn stay(&self, mut cached: Option<u64>) {
        for _ in 0..2 {
            if self.interrupt.swap(0, Ordering::Acquire) != 0 {
                self.mode.acknowledge(0, || cached = None);
            }
            let translation = cached.unwrap_or_else(|| self.entry.load(Ordering::Relaxed));
            cached = Some(translation);
            if translation != 0 {
                self.frame.with(|_| ());
            }
        }
        self.mode.exit(0);
    }

    /// Takes the frame away from him.
    fn take_frame_if_used(&self, fence: fn()) {
        self.entry.store(0, Ordering::Relaxed);
        let interrupt = |_| self.interrupt.store(1, Ordering::Release);
        if let Some(requested) = self.mode.request_if_used_behind(fence, interrupt) {
            self.mode.wait(requested);
        }
        self.frame.with_mut(|_| ());
    }

    /// Takes the frame away from the guest, and uses it for something else.
    fn take_frame(&self, fence: fn()) {
        self.entry.store(0, Ordering::Relaxed);
        let requested = self.mode.request_behind(fence, |_| self.interrupt.store(1, Ordering::Release));
        self.mode.wait(requested);
        self.frame.with_mut(|_| ());
    }
}

impl Machine {
    fn new() -> Self {
        Self {
            mode: GuestMode::new(),
            entry: AtomicU64::new(1),
            frame: UnsafeCell::new(0),
            interrupt: AtomicU64::new(0),
        }
    }
}

/// On both sides a fence, or none. The guest has run there before, or comes for the first time.
fn handshake(guests: fn(), invalidators: fn(), has_run: bool) {
    loom::model(move || {
        let machine = Arc::new(Machine::new());
        if has_run {
            // There have been flushes before, and the translation was cached since.
            let _ = machine.mode.request_behind(invalidators, |_| ());
            machine.mode.enter_behind(0, guests, || ());
            machine.mode.exit(0);
        }
        let other = Arc::clone(&machine);
        let guest = thread::spawn(move || other.run_guest(guests));
        machine.take_frame(invalidators);
        guest.join().expect("no panic");
    });
}

#[test]
fn a_guest_never_uses_a_frame_that_was_taken() {
    handshake(full, full, true);
}

#[test]
fn nor_does_one_that_enters_for_the_first_time() {
    handshake(full, full, false);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn without_the_fence_on_the_way_into_the_guest_it_does() {
    handshake(none, full, true);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn without_the_invalidators_fence_it_does() {
    handshake(full, none, true);
}

/// On both sides a fence, or none.
fn handshake_of_spaces(users: fn(), invalidators: fn()) {
    handshake_of_stays(users, invalidators, false);
}

/// The same of somebody who may have been there before.
fn handshake_of_stays(users: fn(), invalidators: fn(), has_run: bool) {
    loom::model(move || {
        let machine = Arc::new(Machine::new());
        if has_run {
            machine.run_space(users);
        }
        let other = Arc::clone(&machine);
        let user = thread::spawn(move || other.run_space(users));
        machine.take_frame_if_used(invalidators);
        user.join().expect("no panic");
    });
}

#[test]
fn where_nobody_is_asked_nobody_uses_a_frame_that_was_taken() {
    handshake_of_spaces(full, full);
}

#[test]
fn nor_does_somebody_who_comes_again() {
    handshake_of_stays(full, full, true);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn without_a_users_fence_somebody_does() {
    handshake_of_spaces(none, full);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn without_the_invalidators_fence_somebody_does() {
    handshake_of_spaces(full, none);
}

/// A guest that runs there for the first time finds what another one with the same tag has left.
#[test]
fn a_first_entry_drops_what_others_have_left() {
    loom::model(|| {
        let mode = GuestMode::<2>::new();
        let mut left = Some(1);
        mode.enter(0, || left = None);
        assert_eq!(left, None);
    });
}

/// A virtual processor, a pause, and the interrupt line of its CPU.
struct Pausable {
    attention: Attention,
    paused: AtomicU64,
    interrupt: AtomicU64,
}

impl Pausable {
    fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed) != 0
    }

    /// Whether it has come into its guest, and stays there. It has news of something else.
    fn run(&self, fence: fn()) -> bool {
        for _ in 0..2 {
            if self.is_paused() {
                return false;
            }
            self.attention.take(|| self.is_paused());
            self.attention.enters(0);
            fence();
            if !self.attention.has_news() {
                return true;
            }
            self.attention.has_left();
        }
        false
    }

    fn pause(&self, fence: fn()) {
        self.paused.store(1, Ordering::Relaxed);
        if self.attention.post_behind(fence).is_some() {
            self.interrupt.store(1, Ordering::Relaxed);
        }
    }
}

/// On both sides a fence, or none.
fn pause(processors: fn(), others: fn()) {
    loom::model(move || {
        let one = Arc::new(Pausable {
            attention: Attention::new(),
            paused: AtomicU64::new(0),
            interrupt: AtomicU64::new(0),
        });
        one.attention.note();
        let other = Arc::clone(&one);
        let processor = thread::spawn(move || other.run(processors));
        one.pause(others);
        let is_in_guest = processor.join().expect("no panic");
        assert!(!is_in_guest || one.interrupt.load(Ordering::Relaxed) == 1, "runs on in a pause");
    });
}

#[test]
fn a_virtual_processor_never_runs_on_in_a_pause() {
    pause(full, full);
}

#[test]
#[should_panic(expected = "runs on in a pause")]
fn without_its_fence_it_does() {
    pause(none, full);
}

#[test]
#[should_panic(expected = "runs on in a pause")]
fn without_the_fence_of_who_pauses_it_does() {
    pause(full, none);
}

/// The primary entry is empty, or names a frame; "in progress" lies in the mmu lock. The secondary entry is empty, or names a frame:
/// who has the shared side fills it, who has the exclusive side empties it.
struct Entries {
    sequence: InvalidationSequence,
    primary: AtomicU64,
    secondary: AtomicU64,
    locked: RwLock<InProgress>,
}

const EMPTY: u64 = 0;

const OLD: u64 = 1;
const NEW: u64 = 2;

impl Entries {
    fn fault(&self, snapshot: Ordering) {
        let snapshot = self.sequence.snapshot_as(snapshot);
        let frame = self.primary.load(Ordering::Relaxed);
        if frame == EMPTY {
            return; // The product would wait for the page-table lock.
        }
        let locked = self.locked.read().expect("no panic");
        if locked.permits(&self.sequence, snapshot, 0, 1).is_ok() {
            let (success, failure) = (Ordering::AcqRel, Ordering::Acquire);
            let found = self.secondary.compare_exchange(EMPTY, frame, success, failure);
            assert!(found.is_ok() || found == Err(frame), "two frames for one page (I5)");
        }
    }

    /// `invalidate_page`: the primary entry has been cleared before, and gets its new frame afterwards (I8).
    fn change_page(&self, raise: Ordering) {
        self.primary.store(EMPTY, Ordering::Relaxed);
        self.invalidate_page(raise);
        self.primary.store(NEW, Ordering::Relaxed);
    }

    fn invalidate_page(&self, raise: Ordering) {
        let mut locked = self.locked.write().expect("no panic");
        self.sequence.raise_as(&mut locked, raise);
        self.secondary.store(EMPTY, Ordering::Release);
    }

    /// A range: the primary entry changes between the begin and the end.
    fn change_range(&self) {
        {
            let mut locked = self.locked.write().expect("no panic");
            locked.begin(0, 1);
            self.secondary.store(EMPTY, Ordering::Release);
        }
        self.primary.store(NEW, Ordering::Relaxed);
        self.locked.write().expect("no panic").end(&self.sequence);
    }
}

/// `faults` CPUs fault at the same time. Of three threads not every order is tried: at most three preemptions.
fn faults_against(faults: usize, snapshot: Ordering, change: fn(&Entries)) {
    let mut models = loom::model::Builder::new();
    models.preemption_bound = (faults > 1).then_some(3);
    models.check(move || {
        let entries = Arc::new(Entries {
            sequence: InvalidationSequence::new(),
            primary: AtomicU64::new(OLD),
            secondary: AtomicU64::new(EMPTY),
            locked: RwLock::new(InProgress::new()),
        });
        let spawn = |_| {
            let other = Arc::clone(&entries);
            thread::spawn(move || other.fault(snapshot))
        };
        let threads: [_; 2] = std::array::from_fn(|fault| (fault < faults).then(|| spawn(fault)));
        change(&entries);
        threads.into_iter().flatten().for_each(|fault| fault.join().expect("no panic"));
        let installed = entries.secondary.load(Ordering::Relaxed);
        assert_ne!(installed, OLD, "a frame that has gone was installed");
    });
}

#[test]
fn a_fault_never_installs_a_page_that_has_gone() {
    faults_against(1, Ordering::Acquire, |entries| entries.change_page(Ordering::Release));
}

#[test]
fn a_fault_never_installs_from_a_range_that_has_gone() {
    faults_against(1, Ordering::Acquire, Entries::change_range);
}

#[test]
fn two_faults_at_a_time_install_one_frame_and_none_that_has_gone() {
    faults_against(2, Ordering::Acquire, |entries| entries.change_page(Ordering::Release));
    faults_against(2, Ordering::Acquire, Entries::change_range);
}

#[test]
#[should_panic(expected = "a frame that has gone was installed")]
fn a_snapshot_that_acquires_nothing_does() {
    faults_against(1, Ordering::Relaxed, |entries| entries.change_page(Ordering::Release));
}

#[test]
#[should_panic(expected = "a frame that has gone was installed")]
fn a_raise_that_releases_nothing_does() {
    faults_against(1, Ordering::Acquire, |entries| entries.change_page(Ordering::Relaxed));
}
