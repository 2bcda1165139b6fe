//! ELF executables: their segments go to physical addresses, p_paddr (ELF 1.2 book I, chapter 2).

use crate::error::Error;
use crate::image::Format;
use crate::problem::{ElfProblem, Placement};
use crate::target::Target;
use addr::{Gpa, GpaRange};
use alloc::collections::BTreeMap;
use elf::ElfBytes;
use elf::abi::{ELFCLASS32, ELFCLASS64, ELFMAGIC, EM_386, EM_X86_64, ET_DYN, ET_EXEC, PT_LOAD, PT_NOTE};
use elf::endian::LittleEndian;
use elf::note::Note;
use elf::segment::ProgramHeader;

/// Offset of EI_CLASS in the file.
const CLASS: usize = 4;
/// XEN_ELFNOTE_PHYS32_ENTRY, of the name "Xen".
const PHYS32_ENTRY: u64 = 18;

/// An ELF file for x86.
pub(crate) struct ElfImage<'a> {
    file: &'a [u8],
    elf: ElfBytes<'a, LittleEndian>,
}

impl<'a> ElfImage<'a> {
    pub(crate) fn is_elf(file: &[u8]) -> bool {
        file.starts_with(&ELFMAGIC)
    }

    pub(crate) fn is_elf32(file: &[u8]) -> bool {
        file.get(CLASS) == Some(&ELFCLASS32)
    }

    pub(crate) fn parse(file: &'a [u8]) -> Result<Self, Error> {
        let damaged = Error::Elf(ElfProblem::Headers { bytes: file.len() as u64 });
        let elf = ElfBytes::minimal_parse(file).map_err(|_| damaged)?;
        if ![EM_386, EM_X86_64].contains(&elf.ehdr.e_machine) {
            return Err(Error::Elf(ElfProblem::Machine(elf.ehdr.e_machine)));
        }
        if ![ET_EXEC, ET_DYN].contains(&elf.ehdr.e_type) {
            return Err(Error::Elf(ElfProblem::Type(elf.ehdr.e_type)));
        }
        Ok(Self { file, elf })
    }

    /// Whether it is 64-bit code with places of its own: programs that a loader may move are no kernels.
    pub(crate) fn is_64_bit_executable(&self) -> bool {
        self.file.get(CLASS) == Some(&ELFCLASS64)
            && (self.elf.ehdr.e_machine, self.elf.ehdr.e_type) == (EM_X86_64, ET_EXEC)
    }

    fn segments(&self) -> impl Iterator<Item = ProgramHeader> + use<'a> {
        self.elf.segments().into_iter().flat_map(|table| table.iter())
    }

    /// Segments that take memory.
    fn loads(&self) -> impl Iterator<Item = ProgramHeader> + use<'a> {
        self.segments().filter(|segment| segment.p_type == PT_LOAD && segment.p_memsz != 0)
    }

    /// The physical 32-bit entry point of the PVH note, if there is one.
    pub(crate) fn pvh_entry(&self) -> Result<Option<u64>, Error> {
        // Notes of all segments together; more than the file has lie over each other, and would take hours.
        let mut left = self.file.len() as u64;
        for segment in self.segments().filter(|segment| segment.p_type == PT_NOTE) {
            let Some(rest) = left.checked_sub(segment.p_filesz) else { break };
            left = rest;
            // Notes of odd alignment are not Xen's.
            let Ok(notes) = self.elf.segment_data_as_notes(&segment) else { continue };
            for note in notes {
                if let Note::Unknown(note) = note
                    && note.n_type == PHYS32_ENTRY
                    && note.name_str().is_ok_and(|name| name == "Xen")
                {
                    return entry_of(note.desc).map(Some);
                }
            }
        }
        Ok(None)
    }

    /// Copies all segments to their physical addresses; returns the range from the first to the last, and the entry
    /// point, which lies in one of them. Two segments at one place are refused: the zeros of the one would be missing
    /// under the bytes of the other.
    pub(crate) fn load(
        &self,
        format: Format,
        entry: u64,
        target: &mut Target<'_>,
    ) -> Result<(GpaRange, Gpa), Error> {
        let mut image: Option<GpaRange> = None;
        let mut loaded: BTreeMap<Gpa, GpaRange> = BTreeMap::new();
        for segment in self.loads() {
            let (start, file, memory) = (segment.p_paddr, segment.p_filesz, segment.p_memsz);
            if file > memory {
                return Err(Error::Elf(ElfProblem::SegmentSize { start, file, memory }));
            }
            let bytes = self.bytes(format, &segment)?;
            let range = target.claim(start, memory)?;
            let below = loaded.range(..range.end()).next_back();
            if below.is_some_and(|(_, other)| other.overlaps(&range)) {
                return Err(Error::Elf(ElfProblem::Overlap { start, memory }));
            }
            loaded.insert(range.start(), range);
            target.put(range.start(), bytes)?;
            image = Some(image.map_or(range, |image| image.hull(&range)));
        }
        let image = image.ok_or(Error::Elf(ElfProblem::NoSegments))?;
        // Between two segments there may be anything: the firmware's data, say.
        let inside = Gpa::try_new(entry).filter(|at| loaded.values().any(|range| range.contains(*at)));
        Ok((image, inside.ok_or(Error::Placement(Placement::EntryPoint { entry, image }))?))
    }

    fn bytes(&self, format: Format, segment: &ProgramHeader) -> Result<&'a [u8], Error> {
        let found = self.file.len() as u64;
        let needed = segment.p_offset.saturating_add(segment.p_filesz);
        if needed > found {
            return Err(Error::Truncated { format, found, needed });
        }
        Ok(&self.file[segment.p_offset as usize..needed as usize])
    }

    /// The physical address of the file's entry point: e_entry, or where that is a virtual address
    /// inside a segment, the physical address of the same byte.
    pub(crate) fn physical_entry(&self) -> u64 {
        let entry = self.elf.ehdr.e_entry;
        let inside = |segment: &ProgramHeader| entry.wrapping_sub(segment.p_vaddr) < segment.p_memsz;
        self.loads()
            .find(inside)
            .map_or(entry, |segment| segment.p_paddr.wrapping_add(entry.wrapping_sub(segment.p_vaddr)))
    }
}

/// The note holds one address, of 4 or 8 bytes.
fn entry_of(desc: &[u8]) -> Result<u64, Error> {
    if let Ok(bytes) = <[u8; 8]>::try_from(desc) {
        return Ok(u64::from_le_bytes(bytes));
    }
    match <[u8; 4]>::try_from(desc) {
        Ok(bytes) => Ok(u64::from(u32::from_le_bytes(bytes))),
        Err(_) => Err(Error::Elf(ElfProblem::NoteSize(desc.len() as u64))),
    }
}

/// The entry point as an address, if it lies in the image.
pub(crate) fn entry_in(image: GpaRange, entry: u64) -> Result<Gpa, Error> {
    Gpa::try_new(entry)
        .filter(|entry| image.contains(*entry))
        .ok_or(Error::Placement(Placement::EntryPoint { entry, image }))
}
