//! Half-open ranges. A `Span` that exists satisfies `start <= end`.

use crate::{Gfn, Gpa, Hpa, Hva, Pfn};
use core::fmt;

/// A half-open range `start..end` of one address space.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Span<T> {
    start: T,
    end: T,
}

/// Host virtual addresses.
pub type HvaRange = Span<Hva>;
/// Host physical addresses.
pub type HpaRange = Span<Hpa>;
/// Guest physical addresses.
pub type GpaRange = Span<Gpa>;
/// Guest frame numbers.
pub type GfnRange = Span<Gfn>;
/// Host frame numbers.
pub type PfnRange = Span<Pfn>;

impl<T: Copy + Ord + Into<u64>> Span<T> {
    /// The range, or `None` where `end < start`.
    #[must_use]
    pub fn try_new(start: T, end: T) -> Option<Self> {
        (start <= end).then_some(Self { start, end })
    }

    /// The range.
    ///
    /// # Panics
    /// If `end < start`.
    #[must_use]
    #[track_caller]
    pub fn new(start: T, end: T) -> Self {
        assert!(start <= end, "range ends before it starts");
        Self { start, end }
    }

    /// The first element.
    #[must_use]
    pub fn start(&self) -> T {
        self.start
    }

    /// The first element past the range.
    #[must_use]
    pub fn end(&self) -> T {
        self.end
    }

    /// Elements in the range: bytes for addresses, base pages for page numbers.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.end.into() - self.start.into()
    }

    /// Whether nothing is in the range.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Whether `item` lies in the range.
    #[must_use]
    pub fn contains(&self, item: T) -> bool {
        self.start <= item && item < self.end
    }

    /// Whether every element of `other` lies in the range.
    #[must_use]
    pub fn contains_span(&self, other: &Self) -> bool {
        other.is_empty() || (self.start <= other.start && other.end <= self.end)
    }

    /// Whether some element lies in both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.intersection(other).is_some()
    }

    /// The part that lies in both, or `None` where that is empty.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Option<Self> {
        let start = self.start.max(other.start);
        let end = self.end.min(other.end);
        (start < end).then_some(Self { start, end })
    }

    /// The smallest range that holds both.
    #[must_use]
    pub fn hull(&self, other: &Self) -> Self {
        Self { start: self.start.min(other.start), end: self.end.max(other.end) }
    }
}

impl<T: fmt::Debug> fmt::Debug for Span<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}..{:?}", self.start, self.end)
    }
}

impl<T: fmt::Debug> fmt::Display for Span<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

macro_rules! page_steps {
    ($address:ident) => {
        impl Span<$address> {
            /// The range of `bytes` bytes from `start`, or `None` past the end of the space.
            #[must_use]
            pub fn sized(start: $address, bytes: u64) -> Option<Self> {
                Self::try_new(start, start.checked_add(bytes)?)
            }

            /// Whether both ends are page boundaries of this size.
            #[must_use]
            pub fn is_aligned(&self, size: crate::PageSize) -> bool {
                self.start.is_aligned(size) && self.end.is_aligned(size)
            }

            /// The first addresses of the base pages that the range touches.
            pub fn pages(&self) -> impl Iterator<Item = $address> + use<> {
                let first = self.start.align_down(crate::PageSize::Size4K).as_u64();
                (first..self.end.as_u64()).step_by(crate::PAGE_SIZE as usize).map($address::new)
            }
        }
    };
}

page_steps!(Hva);
page_steps!(Hpa);
page_steps!(Gpa);

macro_rules! number_steps {
    ($page:ident) => {
        impl Span<$page> {
            /// The range of `pages` base pages from `start`, or `None` past the end of the space.
            #[must_use]
            pub fn sized(start: $page, pages: u64) -> Option<Self> {
                Self::try_new(start, start.checked_add(pages)?)
            }

            /// The page numbers in the range, in order.
            pub fn iter(&self) -> impl Iterator<Item = $page> + use<> {
                (self.start.as_u64()..self.end.as_u64()).map($page::new)
            }
        }
    };
}

number_steps!(Gfn);
number_steps!(Pfn);
