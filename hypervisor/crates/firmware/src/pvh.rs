//! PVH, the direct boot of Xen and QEMU: 32-bit protected mode without paging, EBX points at
//! hvm_start_info (xen/include/public/arch-x86/hvm/start_info.h; Xen's docs/misc/pvh.pandoc).

use crate::Guest;
use crate::elf_image::ElfImage;
use crate::entry::Entry;
use crate::error::Error;
use crate::image::Format;
use crate::layout;
use crate::memory_map::{Region, memory_map};
use crate::target::Target;
use addr::{Gpa, GpaRange};
use alloc::vec::Vec;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// "xEn3" with the top bit of the E set.
const MAGIC: u32 = 0x336e_c578;
/// The version that has a memory map.
const VERSION: u32 = 1;

/// hvm_start_info.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct StartInfo {
    pub(crate) magic: U32,
    pub(crate) version: U32,
    pub(crate) flags: U32,
    pub(crate) modules: U32,
    pub(crate) module_list: U64,
    pub(crate) command_line: U64,
    pub(crate) rsdp: U64,
    pub(crate) memory_map: U64,
    pub(crate) memory_map_entries: U32,
    pub(crate) reserved: U32,
}

/// hvm_modlist_entry.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Module {
    pub(crate) start: U64,
    pub(crate) bytes: U64,
    pub(crate) command_line: U64,
    pub(crate) reserved: U64,
}

/// hvm_memmap_table_entry.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct MapEntry {
    pub(crate) start: U64,
    pub(crate) bytes: U64,
    pub(crate) kind: U32,
    pub(crate) reserved: U32,
}

const _: () = assert!(size_of::<StartInfo>() == 56 && size_of::<Module>() == 32);
const _: () = assert!(size_of::<MapEntry>() == 24);

impl From<&Region> for MapEntry {
    fn from(region: &Region) -> Self {
        Self {
            start: region.range.start().as_u64().into(),
            bytes: region.range.len().into(),
            kind: (region.kind as u32).into(),
            reserved: U32::ZERO,
        }
    }
}

/// Loads the kernel and writes its start information.
pub(crate) fn load(guest: &Guest<'_>, rsdp: Gpa, target: &mut Target<'_>) -> Result<Entry, Error> {
    let elf = ElfImage::parse(guest.kernel)?;
    let entry = elf.pvh_entry()?.ok_or(Error::UnknownImage { bytes: guest.kernel.len() as u64 })?;
    let (image, entry) = elf.load(Format::PvhElf, entry, target)?;
    let command_line = target.put_command_line(guest.append, u64::MAX)?;

    let map: Vec<MapEntry> = memory_map(target.ram()).iter().map(MapEntry::from).collect();
    let map_at = layout::START_TABLES;
    target.put(map_at, map.as_bytes())?;
    let module_at = map_at.add(size_of_val(map.as_slice()) as u64);
    if let Some(initrd) = guest.initrd {
        let end = target.ram().low().end();
        let room = GpaRange::new(image.end().max(layout::ONE_MIB), end);
        let placed = target.put_initrd(initrd, room)?;
        let module = Module {
            start: placed.start().as_u64().into(),
            bytes: placed.len().into(),
            command_line: U64::ZERO,
            reserved: U64::ZERO,
        };
        target.put(module_at, module.as_bytes())?;
    }
    let info = StartInfo {
        magic: MAGIC.into(),
        version: VERSION.into(),
        flags: U32::ZERO,
        modules: u32::from(guest.initrd.is_some()).into(),
        module_list: module_at.as_u64().into(),
        command_line: command_line.as_u64().into(),
        rsdp: rsdp.as_u64().into(),
        memory_map: map_at.as_u64().into(),
        memory_map_entries: (map.len() as u32).into(),
        reserved: U32::ZERO,
    };
    target.put(layout::START_INFO, info.as_bytes())?;
    Ok(Entry { rbx: layout::START_INFO.as_u64(), ..Entry::protected32(entry, target)? })
}
