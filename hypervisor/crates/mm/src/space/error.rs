//! What an operation on an address space can answer instead.

use crate::file::StoreError;
use crate::host::OutOfFrames;
use crate::swap::SlotError;
use crate::vma::{Access, MOST_AREAS, Protection};
use addr::{Hva, HvaRange, PageSize};
use core::fmt;
use paging::OutOfTables;

/// Why a fault was not resolved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultError {
    /// No area holds the address (SIGSEGV, SEGV_MAPERR).
    Unmapped(Hva),
    /// The area does not allow the access (SIGSEGV, SEGV_ACCERR).
    Denied {
        /// Where.
        address: Hva,
        /// What was tried.
        access: Access,
        /// What is allowed.
        protection: Protection,
    },
    /// No frame for the page.
    OutOfFrames(OutOfFrames),
    /// No frame for a table.
    OutOfTables(OutOfTables),
    /// The address space has all that it may have, and nothing of it can go.
    OverLimit {
        /// Its limit.
        frames: u64,
    },
    /// The page lies behind the end of its file (SIGBUS).
    BeyondEnd(Hva),
    /// The file's store failed (SIGBUS).
    Store(StoreError),
    /// The swap device failed: the page is lost (SIGBUS).
    Swap(SlotError),
}

impl fmt::Display for FaultError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unmapped(address) => write!(f, "{address} is not mapped"),
            Self::Denied { address, access, protection } => {
                write!(f, "{access:?} of {address} denied, the area allows {protection:?}")
            }
            Self::OutOfFrames(error) => error.fmt(f),
            Self::OutOfTables(error) => error.fmt(f),
            Self::OverLimit { frames } => {
                write!(f, "out of memory: nothing can go of the {frames} frames that it may have")
            }
            Self::BeyondEnd(address) => write!(f, "{address} lies behind the end of the file"),
            Self::Store(error) => error.fmt(f),
            Self::Swap(error) => error.fmt(f),
        }
    }
}

impl From<OutOfFrames> for FaultError {
    fn from(error: OutOfFrames) -> Self {
        Self::OutOfFrames(error)
    }
}

impl From<OutOfTables> for FaultError {
    fn from(error: OutOfTables) -> Self {
        Self::OutOfTables(error)
    }
}

/// Why mmap, munmap, mprotect or madvise was refused, or stopped half-way where Linux does too.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapError {
    /// Unaligned for the page size, too long, or empty where that is not nothing to do (EINVAL).
    BadRange {
        /// First address.
        start: Hva,
        /// Bytes.
        len: u64,
        /// Required alignment.
        align: PageSize,
    },
    /// No gap is large enough, or a fixed place does not fit into the lower half (ENOMEM).
    NoRoom {
        /// Bytes wanted.
        len: u64,
    },
    /// Part of the range has no area (ENOMEM; from mremap EFAULT, from remap_file_pages EINVAL). mprotect, mlock and
    /// munlock have changed what lies before the first hole, madvise everything that has an area.
    Hole(HvaRange),
    /// Only shared mappings of files can be rearranged, and not of execute-in-place ones (EINVAL).
    NotShared(HvaRange),
    /// Only private anonymous memory can be freed lazily, and nothing from the huge-page pools; that is neither made
    /// cold nor paged out (EINVAL).
    NotAnonymous(HvaRange),
    /// This part is locked in memory, and not given up (EINVAL). What lies before it was done.
    Locked(HvaRange),
    /// No frame for a table (ENOMEM).
    OutOfTables,
    /// The address space would have more than [`crate::MOST_AREAS`] (ENOMEM).
    TooManyAreas,
    /// A page could not be brought in (ENOMEM).
    Fault(FaultError),
    /// A page could not be written back (EIO).
    Store(StoreError),
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadRange { start, len, align } => {
                write!(f, "{len:#x} bytes at {start} is no range of whole {} KiB pages", align.bytes() >> 10)
            }
            Self::NoRoom { len } => write!(f, "no gap of {len:#x} bytes in the address space"),
            Self::Hole(range) => write!(f, "part of {range} is not mapped"),
            Self::NotShared(range) => write!(f, "{range} is no shared mapping of a file"),
            Self::NotAnonymous(range) => write!(f, "{range} is not private anonymous memory in base pages"),
            Self::Locked(range) => write!(f, "{range} is locked in memory"),
            Self::OutOfTables => OutOfTables.fmt(f),
            Self::TooManyAreas => write!(f, "more than {MOST_AREAS} areas in the address space"),
            Self::Fault(error) => error.fmt(f),
            Self::Store(error) => error.fmt(f),
        }
    }
}

/// Why a page was not migrated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MigrateError {
    /// No frame is mapped there.
    NotResident(Hva),
    /// Only pages move that nobody else has or works on.
    Shared(Hva),
    /// Only base pages move.
    Huge(PageSize),
    /// No frame to move to.
    OutOfFrames(OutOfFrames),
}

impl fmt::Display for MigrateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotResident(address) => write!(f, "no frame is mapped at {address}"),
            Self::Shared(address) => write!(f, "the page at {address} is shared, or in use"),
            Self::Huge(size) => write!(f, "a page of {} KiB is not migrated", size.bytes() >> 10),
            Self::OutOfFrames(error) => error.fmt(f),
        }
    }
}
