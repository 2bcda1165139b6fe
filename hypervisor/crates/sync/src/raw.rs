//! What [`crate::Mutex`], [`crate::RwLock`] and [`crate::Once`] are made of: `spin`'s, or those of a model.
//!
//! A lock of a model is one of shuttle's: who waits for it does not run. Taking it is a switch point, giving it back is
//! none: whatever could happen then can as well happen at the next switch point of the thread.

use core::sync::atomic::{AtomicU64, Ordering};

#[cfg(feature = "shuttle")]
pub use modelled::Once;
#[cfg(feature = "shuttle")]
pub(crate) use modelled::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
#[cfg(not(feature = "shuttle"))]
pub use spin::Once;
#[cfg(not(feature = "shuttle"))]
pub(crate) use spin::{MutexGuard, RwLockReadGuard, RwLockWriteGuard};
#[cfg(not(feature = "shuttle"))]
pub(crate) use spinning::{Mutex, RwLock};

/// How often a lock was not free at once, since the start, on all CPUs.
static WAITS: AtomicU64 = AtomicU64::new(0);

/// See [`WAITS`]. A model counts none.
#[must_use]
pub fn lock_waits() -> u64 {
    WAITS.load(Ordering::Relaxed)
}

#[cfg(not(feature = "shuttle"))]
mod spinning {
    use super::WAITS;
    use crate::relax;
    use core::sync::atomic::{AtomicU32, Ordering};
    use spin::{MutexGuard, RwLockReadGuard, RwLockWriteGuard};

    /// `spin`'s, which counts its waits.
    #[derive(Debug)]
    pub(crate) struct Mutex<T>(spin::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) const fn new(value: T) -> Self {
            Self(spin::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            self.0.try_lock().unwrap_or_else(|| wait(|| self.try_lock()))
        }

        fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
            (!self.0.is_locked()).then(|| self.0.try_lock()).flatten()
        }

        pub(crate) fn get_mut(&mut self) -> &mut T {
            self.0.get_mut()
        }
    }

    /// `spin`'s, and who waits for the exclusive hold keeps new shared ones out: an invalidation comes to its turn, however
    /// many CPUs fault. `spin`'s own upgrade would not do: a reader that is kept out adds itself, looks, and subtracts itself,
    /// and several of them at that leave hardly a moment in which there is none. Nobody takes a lock twice, so nobody waits
    /// for a writer that waits for him.
    #[derive(Debug)]
    pub(crate) struct RwLock<T> {
        lock: spin::RwLock<T>,
        /// How many wait for the exclusive hold.
        writers: AtomicU32,
    }

    impl<T> RwLock<T> {
        pub(crate) const fn new(value: T) -> Self {
            Self { lock: spin::RwLock::new(value), writers: AtomicU32::new(0) }
        }

        pub(crate) fn read(&self) -> RwLockReadGuard<'_, T> {
            self.try_read().unwrap_or_else(|| wait(|| self.try_read()))
        }

        fn try_read(&self) -> Option<RwLockReadGuard<'_, T>> {
            // Relaxed: it is about whose turn it is; the lock does the ordering.
            (self.writers.load(Ordering::Relaxed) == 0).then(|| self.lock.try_read()).flatten()
        }

        pub(crate) fn write(&self) -> RwLockWriteGuard<'_, T> {
            self.lock.try_write().unwrap_or_else(|| {
                self.writers.fetch_add(1, Ordering::Relaxed);
                let guard = wait(|| self.lock.try_write());
                self.writers.fetch_sub(1, Ordering::Relaxed);
                guard
            })
        }

        pub(crate) fn get_mut(&mut self) -> &mut T {
            self.lock.get_mut()
        }
    }

    #[cold]
    fn wait<T>(mut attempt: impl FnMut() -> Option<T>) -> T {
        WAITS.fetch_add(1, Ordering::Relaxed);
        loop {
            relax();
            if let Some(guard) = attempt() {
                return guard;
            }
        }
    }
}

#[cfg(feature = "shuttle")]
mod modelled {
    use crate::model::at;
    use crate::{switch_point, undisturbed};
    use core::ops::{Deref, DerefMut};
    use std::sync::PoisonError;

    #[derive(Debug)]
    pub(crate) struct Mutex<T>(shuttle::sync::Mutex<T>);

    #[derive(Debug)]
    pub(crate) struct RwLock<T>(shuttle::sync::RwLock<T>);

    impl<T> Mutex<T> {
        pub(crate) const fn new(value: T) -> Self {
            Self(shuttle::sync::Mutex::new(value))
        }

        #[track_caller]
        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            at();
            MutexGuard(Some(self.0.lock().unwrap_or_else(PoisonError::into_inner)))
        }

        pub(crate) fn get_mut(&mut self) -> &mut T {
            self.0.get_mut().unwrap_or_else(PoisonError::into_inner)
        }
    }

    impl<T> RwLock<T> {
        pub(crate) const fn new(value: T) -> Self {
            Self(shuttle::sync::RwLock::new(value))
        }

        #[track_caller]
        pub(crate) fn read(&self) -> RwLockReadGuard<'_, T> {
            at();
            RwLockReadGuard(Some(self.0.read().unwrap_or_else(PoisonError::into_inner)))
        }

        #[track_caller]
        pub(crate) fn write(&self) -> RwLockWriteGuard<'_, T> {
            at();
            RwLockWriteGuard(Some(self.0.write().unwrap_or_else(PoisonError::into_inner)))
        }

        pub(crate) fn get_mut(&mut self) -> &mut T {
            self.0.get_mut().unwrap_or_else(PoisonError::into_inner)
        }
    }

    macro_rules! guard {
        ($name:ident) => {
            /// `None` only while it is dropped.
            #[derive(Debug)]
            pub(crate) struct $name<'a, T>(Option<shuttle::sync::$name<'a, T>>);

            impl<T> Deref for $name<'_, T> {
                type Target = T;
                fn deref(&self) -> &T {
                    self.0.as_ref().expect("held until it is dropped")
                }
            }

            impl<T> Drop for $name<'_, T> {
                fn drop(&mut self) {
                    undisturbed(|| self.0 = None);
                }
            }
        };
    }

    guard!(MutexGuard);
    guard!(RwLockReadGuard);
    guard!(RwLockWriteGuard);

    impl<T> DerefMut for MutexGuard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            self.0.as_mut().expect("held until it is dropped")
        }
    }

    impl<T> DerefMut for RwLockWriteGuard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            self.0.as_mut().expect("held until it is dropped")
        }
    }

    /// A value that is made once. `spin`'s, with a lock of the model around the making: other threads may run in it.
    #[derive(Debug)]
    pub struct Once<T> {
        value: spin::Once<T>,
        making: Mutex<()>,
    }

    impl<T> Default for Once<T> {
        fn default() -> Self {
            Self::new()
        }
    }

    impl<T> Once<T> {
        /// No value yet.
        #[must_use]
        pub const fn new() -> Self {
            Self { value: spin::Once::new(), making: Mutex::new(()) }
        }

        /// The value, if there is one.
        #[track_caller]
        pub fn get(&self) -> Option<&T> {
            switch_point();
            self.value.get()
        }

        /// The value, made now if there is none.
        #[track_caller]
        pub fn call_once(&self, make: impl FnOnce() -> T) -> &T {
            if let Some(value) = self.get() {
                return value;
            }
            let _making = self.making.lock();
            if let Some(value) = self.value.get() {
                return value;
            }
            let made = make();
            self.value.call_once(|| made)
        }
    }
}
