//! Where another thread may run. In a normal build these are nothing, or a hint to the CPU.

/// A place where another thread may run: for accesses to memory that no lock or atomic of this crate guards.
#[inline]
#[track_caller]
pub fn switch_point() {
    #[cfg(feature = "shuttle")]
    crate::model::switch_point();
}

/// To be called in each round of a loop that waits for another thread.
#[inline]
#[track_caller]
pub fn relax() {
    #[cfg(feature = "loom")]
    loom::thread::yield_now();
    #[cfg(feature = "shuttle")]
    crate::model::relax();
    #[cfg(not(any(feature = "loom", feature = "shuttle")))]
    core::hint::spin_loop();
}

/// Runs something as one step of a model: no other thread runs in between, unless it has to be waited for.
#[inline]
pub fn undisturbed<T>(step: impl FnOnce() -> T) -> T {
    #[cfg(feature = "shuttle")]
    let _quiet = crate::model::Quiet::begin();
    step()
}
