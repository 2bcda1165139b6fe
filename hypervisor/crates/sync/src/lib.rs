//! Locks with ranks, the invalidation sequence of the fault path, and the handshake before a guest is entered.
//!
//! A lock may be taken only while all locks that its CPU holds have a *smaller* rank (I4). Debug builds
//! check that at each acquisition and panic with both names. The order itself is [`Rank`]'s.
//!
//! All that threads have in common goes through this crate, so that a model can stand in for it: with the feature
//! `shuttle`, locks, [`atomic`]s and [`switch_point`]s ask a scheduler who runs next (`tests/models`); with the feature
//! `loom`, atomics are loom's, for the small models of this crate's own protocols.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(any(feature = "std", feature = "shuttle", test))]
extern crate std;

pub mod atomic;
mod attention;
mod guest_mode;
mod held;
mod lock;
#[cfg(feature = "shuttle")]
pub mod model;
mod rank;
mod raw;
mod sequence;
mod short_way;
mod stays;
mod switch;

pub use attention::Attention;
pub use guest_mode::{GuestMode, Requested};
pub use held::{Held, MAX_CPUS, set_current_cpu};
pub use lock::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
pub use rank::Rank;
pub use raw::{Once, lock_waits};
pub use sequence::{InProgress, InvalidationSequence, Snapshot, Stale};
pub use short_way::Changes;
pub use stays::Stays;
pub use switch::{relax, switch_point, undisturbed};

#[cfg(all(test, feature = "loom"))]
mod loom_tests;
#[cfg(all(test, not(feature = "loom")))]
mod tests;
