//! Why the application gives the machine back to firmware.

use core::fmt;
use loader::LoadError;
use loader::modules::Name;
use uefi::Status;

/// Anything that ends it.
#[derive(Debug)]
pub(crate) enum UefiError {
    /// As in every loader.
    Load(LoadError),
    /// The volume that the application was started from cannot be read.
    Volume(Status),
    /// It has no directory \herald.
    Directory(Status),
    /// That has no file of this name.
    Missing(&'static str),
    /// A file cannot be read.
    File {
        /// Which.
        name: Name,
        /// What firmware says.
        status: Status,
    },
    /// A file ends before its length.
    Short {
        /// Which.
        name: Name,
        /// Its length in bytes.
        len: usize,
        /// Bytes read.
        read: usize,
    },
}

impl UefiError {
    /// What firmware is told.
    pub(crate) fn status(&self) -> Status {
        match self {
            Self::Load(LoadError::NoRoom { .. }) => Status::OUT_OF_RESOURCES,
            Self::Load(_) => Status::LOAD_ERROR,
            Self::Volume(status) | Self::Directory(status) | Self::File { status, .. } => *status,
            Self::Missing(_) => Status::NOT_FOUND,
            Self::Short { .. } => Status::END_OF_FILE,
        }
    }
}

impl From<LoadError> for UefiError {
    fn from(error: LoadError) -> Self {
        Self::Load(error)
    }
}

impl fmt::Display for UefiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Load(error) => error.fmt(f),
            Self::Volume(status) => {
                write!(f, "the volume that this loader was started from cannot be read: {status}")
            }
            Self::Directory(status) => {
                write!(f, "no directory \\herald on the volume that this loader was started from: {status}")
            }
            Self::Missing(name) => write!(f, "there is no file \\herald\\{name}"),
            Self::File { name, status } => write!(f, "\\herald\\{name} cannot be read: {status}"),
            Self::Short { name, len, read } => {
                write!(f, "\\herald\\{name} ends after {read} of {len} bytes")
            }
        }
    }
}
