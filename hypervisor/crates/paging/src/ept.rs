//! EPT entries (SDM vol. 3C 28.3.2, tables 28-1 to 28-7).
//!
//! ```text
//!  63     52 51                    12 11 10  9  8  7  6  5..3  2  1  0
//!  (ignored)  frame                   .  .  D  A PS IPAT type  X  W  R
//! ```
//!
//! An entry with R, W and X clear is not present, whatever else it holds. Write without read is a
//! misconfiguration, so a leaf here always reads if it writes.

use crate::{Leaf, Level, Rights, TableEntry, View};
use addr::{PageSize, Pfn};

/// An entry of the tables that an EPT pointer names.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(transparent)]
pub struct EptEntry(u64);

impl EptEntry {
    /// R.
    pub const READ: u64 = 1 << 0;
    /// W.
    pub const WRITE: u64 = 1 << 1;
    /// X.
    pub const EXECUTE: u64 = 1 << 2;
    /// Memory type write-back (28.3.7.2), and "ignore PAT": guest RAM is RAM, whatever the guest's PAT says.
    pub const WRITE_BACK: u64 = 6 << 3 | 1 << 6;
    /// PS: a leaf above the lowest level.
    pub const HUGE: u64 = 1 << 7;
    /// A, set by the CPU where EPTP bit 6 enables it.
    pub const ACCESSED: u64 = 1 << 8;
    /// D, likewise.
    pub const DIRTY: u64 = 1 << 9;
    const RIGHTS: u64 = Self::READ | Self::WRITE | Self::EXECUTE;
    const FRAME: u64 = 0x000f_ffff_ffff_f000;

    /// The empty entry.
    pub const EMPTY: Self = Self(0);

    /// The same entry, not used since.
    #[must_use]
    pub const fn aged(self) -> Self {
        Self(self.0 & !Self::ACCESSED)
    }

    /// Whether the entry, of a table of this level, maps something.
    #[must_use]
    pub fn is_leaf(self, level: Level) -> bool {
        self.0 & Self::RIGHTS != 0 && (level == Level::Pt || self.0 & Self::HUGE != 0)
    }
}

const _: () = {
    assert!(EptEntry::FRAME & (EptEntry::RIGHTS | EptEntry::WRITE_BACK | EptEntry::HUGE) == 0);
    assert!(EptEntry::FRAME & (EptEntry::ACCESSED | EptEntry::DIRTY) == 0);
};

impl TableEntry for EptEntry {
    const ACCESSED: u64 = Self::ACCESSED;

    fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    fn bits(self) -> u64 {
        self.0
    }

    fn table(table: Pfn) -> Self {
        Self(table.base().as_u64() | Self::RIGHTS)
    }

    #[inline]
    fn next_table(self) -> Option<Pfn> {
        // Some right, and not huge: between 1 and all rights.
        let names_table = (self.0 & (Self::RIGHTS | Self::HUGE)).wrapping_sub(1) < Self::RIGHTS;
        names_table.then(|| Pfn::new((self.0 & Self::FRAME) >> addr::PAGE_SHIFT))
    }

    #[inline]
    fn frame_number(bits: u64) -> u64 {
        bits >> addr::PAGE_SHIFT
    }

    #[inline(always)]
    fn leaf(leaf: Leaf) -> Self {
        let mut bits = leaf.pfn.base().as_u64() | Self::WRITE_BACK;
        let Rights { read, write, execute } = leaf.rights;
        let flags = [
            (read || write, Self::READ),
            (write, Self::WRITE),
            (execute, Self::EXECUTE),
            (leaf.size != PageSize::Size4K, Self::HUGE),
            (leaf.accessed, Self::ACCESSED),
            (leaf.dirty, Self::DIRTY),
        ];
        for (set, flag) in flags {
            bits |= if set { flag } else { 0 };
        }
        Self(bits)
    }

    fn view(self, level: Level) -> View {
        if self.0 & Self::RIGHTS == 0 {
            return View::Empty;
        }
        let frame = Pfn::new((self.0 & Self::FRAME) >> addr::PAGE_SHIFT);
        if level > Level::Pt && self.0 & Self::HUGE == 0 {
            return View::Table(frame);
        }
        let Some(size) = level.leaf_size() else { return View::Empty };
        let rights = Rights {
            read: self.0 & Self::READ != 0,
            write: self.0 & Self::WRITE != 0,
            execute: self.0 & Self::EXECUTE != 0,
        };
        View::Leaf(Leaf {
            pfn: frame,
            size,
            rights,
            accessed: self.0 & Self::ACCESSED != 0,
            dirty: self.0 & Self::DIRTY != 0,
        })
    }
}
