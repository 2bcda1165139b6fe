//! The header of a part: the first sector of a file has that of its newest one. And the label of a disk that is to become a
//! snapshot.

use crate::layout::{MOST_BESIDE, MOST_MEMORY, MOST_PARTS, behind, map_bytes, pages_of};
use crate::working_set::AREA_PAGES;
use crate::{PAGE_BYTES, Page, empty_page, sum};
use alloc::boxed::Box;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// First bytes of a snapshot.
pub const MAGIC: [u8; 8] = *b"HERALDSN";
/// First bytes of a disk that waits for one.
pub const EMPTY: [u8; 8] = *b"HERALDSE";
/// Version of the format; raised with every change of it, or of what the sections hold.
pub const VERSION: u32 = 2;

/// Where a section lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Extent {
    /// Its first page.
    pub page: U64,
    /// Its length.
    pub bytes: U64,
    /// CRC-32 of its bytes.
    pub checksum: U32,
    /// Zero.
    pub reserved: U32,
}

impl Extent {
    /// A section of these bytes, from this page on.
    pub(crate) fn of(page: u64, bytes: &[u8]) -> Self {
        Self {
            page: page.into(),
            bytes: (bytes.len() as u64).into(),
            checksum: sum(bytes).into(),
            reserved: U32::ZERO,
        }
    }

    /// The page behind it; `None`: there is no such number.
    pub(crate) fn end(&self) -> Option<u64> {
        self.page.get().checked_add(pages_of(self.bytes.get()))
    }
}

/// What a part is, and where.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Header {
    /// [`MAGIC`]; [`EMPTY`] while the snapshot is not complete.
    pub magic: [u8; 8],
    /// [`VERSION`].
    pub version: U32,
    /// CRC-32 of the whole sector with this field zero.
    pub checksum: U32,
    /// Bytes of the file up to the end of this part.
    pub bytes: U64,
    /// Pages of the guest's memory.
    pub memory: U64,
    /// Those of them that this part stores.
    pub stored: U64,
    /// The sections: machine, board, page map.
    pub sections: [Extent; 3],
    /// First page of the room for the working set.
    pub working_set: U64,
    /// Where the part starts: 0 where it is the first. The page there has the header of the part before it, on which it builds.
    pub first: U64,
    /// That header's checksum; 0 where there is none.
    pub base: U32,
    /// Parts before this one.
    pub number: U32,
    /// Zero.
    pub reserved: [u8; 376],
}

const _: () = assert!(size_of::<Header>() == 512);

/// Whether a snapshot begins with these bytes, or a disk for one, whatever else may be wrong with it.
#[must_use]
pub fn is_labelled(magic: &[u8; 8]) -> bool {
    [MAGIC, EMPTY].contains(magic)
}

impl Header {
    /// A header without contents.
    pub(crate) fn blank() -> Self {
        Self {
            magic: EMPTY,
            version: VERSION.into(),
            checksum: U32::ZERO,
            bytes: U64::ZERO,
            memory: U64::ZERO,
            stored: U64::ZERO,
            sections: [Extent::of(0, &[]); 3],
            working_set: U64::ZERO,
            first: U64::ZERO,
            base: U32::ZERO,
            number: U32::ZERO,
            reserved: [0; 376],
        }
    }

    /// The label of a disk of so many bytes that is to become a snapshot.
    #[must_use]
    pub fn empty(bytes: u64) -> Self {
        Self { bytes: bytes.into(), ..Self::blank() }.sealed()
    }

    /// With the right checksum.
    #[must_use]
    pub fn sealed(self) -> Self {
        Self { checksum: self.computed_checksum().into(), ..self }
    }

    /// The checksum that belongs into the header.
    #[must_use]
    pub fn computed_checksum(&self) -> u32 {
        sum(Self { checksum: U32::ZERO, ..*self }.as_bytes())
    }

    /// As the first page.
    #[must_use]
    pub fn to_page(self) -> Box<Page> {
        let mut page = empty_page();
        page[..size_of::<Self>()].copy_from_slice(self.as_bytes());
        page
    }

    /// Whether another part finds room behind this one.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.number.get() + 1 < MOST_PARTS
    }

    /// The page behind the part.
    pub(crate) fn end(&self) -> u64 {
        self.bytes.get() / PAGE_BYTES as u64
    }

    /// Bytes of the page map: the first part's says what is stored, those of others also what is not their base's.
    fn map_bytes(&self) -> u64 {
        let maps = if self.number == 0 { 1 } else { 2 };
        maps * map_bytes(self.memory.get())
    }

    /// Whether all that it names lies behind the memory and inside the part, one behind the other, and no section is longer
    /// than it can be: they are read whole.
    pub(crate) fn is_sound(&self) -> bool {
        let (first, pages) = (self.first.get(), self.end());
        // Far below where an address in the file would overflow.
        let stored = self.stored <= self.memory && self.stored.get() <= pages && first <= pages;
        if !stored || self.memory.get() > MOST_MEMORY || self.number.get() >= MOST_PARTS {
            return false;
        }
        let [machine, board, map] = &self.sections;
        let beside = machine.bytes.get().saturating_add(board.bytes.get());
        let builds = self.number != 0;
        if beside > MOST_BESIDE || map.bytes.get() != self.map_bytes() || builds != (first != 0) {
            return false;
        }
        let mut next = behind(first, self.stored.get());
        for section in &self.sections {
            match section.end().filter(|_| section.page == next) {
                Some(end) => next = end,
                None => return false,
            }
        }
        self.working_set == next && next.checked_add(AREA_PAGES).is_some_and(|end| end <= pages)
    }

    /// Whether a part of this header builds on one of that.
    pub(crate) fn builds_on(&self, base: &Self) -> bool {
        base.number.get() + 1 == self.number.get()
            && base.end() == self.first.get()
            && base.memory == self.memory
    }
}
