//! Atomics of the memory manager: `core`'s, or those of a model.
//!
//! | build | atomics | what a model sees |
//! |---|---|---|
//! | normal | `core`'s | |
//! | feature `shuttle` | `core`'s behind a switch point | every order of the accesses, all of them sequentially consistent |
//! | feature `loom` | loom's | also what weaker orderings allow |
//!
//! In a model of shuttle all threads are coroutines on one thread, so an access is one step. Counters that nothing is
//! decided by stay `core`'s.

pub use core::sync::atomic::Ordering;

#[cfg(not(any(feature = "shuttle", feature = "loom")))]
pub use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, fence};
#[cfg(feature = "loom")]
pub use loom::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, fence};
#[cfg(all(feature = "shuttle", not(feature = "loom")))]
pub use switching::{AtomicU32, AtomicU64, AtomicUsize, fence};

#[cfg(all(feature = "shuttle", not(feature = "loom")))]
mod switching {
    use super::Ordering;
    use crate::switch_point;
    use core::sync::atomic;

    /// Orders nothing that is not in order: models of shuttle are sequentially consistent.
    pub fn fence(_ordering: Ordering) {}

    macro_rules! atomic {
        ($name:ident, $integer:ty) => {
            /// An atomic whose every access is a switch point.
            #[derive(Debug, Default)]
            pub struct $name(atomic::$name);

            impl $name {
                /// An atomic with a value.
                #[must_use]
                pub const fn new(value: $integer) -> Self {
                    Self(atomic::$name::new(value))
                }

                /// Reads.
                #[track_caller]
                pub fn load(&self, ordering: Ordering) -> $integer {
                    switch_point();
                    self.0.load(ordering)
                }

                /// Writes.
                #[track_caller]
                pub fn store(&self, value: $integer, ordering: Ordering) {
                    switch_point();
                    self.0.store(value, ordering);
                }

                /// Adds; what it was before.
                #[track_caller]
                pub fn fetch_add(&self, value: $integer, ordering: Ordering) -> $integer {
                    switch_point();
                    self.0.fetch_add(value, ordering)
                }

                /// Subtracts; what it was before.
                #[track_caller]
                pub fn fetch_sub(&self, value: $integer, ordering: Ordering) -> $integer {
                    switch_point();
                    self.0.fetch_sub(value, ordering)
                }

                /// Writes `new` where it still is `old`.
                ///
                /// # Errors
                /// What it is instead.
                #[track_caller]
                pub fn compare_exchange(
                    &self,
                    old: $integer,
                    new: $integer,
                    success: Ordering,
                    failure: Ordering,
                ) -> Result<$integer, $integer> {
                    switch_point();
                    self.0.compare_exchange(old, new, success, failure)
                }

                /// Sets bits; what it was before.
                #[track_caller]
                pub fn fetch_or(&self, value: $integer, ordering: Ordering) -> $integer {
                    switch_point();
                    self.0.fetch_or(value, ordering)
                }

                /// Keeps only these bits; what it was before.
                #[track_caller]
                pub fn fetch_and(&self, value: $integer, ordering: Ordering) -> $integer {
                    switch_point();
                    self.0.fetch_and(value, ordering)
                }
            }
        };
    }

    atomic!(AtomicU32, u32);
    atomic!(AtomicU64, u64);
    atomic!(AtomicUsize, usize);
}
