//! Stays of CPUs in address spaces: the handshake of guest mode, where each stay begins with a flush, whatever was asked for.
//!
//! ```text
//!   a CPU on its way into a space        whoever has changed entries
//!   1  state = in a space                1  the entries are written
//!   2  full fence                        2  full fence
//!   3  drops all that it has cached      3  somebody is in a space? no: nothing to ask for, and nothing to wait for
//!                                           yes: as of a guest
//! ```
//!
//! If the fence of the asker comes first, the CPU finds the entries as they are; else the asker finds it in there.

use crate::{GuestMode, Requested};

/// The stays of so many CPUs.
#[derive(Debug)]
pub struct Stays<const CPUS: usize>(GuestMode<CPUS>);

impl<const CPUS: usize> Stays<CPUS> {
    /// All CPUs are outside.
    #[cfg(not(feature = "loom"))]
    #[must_use]
    pub const fn new() -> Self {
        Self(GuestMode::new())
    }

    /// The same; loom's atomics are no constants.
    #[cfg(feature = "loom")]
    #[must_use]
    pub fn new() -> Self {
        Self(GuestMode::new())
    }

    /// This CPU, with interrupts off, is about to enter a space; it drops all that it has cached of spaces before it uses one.
    pub fn enter(&self, cpu: usize) {
        self.0.enter(cpu, || ());
    }

    /// As [`GuestMode::acknowledge`].
    pub fn acknowledge(&self, cpu: usize, flush: impl FnOnce()) {
        self.0.acknowledge(cpu, flush);
    }

    /// This CPU has left the space.
    pub fn exit(&self, cpu: usize) {
        self.0.exit(cpu);
    }

    /// Entries have been written: as [`GuestMode::request`]; `None` where no CPU is in a space, and so there is nothing to wait for.
    pub fn request(&self, interrupt: impl FnMut(usize)) -> Option<Requested> {
        self.0.request_if_used(interrupt)
    }

    /// As [`GuestMode::wait`].
    pub fn wait(&self, requested: Requested) {
        self.0.wait(requested);
    }
}

impl<const CPUS: usize> Default for Stays<CPUS> {
    fn default() -> Self {
        Self::new()
    }
}
