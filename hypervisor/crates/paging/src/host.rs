//! Host entries: the format that CR3 points to (SDM vol. 3A 4.5.4, tables 4-15 to 4-20).
//!
//! ```text
//!  63   58  52 51                    12 11 10  9  8  7  6  5  4  3  2  1  0
//!  XD   (ignored)   frame               .  .  H  G PS  D  A  .  . US RW  P
//! ```
//!
//! H (bit 9, ignored by the CPU) is Herald's: the entry *holds* a frame although P is clear (PROT_NONE).
//! Entries of guest memory are supervisor entries: only Herald itself, at CPL 0, uses an hva.
//!
//! An entry that names a *shared* table has bit 10 set and R/W clear: what is below it is read-only, whatever the leaves say,
//! since rights are those that all levels have (SDM vol. 3A 4.6). Bit 11 tells of what is below whether this space counts it.
//!
//! ```text
//!  63                52 51                    12 11 10  9  8  7  6  5  4  3  2  1  0
//!   (ignored)           table                  C  S  .  .  0  .  A  .  . US  0  1
//! ```
//!
//! With P and H clear and bit 10 set an entry is a [`Note`]: no frame, but where the page went.
//!
//! ```text
//!  63                                12 11 10  9  8  7        1  0
//!  slot, or page offset in the file      K  1  0  .  .  ...   .  0      K: 0 swap slot, 1 file offset
//! ```

use crate::{Found, Leaf, Level, Note, Rights, TableEntry, View};
use addr::{PageSize, Pfn};
use mutants::{Mutant, intact};

/// An entry of the primary tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(transparent)]
pub struct HostEntry(u64);

impl HostEntry {
    /// P.
    pub const PRESENT: u64 = 1 << 0;
    /// R/W.
    pub const WRITABLE: u64 = 1 << 1;
    /// A, set by the CPU at the first use.
    pub const ACCESSED: u64 = 1 << 5;
    /// D, set by the CPU at the first write through the entry.
    pub const DIRTY: u64 = 1 << 6;
    /// PS: a leaf above the lowest level.
    pub const HUGE: u64 = 1 << 7;
    /// H: holds a frame.
    pub const HELD: u64 = 1 << 9;
    /// The entry is a note.
    const NOTE: u64 = 1 << 10;
    /// Of a note: a page offset in a file, else a swap slot.
    const NOTE_IS_OFFSET: u64 = 1 << 11;
    /// Names a table that other address spaces have, too.
    const SHARED: u64 = 1 << 10;
    /// Names a shared table whose entries are in this space's counts.
    const COUNTED: u64 = 1 << 11;
    /// XD.
    pub const NO_EXECUTE: u64 = 1 << 63;
    const FRAME: u64 = 0x000f_ffff_ffff_f000;

    /// The empty entry.
    pub const EMPTY: Self = Self(0);

    /// The same entry with other rights; A and D stay.
    #[must_use]
    pub const fn with_rights(self, rights: Rights) -> Self {
        self.with(HostRights::of(rights))
    }

    /// The same, for who has worked out before what rights are in bits.
    #[inline]
    #[must_use]
    pub const fn with(self, rights: HostRights) -> Self {
        let kept = self.0 & !(Self::PRESENT | Self::WRITABLE | Self::NO_EXECUTE);
        Self(kept | rights.0)
    }

    /// An entry that holds no frame, but says where the page went.
    ///
    /// # Panics
    /// If the number has more than 52 bits.
    #[must_use]
    pub const fn note(note: Note) -> Self {
        let (number, kind) = match note {
            Note::Swap(slot) => (slot, 0),
            Note::Offset(index) => (index, Self::NOTE_IS_OFFSET),
        };
        assert!(number < 1 << 52, "a note holds 52 bits");
        Self(number << addr::PAGE_SHIFT | Self::NOTE | kind)
    }

    /// The same entry, clean: the CPU sets D again at the next write that it walks for.
    #[must_use]
    pub const fn cleaned(self) -> Self {
        Self(self.0 & !Self::DIRTY)
    }

    /// An entry that names a shared table, whose entries another space counts.
    #[must_use]
    pub fn shared_table(table: Pfn) -> Self {
        Self(Self::table(table).0 & !Self::WRITABLE | Self::SHARED)
    }

    /// The same entry, where its table becomes a shared one: whoever has counted what is in it goes on.
    #[must_use]
    pub fn sharing(self) -> Self {
        let kept = if intact(Mutant::SharedTableStaysWritable) { !Self::WRITABLE } else { u64::MAX };
        Self(self.0 & kept | Self::SHARED | Self::COUNTED)
    }

    /// The entry that takes this one's place when the space gets a table of its own.
    #[must_use]
    pub fn owning(self, table: Pfn) -> Self {
        Self(Self::table(table).0 | self.0 & Self::ACCESSED)
    }

    /// Whether the entry, of a page table, holds a frame.
    #[must_use]
    pub const fn is_page(self) -> bool {
        self.0 & (Self::PRESENT | Self::HELD) != 0
    }

    /// The frame that the entry, of a page table, holds.
    #[must_use]
    pub const fn page(self) -> Pfn {
        Pfn::new((self.0 & Self::FRAME) >> addr::PAGE_SHIFT)
    }

    /// Whether this space counts what is in the shared table.
    #[must_use]
    pub const fn is_counted(self) -> bool {
        self.0 & Self::COUNTED != 0
    }

    /// The same entry, not used since.
    #[must_use]
    pub const fn aged(self) -> Self {
        Self(self.0 & !Self::ACCESSED)
    }
}

impl Found<HostEntry> {
    /// The leaf, if it is in a page table that is not shared: what most faults find, decoded for that level alone.
    #[inline(always)]
    #[must_use]
    pub fn page(&self) -> Option<Leaf> {
        if self.level != Level::Pt || self.shared || !self.entry.is_page() {
            return None;
        }
        match self.entry.view(Level::Pt) {
            View::Leaf(leaf) => Some(leaf),
            View::Empty | View::Table(_) | View::Note(_) => None,
        }
    }
}

impl HostEntry {
    const fn view_absent(self) -> View {
        let number = self.0 >> addr::PAGE_SHIFT;
        match (self.0 & Self::NOTE != 0, self.0 & Self::NOTE_IS_OFFSET != 0) {
            (false, _) => View::Empty,
            (true, true) => View::Note(Note::Offset(number)),
            (true, false) => View::Note(Note::Swap(number)),
        }
    }
}

/// Rights as an entry of a page table has them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HostRights(u64);

impl HostRights {
    /// Those.
    #[must_use]
    pub const fn of(rights: Rights) -> Self {
        Self(rights_bits(rights))
    }
}

const fn rights_bits(rights: Rights) -> u64 {
    let mut bits = HostEntry::HELD;
    if rights.read || rights.write || rights.execute {
        bits |= HostEntry::PRESENT;
    }
    if rights.write {
        bits |= HostEntry::WRITABLE;
    }
    if !rights.execute {
        bits |= HostEntry::NO_EXECUTE;
    }
    bits
}

const _: () = {
    assert!(HostEntry::FRAME & HostEntry::NO_EXECUTE == 0);
    assert!(HostEntry::FRAME & (HostEntry::HELD | HostEntry::HUGE | HostEntry::NOTE) == 0);
    assert!(HostEntry::NOTE & (HostEntry::HELD | HostEntry::PRESENT) == 0);
    assert!((HostEntry::FRAME | HostEntry::HUGE) & (HostEntry::SHARED | HostEntry::COUNTED) == 0);
    assert!((HostEntry::NOTE | HostEntry::NOTE_IS_OFFSET) & HostEntry::ACCESSED == 0);
};

impl TableEntry for HostEntry {
    const ACCESSED: u64 = Self::ACCESSED;

    fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    fn bits(self) -> u64 {
        self.0
    }

    fn table(table: Pfn) -> Self {
        // Rights are decided at the leaf: table entries allow everything but CPL 3, unless the table is shared.
        Self(table.base().as_u64() | Self::PRESENT | Self::WRITABLE)
    }

    #[inline]
    fn next_table(self) -> Option<Pfn> {
        let names_table = self.0 & (Self::PRESENT | Self::HUGE) == Self::PRESENT;
        names_table.then(|| Pfn::new((self.0 & Self::FRAME) >> addr::PAGE_SHIFT))
    }

    #[inline]
    fn is_shared_table(self) -> bool {
        self.next_table().is_some() && self.0 & Self::SHARED != 0
    }

    #[inline]
    fn frame_number(bits: u64) -> u64 {
        bits << 1 >> (addr::PAGE_SHIFT + 1)
    }

    #[inline]
    fn leaf(leaf: Leaf) -> Self {
        let mut bits = leaf.pfn.base().as_u64() | rights_bits(leaf.rights);
        if leaf.size != PageSize::Size4K {
            bits |= Self::HUGE;
        }
        if leaf.accessed {
            bits |= Self::ACCESSED;
        }
        if leaf.dirty {
            bits |= Self::DIRTY;
        }
        Self(bits)
    }

    #[inline]
    fn view(self, level: Level) -> View {
        let present = self.0 & Self::PRESENT != 0;
        let frame = Pfn::new((self.0 & Self::FRAME) >> addr::PAGE_SHIFT);
        if !present && self.0 & Self::HELD == 0 {
            return self.view_absent();
        }
        if level > Level::Pt && self.0 & Self::HUGE == 0 {
            return View::Table(frame);
        }
        let Some(size) = level.leaf_size() else { return View::Empty };
        let rights = Rights {
            read: present,
            write: present && self.0 & Self::WRITABLE != 0,
            execute: present && self.0 & Self::NO_EXECUTE == 0,
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
