//! Writing: memory first, page by page; then what belongs to it; the header last. Whatever ends before leaves a disk that
//! says that it holds no snapshot.

use crate::layout::{CHUNK, behind, padded_bytes, stored_at, sums_at};
use crate::working_set::AREA_PAGES;
use crate::{Extent, Header, MAGIC, Machine, PAGE_BYTES, Page, PageMap, empty_page, sum};
use alloc::boxed::Box;
use alloc::vec::Vec;

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

/// A snapshot under way.
pub struct Writer<S> {
    out: S,
    memory: u64,
    map: PageMap,
    stored: u64,
    /// Checksums of the chunk that is being filled.
    sums: Box<Page>,
}

impl<S: Sink> Writer<S> {
    /// A snapshot of memory of so many pages.
    pub fn new(out: S, memory: u64) -> Self {
        Self { out, memory, map: PageMap::empty(memory), stored: 0, sums: empty_page() }
    }

    /// The sink, to look at.
    pub fn sink(&self) -> &S {
        &self.out
    }

    /// Pages stored so far.
    pub const fn stored(&self) -> u64 {
        self.stored
    }

    /// Stores page `index` of memory, which comes behind all that were stored before. Returns its checksum; `None`: it
    /// holds zeros, and takes no room.
    ///
    /// # Errors
    /// The sink's.
    pub fn page(&mut self, index: u64, bytes: &Page) -> Result<Option<u32>, S::Error> {
        debug_assert!(index < self.memory, "page {index} of {}", self.memory);
        if bytes.iter().all(|&byte| byte == 0) {
            return Ok(None);
        }
        if self.stored != 0 && self.stored.is_multiple_of(CHUNK) {
            self.end_chunk()?;
        }
        let (place, checksum) = ((self.stored % CHUNK) as usize * 4, sum(bytes));
        self.sums[place..place + 4].copy_from_slice(&checksum.to_le_bytes());
        self.out.write(stored_at(self.stored), bytes)?;
        self.map.set(index);
        self.stored += 1;
        Ok(Some(checksum))
    }

    /// Writes the checksums of the chunk that the last page belongs to.
    fn end_chunk(&mut self) -> Result<(), S::Error> {
        let last = CHUNK as usize * 4;
        let checksum = sum(&self.sums[..last]);
        self.sums[last..].copy_from_slice(&checksum.to_le_bytes());
        self.out.write(sums_at((self.stored - 1) / CHUNK), &self.sums)?;
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

    /// Writes the rest; returns the bytes of the file.
    ///
    /// # Errors
    /// The sink's.
    pub fn finish(mut self, machine: &Machine, board: &[u8]) -> Result<u64, S::Error> {
        if self.stored != 0 {
            self.end_chunk()?;
        }
        let mut page = behind(self.stored);
        let machine: Vec<u8> = postcard::to_allocvec(machine).expect("the heap takes what is encoded");
        let map = self.map.encode();
        let mut sections = [Extent::of(0, &[]); 3];
        for (section, bytes) in sections.iter_mut().zip([&*machine, board, &map]) {
            *section = self.section(&mut page, bytes)?;
        }
        self.out.write(page, &empty_page())?;
        let bytes = padded_bytes(page + AREA_PAGES);
        // Where this one has no place, the file has none: who restores it would call it truncated.
        self.out.write(bytes / PAGE_BYTES as u64 - 1, &empty_page())?;
        self.out.flush()?;
        let header = Header {
            magic: MAGIC,
            bytes: bytes.into(),
            memory: self.memory.into(),
            stored: self.stored.into(),
            sections,
            working_set: page.into(),
            ..Header::blank()
        };
        self.out.write(0, &header.sealed().to_page())?;
        self.out.flush()?;
        Ok(bytes)
    }
}
