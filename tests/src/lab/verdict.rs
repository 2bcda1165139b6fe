//! Answers of the product, reduced to what a caller can tell apart: the model foretells them.

use mm::{FaultError, MapError, MigrateError};
use mmu::{DeviceTlbError, MmuError};

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
    /// Not with pages that others have, too.
    Shared,
    /// Only with shared mappings of files.
    NotShared,
    /// Only with private anonymous memory.
    NotAnonymous,
    /// Not with pages that are locked.
    Locked,
    /// The file is shorter.
    BeyondEnd,
    /// The swap device or the file's store failed.
    DeviceFailed,
    /// No frame left, for a page or for a table.
    OutOfMemory,
    /// The host address space is gone.
    Released,
    /// The page was not reclaimed, for this reason.
    Spared(mm::Spared),
    /// The guest's own tables do not allow the access.
    GuestFault,
    /// An access faulted for ever.
    Stuck,
}

impl From<FaultError> for Verdict {
    fn from(error: FaultError) -> Self {
        match error {
            FaultError::Unmapped(_) => Self::Unmapped,
            FaultError::Denied { .. } => Self::Denied,
            FaultError::OutOfFrames(_) | FaultError::OutOfTables(_) | FaultError::OverLimit { .. } => {
                Self::OutOfMemory
            }
            FaultError::BeyondEnd(_) => Self::BeyondEnd,
            FaultError::Store(_) | FaultError::Swap(_) => Self::DeviceFailed,
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

impl From<DeviceTlbError> for Verdict {
    fn from(error: DeviceTlbError) -> Self {
        match error {
            DeviceTlbError::Host { fault, .. } => fault.into(),
            DeviceTlbError::OutOfRange { .. } => Self::BadRange,
            DeviceTlbError::Released { .. } => Self::Released,
        }
    }
}

impl From<MapError> for Verdict {
    fn from(error: MapError) -> Self {
        match error {
            MapError::BadRange { .. } => Self::BadRange,
            MapError::NoRoom { .. } => Self::NoRoom,
            MapError::Hole(_) => Self::Hole,
            MapError::NotShared(_) => Self::NotShared,
            MapError::NotAnonymous(_) => Self::NotAnonymous,
            MapError::Locked(_) => Self::Locked,
            MapError::OutOfTables | MapError::TooManyAreas => Self::OutOfMemory,
            MapError::Fault(error) => error.into(),
            MapError::Store(_) => Self::DeviceFailed,
        }
    }
}

impl From<MigrateError> for Verdict {
    fn from(error: MigrateError) -> Self {
        match error {
            MigrateError::NotResident(_) => Self::NotResident,
            MigrateError::Huge(_) => Self::Huge,
            MigrateError::Shared(_) => Self::Shared,
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
