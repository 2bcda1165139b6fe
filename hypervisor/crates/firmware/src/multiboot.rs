//! Multiboot specification 0.6.96: a header in the first 8 KiB of the kernel (section 3.1), EAX and EBX
//! at entry (3.2), and the information that EBX points at (3.3).

use crate::Guest;
use crate::elf_image::{ElfImage, entry_in};
use crate::entry::Entry;
use crate::error::Error;
use crate::image::Format;
use crate::layout;
use crate::memory_map::{Region, memory_map};
use crate::problem::Placement;
use crate::target::Target;
use addr::{GpaRange, PageSize};
use alloc::vec::Vec;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// First word of the header.
const HEADER_MAGIC: u32 = 0x1bad_b002;
/// EAX at entry.
const ENTRY_MAGIC: u64 = 0x2bad_b002;
/// The header lies in this many first bytes, at a multiple of 4.
const SEARCH_BYTES: usize = 8192;

/// Header flags. A loader must refuse those of bits 0-15 that it does not know.
const PAGE_ALIGN: u32 = 1 << 0;
const MEMORY_INFO: u32 = 1 << 1;
const ADDRESSES: u32 = 1 << 16;
const REQUIREMENTS: u32 = 0xffff;

/// Information flags: which of its fields are there.
const INFO_MEMORY: u32 = 1 << 0;
const INFO_COMMAND_LINE: u32 = 1 << 2;
const INFO_MODULES: u32 = 1 << 3;
const INFO_MMAP: u32 = 1 << 6;
const INFO_LOADER_NAME: u32 = 1 << 9;

const LOADER_NAME: &[u8] = b"Herald\0";

/// The header without its video fields.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Header {
    magic: U32,
    flags: U32,
    checksum: U32,
    header_addr: U32,
    load_addr: U32,
    load_end_addr: U32,
    bss_end_addr: U32,
    entry_addr: U32,
}

/// The information block up to the loader's name.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Info {
    pub(crate) flags: U32,
    pub(crate) mem_lower: U32,
    pub(crate) mem_upper: U32,
    pub(crate) boot_device: U32,
    pub(crate) command_line: U32,
    pub(crate) modules: U32,
    pub(crate) module_list: U32,
    pub(crate) symbols: [U32; 4],
    pub(crate) mmap_bytes: U32,
    pub(crate) mmap: U32,
    pub(crate) drives_bytes: U32,
    pub(crate) drives: U32,
    pub(crate) config_table: U32,
    pub(crate) loader_name: U32,
}

/// One module.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Module {
    pub(crate) start: U32,
    pub(crate) end: U32,
    pub(crate) text: U32,
    pub(crate) reserved: U32,
}

/// One line of the memory map; `size` does not count itself.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct MapEntry {
    pub(crate) size: U32,
    pub(crate) start: U64,
    pub(crate) bytes: U64,
    pub(crate) kind: U32,
}

const _: () = assert!(size_of::<Header>() == 32 && size_of::<Info>() == 68);
const _: () = assert!(size_of::<Module>() == 16 && size_of::<MapEntry>() == 24);

impl From<&Region> for MapEntry {
    fn from(region: &Region) -> Self {
        Self {
            size: 20.into(),
            start: region.range.start().as_u64().into(),
            bytes: region.range.len().into(),
            kind: (region.kind as u32).into(),
        }
    }
}

/// A header, and where in the file it lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    offset: usize,
    header: Header,
}

impl Found {
    pub(crate) fn has_addresses(&self) -> bool {
        self.header.flags.get() & ADDRESSES != 0
    }
}

/// The first header: magic, flags and checksum add up to zero.
pub(crate) fn find_header(file: &[u8]) -> Option<Found> {
    let window = &file[..file.len().min(SEARCH_BYTES)];
    (0..window.len()).step_by(4).find_map(|offset| {
        // The address fields exist only with flag 16; a short tail reads as zeros.
        let mut bytes = [0; size_of::<Header>()];
        let tail = &window[offset..];
        let len = tail.len().min(bytes.len());
        bytes[..len].copy_from_slice(&tail[..len]);
        let header = Header::read_from_bytes(&bytes).ok()?;
        let sum = header.flags.get().wrapping_add(header.checksum.get()).wrapping_add(HEADER_MAGIC);
        (header.magic.get() == HEADER_MAGIC && sum == 0).then_some(Found { offset, header })
    })
}

/// Loads the kernel and writes its information block.
pub(crate) fn load(guest: &Guest<'_>, target: &mut Target<'_>) -> Result<Entry, Error> {
    let file = guest.kernel;
    let found = find_header(file).ok_or(Error::UnknownImage { bytes: file.len() as u64 })?;
    let flags = found.header.flags.get();
    let unsupported = flags & REQUIREMENTS & !(PAGE_ALIGN | MEMORY_INFO);
    if unsupported != 0 {
        return Err(Error::MultibootFlags { flags, unsupported });
    }
    let (image, entry) = if found.has_addresses() {
        let image = load_by_addresses(file, &found, target)?;
        (image, entry_in(image, found.header.entry_addr.get().into())?)
    } else {
        let elf = ElfImage::parse(file)?;
        elf.load(Format::Multiboot, elf.physical_entry(), target)?
    };
    put_info(guest, image, target)?;
    let start = Entry::protected32(entry, target)?;
    Ok(Entry { rax: ENTRY_MAGIC, rbx: layout::START_INFO.as_u64(), ..start })
}

/// Loads one piece of the file as the header's address fields say (section 3.1.3). A load end of zero
/// is the end of the file; a bss end of zero, no bss.
fn load_by_addresses(file: &[u8], found: &Found, target: &mut Target<'_>) -> Result<GpaRange, Error> {
    let header = &found.header;
    let (at, load) = (header.header_addr.get(), header.load_addr.get());
    let (load_end, bss_end) = (header.load_end_addr.get(), header.bss_end_addr.get());
    let conflict = Error::MultibootAddresses { header: at, load, load_end, bss_end };
    let before_header = at.checked_sub(load).ok_or(conflict)? as usize;
    let first = found.offset.checked_sub(before_header).ok_or(conflict)?;
    let bytes = match load_end {
        0 => file.len() - first,
        end => end.checked_sub(load).ok_or(conflict)? as usize,
    };
    let (needed, found) = ((first + bytes) as u64, file.len() as u64);
    if needed > found {
        return Err(Error::Truncated { format: Format::Multiboot, found, needed });
    }
    let memory = match bss_end {
        0 => bytes as u64,
        end => u64::from(end.checked_sub(load).ok_or(conflict)?),
    };
    if memory < bytes as u64 {
        return Err(conflict);
    }
    let image = target.claim(u64::from(load), memory)?;
    target.put(image.start(), &file[first..first + bytes])?;
    Ok(image)
}

/// Writes the information block, its tables and the module.
fn put_info(guest: &Guest<'_>, image: GpaRange, target: &mut Target<'_>) -> Result<(), Error> {
    let command_line = target.put_command_line(guest.append, u64::MAX)?;
    let low = target.ram().low();
    let map: Vec<MapEntry> = memory_map(target.ram()).iter().map(MapEntry::from).collect();
    let mut next = layout::START_TABLES;
    let mut place = |target: &mut Target<'_>, bytes: &[u8]| -> Result<U32, Error> {
        let at = next;
        target.put(at, bytes)?;
        next = at.add((bytes.len() as u64).next_multiple_of(8));
        Ok(U32::new(at.as_u64() as u32))
    };
    let mut info = Info {
        flags: (INFO_MEMORY | INFO_COMMAND_LINE | INFO_MODULES | INFO_MMAP | INFO_LOADER_NAME).into(),
        // In KiB: from 0, and from 1 MiB up to the first hole.
        mem_lower: ((layout::EBDA.as_u64() >> 10) as u32).into(),
        mem_upper: (((low.end().as_u64() - layout::ONE_MIB.as_u64()) >> 10) as u32).into(),
        command_line: (command_line.as_u64() as u32).into(),
        mmap_bytes: (size_of_val(map.as_slice()) as u32).into(),
        mmap: place(target, map.as_bytes())?,
        loader_name: place(target, LOADER_NAME)?,
        ..Info::default()
    };
    if let Some(initrd) = guest.initrd {
        let range = put_module(initrd, image, target)?;
        let module = Module {
            start: (range.start().as_u64() as u32).into(),
            end: (range.end().as_u64() as u32).into(),
            text: info.command_line,
            reserved: U32::ZERO,
        };
        info.modules = 1.into();
        info.module_list = place(target, module.as_bytes())?;
    }
    target.put(layout::START_INFO, info.as_bytes())
}

/// Puts the module on the first page behind the kernel, as boot loaders do: small kernels map little.
fn put_module(module: &[u8], image: GpaRange, target: &mut Target<'_>) -> Result<GpaRange, Error> {
    let end = target.ram().low().end();
    let first = image.end().max(layout::ONE_MIB).align_up(PageSize::Size4K).unwrap_or(end).min(end);
    let room = GpaRange::new(first, end);
    let range = GpaRange::sized(first, module.len() as u64)
        .filter(|range| room.contains_span(range))
        .ok_or(Error::Placement(Placement::InitrdTooLarge { bytes: module.len() as u64, room }))?;
    target.put_module(first, module)?;
    Ok(range)
}
