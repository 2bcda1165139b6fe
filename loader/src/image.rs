//! Herald's ELF image: each PT_LOAD segment goes to its physical address, checked against the memory map.

use crate::error::LoadError;
use crate::memory::bytes_to_fill;
use abi::handoff::IMAGE_OFFSET;
use abi::memmap::MemoryMap;
use addr::{Hpa, HpaRange, PageSize};
use elf::abi::{EM_X86_64, PT_LOAD};
use elf::endian::LittleEndian;
use elf::segment::ProgramHeader;
use elf::{ElfBytes, file::Class};

/// The first byte past the mapping at [`IMAGE_OFFSET`].
const IMAGE_CEILING: u64 = 1 << 30;

/// A loaded image.
pub(crate) struct Image {
    /// All pages that it touches.
    pub(crate) range: HpaRange,
    /// Where it starts, virtual.
    pub(crate) entry: u64,
}

/// Loads an ELF file into memory that `map` calls free.
pub(crate) fn load(file: &[u8], map: &MemoryMap) -> Result<Image, LoadError> {
    let elf = ElfBytes::<LittleEndian>::minimal_parse(file).map_err(|_| LoadError::Elf)?;
    if elf.ehdr.class != Class::ELF64 || elf.ehdr.e_machine != EM_X86_64 {
        return Err(LoadError::Elf);
    }
    let segments = elf.segments().ok_or(LoadError::Elf)?;
    let loaded = || segments.iter().filter(|segment| segment.p_type == PT_LOAD && segment.p_memsz > 0);
    let mut whole: Option<HpaRange> = None;
    for segment in loaded() {
        let range = place(&segment)?;
        if !map.contains(&pages_of(&range)) {
            return Err(LoadError::Occupied(range));
        }
        whole = Some(whole.map_or(range, |whole| whole.hull(&range)));
    }
    let whole = whole.ok_or(LoadError::Elf)?;
    let entry = elf.ehdr.e_entry;
    if !entry.checked_sub(IMAGE_OFFSET).and_then(Hpa::try_new).is_some_and(|entry| whole.contains(entry)) {
        return Err(LoadError::EntryPoint(entry));
    }
    for segment in loaded() {
        let bytes = elf.segment_data(&segment).map_err(|_| wrong(&segment))?;
        // SAFETY: free in the map, which also excludes the package and the loader; checked above.
        let target = unsafe { bytes_to_fill(place(&segment)?) };
        let (filled, zeroed) = target.split_at_mut_checked(bytes.len()).ok_or(wrong(&segment))?;
        filled.copy_from_slice(bytes);
        zeroed.fill(0);
    }
    Ok(Image { range: pages_of(&whole), entry })
}

/// Where a segment goes: it must lie in the mapped GiB, at the distance that Herald is linked for.
fn place(segment: &ProgramHeader) -> Result<HpaRange, LoadError> {
    let linked = segment.p_paddr.checked_add(IMAGE_OFFSET) == Some(segment.p_vaddr);
    let range = Hpa::try_new(segment.p_paddr).and_then(|start| HpaRange::sized(start, segment.p_memsz));
    range
        .filter(|range| {
            linked && range.end().as_u64() <= IMAGE_CEILING && segment.p_filesz <= segment.p_memsz
        })
        .ok_or(wrong(segment))
}

fn pages_of(range: &HpaRange) -> HpaRange {
    let end = range.end().align_up(PageSize::Size4K).unwrap_or(range.end());
    HpaRange::new(range.start().align_down(PageSize::Size4K), end)
}

fn wrong(segment: &ProgramHeader) -> LoadError {
    LoadError::Segment { physical: segment.p_paddr, address: segment.p_vaddr, len: segment.p_memsz }
}
