//! Levels of a four-level hierarchy (SDM vol. 3A 4.5.4; EPT: vol. 3C 28.3.2). Each indexes nine bits.

use addr::PageSize;

/// Entries in a table.
pub(crate) const ENTRIES: u16 = 512;

/// The level of a table, by what its entries are.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Level {
    /// Entries map 4 KiB.
    Pt = 1,
    /// Entries map 2 MiB or name a page table.
    Pd = 2,
    /// Entries map 1 GiB or name a page directory.
    Pdpt = 3,
    /// Entries name a page-directory-pointer table; the root.
    Pml4 = 4,
}

impl Level {
    /// The root's level.
    pub const ROOT: Self = Self::Pml4;

    /// log2 of the bytes that one entry spans.
    #[must_use]
    pub const fn shift(self) -> u32 {
        12 + 9 * (self as u32 - 1)
    }

    /// Bytes that one entry spans.
    #[must_use]
    pub const fn span(self) -> u64 {
        1 << self.shift()
    }

    /// The entry that translates this address, in a table of this level.
    #[must_use]
    pub const fn index(self, address: u64) -> u16 {
        ((address >> self.shift()) & (ENTRIES as u64 - 1)) as u16
    }

    /// The level of the tables that this level's entries name.
    #[must_use]
    pub const fn below(self) -> Option<Self> {
        match self {
            Self::Pt => None,
            Self::Pd => Some(Self::Pt),
            Self::Pdpt => Some(Self::Pd),
            Self::Pml4 => Some(Self::Pdpt),
        }
    }

    /// The size that a leaf at this level maps.
    #[must_use]
    pub const fn leaf_size(self) -> Option<PageSize> {
        match self {
            Self::Pt => Some(PageSize::Size4K),
            Self::Pd => Some(PageSize::Size2M),
            Self::Pdpt => Some(PageSize::Size1G),
            Self::Pml4 => None,
        }
    }

    /// The level whose leaves map this size.
    #[must_use]
    pub const fn of_leaf(size: PageSize) -> Self {
        match size {
            PageSize::Size4K => Self::Pt,
            PageSize::Size2M => Self::Pd,
            PageSize::Size1G => Self::Pdpt,
        }
    }
}
