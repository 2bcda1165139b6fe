//! Byte addresses. Physical ones have at most 52 bits (SDM vol. 3A 4.1.4, MAXPHYADDR); linear ones
//! are canonical for four-level paging: bits 63:47 equal (SDM vol. 1 3.3.7.1).

use crate::page::{Gfn, PageSize, Pfn};
use core::fmt;

/// Bits in the widest physical address.
const PHYSICAL_BITS: u32 = 52;

const fn is_physical(raw: u64) -> bool {
    raw >> PHYSICAL_BITS == 0
}

const fn is_canonical(raw: u64) -> bool {
    let sign = (raw as i64) >> 47;
    sign == 0 || sign == -1
}

macro_rules! address {
    ($(#[$doc:meta])* $name:ident, $valid:ident, $tag:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(transparent)]
        pub struct $name(u64);

        impl $name {
            /// The lowest address of the space.
            pub const ZERO: Self = Self(0);

            /// The address, or `None` where the value is no address of this space.
            #[must_use]
            pub const fn try_new(raw: u64) -> Option<Self> {
                if $valid(raw) { Some(Self(raw)) } else { None }
            }

            /// The address of a value that the caller knows to be valid.
            ///
            /// # Panics
            /// If it is not: use [`Self::try_new`] for anything that a guest can influence.
            #[must_use]
            #[track_caller]
            pub const fn new(raw: u64) -> Self {
                assert!($valid(raw), concat!("not a valid ", stringify!($name)));
                Self(raw)
            }

            /// The number itself, in bytes.
            #[must_use]
            pub const fn as_u64(self) -> u64 {
                self.0
            }

            /// The address `bytes` further on, or `None` past the end of the space.
            #[must_use]
            pub const fn checked_add(self, bytes: u64) -> Option<Self> {
                match self.0.checked_add(bytes) {
                    Some(raw) => Self::try_new(raw),
                    None => None,
                }
            }

            /// The address `bytes` further on.
            ///
            /// # Panics
            /// If that leaves the space.
            #[must_use]
            #[track_caller]
            pub const fn add(self, bytes: u64) -> Self {
                match self.checked_add(bytes) {
                    Some(address) => address,
                    None => panic!(concat!(stringify!($name), " out of its space")),
                }
            }

            /// Bytes from `origin` up to `self`, or `None` where `self` lies below.
            #[must_use]
            pub const fn checked_offset_from(self, origin: Self) -> Option<u64> {
                self.0.checked_sub(origin.0)
            }

            /// The start of the page of this size that holds the address.
            #[must_use]
            pub const fn align_down(self, size: PageSize) -> Self {
                Self(self.0 & !(size.bytes() - 1))
            }

            /// The first page boundary at or above the address, or `None` past the end of the space.
            #[must_use]
            pub const fn align_up(self, size: PageSize) -> Option<Self> {
                match self.0.checked_add(size.bytes() - 1) {
                    Some(raw) => Self::try_new(raw & !(size.bytes() - 1)),
                    None => None,
                }
            }

            /// Whether the address is the first of a page of this size.
            #[must_use]
            pub const fn is_aligned(self, size: PageSize) -> bool {
                self.0 & (size.bytes() - 1) == 0
            }

            /// Bytes from the start of the page of this size.
            #[must_use]
            pub const fn offset_in(self, size: PageSize) -> u64 {
                self.0 & (size.bytes() - 1)
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
            fn from(address: $name) -> Self {
                address.0
            }
        }
    };
}

address! {
    /// Host physical address: what the memory bus sees.
    Hpa, is_physical, "hpa"
}
address! {
    /// Host virtual address: linear, translated by the tables of a host address space.
    Hva, is_canonical, "hva"
}
address! {
    /// Guest physical address: what a guest believes to be physical.
    Gpa, is_physical, "gpa"
}
address! {
    /// Guest virtual address: linear, translated by the guest's own tables.
    Gva, is_canonical, "gva"
}

impl Hpa {
    /// The frame that holds the address.
    #[must_use]
    pub const fn pfn(self) -> Pfn {
        Pfn::new(self.0 >> crate::PAGE_SHIFT)
    }
}

impl Gpa {
    /// The guest frame that holds the address.
    #[must_use]
    pub const fn gfn(self) -> Gfn {
        Gfn::new(self.0 >> crate::PAGE_SHIFT)
    }
}
