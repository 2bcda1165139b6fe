//! Models under shuttle: threads are coroutines, and a scheduler decides at each switch point who runs next.
//!
//! ```text
//!   product ──► switch_point, lock ──► shuttle ──► scheduler: is_undisturbed? place? ──► who runs next
//! ```
//!
//! All coroutines of a model share one thread of the operating system, so what is said here of the moment can lie in its
//! thread locals.

use core::cell::{Cell, RefCell};
use core::panic::Location;
use shuttle::sync::atomic::{AtomicBool, Ordering};
use std::collections::HashSet;

std::thread_local! {
    /// How many [`crate::undisturbed`] there are around the moment.
    static QUIET: Cell<u32> = const { Cell::new(0) };
    /// The switch point that was come to last.
    static PLACE: Cell<Option<&'static Location<'static>>> = const { Cell::new(None) };
    /// Switch points that are none any more for the thread that runs.
    static PASSED: RefCell<HashSet<usize>> = RefCell::default();
}

/// Whether the thread that runs shall go on if it can.
#[must_use]
pub fn is_undisturbed() -> bool {
    QUIET.get() > 0
}

/// Where in the program the switch point lies that was come to last.
#[must_use]
pub fn place() -> Option<&'static Location<'static>> {
    PLACE.get()
}

/// The thread that runs from now on goes by these switch points, by the addresses of their locations: the scheduler would let it go
/// on there anyway, and need not be asked.
pub fn pass_by(places: HashSet<usize>) -> HashSet<usize> {
    PASSED.replace(places)
}

/// And by this one.
pub fn pass_by_also(place: &'static Location<'static>) {
    PASSED.with_borrow_mut(|passed| passed.insert(core::ptr::from_ref(place).addr()));
}

/// Notes where a switch point lies that shuttle is about to offer.
#[track_caller]
pub(crate) fn at() {
    PLACE.set(Some(Location::caller()));
}

#[track_caller]
pub(crate) fn switch_point() {
    let place = core::ptr::from_ref(Location::caller()).addr();
    if !is_undisturbed() && !PASSED.with_borrow(|passed| passed.contains(&place)) {
        at();
        // An access to an atomic of shuttle's is a switch point, and this one nothing else.
        AtomicBool::new(false).load(Ordering::SeqCst);
    }
}

#[track_caller]
pub(crate) fn relax() {
    at();
    shuttle::thread::yield_now();
}

/// No switch point is one while this lives.
pub(crate) struct Quiet;

impl Quiet {
    pub(crate) fn begin() -> Self {
        QUIET.set(QUIET.get() + 1);
        Self
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        QUIET.set(QUIET.get() - 1);
    }
}
