//! Which boot protocol a kernel speaks. A file can carry marks of several: a multiboot header in the
//! first 8 KiB of an ELF32 wins, then Linux's "HdrS", then a PVH note, then a multiboot header with
//! addresses of its own in any other file. An ELF64 executable with none of these is entered in 64-bit mode.

use crate::elf_image::ElfImage;
use crate::error::Error;
use crate::{bzimage, multiboot};
use core::fmt;

/// A boot protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// Linux/x86 boot protocol.
    BzImage,
    /// ELF with the note XEN_ELFNOTE_PHYS32_ENTRY.
    PvhElf,
    /// Multiboot specification 0.6.96.
    Multiboot,
    /// ELF64, by the 64-bit entry of the Linux/x86 boot protocol.
    Elf64,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BzImage => "bzImage",
            Self::PvhElf => "PVH ELF",
            Self::Multiboot => "multiboot",
            Self::Elf64 => "ELF64",
        })
    }
}

/// The protocol of the kernel in `file`.
pub(crate) fn detect(file: &[u8]) -> Result<Format, Error> {
    let header = multiboot::find_header(file);
    let is_elf = ElfImage::is_elf(file);
    if header.is_some() && is_elf && ElfImage::is_elf32(file) {
        return Ok(Format::Multiboot);
    }
    if bzimage::is_bzimage(file) {
        return Ok(Format::BzImage);
    }
    if is_elf && ElfImage::parse(file)?.pvh_entry()?.is_some() {
        return Ok(Format::PvhElf);
    }
    if header.is_some_and(|header| header.has_addresses()) {
        return Ok(Format::Multiboot);
    }
    if is_elf && ElfImage::parse(file)?.is_64_bit_executable() {
        return Ok(Format::Elf64);
    }
    Err(Error::UnknownImage { bytes: file.len() as u64 })
}
