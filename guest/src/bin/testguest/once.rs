//! A value that the first CPU sets before the others start.

use core::cell::UnsafeCell;

pub(crate) struct Once<T>(UnsafeCell<Option<T>>);

// SAFETY: `set` is called before another CPU runs.
unsafe impl<T> Sync for Once<T> {}

impl<T> Once<T> {
    pub(crate) const fn new() -> Self {
        Self(UnsafeCell::new(None))
    }

    /// Sets it.
    ///
    /// # Safety
    /// Called once, before another CPU runs and before [`Self::get`].
    pub(crate) unsafe fn set(&self, value: T) {
        // SAFETY: the caller's promise.
        unsafe { *self.0.get() = Some(value) };
    }

    pub(crate) fn get(&self) -> Option<&T> {
        // SAFETY: nobody writes any more.
        unsafe { (*self.0.get()).as_ref() }
    }
}
