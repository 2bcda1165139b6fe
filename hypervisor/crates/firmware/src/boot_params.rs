//! boot_params, the "zero page" of the Linux/x86 boot protocol (Documentation/arch/x86/boot.rst, zero-page.rst): the setup header,
//! the command line, the initial RAM disk and the memory map.

use crate::Guest;
use crate::error::Error;
use crate::layout;
use crate::memory_map::{Region, memory_map};
use crate::target::Target;
use addr::{Gpa, GpaRange};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// Offset of the setup header in a bzImage and in boot_params.
pub(crate) const HEADER: usize = 0x1f1;
/// Offset from which on the length in `jump` counts.
pub(crate) const JUMP_END: usize = 0x202;
/// type_of_loader of a loader without a number of its own.
const LOADER_UNDEFINED: u8 = 0xff;
/// vid_mode: leave the screen as it is.
const VIDEO_NORMAL: u16 = 0xffff;
/// Lines that boot_params has room for.
const E820_ENTRIES: usize = 128;
/// boot_flag and magic of any setup header.
const BOOT_FLAG: u16 = 0xaa55;
const MAGIC: [u8; 4] = *b"HdrS";
/// The protocol that [`SetupHeader`] is of.
const VERSION: u16 = 0x020f;
/// loadflags: the protected-mode code loads at 1 MiB or above.
pub(crate) const LOADED_HIGH: u8 = 1;
/// The last byte that an initial RAM disk may occupy where the kernel does not say (the protocol's default).
const INITRD_MAX: u32 = 0x37ff_ffff;

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

impl SetupHeader {
    /// That of a kernel which has none: an ELF file.
    pub(crate) fn of_elf() -> Self {
        Self {
            boot_flag: BOOT_FLAG.into(),
            magic: MAGIC,
            version: VERSION.into(),
            loadflags: LOADED_HIGH,
            initrd_addr_max: INITRD_MAX.into(),
            cmdline_size: (layout::COMMAND_LINE_BYTES as u32 - 1).into(),
            ..Self::new_zeroed()
        }
    }
}

/// Writes boot_params of a kernel that lies in `memory`, and all that they point at.
pub(crate) fn put(
    guest: &Guest<'_>,
    rsdp: Gpa,
    header: SetupHeader,
    memory: GpaRange,
    target: &mut Target<'_>,
) -> Result<(), Error> {
    let command_line = target.put_command_line(guest.append, header.cmdline_size.get().into())?;
    let mut params = BootParams::new_zeroed();
    params.header = header;
    params.header.type_of_loader = LOADER_UNDEFINED;
    params.header.vid_mode = VIDEO_NORMAL.into();
    params.header.code32_start = (memory.start().as_u64() as u32).into();
    params.header.cmd_line_ptr = (command_line.as_u64() as u32).into();
    params.acpi_rsdp_addr = rsdp.as_u64().into();
    if let Some(initrd) = guest.initrd {
        // initrd_addr_max is the last byte that the initrd may occupy.
        let limit = u64::from(header.initrd_addr_max.get()) + 1;
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
    target.put(layout::START_INFO, params.as_bytes())
}
