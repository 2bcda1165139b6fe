//! Writes the boot package: [`abi::package`] tells its layout.

use abi::package::{Kind, Layout};
use anyhow::{Context, Result, anyhow};
use object::elf::{FileHeader64, PT_LOAD};
use object::read::elf::{FileHeader, ProgramHeader};
use object::{Endianness, LittleEndian};

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
    /// More payloads than a package holds.
    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        let sizes =
            self.payloads.iter().map(|(kind, name, bytes)| (*kind, name.as_str(), bytes.len() as u64));
        let layout = Layout::new(sizes)
            .map_err(|error| anyhow!("{} images in a boot package: {error}", self.payloads.len()))?;
        let mut package: Vec<u8> = layout.table().collect();
        for (entry, (_, _, bytes)) in layout.entries().iter().zip(&self.payloads) {
            package.resize(entry.offset.get() as usize, 0);
            package.extend_from_slice(bytes);
        }
        package.resize(layout.total_len() as usize, 0);
        Ok(package)
    }
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
    use super::Package;
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
        let mut package = Package::default();
        package.add(Kind::Kernel, &"ä".repeat(30), vec![]);
        let bytes = package.encode().expect("one entry");
        let table = Table::parse(&bytes).expect("a package");
        assert_eq!(table.entries()[0].name(), "ä".repeat(20));
    }

    #[test]
    fn too_many_images_are_counted() {
        let mut package = Package::default();
        for _ in 0..63 {
            package.add(Kind::File, "image", vec![]);
        }
        let error = package.encode().expect_err("one too many");
        assert_eq!(
            error.to_string(),
            "63 images in a boot package: boot package of 63 entries, at most 62 allowed"
        );
    }
}
