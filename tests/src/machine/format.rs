//! The two table formats as the *hardware* reads them (SDM vol. 3A 4.5.4, vol. 3C 28.3.2), written down a second
//! time on purpose: a mistake in `paging`'s formats must not be repeated by its judge.

use addr::{PAGE_SHIFT, PageSize, Pfn};

const FRAME: u64 = 0x000f_ffff_ffff_f000;
/// Bit 10 of a host entry that names a page table: others name it, too. Bit 11: what is in it counts here.
pub(crate) const SHARED: u64 = 1 << 10;
pub(crate) const COUNTED: u64 = 1 << 11;
/// PS, in both formats.
const LARGE: u64 = 1 << 7;

/// Which tables, and what the CPU does to their A and D bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Format {
    /// Below CR3.
    Host,
    /// A guest's own, which may be as it likes.
    Guest,
    /// Below an EPT pointer with bit 6 set: A and D are bits 8 and 9.
    Ept,
    /// Below an EPT pointer with bit 6 clear: no A, no D.
    EptWithoutAccessedDirty,
}

/// A leaf as the CPU sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct RawLeaf {
    pub(crate) pfn: Pfn,
    pub(crate) size: PageSize,
    pub(crate) write: bool,
    pub(crate) accessed: bool,
    pub(crate) dirty: bool,
}

/// An entry as the CPU sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Raw {
    NotPresent,
    /// A table, and whether writes are allowed below it.
    Table(Pfn, bool),
    Leaf(RawLeaf),
    /// Reserved bits or forbidden combinations: a reserved-bit fault, an EPT misconfiguration.
    Malformed(u64),
}

/// log2 of what an entry of a table of this level (1 to 4) spans.
pub(crate) const fn shift(level: u8) -> u32 {
    PAGE_SHIFT + 9 * (level as u32 - 1)
}

pub(crate) const fn index(level: u8, address: u64) -> u16 {
    (address >> shift(level) & 511) as u16
}

pub(crate) const fn leaf_size(level: u8) -> Option<PageSize> {
    match level {
        1 => Some(PageSize::Size4K),
        2 => Some(PageSize::Size2M),
        3 => Some(PageSize::Size1G),
        _ => None,
    }
}

impl Format {
    /// The bit that a walk sets in every entry it uses.
    pub(crate) const fn accessed(self) -> u64 {
        match self {
            Self::Host | Self::Guest => 1 << 5,
            Self::Ept => 1 << 8,
            Self::EptWithoutAccessedDirty => 0,
        }
    }

    /// The bit that a write sets in the leaf it goes through.
    pub(crate) const fn dirty(self) -> u64 {
        match self {
            Self::Host | Self::Guest => 1 << 6,
            Self::Ept => 1 << 9,
            Self::EptWithoutAccessedDirty => 0,
        }
    }

    const fn present(self, bits: u64) -> bool {
        match self {
            Self::Host | Self::Guest => bits & 1 != 0,
            Self::Ept | Self::EptWithoutAccessedDirty => bits & 0b111 != 0,
        }
    }

    const fn malformed(self, level: u8, bits: u64) -> bool {
        let large = level > 1 && bits & LARGE != 0;
        let reserved = level == 4 && bits & LARGE != 0
            || large && bits & FRAME & ((1 << shift(level)) - 1) & !(1 << 12) != 0;
        match self {
            Self::Guest => reserved,
            // Only entries that name shared page tables lack R/W, and these do: else they count as wrong.
            Self::Host => {
                let shared = level == 2 && !large && bits & SHARED != 0;
                reserved || level > 1 && !large && (bits & 0b10 == 0) != shared
            }
            Self::Ept | Self::EptWithoutAccessedDirty => {
                // Write without read; a leaf whose memory type is not write-back; a table entry with bits 6:3.
                let leaf = level == 1 || large;
                let kind = bits >> 3 & 0b111;
                let wrong_kind =
                    if leaf { kind != 6 } else { bits >> 3 & 0b1111 != 0 || bits & 0b111 != 0b111 };
                reserved || bits & 0b11 == 0b10 || wrong_kind || bits & 0b1 == 0
            }
        }
    }

    /// Whether an entry that names a table allows writes below it (SDM vol. 3A 4.6.1: all levels have to).
    pub(crate) const fn table_allows_writes(self, bits: u64) -> bool {
        bits & 0b10 != 0
    }

    /// One of PAE's four pointers (SDM vol. 3A table 4-8), without caching bits.
    pub(crate) const fn pointer(bits: u64) -> Raw {
        match bits {
            bits if bits & 1 == 0 => Raw::NotPresent,
            bits if bits & !(FRAME | 1) != 0 => Raw::Malformed(bits),
            bits => Raw::Table(Pfn::new((bits & FRAME) >> PAGE_SHIFT), true),
        }
    }

    pub(crate) fn decode(self, level: u8, bits: u64) -> Raw {
        if !self.present(bits) {
            return Raw::NotPresent;
        }
        if self.malformed(level, bits) {
            return Raw::Malformed(bits);
        }
        let pfn = Pfn::new((bits & FRAME) >> PAGE_SHIFT);
        match leaf_size(level).filter(|_| level == 1 || bits & LARGE != 0) {
            None => Raw::Table(pfn, self.table_allows_writes(bits)),
            Some(size) => Raw::Leaf(RawLeaf {
                pfn,
                size,
                write: bits & 0b10 != 0,
                accessed: bits & self.accessed() != 0,
                dirty: bits & self.dirty() != 0,
            }),
        }
    }
}
