//! Why something is no snapshot, or a page of memory cannot be had: in words that say what is wrong with the file.

use crate::VERSION;
use alloc::vec::Vec;
use core::fmt;

/// Why something is no snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpenError<E> {
    /// It cannot be read.
    Blocks(E),
    /// It starts otherwise.
    Magic([u8; 8]),
    /// Its writer has not come to the end.
    Unfinished,
    /// Another version of the format.
    Version(u32),
    /// The header is not what was written.
    Header {
        /// As stored.
        stored: u32,
        /// As computed.
        computed: u32,
    },
    /// It is shorter than it was.
    Truncated {
        /// Bytes that there are.
        bytes: u64,
        /// Bytes of the whole.
        whole: u64,
    },
    /// A section is not what was written.
    Section {
        /// Which one.
        name: &'static str,
        /// As stored.
        stored: u32,
        /// As computed.
        computed: u32,
    },
    /// What the header, or this section, says cannot be.
    Contents(&'static str),
    /// There is no memory for this section.
    TooLarge(&'static str),
    /// A part builds on one that is not there, or not as it was.
    Base {
        /// The number of the one that is missed, from 0.
        number: u32,
        /// What is there.
        found: Found,
    },
}

/// What lies where a part's base has its header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// No header.
    Nothing,
    /// One that is not what was written.
    Corrupt {
        /// As stored.
        stored: u32,
        /// As computed.
        computed: u32,
    },
    /// That of another part, by its checksum.
    Another {
        /// The part's that is there.
        found: u32,
        /// The base's.
        wanted: u32,
    },
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("is missing"),
            Self::Corrupt { stored, computed } => {
                write!(f, "is corrupt: the header's checksum is {computed:#010x}, it says {stored:#010x}")
            }
            Self::Another { found, wanted } => {
                write!(f, "is another one: {found:#010x} is there, {wanted:#010x} is wanted")
            }
        }
    }
}

impl<E: fmt::Display> fmt::Display for OpenError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blocks(error) => error.fmt(f),
            Self::Magic(magic) => write!(f, "no snapshot (starts with {magic:02x?})"),
            Self::Unfinished => f.write_str("a snapshot that was never finished"),
            Self::Version(version) => {
                write!(f, "a snapshot of version {version}, this build reads {VERSION}")
            }
            Self::Header { stored, computed } => {
                write!(f, "corrupt: the header's checksum is {computed:#010x}, it says {stored:#010x}")
            }
            Self::Truncated { bytes, whole } => write!(f, "truncated: {bytes} bytes of {whole} are there"),
            Self::Section { name, stored, computed } => {
                write!(
                    f,
                    "corrupt: the checksum of its {name} is {computed:#010x}, the header says {stored:#010x}"
                )
            }
            Self::Contents(name) => write!(f, "its {name} makes no sense"),
            Self::TooLarge(name) => write!(f, "there is no memory for its {name}"),
            Self::Base { number, found } => write!(f, "it builds on its instant {number}, which {found}"),
        }
    }
}

/// Bytes that a file's sections leave of the heap, for whoever else needs some.
const SPARE: usize = 256 << 10;

/// Room for so many, which a file asks for.
///
/// # Errors
/// [`OpenError::TooLarge`]: the heap does not have it, and some more.
pub(crate) fn room_for<T, E>(count: usize, name: &'static str) -> Result<Vec<T>, OpenError<E>> {
    let (mut room, mut spare) = (Vec::new(), Vec::<u8>::new());
    let found = room.try_reserve_exact(count).and_then(|()| spare.try_reserve_exact(SPARE));
    found.map(|()| room).map_err(|_| OpenError::TooLarge(name))
}

/// Why a page of memory cannot be had.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PageError<E> {
    /// It cannot be read.
    Blocks(E),
    /// It is not what was written.
    Page {
        /// As stored.
        stored: u32,
        /// As computed.
        computed: u32,
    },
    /// The checksums of its chunk are not what was written.
    Sums {
        /// The page of the file that has them.
        page: u64,
    },
}

impl<E: fmt::Display> fmt::Display for PageError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blocks(error) => error.fmt(f),
            Self::Page { stored, computed } => {
                write!(f, "corrupt: its checksum is {computed:#010x}, the snapshot says {stored:#010x}")
            }
            Self::Sums { page } => write!(f, "the checksums in page {page} of the file are corrupt"),
        }
    }
}
