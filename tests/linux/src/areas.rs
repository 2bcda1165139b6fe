//! Areas as both sides show them, reduced to what both must agree on: where, what is allowed, what is behind.

use addr::{PAGE_SHIFT, PAGE_SIZE};
use mm::{Protection, VmaFlags};
use std::fmt;

/// What is behind an area. Files are numbered; `first` is the page of the file that the area starts with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the fields are what their names say")]
pub enum Backed {
    /// Private memory.
    Anonymous,
    /// A file, copied where it is written.
    Private { file: usize, first: u64 },
    /// A file.
    Shared { file: usize, first: u64 },
}

impl Backed {
    /// The same, `pages` further on.
    const fn after(self, pages: u64) -> Self {
        match self {
            Self::Anonymous => self,
            Self::Private { file, first } => Self::Private { file, first: first + pages },
            Self::Shared { file, first } => Self::Shared { file, first: first + pages },
        }
    }
}

/// An area.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Area {
    /// First address.
    pub start: u64,
    /// First address behind.
    pub end: u64,
    /// What it allows.
    pub protection: Protection,
    /// What is behind it.
    pub backed: Backed,
    /// What else is said of it.
    pub flags: VmaFlags,
}

impl Area {
    /// The addresses of its pages.
    pub(crate) fn pages(&self) -> impl Iterator<Item = u64> + use<> {
        (self.start..self.end).step_by(PAGE_SIZE as usize)
    }

    fn goes_on_in(&self, next: &Self) -> bool {
        let pages = (self.end - self.start) >> PAGE_SHIFT;
        (self.end, self.protection, self.backed.after(pages), self.flags)
            == (next.start, next.protection, next.backed, next.flags)
    }
}

impl fmt::Debug for Area {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { start, end, protection, backed, flags } = self;
        write!(f, "{start:#x}..{end:#x} {protection:?} {backed:?} {flags:?}")
    }
}

/// The same areas with equal neighbours joined: which of them are one is each side's own choice.
pub(crate) fn joined(areas: &[Area]) -> Vec<Area> {
    let mut joined: Vec<Area> = Vec::new();
    for area in areas {
        match joined.last_mut() {
            Some(last) if last.goes_on_in(area) => last.end = area.end,
            _ => joined.push(*area),
        }
    }
    joined
}

/// The area that holds an address.
pub(crate) fn find(areas: &[Area], address: u64) -> Option<&Area> {
    areas.iter().find(|area| (area.start..area.end).contains(&address))
}
