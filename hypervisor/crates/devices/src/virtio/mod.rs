//! Virtio devices over MMIO (virtio 1.2, 4.2, version 2 only) with split queues (2.7), as far as the balloon needs them.
//!
//! ```text
//!  driver                           device
//!  register access ── exit ──► Transport      features, status, where the queues lie, the interrupt
//!                                 │ lend            one queue at a time, and its positions with it
//!                                 ▼
//!  descriptors, available ───► Queue::take    guest memory is read and written under no lock of the board's
//!  used           ◄─────────── Queue::put
//!                                 │ give back
//!                                 ▼
//!                              Transport      ──► interrupt
//! ```
//!
//! Nothing that a guest writes is believed. A driver that breaks the protocol (a chain that does not end, an index beyond
//! the queue, a ring outside RAM) finds DEVICE_NEEDS_RESET in the status, and the device stands still until it was reset.

pub(crate) mod queue;
pub(crate) mod transport;

#[cfg(test)]
mod queue_tests;
#[cfg(test)]
pub(crate) mod rig;
#[cfg(test)]
mod transport_tests;

use addr::{Gpa, GpaRange};
use core::fmt;

/// A guest's memory, as a device reaches it. A part that is 2 bytes, and aligned, moves as one.
pub trait Memory {
    /// Fills `bytes` from `gpa` on; `false` where that is not RAM.
    #[must_use]
    fn read(&self, gpa: Gpa, bytes: &mut [u8]) -> bool;

    /// Writes `bytes` from `gpa` on; `false` where that is not RAM.
    #[must_use]
    fn write(&self, gpa: Gpa, bytes: &[u8]) -> bool;

    /// Whole pages whose contents do not matter any more; `false` where they are not all RAM, and stay.
    #[must_use]
    fn discard(&self, range: GpaRange) -> bool;
}

/// The driver breaks the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Broken;

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no driver may say that of a queue")
    }
}
