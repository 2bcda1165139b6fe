//! Answers of the product, reduced to what a caller can tell apart: the model foretells them.

use mm::{FaultError, MapError, MigrateError};
use mmu::MmuError;

/// What an operation answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It was done.
    Done,
    /// A load found this.
    Value(u64),
    /// A page is resident, and this young.
    Young(bool),
    /// The guest-physical address is no RAM.
    NotRam,
    /// No area holds the address.
    Unmapped,
    /// The area does not allow the access.
    Denied,
    /// The range is no range of whole pages of its areas.
    BadRange,
    /// Part of the range had no area; the rest was done.
    Hole,
    /// No gap is large enough.
    NoRoom,
    /// No page is resident there.
    NotResident,
    /// Not with huge pages.
    Huge,
    /// No frame left, for a page or for a table.
    OutOfMemory,
    /// The host address space is gone.
    Released,
}

impl From<FaultError> for Verdict {
    fn from(error: FaultError) -> Self {
        match error {
            FaultError::Unmapped(_) => Self::Unmapped,
            FaultError::Denied { .. } => Self::Denied,
            FaultError::OutOfFrames(_) | FaultError::OutOfTables(_) => Self::OutOfMemory,
        }
    }
}

impl From<MmuError> for Verdict {
    fn from(error: MmuError) -> Self {
        match error {
            MmuError::Host(error) => error.into(),
            MmuError::OutOfTables(_) => Self::OutOfMemory,
            MmuError::Released => Self::Released,
        }
    }
}

impl From<MapError> for Verdict {
    fn from(error: MapError) -> Self {
        match error {
            MapError::BadRange { .. } => Self::BadRange,
            MapError::NoRoom { .. } => Self::NoRoom,
            MapError::Hole(_) => Self::Hole,
        }
    }
}

impl From<MigrateError> for Verdict {
    fn from(error: MigrateError) -> Self {
        match error {
            MigrateError::NotResident(_) => Self::NotResident,
            MigrateError::Huge(_) => Self::Huge,
            MigrateError::OutOfFrames(_) => Self::OutOfMemory,
        }
    }
}

impl Verdict {
    /// The verdict of an operation that answers nothing but success.
    pub(crate) fn of<T, E: Into<Self>>(result: Result<T, E>) -> Self {
        match result {
            Ok(_) => Self::Done,
            Err(error) => error.into(),
        }
    }
}
