//! Turns an ELF64 file into an ELF32 file with the same segments: multiboot-1 loaders read only the latter
//! (Multiboot Specification 0.6.96, 3.1.3), and compilers for 64-bit code write only the former.

use anyhow::{Context, Result};
use object::Endianness;
use object::elf::{FileHeader64, PT_LOAD};
use object::read::elf::{FileHeader, ProgramHeader};

/// Magic, 32-bit, little-endian, version 1.
const IDENT: [u8; 8] = [0x7f, b'E', b'L', b'F', 1, 1, 1, 0];
const EXECUTABLE: u16 = 2;
const I386: u16 = 3;
const HEADER_BYTES: u32 = 52;
const SEGMENT_BYTES: u32 = 32;

/// The ELF32 file. Every physical address is raised by `displacement` bytes (0 for a kernel that is to run).
///
/// # Errors
/// No ELF64 file, or an address beyond 4 GiB.
pub(crate) fn from_elf64(elf: &[u8], displacement: u32) -> Result<Vec<u8>> {
    let header = FileHeader64::<Endianness>::parse(elf).context("the kernel")?;
    let endian = header.endian()?;
    let segments = header.program_headers(endian, elf)?;
    let segments: Vec<_> = segments.iter().filter(|segment| segment.p_type(endian) == PT_LOAD).collect();
    let mut offset = HEADER_BYTES + SEGMENT_BYTES * segments.len() as u32;
    let mut table = Vec::new();
    let mut contents = Vec::new();
    for segment in segments {
        let bytes = segment.data(endian, elf).ok().context("the kernel is cut short")?;
        let address = narrow(segment.p_paddr(endian))?.checked_add(displacement).context("too high")?;
        let (file_size, size) = (bytes.len() as u32, narrow(segment.p_memsz(endian))?);
        // Type, offset, virtual and physical address, sizes, flags (all), alignment (none).
        for field in [1, offset, narrow(segment.p_vaddr(endian))?, address, file_size, size, 7, 1] {
            table.extend_from_slice(&field.to_le_bytes());
        }
        contents.extend_from_slice(bytes);
        offset += file_size;
    }
    let count = (table.len() as u32 / SEGMENT_BYTES) as u16;
    Ok([file_header(narrow(header.e_entry(endian))?, count), table, contents].concat())
}

fn file_header(entry: u32, segments: u16) -> Vec<u8> {
    let mut bytes = IDENT.to_vec();
    bytes.resize(16, 0);
    bytes.extend(EXECUTABLE.to_le_bytes());
    bytes.extend(I386.to_le_bytes());
    // Version, entry, offsets of segment and section tables, flags.
    for field in [1, entry, HEADER_BYTES, 0, 0] {
        bytes.extend_from_slice(&u32::to_le_bytes(field));
    }
    // Sizes and counts: this header, segments, sections (none).
    for field in [HEADER_BYTES as u16, SEGMENT_BYTES as u16, segments, 40, 0, 0] {
        bytes.extend_from_slice(&field.to_le_bytes());
    }
    bytes
}

fn narrow(value: u64) -> Result<u32> {
    u32::try_from(value).with_context(|| format!("{value:#x} does not fit into an ELF32 file"))
}

#[cfg(test)]
mod tests {
    use super::from_elf64;
    use object::elf::{FileHeader32, PT_LOAD};
    use object::read::elf::{FileHeader, ProgramHeader};
    use object::{LittleEndian, Object, ObjectSegment};

    /// This test program is an ELF64 file at hand.
    #[test]
    fn segments_keep_their_bytes() {
        let elf = std::fs::read(std::env::current_exe().expect("a path")).expect("readable");
        let narrow = from_elf64(&elf, 0x1000).expect("converts");
        let before = object::File::parse(&*elf).expect("an ELF64 file");
        let header = FileHeader32::<LittleEndian>::parse(&*narrow).expect("an ELF32 file");
        let after = header.program_headers(LittleEndian, &*narrow).expect("segments");
        assert_eq!(before.segments().count(), after.len());
        for (old, new) in before.segments().zip(after) {
            assert_eq!(new.p_type(LittleEndian), PT_LOAD);
            assert_eq!(u64::from(new.p_paddr(LittleEndian)), old.address() + 0x1000);
            assert_eq!(new.data(LittleEndian, &*narrow), Ok(old.data().expect("bytes")));
        }
    }
}
