//! The memory map that firmware reports, INT 15h AX=E820h (ACPI 6.5 section 15.1). Type numbers are
//! shared by E820, PVH's memory map and multiboot's.

use crate::layout::{ACPI, BIOS, EBDA, FACS, ONE_MIB, PC_HOLE};
use crate::ram::Ram;
use addr::{Gpa, GpaRange};
use alloc::vec::Vec;

/// What a region may be used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum RegionKind {
    /// RAM, free for the guest.
    Usable = 1,
    /// Not to be used.
    Reserved = 2,
    /// ACPI tables: RAM once they were read.
    AcpiReclaimable = 3,
    /// ACPI memory that must be kept.
    AcpiNvs = 4,
}

/// One line of the map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Region {
    /// Guest-physical addresses.
    pub range: GpaRange,
    /// What they may be used for.
    pub kind: RegionKind,
}

/// The map of a guest with this RAM, in order of addresses.
#[must_use]
pub fn memory_map(ram: &Ram) -> Vec<Region> {
    let region = |start: Gpa, end: Gpa, kind| Region { range: GpaRange::new(start, end), kind };
    let mut map = Vec::from([
        region(Gpa::ZERO, EBDA, RegionKind::Usable),
        region(EBDA, PC_HOLE, RegionKind::Reserved),
        region(ACPI, FACS, RegionKind::AcpiReclaimable),
        region(FACS, BIOS, RegionKind::AcpiNvs),
        region(BIOS, ONE_MIB, RegionKind::Reserved),
        region(ONE_MIB, ram.low().end(), RegionKind::Usable),
    ]);
    map.extend(ram.high().map(|range| Region { range, kind: RegionKind::Usable }));
    map
}
