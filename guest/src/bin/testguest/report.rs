//! How a test says what differed.

use core::fmt;
use guest::memory::MemoryError;

/// A difference that a test found.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Failure {
    /// A value was not the expected one.
    Value {
        /// What was looked at.
        what: &'static str,
        /// Which one of many (page, register, round).
        index: u64,
        /// As it should be.
        expected: u64,
        /// As it was.
        found: u64,
    },
    /// A value was below or above what makes sense.
    Range {
        /// What was looked at.
        what: &'static str,
        /// Smallest good value.
        least: u64,
        /// Largest good value.
        most: u64,
        /// As it was.
        found: u64,
    },
    /// Something did not happen in time.
    TimeOut {
        /// What.
        what: &'static str,
        /// TSC ticks waited.
        ticks: u64,
    },
    /// The test needs Herald, and CPUID does not show it.
    NoHerald,
    /// The test needs host operations, and Herald was not told to do them.
    NoHostOperations,
    /// The host refused an operation, or does not know it.
    Refused(&'static str),
    /// The test needs more memory.
    Memory(MemoryError),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Value { what, index, expected, found } => {
                write!(f, "{what} [{index}]: expected {expected:#x}, found {found:#x}")
            }
            Self::Range { what, least, most, found } => {
                write!(f, "{what}: expected {least} to {most}, found {found}")
            }
            Self::TimeOut { what, ticks } => write!(f, "{what}: not within {ticks} ticks"),
            Self::NoHerald => write!(f, "CPUID does not show Herald"),
            Self::NoHostOperations => write!(f, "the host answers no such calls (--host-operations)"),
            Self::Refused(what) => write!(f, "{what}: the host has not done it"),
            Self::Memory(error) => write!(f, "{error}"),
        }
    }
}

impl From<MemoryError> for Failure {
    fn from(error: MemoryError) -> Self {
        Self::Memory(error)
    }
}

/// Whether the value is the expected one. `index` tells which of many.
pub(crate) fn same(what: &'static str, index: u64, expected: u64, found: u64) -> Result<(), Failure> {
    if expected == found { Ok(()) } else { Err(Failure::Value { what, index, expected, found }) }
}

/// Whether the value lies in the range, both ends included.
pub(crate) fn within(what: &'static str, least: u64, most: u64, found: u64) -> Result<(), Failure> {
    if (least..=most).contains(&found) { Ok(()) } else { Err(Failure::Range { what, least, most, found }) }
}
