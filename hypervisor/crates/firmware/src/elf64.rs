//! 64-bit ELF kernels that speak no other protocol, Linux' vmlinux among them: the 64-bit entry of the Linux/x86 boot protocol
//! (Documentation/arch/x86/boot.rst, "64-bit boot protocol"), at the file's own entry point.

use crate::Guest;
use crate::boot_params::{self, SetupHeader};
use crate::elf_image::ElfImage;
use crate::entry::Entry;
use crate::error::Error;
use crate::image::Format;
use crate::layout;
use crate::target::Target;
use addr::Gpa;

/// Loads the kernel and writes its boot_params.
pub(crate) fn load(guest: &Guest<'_>, rsdp: Gpa, target: &mut Target<'_>) -> Result<Entry, Error> {
    let elf = ElfImage::parse(guest.kernel)?;
    let (image, entry) = elf.load(Format::Elf64, elf.physical_entry(), target)?;
    boot_params::put(guest, rsdp, SetupHeader::of_elf(), image, target)?;
    Ok(Entry { rsi: layout::START_INFO.as_u64(), ..Entry::long64(entry, target)? })
}
