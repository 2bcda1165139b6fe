//! Entries of shadow tables: what CR3 of a guest without EPT points to (SDM vol. 3A tables 4-8 to 4-11, 4-15 to 4-20). The
//! same for four levels and for PAE, but for the four pointers at PAE's top.
//!
//! ```text
//!  63   62      52 51                    12 11 ..  8  7  6  5  4  3  2  1  0
//!  XD   (0)         frame                    0     PS .  D  A  0  0  US RW  P      write-back by PAT's first entry
//! ```
//!
//! PS is set where an entry of a directory maps 2 MiB.
//!
//! D is set from the start, and A, too, where a fault wants the page: then the processor never writes an entry. What is derived beside
//! gets A when it is used.

use addr::{PageSize, Pfn};

const PRESENT: u64 = 1 << 0;
pub(crate) const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
pub(crate) const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
const FRAME: u64 = 0x000f_ffff_ffff_f000;

/// What an entry allows by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Rights {
    pub(super) write: bool,
    pub(super) user: bool,
    pub(super) execute: bool,
}

impl Rights {
    pub(super) const ALL: Self = Self { write: true, user: true, execute: true };

    const fn encode(self) -> u64 {
        let mut bits = 0;
        if self.write {
            bits |= WRITABLE;
        }
        if self.user {
            bits |= USER;
        }
        if !self.execute {
            bits |= NO_EXECUTE;
        }
        bits
    }

    const fn decode(bits: u64) -> Self {
        Self { write: bits & WRITABLE != 0, user: bits & USER != 0, execute: bits & NO_EXECUTE == 0 }
    }

    /// Whether an entry with these bits allows no more.
    pub(super) const fn covers(self, bits: u64) -> bool {
        let Self { write, user, execute } = Self::decode(bits);
        (self.write || !write) && (self.user || !user) && (self.execute || !execute)
    }
}

/// What a leaf of a shadow maps: a page that is as large as the guest's and the host's, or smaller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ShadowLeaf {
    /// The first frame.
    pub pfn: Pfn,
    /// 4 KiB or 2 MiB.
    pub size: PageSize,
    /// Stores.
    pub write: bool,
    /// Accesses with the rights of CPL 3.
    pub user: bool,
    /// Fetches.
    pub execute: bool,
}

impl ShadowLeaf {
    pub(super) const fn new((pfn, size): (Pfn, PageSize), Rights { write, user, execute }: Rights) -> Self {
        Self { pfn, size, write, user, execute }
    }

    pub(crate) const fn encode(self) -> u64 {
        let Self { pfn, size, write, user, execute } = self;
        let large = if matches!(size, PageSize::Size4K) { 0 } else { LARGE };
        pfn.base().as_u64() | large | PRESENT | ACCESSED | DIRTY | Rights { write, user, execute }.encode()
    }

    /// The same, not used yet.
    pub(super) const fn encode_unused(self) -> u64 {
        self.encode() & !ACCESSED
    }

    pub(crate) const fn decode(bits: u64) -> Option<Self> {
        if bits & PRESENT == 0 {
            return None;
        }
        let size = if bits & LARGE == 0 { PageSize::Size4K } else { PageSize::Size2M };
        let pfn = Pfn::new((bits & FRAME) >> addr::PAGE_SHIFT);
        Some(Self::new((pfn, size), Rights::decode(bits)))
    }
}

/// Whether a leaf lets a processor write.
pub(super) const fn is_writable(bits: u64) -> bool {
    bits & WRITABLE != 0
}

/// Whether a processor has used a leaf, or a fault has wanted it.
pub(super) const fn is_used(bits: u64) -> bool {
    bits & ACCESSED != 0
}

/// An entry that names a table.
pub(super) const fn table(table: Pfn, rights: Rights) -> u64 {
    table.base().as_u64() | PRESENT | ACCESSED | rights.encode()
}

/// One of PAE's four pointers: it has no rights, and no A.
pub(super) const fn pointer(directory: Pfn) -> u64 {
    directory.base().as_u64() | PRESENT
}

const _: () = assert!(FRAME & (NO_EXECUTE | LARGE | DIRTY | ACCESSED | USER | WRITABLE | PRESENT) == 0);
