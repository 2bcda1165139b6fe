//! One step of a sequence, as data that prints and shrinks. Addresses and lengths are plain numbers, as a program
//! passes them: they may be wrong in every way.

use mm::{Advice, Protection};
use std::fmt;

/// A number as a program passes it: an address, a length, a value.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Raw(pub u64);

impl fmt::Debug for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Raw({:#x})", self.0)
    }
}

/// Addresses that a call names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Range {
    /// First address.
    pub start: Raw,
    /// Bytes.
    pub len: Raw,
}

/// What is to be mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the fields are what their names say")]
pub enum Backing {
    /// Private memory.
    Anonymous,
    /// Shared memory of its own (MAP_SHARED | MAP_ANONYMOUS).
    SharedAnonymous,
    /// A file from a page on, copied where it is written.
    Private { file: usize, index: u64 },
    /// A file from a page on.
    Shared { file: usize, index: u64 },
}

/// Where mmap is to put an area.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// There (MAP_FIXED).
    Fixed(Raw),
    /// Wherever there is room. Linux is asked for the place that `mm` has chosen.
    Anywhere,
}

/// Where mremap is to put an area.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum To {
    /// It stays.
    InPlace,
    /// It stays if it can (MREMAP_MAYMOVE). Linux is asked for the place that `mm` has chosen.
    MayMove,
    /// There (MREMAP_FIXED).
    Fixed(Raw),
}

/// Advice, with the one that `mm` has a call of its own for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Advised {
    /// `MADV_DONTNEED`.
    Discard,
    /// Any other.
    Other(Advice),
}

/// What Herald does aside, which no program can tell: Linux is not asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Aside {
    /// The page goes to its store or to swap.
    PageOut,
    /// The page gets another frame.
    Migrate,
    /// The pages around become a huge one.
    Collapse,
    /// The page counts as old.
    Age,
}

/// What happens in one space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the fields are what their names say")]
pub enum What {
    Mmap { place: Place, len: Raw, protection: Protection, backing: Backing },
    Munmap(Range),
    Mprotect(Range, Protection),
    Madvise(Range, Advised),
    Mlock(Range),
    Munlock(Range),
    Msync(Range),
    Mremap { range: Range, new_len: Raw, to: To },
    Load(Raw),
    Store(Raw, Raw),
    Aside(Raw, Aside),
}

/// A step. A space is named by its place among those that live.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the fields are what their names say")]
pub enum Step {
    Spawn,
    Fork {
        space: usize,
    },
    Exit {
        space: usize,
    },
    In {
        space: usize,
        what: What,
    },
    /// A file gets so many pages.
    Truncate {
        file: usize,
        len: u64,
    },
    /// Herald writes the file with a store back. Linux is not asked.
    WriteBack,
}
