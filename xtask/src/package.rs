//! Writes the boot package: [`abi::package`] tells its layout.

use abi::package::{Entry, Kind, MAGIC, MAX_ENTRIES, PAYLOAD_ALIGN, PackageHeader, VERSION, checksum};
use anyhow::{Context, Result, bail};
use object::elf::{FileHeader64, PT_LOAD};
use object::read::elf::{FileHeader, ProgramHeader};
use object::{Endianness, LittleEndian};
use zerocopy::IntoBytes;

/// A package being put together. Entries keep the order in which they were added.
#[derive(Default)]
pub(crate) struct Package {
    payloads: Vec<(Kind, String, Vec<u8>)>,
}

impl Package {
    /// Adds a payload; its index among the entries.
    pub(crate) fn add(&mut self, kind: Kind, name: &str, bytes: Vec<u8>) -> u32 {
        self.payloads.push((kind, name.to_owned(), bytes));
        self.payloads.len() as u32 - 1
    }

    /// The package as bytes.
    ///
    /// # Errors
    /// More than [`MAX_ENTRIES`] payloads.
    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        if self.payloads.len() > MAX_ENTRIES {
            bail!("{} images, and a boot package holds {MAX_ENTRIES}", self.payloads.len());
        }
        let mut offset = PAYLOAD_ALIGN;
        let mut entries = Vec::new();
        for (kind, name, bytes) in &self.payloads {
            entries.push(Entry {
                kind: (*kind as u32).into(),
                reserved: 0.into(),
                offset: offset.into(),
                len: (bytes.len() as u64).into(),
                name: fixed_name(name),
            });
            offset += (bytes.len() as u64).next_multiple_of(PAYLOAD_ALIGN);
        }
        let mut header = PackageHeader {
            magic: MAGIC,
            version: VERSION.into(),
            count: (entries.len() as u32).into(),
            total_len: offset.into(),
            checksum: 0.into(),
            reserved: [0; 36],
        };
        header.checksum = checksum(&header, &entries).into();
        let mut package = header.as_bytes().to_vec();
        package.extend_from_slice(entries.as_bytes());
        for (entry, (_, _, bytes)) in entries.iter().zip(&self.payloads) {
            package.resize(entry.offset.get() as usize, 0);
            package.extend_from_slice(bytes);
        }
        package.resize(offset as usize, 0);
        Ok(package)
    }
}

/// Cut to fit at a character's boundary, padded with zeros.
fn fixed_name(name: &str) -> [u8; 40] {
    let mut fixed = [0; 40];
    let end = name.floor_char_boundary(fixed.len());
    fixed[..end].copy_from_slice(&name.as_bytes()[..end]);
    fixed
}

/// An ELF file without what no loader reads: sections, symbols, debug information.
///
/// # Errors
/// It is no 64-bit ELF file, or nothing in it is to be loaded.
pub(crate) fn strip(elf: &[u8]) -> Result<Vec<u8>> {
    let header = FileHeader64::<Endianness>::parse(elf).context("an ELF file")?;
    let endian = header.endian()?;
    let segments = header.program_headers(endian, elf)?;
    let ends = segments.iter().filter(|segment| segment.p_type(endian) == PT_LOAD);
    let end = ends.map(|segment| segment.p_offset(endian) + segment.p_filesz(endian)).max();
    let end = usize::try_from(end.context("an ELF file with nothing to load")?)?;
    let mut stripped = elf.get(..end).context("an ELF file that is cut short")?.to_vec();
    let (fields, _) = object::pod::from_bytes_mut::<FileHeader64<LittleEndian>>(&mut stripped)
        .map_err(|()| anyhow::anyhow!("an ELF file shorter than its header"))?;
    fields.e_shoff.set(LittleEndian, 0);
    fields.e_shnum.set(LittleEndian, 0);
    fields.e_shstrndx.set(LittleEndian, object::elf::SymbolSection(0));
    Ok(stripped)
}

#[cfg(test)]
mod tests {
    use super::{Package, fixed_name};
    use abi::package::{Kind, Table};

    #[test]
    fn what_is_written_can_be_read() {
        let mut package = Package::default();
        package.add(Kind::Herald, "herald", vec![1; 5000]);
        package.add(Kind::Kernel, "bzImage", vec![2; 4096]);
        let bytes = package.encode().expect("two entries");
        let table = Table::parse(&bytes).expect("a package");
        assert_eq!(table.total_len(), bytes.len() as u64);
        let kernel = table.find(Kind::Kernel).expect("a kernel");
        assert_eq!((kernel.offset.get(), kernel.name()), (12288, "bzImage"));
        assert_eq!(kernel.payload(&bytes), Some(&[2; 4096][..]));
    }

    #[test]
    fn long_names_are_cut_between_characters() {
        let name = "ä".repeat(30);
        assert_eq!(core::str::from_utf8(&fixed_name(&name)), Ok("ä".repeat(20).as_str()));
    }
}
