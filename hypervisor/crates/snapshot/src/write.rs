//! Writing a part: memory first, page by page; then what belongs to it; the file's header last. Whatever ends before leaves a
//! disk that holds what it held before.
//!
//! ```text
//!   chain: pages that changed ─► writer, behind the newest part ─► flush ─► header ─► flush ─► none has changed
//!             ▲                                └─ fails: they have still changed ─┐
//!             └────────── what is written meanwhile is in the next harvest ───────┘
//! ```

use crate::layout::{CHUNK, behind, padded_bytes, stored_at, sums_at};
use crate::working_set::AREA_PAGES;
use crate::{Extent, Header, MAGIC, Machine, PAGE_BYTES, Page, PageMap, empty_page, sum};
use alloc::boxed::Box;
use alloc::vec::Vec;
use mutants::{Mutant, intact};

/// Where a snapshot goes.
pub trait Sink {
    /// Why it does not.
    type Error;

    /// Writes a page of the file. Most of them come in order.
    ///
    /// # Errors
    /// The sink's own.
    fn write(&mut self, page: u64, bytes: &Page) -> Result<(), Self::Error>;

    /// All that was written before is to be there before what is written later.
    ///
    /// # Errors
    /// The sink's own.
    fn flush(&mut self) -> Result<(), Self::Error>;
}

/// What of a guest's memory is on a disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chain {
    memory: u64,
    /// The header of the newest part.
    newest: Option<Header>,
    /// Pages that may not be as there.
    changed: PageMap,
}

impl Chain {
    /// Nothing yet, of memory of so many pages.
    #[must_use]
    pub fn new(memory: u64) -> Self {
        Self { memory, newest: None, changed: PageMap::empty(memory) }
    }

    /// All of it, as a snapshot of this header has it.
    #[must_use]
    pub fn of(newest: Header) -> Self {
        Self { newest: Some(newest), ..Self::new(newest.memory.get()) }
    }

    /// The header of the newest part; `None`: there is none.
    #[must_use]
    pub const fn newest(&self) -> Option<&Header> {
        self.newest.as_ref()
    }

    /// A page was written since.
    ///
    /// # Panics
    /// There is no such page.
    pub fn note(&mut self, page: u64) {
        self.changed.set(page);
    }

    /// What the next part has to have; `None`: all.
    #[must_use]
    pub fn wanted(&self) -> Option<&PageMap> {
        self.newest.as_ref().map(|_| &self.changed)
    }

    /// A part is on the disk, of the instant of the last harvest.
    pub fn add(&mut self, newest: Header) {
        self.newest = Some(newest);
        self.changed = PageMap::empty(self.memory);
    }

    /// It was not written. What was harvested for it is the next one's.
    pub fn fail(&mut self) {
        if !intact(Mutant::FailedPartForgetsPages) {
            self.changed = PageMap::empty(self.memory);
        }
    }
}

/// A part under way.
pub struct Writer<S> {
    out: S,
    memory: u64,
    /// The header of the part that it builds on, and what is not as there.
    base: Option<(Header, PageMap)>,
    /// The page that it starts with.
    first: u64,
    map: PageMap,
    stored: u64,
    /// Checksums of the chunk that is being filled.
    sums: Box<Page>,
}

impl<S: Sink> Writer<S> {
    /// A snapshot of memory of so many pages.
    pub fn new(out: S, memory: u64) -> Self {
        let map = PageMap::empty(memory);
        Self { out, memory, base: None, first: 0, map, stored: 0, sums: empty_page() }
    }

    /// One that builds on another, behind which it lies. The file is the other one's, also where a part has failed when its header
    /// was on the way, or there: that names what is written over from now on.
    ///
    /// # Errors
    /// The sink's.
    pub fn behind(out: S, base: &Header) -> Result<Self, S::Error> {
        let mut this = Self::new(out, base.memory.get());
        this.first = base.end();
        this.base = Some((*base, PageMap::empty(this.memory)));
        this.out.write(0, &base.to_page())?;
        this.out.flush()?;
        this.out.write(this.first, &base.to_page())?;
        Ok(this)
    }

    /// The sink, to look at.
    pub fn sink(&self) -> &S {
        &self.out
    }

    /// Pages stored so far.
    pub const fn stored(&self) -> u64 {
        self.stored
    }

    /// Stores page `index` of memory, which comes behind all that were stored before; where the part builds on another, one
    /// that may not be as there. Returns its checksum; `None`: it holds zeros, and takes no room.
    ///
    /// # Errors
    /// The sink's.
    pub fn page(&mut self, index: u64, bytes: &Page) -> Result<Option<u32>, S::Error> {
        debug_assert!(index < self.memory, "page {index} of {}", self.memory);
        let is_zero = bytes.iter().all(|&byte| byte == 0);
        if let Some((_, changed)) = &mut self.base
            && (!is_zero || intact(Mutant::ZerosAreTheBases))
        {
            changed.set(index);
        }
        if is_zero {
            return Ok(None);
        }
        if self.stored != 0 && self.stored.is_multiple_of(CHUNK) {
            self.end_chunk()?;
        }
        let (place, checksum) = ((self.stored % CHUNK) as usize * 4, sum(bytes));
        self.sums[place..place + 4].copy_from_slice(&checksum.to_le_bytes());
        self.out.write(stored_at(self.first, self.stored), bytes)?;
        self.map.set(index);
        self.stored += 1;
        Ok(Some(checksum))
    }

    /// Writes the checksums of the chunk that the last page belongs to.
    fn end_chunk(&mut self) -> Result<(), S::Error> {
        let last = CHUNK as usize * 4;
        let checksum = sum(&self.sums[..last]);
        self.sums[last..].copy_from_slice(&checksum.to_le_bytes());
        self.out.write(sums_at(self.first, (self.stored - 1) / CHUNK), &self.sums)?;
        self.sums.fill(0);
        Ok(())
    }

    fn section(&mut self, page: &mut u64, bytes: &[u8]) -> Result<Extent, S::Error> {
        let extent = Extent::of(*page, bytes);
        for part in bytes.chunks(PAGE_BYTES) {
            let mut whole = empty_page();
            whole[..part.len()].copy_from_slice(part);
            self.out.write(*page, &whole)?;
            *page += 1;
        }
        Ok(extent)
    }

    /// Writes the rest; returns the header that the file has then.
    ///
    /// # Errors
    /// The sink's.
    pub fn finish(mut self, machine: &Machine, board: &[u8]) -> Result<Header, S::Error> {
        if self.stored != 0 {
            self.end_chunk()?;
        }
        let mut page = behind(self.first, self.stored);
        let machine: Vec<u8> = postcard::to_allocvec(machine).expect("the heap takes what is encoded");
        let mut maps = self.map.encode();
        maps.extend(self.base.iter().flat_map(|(_, changed)| changed.encode()));
        let mut sections = [Extent::of(0, &[]); 3];
        for (section, bytes) in sections.iter_mut().zip([&*machine, board, &maps]) {
            *section = self.section(&mut page, bytes)?;
        }
        self.out.write(page, &empty_page())?;
        let bytes = padded_bytes(page + AREA_PAGES);
        // Where this one has no place, the file has none: who restores it would call it truncated.
        self.out.write(bytes / PAGE_BYTES as u64 - 1, &empty_page())?;
        self.out.flush()?;
        let base = self.base.as_ref().map(|(base, _)| base);
        let header = Header {
            magic: MAGIC,
            bytes: bytes.into(),
            memory: self.memory.into(),
            stored: self.stored.into(),
            sections,
            working_set: page.into(),
            first: self.first.into(),
            base: base.map_or(0, |base| base.checksum.get()).into(),
            number: base.map_or(0, |base| base.number.get() + 1).into(),
            ..Header::blank()
        };
        let header = header.sealed();
        self.out.write(0, &header.to_page())?;
        self.out.flush()?;
        Ok(header)
    }
}
