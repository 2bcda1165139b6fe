//! Locks with ranks, and the invalidation sequence of the fault path.
//!
//! A lock may be taken only while all locks that its CPU holds have a *smaller* rank (I4). Debug builds
//! check that at each acquisition and panic with both names. The order itself is [`Rank`]'s.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(any(feature = "std", test))]
extern crate std;

mod held;
mod lock;
mod rank;
mod sequence;

pub use held::{Held, MAX_CPUS, set_current_cpu};
pub use lock::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
pub use rank::Rank;
pub use sequence::{InProgress, InvalidationSequence, Snapshot, Stale};

#[cfg(test)]
mod tests;
