//! Page sizes and page numbers.

use crate::address::{Gpa, Hpa};
use core::fmt;

/// log2 of the base page.
pub const PAGE_SHIFT: u32 = 12;
/// Bytes in a base page.
pub const PAGE_SIZE: u64 = 1 << PAGE_SHIFT;
/// First page number that no 52-bit physical address reaches.
const PAGE_NUMBER_END: u64 = 1 << (52 - PAGE_SHIFT);

/// The sizes that a leaf of a four-level table can map (SDM vol. 3A table 4-2).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum PageSize {
    /// 4 KiB, level 1.
    Size4K,
    /// 2 MiB, level 2.
    Size2M,
    /// 1 GiB, level 3.
    Size1G,
}

impl PageSize {
    /// log2 of the size in bytes.
    #[must_use]
    pub const fn shift(self) -> u32 {
        match self {
            Self::Size4K => 12,
            Self::Size2M => 21,
            Self::Size1G => 30,
        }
    }

    /// The size in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        1 << self.shift()
    }

    /// The size in base pages.
    #[must_use]
    pub const fn base_pages(self) -> u64 {
        1 << (self.shift() - PAGE_SHIFT)
    }
}

macro_rules! page_number {
    ($(#[$doc:meta])* $name:ident, $address:ident, $tag:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(transparent)]
        pub struct $name(u64);

        impl $name {
            /// Page number zero.
            pub const ZERO: Self = Self(0);

            /// The page number, or `None` where no physical address has it.
            #[must_use]
            pub const fn try_new(raw: u64) -> Option<Self> {
                if raw < PAGE_NUMBER_END { Some(Self(raw)) } else { None }
            }

            /// The page number of a value that the caller knows to be valid.
            ///
            /// # Panics
            /// If it is not.
            #[must_use]
            #[track_caller]
            pub const fn new(raw: u64) -> Self {
                assert!(raw < PAGE_NUMBER_END, concat!("not a valid ", stringify!($name)));
                Self(raw)
            }

            /// The number itself, in units of 4 KiB.
            #[must_use]
            pub const fn as_u64(self) -> u64 {
                self.0
            }

            /// The first byte of the page.
            #[must_use]
            pub const fn base(self) -> $address {
                $address::new(self.0 << PAGE_SHIFT)
            }

            /// The page `pages` further on, or `None` past the end of the space.
            #[must_use]
            pub const fn checked_add(self, pages: u64) -> Option<Self> {
                match self.0.checked_add(pages) {
                    Some(raw) => Self::try_new(raw),
                    None => None,
                }
            }

            /// The page `pages` further on.
            ///
            /// # Panics
            /// If that leaves the space.
            #[must_use]
            #[track_caller]
            pub const fn add(self, pages: u64) -> Self {
                Self::new(self.0 + pages)
            }

            /// Pages from `origin` up to `self`, or `None` where `self` lies below.
            #[must_use]
            pub const fn checked_offset_from(self, origin: Self) -> Option<u64> {
                self.0.checked_sub(origin.0)
            }

            /// The first base page of the page of this size that holds it.
            #[must_use]
            pub const fn align_down(self, size: PageSize) -> Self {
                Self(self.0 & !(size.base_pages() - 1))
            }

            /// Whether it is the first base page of a page of this size.
            #[must_use]
            pub const fn is_aligned(self, size: PageSize) -> bool {
                self.0 & (size.base_pages() - 1) == 0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($tag, ":{:#x}"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(self, f)
            }
        }

        impl From<$name> for u64 {
            fn from(page: $name) -> Self {
                page.0
            }
        }
    };
}

page_number! {
    /// Host frame number: a host physical address in units of 4 KiB.
    Pfn, Hpa, "pfn"
}
page_number! {
    /// Guest frame number: a guest physical address in units of 4 KiB.
    Gfn, Gpa, "gfn"
}
