//! Reading: the header and the sections at once, pages of memory when they are asked for.

use crate::error::room_for;
use crate::layout::{CHUNK, pages_of};
use crate::map::first_of;
use crate::part::Part;
use crate::working_set::AREA_PAGES;
use crate::{
    EMPTY, Extent, Found, Header, MAGIC, Machine, OpenError, PAGE_BYTES, Page, PageError, PageMap, VERSION,
    WorkingSet, empty_page, sum,
};
use alloc::boxed::Box;
use alloc::vec::Vec;
use mutants::{Mutant, intact};
use zerocopy::FromBytes;

/// Where a snapshot comes from.
pub trait Blocks {
    /// Why it does not.
    type Error;

    /// Bytes that there are.
    fn bytes(&self) -> u64;

    /// Reads a page.
    ///
    /// # Errors
    /// The source's own.
    fn read(&self, page: u64, bytes: &mut Page) -> Result<(), Self::Error>;
}

/// A snapshot, but for its memory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Snapshot {
    /// The header of the newest part.
    pub header: Header,
    /// What the guest ran on.
    pub machine: Machine,
    /// Its devices, as whoever wrote them encodes them.
    pub board: Vec<u8>,
    /// The parts, the newest first, the one that has all memory last.
    parts: Vec<Part>,
}

/// Where a page of memory is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// The page of the file.
    pub page: u64,
    /// That of its chunk's checksums.
    pub sums: u64,
    /// The number of its checksum there.
    pub(crate) slot: usize,
}

/// The checksums of a chunk.
pub type Sums = Box<Page>;

impl Snapshot {
    /// Reads all but memory.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open<B: Blocks>(blocks: &B) -> Result<Self, OpenError<B::Error>> {
        let header = read_header(blocks)?;
        let [machine, board, _] = &header.sections;
        let machine = read_section(blocks, machine, "machine")?;
        let board = read_section(blocks, board, "board")?;
        let machine: Machine = postcard::from_bytes(&machine).map_err(|_| OpenError::Contents("machine"))?;
        if machine.pages() != Some(header.memory.get()) || machine.processors.is_empty() {
            return Err(OpenError::Contents("machine"));
        }
        let mut parts = Vec::new();
        let mut next = Some(header);
        // Each part starts where the one before it ends, so that there is an end.
        while let Some(header) = next {
            let bytes = read_section(blocks, &header.sections[2], PageMap::NAME)?;
            parts.push(Part::new(&header, &bytes)?);
            next = if header.number == 0 { None } else { Some(read_base(blocks, &header)?) };
        }
        Ok(Self { header, machine, board, parts })
    }

    /// How many instants the file has.
    #[must_use]
    pub fn instants(&self) -> usize {
        self.parts.len()
    }

    /// Where page `index` of memory is stored; `None`: nowhere, since it holds zeros.
    #[must_use]
    pub fn place(&self, index: u64) -> Option<Place> {
        let newest = self.parts.iter().find_map(|part| part.find(index));
        let oldest = || self.parts.iter().rev().find_map(|part| part.find(index));
        if intact(Mutant::RestoresOlderPage) { newest? } else { oldest()? }
    }

    /// The first page of memory from `index` on that is stored.
    #[must_use]
    pub fn next_stored(&self, index: u64) -> Option<u64> {
        first_of(index, |word| self.parts.iter().rev().try_fold(0, |before, part| part.apply(word, before)))
    }

    /// Reads the checksums of the chunk that a page is in.
    ///
    /// # Errors
    /// [`PageError`].
    pub fn sums<B: Blocks>(&self, blocks: &B, place: &Place) -> Result<Sums, PageError<B::Error>> {
        let mut sums = empty_page();
        blocks.read(place.sums, &mut sums).map_err(PageError::Blocks)?;
        if word(&sums, CHUNK as usize) == sum(&sums[..CHUNK as usize * 4]) {
            Ok(sums)
        } else {
            Err(PageError::Sums { page: place.sums })
        }
    }

    /// Pages of the file that are the working set's, from the first on.
    #[must_use]
    pub fn working_set_at(&self) -> u64 {
        self.header.working_set.get()
    }

    /// Reads the working set that was recorded last; empty where there is none.
    pub fn working_set<B: Blocks>(&self, blocks: &B) -> WorkingSet {
        let (mut bytes, mut part) = (Vec::new(), empty_page());
        for page in 0..AREA_PAGES {
            if blocks.read(self.working_set_at() + page, &mut part).is_err() {
                return WorkingSet::default();
            }
            bytes.extend_from_slice(&*part);
        }
        WorkingSet::decode(&bytes)
    }
}

impl Place {
    /// Checks the bytes of the page.
    ///
    /// # Errors
    /// [`PageError::Page`].
    pub fn check<E>(&self, sums: &Page, bytes: &Page) -> Result<(), PageError<E>> {
        let (stored, computed) = (word(sums, self.slot), sum(bytes));
        if stored == computed { Ok(()) } else { Err(PageError::Page { stored, computed }) }
    }
}

fn word(sums: &Page, slot: usize) -> u32 {
    let bytes = sums.get(slot * 4..slot * 4 + 4).and_then(|bytes| bytes.try_into().ok());
    u32::from_le_bytes(bytes.unwrap_or_default())
}

/// What may be a header.
fn read_sector<B: Blocks>(blocks: &B, page: u64) -> Result<Header, OpenError<B::Error>> {
    let mut bytes = empty_page();
    blocks.read(page, &mut bytes).map_err(OpenError::Blocks)?;
    let read = Header::read_from_prefix(&bytes[..]);
    read.map(|(header, _)| header).map_err(|_| OpenError::Contents("header"))
}

fn read_header<B: Blocks>(blocks: &B) -> Result<Header, OpenError<B::Error>> {
    let bytes = blocks.bytes();
    if bytes < PAGE_BYTES as u64 {
        return Err(OpenError::Truncated { bytes, whole: PAGE_BYTES as u64 });
    }
    let header = read_sector(blocks, 0)?;
    match header.magic {
        MAGIC => {}
        EMPTY => return Err(OpenError::Unfinished),
        magic => return Err(OpenError::Magic(magic)),
    }
    if header.version != VERSION {
        return Err(OpenError::Version(header.version.get()));
    }
    let (stored, computed) = (header.checksum.get(), header.computed_checksum());
    if stored != computed {
        return Err(OpenError::Header { stored, computed });
    }
    if bytes < header.bytes.get() {
        return Err(OpenError::Truncated { bytes, whole: header.bytes.get() });
    }
    if header.is_sound() { Ok(header) } else { Err(OpenError::Contents("header")) }
}

/// The header of the part that this one builds on.
fn read_base<B: Blocks>(blocks: &B, header: &Header) -> Result<Header, OpenError<B::Error>> {
    let number = header.number.get() - 1;
    let refuse = |found| Err(OpenError::Base { number, found });
    let base = read_sector(blocks, header.first.get())?;
    if base.magic != MAGIC || base.version != VERSION {
        return refuse(Found::Nothing);
    }
    let (stored, computed) = (base.checksum.get(), base.computed_checksum());
    if stored != computed {
        return refuse(Found::Corrupt { stored, computed });
    }
    if stored != header.base.get() || !header.builds_on(&base) {
        return refuse(Found::Another { found: stored, wanted: header.base.get() });
    }
    if base.is_sound() { Ok(base) } else { Err(OpenError::Contents("base's header")) }
}

fn read_section<B: Blocks>(
    blocks: &B,
    extent: &Extent,
    name: &'static str,
) -> Result<Vec<u8>, OpenError<B::Error>> {
    let len = extent.bytes.get();
    let mut bytes = room_for(pages_of(len) as usize * PAGE_BYTES, name)?;
    let mut part = empty_page();
    for page in 0..pages_of(len) {
        blocks.read(extent.page.get() + page, &mut part).map_err(OpenError::Blocks)?;
        bytes.extend_from_slice(&*part);
    }
    bytes.truncate(len as usize);
    let (stored, computed) = (extent.checksum.get(), sum(&bytes));
    if stored == computed { Ok(bytes) } else { Err(OpenError::Section { name, stored, computed }) }
}
