//! Guest memory: pages that a test may use as it likes, taken from the loader's map.
//!
//! The boot code maps the first 4 GiB one to one; [`Memory::new`] does the same for RAM above. Nothing is
//! ever given back.

use crate::bootinfo::Info;
use crate::port;
use addr::{Gpa, GpaRange, PAGE_SIZE, PageSize};

/// 64-bit words in a page.
pub const WORDS: u64 = PAGE_SIZE / 8;

const GIB: u64 = 1 << 30;
const FOUR_GIB: Gpa = Gpa::new(4 * GIB);
/// One page-directory-pointer table reaches this far.
const MAPPABLE_END: Gpa = Gpa::new(512 * GIB);
const MAX_REGIONS: usize = 16;
/// Page-table entry: present, writable (SDM 3, table 4-15).
const TABLE: u64 = 0b11;
/// Page-directory entry: present, writable, a 2 MiB page (SDM 3, table 4-17).
const HUGE_LEAF: u64 = 0b1000_0011;

/// Why there is no memory to test with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MemoryError {
    /// The map has no RAM where the image itself lies.
    ImageNotInRam(Gpa),
    /// Not this many free pages in a row below 4 GiB.
    OutOfMemory(u64),
}

impl core::fmt::Display for MemoryError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match *self {
            Self::ImageNotInRam(end) => write!(f, "the memory map has no RAM at the image's end, {end}"),
            Self::OutOfMemory(pages) => write!(f, "no {pages} free pages below 4 GiB"),
        }
    }
}

/// Free pages.
pub struct Memory {
    /// The rest of the range that holds the image.
    low: GpaRange,
    /// All other ranges above 1 MiB.
    rest: [GpaRange; MAX_REGIONS],
    count: usize,
}

impl Memory {
    /// All RAM above the image and the loader's data, mapped.
    ///
    /// # Errors
    /// If the memory map is of no use.
    ///
    /// # Safety
    /// Called once. `image_end` is the end of the program with its stack; `pointers` is the live
    /// page-directory-pointer table, whose first four entries map the first 4 GiB.
    pub unsafe fn new(info: &Info, image_end: Gpa, pointers: &mut [u64; 512]) -> Result<Self, MemoryError> {
        let error = MemoryError::ImageNotInRam(image_end);
        let used = info.end(image_end).align_up(PageSize::Size4K).ok_or(error)?;
        let empty = GpaRange::new(Gpa::ZERO, Gpa::ZERO);
        let mut memory = Self { low: empty, rest: [empty; MAX_REGIONS], count: 0 };
        for ram in info.ram() {
            let end = ram.end().align_down(PageSize::Size4K).min(MAPPABLE_END);
            if ram.contains(image_end) {
                memory.low = GpaRange::try_new(used, end.min(FOUR_GIB)).ok_or(error)?;
            } else if ram.start() > image_end && memory.count < MAX_REGIONS {
                let start = ram.start().align_up(PageSize::Size4K).ok_or(error)?.max(used);
                memory.rest[memory.count] = GpaRange::try_new(start, end).unwrap_or(empty);
                memory.count += 1;
            }
        }
        for index in 0..memory.count {
            let range = memory.rest[index];
            memory.map(range, pointers)?;
        }
        Ok(memory)
    }

    /// Maps all that lies above 4 GiB, a whole GiB at a time.
    fn map(&mut self, range: GpaRange, pointers: &mut [u64; 512]) -> Result<(), MemoryError> {
        let first = range.start().align_down(PageSize::Size1G).max(FOUR_GIB).as_u64() / GIB;
        for index in first..range.end().as_u64().div_ceil(GIB) {
            if pointers[index as usize] == 0 {
                let directory = self.take(1)?;
                for entry in 0..WORDS {
                    directory.write(0, entry, index * GIB + entry * PageSize::Size2M.bytes() + HUGE_LEAF);
                }
                pointers[index as usize] = directory.page(0).as_u64() + TABLE;
            }
        }
        Ok(())
    }

    /// This many pages in a row below 4 GiB, from the lowest free one.
    ///
    /// # Errors
    /// If there are not as many.
    pub fn take(&mut self, pages: u64) -> Result<Pages, MemoryError> {
        let error = MemoryError::OutOfMemory(pages);
        let bytes = pages.checked_mul(PAGE_SIZE).ok_or(error)?;
        let end = self.low.start().checked_add(bytes).ok_or(error)?;
        let range = GpaRange::new(self.low.start(), end);
        self.low = GpaRange::try_new(end, self.low.end()).ok_or(error)?;
        Ok(Pages { range })
    }

    /// The same, from a boundary of 2 MiB on.
    ///
    /// # Errors
    /// As for [`Self::take`].
    pub fn take_aligned(&mut self, pages: u64) -> Result<Pages, MemoryError> {
        let error = MemoryError::OutOfMemory(pages);
        let start = self.low.start().align_up(PageSize::Size2M).ok_or(error)?;
        self.low = GpaRange::try_new(start, self.low.end()).ok_or(error)?;
        self.take(pages)
    }

    /// All that is left, in ranges of whole pages.
    pub fn take_all(&mut self) -> impl Iterator<Item = Pages> + use<> {
        let low = core::mem::replace(&mut self.low, GpaRange::new(Gpa::ZERO, Gpa::ZERO));
        let count = core::mem::take(&mut self.count);
        core::iter::once(low)
            .chain(self.rest.into_iter().take(count))
            .filter(|range| !range.is_empty())
            .map(|range| Pages { range })
    }
}

/// Pages that belong to whoever holds this, and to no Rust object. Accesses are volatile: the host may
/// replace the frame behind a page between any two of them.
pub struct Pages {
    range: GpaRange,
}

impl Pages {
    /// How many.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.range.len() / PAGE_SIZE
    }

    /// The address of page `index`.
    #[must_use]
    pub fn page(&self, index: u64) -> Gpa {
        assert!(index < self.count(), "page {index} of {}", self.count());
        self.range.start().add(index * PAGE_SIZE)
    }

    fn word(&self, index: u64, word: u64) -> *mut u64 {
        assert!(word < WORDS, "word {word} of a page");
        core::ptr::with_exposed_provenance_mut((self.page(index).as_u64() + word * 8) as usize)
    }

    /// Reads a word of a page.
    #[must_use]
    pub fn read(&self, index: u64, word: u64) -> u64 {
        // SAFETY: mapped RAM, aligned, inside the range, which `self` alone may touch.
        unsafe { self.word(index, word).read_volatile() }
    }

    /// Writes a word of a page.
    pub fn write(&self, index: u64, word: u64, value: u64) {
        // SAFETY: as for `read`.
        unsafe { self.word(index, word).write_volatile(value) };
    }

    /// The address of `len` bytes, `offset` bytes into the first page.
    fn bytes(&self, offset: u64, len: u64) -> *mut u8 {
        assert!(
            offset.checked_add(len).is_some_and(|end| end <= self.range.len()),
            "{len} bytes at {offset:#x}"
        );
        core::ptr::with_exposed_provenance_mut((self.range.start().as_u64() + offset) as usize)
    }

    /// `rep outsb` of `len` bytes, `offset` bytes into the first page.
    pub fn send(&self, offset: u64, len: u64, port: u16) {
        // SAFETY: mapped RAM, inside the range, which `self` alone may touch; nothing changes it meanwhile.
        let bytes = unsafe { core::slice::from_raw_parts(self.bytes(offset, len), len as usize) };
        port::write_string(port, bytes);
    }

    /// `rep insb` of `len` bytes, `offset` bytes into the first page.
    pub fn receive(&self, offset: u64, len: u64, port: u16) {
        // SAFETY: as for `send`.
        let bytes = unsafe { core::slice::from_raw_parts_mut(self.bytes(offset, len), len as usize) };
        port::read_string(port, bytes);
    }

    /// Writes each word of a page; `value` gets the word's index.
    pub fn fill(&self, index: u64, value: impl Fn(u64) -> u64) {
        let start = self.word(index, 0);
        for word in 0..WORDS {
            // SAFETY: as for `read`; `start` and `WORDS` words from it are the page.
            unsafe { start.add(word as usize).write_volatile(value(word)) };
        }
    }

    /// The first word of a page that is not what `value` says: its index and what was found.
    pub fn difference(&self, index: u64, value: impl Fn(u64) -> u64) -> Option<(u64, u64)> {
        let start = self.word(index, 0);
        (0..WORDS).find_map(|word| {
            // SAFETY: as for `fill`.
            let found = unsafe { start.add(word as usize).read_volatile() };
            (found != value(word)).then_some((word, found))
        })
    }
}
