//! What an operation answers, in the terms that a program knows: a number, or an errno.
//!
//! The errno of each error of `mm` is what its documentation promises (`mm::MapError`).

use mm::{FaultError, MapError};
use std::fmt;

/// Why a call was refused.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Errno {
    /// Bad arguments.
    pub const EINVAL: Self = Self(libc::EINVAL);
    /// Not mapped, or no memory.
    pub const ENOMEM: Self = Self(libc::ENOMEM);
    /// Bad address: where a program would get a signal.
    pub const EFAULT: Self = Self(libc::EFAULT);
    /// The device failed.
    pub const EIO: Self = Self(libc::EIO);
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::EINVAL => f.write_str("EINVAL"),
            Self::ENOMEM => f.write_str("ENOMEM"),
            Self::EFAULT => f.write_str("EFAULT"),
            Self::EIO => f.write_str("EIO"),
            Self(other) => write!(f, "{}", std::io::Error::from_raw_os_error(other)),
        }
    }
}

/// What an operation answers: an address, what a load has found, or nothing in particular.
pub type Answer = Result<u64, Errno>;

/// The errno of what a call on areas answers; mremap has its own for a hole.
pub(crate) fn errno_of(error: MapError) -> Errno {
    match error {
        MapError::BadRange { .. }
        | MapError::NotShared(_)
        | MapError::NotAnonymous(_)
        | MapError::Locked(_) => Errno::EINVAL,
        MapError::NoRoom { .. }
        | MapError::Hole(_)
        | MapError::OutOfTables
        | MapError::TooManyAreas
        | MapError::Fault(_) => Errno::ENOMEM,
        MapError::Store(_) => Errno::EIO,
    }
}

/// The same for mremap.
pub(crate) fn errno_of_mremap(error: MapError) -> Errno {
    if matches!(error, MapError::Hole(_)) { Errno::EFAULT } else { errno_of(error) }
}

/// The errno of an access that the kernel makes for a program. Short of memory the machine must not be.
pub(crate) fn errno_of_fault(error: FaultError) -> Errno {
    match error {
        FaultError::Unmapped(_) | FaultError::Denied { .. } | FaultError::BeyondEnd(_) => Errno::EFAULT,
        FaultError::OutOfFrames(_) | FaultError::OutOfTables(_) | FaultError::OverLimit { .. } => {
            Errno::ENOMEM
        }
        FaultError::Store(_) | FaultError::Swap(_) => Errno::EIO,
    }
}
