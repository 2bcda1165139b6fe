//! Linux bzImage: the Linux/x86 boot protocol (Documentation/arch/x86/boot.rst), its 64-bit entry where
//! the kernel has one, else the 32-bit entry. The real-mode part of the file is read, never run.
//!
//! ```text
//!  file: │ boot sector │ setup, setup_sects × 512 │ protected-mode code, syssize × 16 │
//!                0x1f1: setup header                │ +0: 32-bit entry, +0x200: 64-bit entry
//!  RAM:  boot_params (copy of the setup header + E820) · command line · code · initrd
//! ```

use crate::Guest;
use crate::elf_image::entry_in;
use crate::entry::Entry;
use crate::error::Error;
use crate::image::Format;
use crate::layout;
use crate::memory_map::{Region, memory_map};
use crate::problem::Placement;
use crate::target::Target;
use addr::{Gpa, GpaRange};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

const SECTOR: u64 = 512;
/// Offset of the setup header in the file and in boot_params.
const HEADER: usize = 0x1f1;
/// Offset from which on the length in `jump` counts.
const JUMP_END: usize = 0x202;
/// The first protocol with cmdline_size and a relocatable kernel.
const LEAST_VERSION: u16 = 0x206;
/// The first with pref_address and init_size.
const WITH_INIT_SIZE: u16 = 0x20a;
/// The first with xloadflags.
const WITH_XLOADFLAGS: u16 = 0x20c;

/// loadflags: the protected-mode code loads at 1 MiB or above.
const LOADED_HIGH: u8 = 1;
/// xloadflags: there is a 64-bit entry point at +0x200.
const XLF_KERNEL_64: u16 = 1;
/// Where the 64-bit entry point lies in the protected-mode code.
const ENTRY_64: u64 = 0x200;
/// type_of_loader of a loader without a number of its own.
const LOADER_UNDEFINED: u8 = 0xff;
/// vid_mode: leave the screen as it is.
const VIDEO_NORMAL: u16 = 0xffff;
/// Lines that boot_params has room for.
const E820_ENTRIES: usize = 128;

/// setup_header, as of protocol 2.15.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct SetupHeader {
    pub(crate) setup_sects: u8,
    pub(crate) root_flags: U16,
    pub(crate) syssize: U32,
    pub(crate) ram_size: U16,
    pub(crate) vid_mode: U16,
    pub(crate) root_dev: U16,
    pub(crate) boot_flag: U16,
    pub(crate) jump: [u8; 2],
    pub(crate) magic: [u8; 4],
    pub(crate) version: U16,
    pub(crate) realmode_switch: U32,
    pub(crate) start_sys_seg: U16,
    pub(crate) kernel_version: U16,
    pub(crate) type_of_loader: u8,
    pub(crate) loadflags: u8,
    pub(crate) setup_move_size: U16,
    pub(crate) code32_start: U32,
    pub(crate) ramdisk_image: U32,
    pub(crate) ramdisk_size: U32,
    pub(crate) bootsect_kludge: U32,
    pub(crate) heap_end_ptr: U16,
    pub(crate) ext_loader_ver: u8,
    pub(crate) ext_loader_type: u8,
    pub(crate) cmd_line_ptr: U32,
    pub(crate) initrd_addr_max: U32,
    pub(crate) kernel_alignment: U32,
    pub(crate) relocatable_kernel: u8,
    pub(crate) min_alignment: u8,
    pub(crate) xloadflags: U16,
    pub(crate) cmdline_size: U32,
    pub(crate) hardware_subarch: U32,
    pub(crate) hardware_subarch_data: U64,
    pub(crate) payload_offset: U32,
    pub(crate) payload_length: U32,
    pub(crate) setup_data: U64,
    pub(crate) pref_address: U64,
    pub(crate) init_size: U32,
    pub(crate) handover_offset: U32,
    pub(crate) kernel_info_offset: U32,
}

/// One E820 line.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct E820Entry {
    pub(crate) start: U64,
    pub(crate) bytes: U64,
    pub(crate) kind: U32,
}

/// boot_params, the "zero page": the fields that a loader without firmware fills.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct BootParams {
    screen_and_bios: [u8; 0x70],
    pub(crate) acpi_rsdp_addr: U64,
    other_hardware: [u8; 0x170],
    pub(crate) e820_entries: u8,
    edd_and_sentinel: [u8; 8],
    pub(crate) header: SetupHeader,
    edd: [u8; 0x2d0 - HEADER - size_of::<SetupHeader>()],
    pub(crate) e820: [E820Entry; E820_ENTRIES],
    rest: [u8; 4096 - 0x2d0 - E820_ENTRIES * size_of::<E820Entry>()],
}

const _: () = assert!(core::mem::offset_of!(BootParams, header) == HEADER);
const _: () = assert!(core::mem::offset_of!(BootParams, e820_entries) == 0x1e8);
const _: () = assert!(core::mem::offset_of!(BootParams, e820) == 0x2d0);
const _: () = assert!(core::mem::offset_of!(SetupHeader, magic) + HEADER == JUMP_END);
const _: () = assert!(core::mem::offset_of!(SetupHeader, init_size) + HEADER == 0x260);
const _: () = assert!(size_of::<BootParams>() == 4096);

impl From<&Region> for E820Entry {
    fn from(region: &Region) -> Self {
        Self {
            start: region.range.start().as_u64().into(),
            bytes: region.range.len().into(),
            kind: (region.kind as u32).into(),
        }
    }
}

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
    let most = u64::from(image.header.cmdline_size.get());
    let command_line = target.put_command_line(guest.append, most)?;

    let mut params = BootParams::new_zeroed();
    params.header = image.header;
    params.header.type_of_loader = LOADER_UNDEFINED;
    params.header.vid_mode = VIDEO_NORMAL.into();
    params.header.code32_start = (memory.start().as_u64() as u32).into();
    params.header.cmd_line_ptr = (command_line.as_u64() as u32).into();
    params.acpi_rsdp_addr = rsdp.as_u64().into();
    if let Some(initrd) = guest.initrd {
        // initrd_addr_max is the last byte that the initrd may occupy.
        let limit = u64::from(image.header.initrd_addr_max.get()) + 1;
        // Below 1 MiB lies what the firmware left, also above a kernel that loads down there.
        let start = memory.end().max(layout::ONE_MIB);
        let end = target.ram().low().end().min(Gpa::new(limit)).max(start);
        let placed = target.put_initrd(initrd, GpaRange::new(start, end))?;
        params.header.ramdisk_image = (placed.start().as_u64() as u32).into();
        params.header.ramdisk_size = (placed.len() as u32).into();
    }
    let map = memory_map(target.ram());
    params.e820_entries = map.len() as u8;
    for (line, region) in params.e820.iter_mut().zip(&map) {
        *line = region.into();
    }
    target.put(layout::START_INFO, params.as_bytes())?;

    let entry = if image.has_64_bit_entry() {
        Entry::long64(entry_in(memory, memory.start().as_u64() + ENTRY_64)?, target)?
    } else {
        Entry::protected32(entry_in(memory, memory.start().as_u64())?, target)?
    };
    Ok(Entry { rsi: layout::START_INFO.as_u64(), ..entry })
}
