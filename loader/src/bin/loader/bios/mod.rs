//! From a BIOS: the memory map that `stage.s` has collected, the package from the boot disk, and the ACPI root
//! pointer from the BIOS area.

mod ata;

use crate::memory::{MAPPED_END, bytes_at, bytes_to_fill, own_range};
use abi::handoff::{HandOff, Loader, Region, Screen};
use abi::memmap::MemoryMap;
use abi::package::{DISK_LBA, Table};
use addr::{Hpa, HpaRange, PAGE_SIZE, PageSize};
use core::arch::global_asm;
use loader::{Findings, Images, LoadError};

/// Where `stage.s` leaves the number of E820 entries.
const E820_COUNT: u64 = 0x0ff8;
/// Where it leaves the entries, 24 bytes each: start, length, type, attributes.
const E820_ENTRIES: u64 = 0x1000;
/// Most entries that it collects.
const E820_MAX: u64 = abi::handoff::MAX_REGIONS as u64;
/// Bytes of an entry.
const E820_BYTES: u64 = 24;
/// Sectors that one BIOS call reads.
const CHUNK: u32 = 32;
/// Bytes of a sector.
const SECTOR: u64 = 512;
/// Everything below is left to firmware, and Herald itself goes to 2 MiB: the package stays above.
const PACKAGE_FLOOR: Hpa = Hpa::new(16 << 20);

const _: () = assert!(E820_ENTRIES + E820_MAX * E820_BYTES <= 0x7000, "the stack below 0x7c00 needs room");

global_asm!(include_str!("boot_sector.s"), chunk = const CHUNK, options(att_syntax));
global_asm!(
    include_str!("stage.s"),
    e820_entries = const E820_ENTRIES,
    e820_count = const E820_COUNT,
    e820_max = const E820_MAX,
    loader_bios = const Loader::Bios as u32,
    options(att_syntax)
);

/// Reads the package to the highest free place below 4 GiB.
pub(crate) fn find() -> Result<Findings, LoadError> {
    let mut handoff = HandOff::new(Loader::Bios);
    collect_regions(&mut handoff);
    let mut map = MemoryMap::new(handoff.regions());
    if map.is_empty() {
        return Err(LoadError::NoMemoryMap);
    }
    map.reserve(own_range());
    map.reserve(HpaRange::new(Hpa::ZERO, PACKAGE_FLOOR));
    let place =
        |bytes| map.highest_fit(bytes, PageSize::Size4K, MAPPED_END).ok_or(LoadError::NoRoom { bytes });
    // The first page tells how long the whole is.
    let first = place(PAGE_SIZE)?;
    read(first)?;
    // SAFETY: just read; only after this is the place filled again, with the whole package.
    let table = Table::parse(unsafe { bytes_at(first) })?;
    let bytes = table.total_len().next_multiple_of(SECTOR);
    let package = place(bytes)?;
    read(package)?;
    handoff.rsdp = find_rsdp().unwrap_or(0);
    handoff.screen = Screen::VGA_TEXT;
    Ok(Findings { handoff, images: Images::Package(package) })
}

fn read(place: HpaRange) -> Result<(), LoadError> {
    // SAFETY: free in the memory map; the page read first is not used any more when the whole is read.
    ata::read(DISK_LBA, unsafe { bytes_to_fill(place) })
}

fn collect_regions(handoff: &mut HandOff) {
    // SAFETY: `stage.s` has written the count, and nobody has written there since.
    let count = unsafe { (E820_COUNT as *const u32).read() };
    for index in 0..u64::from(count).min(E820_MAX) {
        // SAFETY: the entry lies within what `stage.s` has filled; any bytes make a `Region`.
        let mut region = unsafe { ((E820_ENTRIES + index * E820_BYTES) as *const Region).read() };
        // In ACPI 3 entries the last word holds attributes; bit 0 clear: the entry is to be ignored.
        let valid = region.reserved & 1 != 0;
        region.reserved = 0;
        if valid && !handoff.push_region(region) {
            break;
        }
    }
}

/// The ACPI root pointer: on a 16-byte boundary in the first KiB of the EBDA, or in 0xe0000-0xfffff
/// (ACPI 6.5, 5.2.5.1).
fn find_rsdp() -> Option<u64> {
    // SAFETY: the BIOS data area keeps the EBDA's segment at 0x40e.
    let ebda = u64::from(unsafe { (0x40e as *const u16).read() }) << 4;
    let in_ebda = (0x8_0000..0xa_0000).contains(&ebda).then(|| scan(ebda, 1024)).flatten();
    in_ebda.or_else(|| scan(0xe_0000, 0x2_0000))
}

fn scan(start: u64, len: u64) -> Option<u64> {
    // SAFETY: firmware's memory below 1 MiB, where the loader puts nothing.
    let area = unsafe { bytes_at(HpaRange::sized(Hpa::new(start), len)?) };
    let index = area.chunks_exact(16).position(|line| line.starts_with(b"RSD PTR "))?;
    // The first 20 bytes, as ACPI 1.0 defined them, sum to zero.
    let structure = area.get(index * 16..index * 16 + 20)?;
    let sum = structure.iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte));
    (sum == 0).then_some(start + index as u64 * 16)
}
