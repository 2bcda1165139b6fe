//! Herald's ELF image: its segments keep their distances, and the whole goes where it is linked for, or to another
//! 2 MiB boundary where that memory is not free.
//!
//! ```text
//!   linked   | text | rodata | data, bss |        virtual: IMAGE_OFFSET above
//!   placed               | text | rodata | data, bss |        mapped at the same virtual address
//! ```

use crate::error::LoadError;
use abi::handoff::IMAGE_OFFSET;
use abi::memmap::MemoryMap;
use addr::{Hpa, HpaRange, PageSize};
use elf::abi::{EM_X86_64, PT_LOAD};
use elf::endian::LittleEndian;
use elf::segment::{ProgramHeader, SegmentTable};
use elf::{ElfBytes, file::Class};

/// The first byte past what can be mapped at [`IMAGE_OFFSET`].
const IMAGE_CEILING: u64 = 1 << 30;

/// A checked image.
pub struct Image<'a> {
    elf: ElfBytes<'a, LittleEndian>,
    segments: SegmentTable<'a, LittleEndian>,
    linked: HpaRange,
}

impl<'a> Image<'a> {
    /// Checks an ELF file.
    ///
    /// # Errors
    /// Another machine's, nothing to load, or a segment that cannot be.
    pub fn parse(file: &'a [u8]) -> Result<Self, LoadError> {
        let elf = ElfBytes::<LittleEndian>::minimal_parse(file).map_err(|_| LoadError::Elf)?;
        if elf.ehdr.class != Class::ELF64 || elf.ehdr.e_machine != EM_X86_64 {
            return Err(LoadError::Elf);
        }
        let segments = elf.segments().ok_or(LoadError::Elf)?;
        let mut linked: Option<HpaRange> = None;
        for segment in segments.iter().filter(is_loaded) {
            let range = linked_range(&segment)?;
            elf.segment_data(&segment).map_err(|_| wrong(&segment))?;
            linked = Some(linked.map_or(range, |linked| linked.hull(&range)));
        }
        let linked = linked.ok_or(LoadError::Elf)?;
        let entry = elf.ehdr.e_entry;
        if !entry.checked_sub(IMAGE_OFFSET).and_then(Hpa::try_new).is_some_and(|entry| linked.contains(entry))
        {
            return Err(LoadError::EntryPoint(entry));
        }
        let end = linked.end().align_up(PageSize::Size4K).unwrap_or(linked.end());
        let linked = HpaRange::new(linked.start(), end);
        if !linked.start().is_aligned(PageSize::Size2M) {
            return Err(LoadError::Unaligned(linked));
        }
        Ok(Self { elf, segments, linked })
    }

    /// Where it starts, host virtual.
    #[must_use]
    pub fn entry(&self) -> u64 {
        self.elf.ehdr.e_entry
    }

    /// All pages that it would touch where it is linked.
    #[must_use]
    pub fn linked(&self) -> HpaRange {
        self.linked
    }

    /// Where it goes in free memory below `ceiling`.
    ///
    /// # Errors
    /// There is no place.
    pub fn place(&self, map: &MemoryMap, ceiling: Hpa) -> Result<HpaRange, LoadError> {
        if map.contains(&self.linked) {
            return Ok(self.linked);
        }
        let bytes = self.linked.len();
        map.highest_fit(bytes, PageSize::Size2M, ceiling).ok_or(LoadError::NoRoom { bytes })
    }

    /// Copies it into `target`, as long as [`Self::linked`]. What lies between segments stays as it is.
    ///
    /// # Errors
    /// A segment that is not in the target; [`Self::parse`] has excluded that.
    pub fn load(&self, target: &mut [u8]) -> Result<(), LoadError> {
        for segment in self.segments.iter().filter(is_loaded) {
            let bytes = self.elf.segment_data(&segment).map_err(|_| wrong(&segment))?;
            let start = (linked_range(&segment)?.start().as_u64() - self.linked.start().as_u64()) as usize;
            let end = start + segment.p_memsz as usize;
            let target = target.get_mut(start..end).ok_or(wrong(&segment))?;
            let (filled, zeroed) = target.split_at_mut_checked(bytes.len()).ok_or(wrong(&segment))?;
            filled.copy_from_slice(bytes);
            zeroed.fill(0);
        }
        Ok(())
    }
}

fn is_loaded(segment: &ProgramHeader) -> bool {
    segment.p_type == PT_LOAD && segment.p_memsz > 0
}

/// Where a segment is linked for: in the mapped GiB, at the distance that Herald is linked for.
fn linked_range(segment: &ProgramHeader) -> Result<HpaRange, LoadError> {
    let linked = segment.p_paddr.checked_add(IMAGE_OFFSET) == Some(segment.p_vaddr);
    let range = Hpa::try_new(segment.p_paddr).and_then(|start| HpaRange::sized(start, segment.p_memsz));
    range
        .filter(|range| {
            linked && range.end().as_u64() <= IMAGE_CEILING && segment.p_filesz <= segment.p_memsz
        })
        .ok_or(wrong(segment))
}

fn wrong(segment: &ProgramHeader) -> LoadError {
    LoadError::Segment { physical: segment.p_paddr, address: segment.p_vaddr, len: segment.p_memsz }
}
