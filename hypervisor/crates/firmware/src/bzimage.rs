//! Linux bzImage: the Linux/x86 boot protocol (Documentation/arch/x86/boot.rst), its 64-bit entry where
//! the kernel has one, else the 32-bit entry. The real-mode part of the file is read, never run.
//!
//! ```text
//!  file: │ boot sector │ setup, setup_sects × 512 │ protected-mode code, syssize × 16 │
//!                0x1f1: setup header                │ +0: 32-bit entry, +0x200: 64-bit entry
//!  RAM:  boot_params (copy of the setup header + E820) · command line · code · initrd
//! ```

use crate::Guest;
use crate::boot_params::{self, HEADER, JUMP_END, LOADED_HIGH, SetupHeader};
use crate::elf_image::entry_in;
use crate::entry::Entry;
use crate::error::Error;
use crate::image::Format;
use crate::layout;
use crate::problem::Placement;
use crate::target::Target;
use addr::{Gpa, GpaRange};
use zerocopy::{FromBytes, IntoBytes};

const SECTOR: u64 = 512;
/// The first protocol with cmdline_size and a relocatable kernel.
const LEAST_VERSION: u16 = 0x206;
/// The first with pref_address and init_size.
const WITH_INIT_SIZE: u16 = 0x20a;
/// The first with xloadflags.
const WITH_XLOADFLAGS: u16 = 0x20c;

/// xloadflags: there is a 64-bit entry point at +0x200.
const XLF_KERNEL_64: u16 = 1;
/// Where the 64-bit entry point lies in the protected-mode code.
const ENTRY_64: u64 = 0x200;

/// Whether the file carries a setup header.
pub(crate) fn is_bzimage(file: &[u8]) -> bool {
    file.get(0x1fe..0x200) == Some(&[0x55, 0xaa]) && file.get(JUMP_END..JUMP_END + 4) == Some(b"HdrS")
}

/// A checked image.
struct Image<'a> {
    header: SetupHeader,
    code: &'a [u8],
}

impl<'a> Image<'a> {
    fn parse(file: &'a [u8]) -> Result<Self, Error> {
        let found = file.len() as u64;
        let truncated = |needed: u64| Error::Truncated { format: Format::BzImage, found, needed };
        let header_end = HEADER + size_of::<SetupHeader>();
        let bytes = file.get(HEADER..header_end).ok_or(truncated(header_end as u64))?;
        let mut header = SetupHeader::read_from_bytes(bytes).map_err(|_| truncated(header_end as u64))?;
        let version = header.version.get();
        if version < LEAST_VERSION {
            return Err(Error::ProtocolVersion { found: version, least: LEAST_VERSION });
        }
        if header.loadflags & LOADED_HIGH == 0 {
            return Err(Error::LoadedLow);
        }
        // What lies behind the kernel's own header is code, not fields.
        let own_end = JUMP_END + usize::from(header.jump[1]) - HEADER;
        if let Some(foreign) = header.as_mut_bytes().get_mut(own_end..) {
            foreign.fill(0);
        }
        // A setup_sects of 0 means 4.
        let sectors = if header.setup_sects == 0 { 4 } else { u64::from(header.setup_sects) };
        let code_start = (sectors + 1) * SECTOR;
        let code_end = code_start + u64::from(header.syssize.get()) * 16;
        if code_end > found {
            return Err(truncated(code_end));
        }
        // Whatever follows (a signature, say) belongs to the code as far as loaders are concerned.
        Ok(Self { header, code: &file[code_start as usize..] })
    }

    /// The memory that the kernel uses until it is up, by protocol: init_size, or the code itself.
    fn memory(&self) -> u64 {
        let code = self.code.len() as u64;
        if self.header.version.get() < WITH_INIT_SIZE {
            return code;
        }
        code.max(u64::from(self.header.init_size.get()))
    }

    /// Where to load: the preferred address, else the lowest aligned one above 1 MiB.
    fn place(&self, target: &Target<'_>) -> Result<GpaRange, Error> {
        let bytes = self.memory();
        let preferred = match self.header.version.get() {
            WITH_INIT_SIZE.. => self.header.pref_address.get(),
            _ => layout::ONE_MIB.as_u64(),
        };
        let align = u64::from(self.header.kernel_alignment.get());
        let relocatable = self.header.relocatable_kernel != 0 && align.is_power_of_two();
        let elsewhere = relocatable.then(|| layout::ONE_MIB.as_u64().next_multiple_of(align));
        (core::iter::once(preferred).chain(elsewhere))
            .find_map(|start| target.claim(start, bytes).ok())
            .ok_or(Error::Placement(Placement::KernelTooLarge {
                bytes,
                preferred,
                align: relocatable.then_some(align),
                ram: *target.ram(),
            }))
    }

    fn has_64_bit_entry(&self) -> bool {
        self.header.version.get() >= WITH_XLOADFLAGS && self.header.xloadflags.get() & XLF_KERNEL_64 != 0
    }
}

/// Loads the kernel and writes its boot_params.
pub(crate) fn load(guest: &Guest<'_>, rsdp: Gpa, target: &mut Target<'_>) -> Result<Entry, Error> {
    let image = Image::parse(guest.kernel)?;
    let memory = image.place(target)?;
    target.put(memory.start(), image.code)?;
    boot_params::put(guest, rsdp, image.header, memory, target)?;
    let entry = if image.has_64_bit_entry() {
        Entry::long64(entry_in(memory, memory.start().as_u64() + ENTRY_64)?, target)?
    } else {
        Entry::protected32(entry_in(memory, memory.start().as_u64())?, target)?
    };
    Ok(Entry { rsi: layout::START_INFO.as_u64(), ..entry })
}
