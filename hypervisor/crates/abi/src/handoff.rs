//! The boot hand-off: what a loader tells Herald, in one checked structure.
//!
//! The loader enters Herald's ELF entry point in long mode, interrupts off, with the physical address
//! of a [`HandOff`] in RDI. At that point all of the first 4 GiB is identity-mapped and Herald's image
//! is mapped where it was linked, wherever below 4 GiB it lies; Herald replaces those tables at once. The
//! hand-off, the package and the image lie in memory that the memory map calls usable: Herald reserves them
//! before it allocates.

use crate::crc::crc32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// First word of a hand-off.
pub const MAGIC: u64 = u64::from_le_bytes(*b"HERALDHO");
/// Layout version; raised with every change of this file.
pub const VERSION: u32 = 2;
/// Memory regions a hand-off can hold.
pub const MAX_REGIONS: usize = 128;

/// Herald is linked this far above the physical addresses in its ELF file, where the loader puts it if the memory there
/// is free. Else it goes to another 2 MiB boundary, and is mapped all the same where it was linked.
pub const IMAGE_OFFSET: u64 = 0xffff_ffff_8000_0000;

/// Usable RAM, in the numbering of ACPI's address range types (ACPI 6.5, 15.1).
pub const REGION_USABLE: u32 = 1;

/// Who loaded Herald.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Loader {
    /// The BIOS stage, from a flat disk.
    Bios = 1,
    /// The PVH entry, from a module in memory.
    Pvh = 2,
    /// Multiboot2, through GRUB.
    Multiboot2 = 3,
    /// The UEFI application.
    Uefi = 4,
}

/// One range of physical memory, as the firmware described it: may overlap others, may be unaligned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Region {
    /// First byte, host physical.
    pub start: u64,
    /// Bytes.
    pub len: u64,
    /// Type as in ACPI; only [`REGION_USABLE`] may be allocated.
    pub kind: u32,
    /// Zero.
    pub reserved: u32,
}

/// What a screen shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum ScreenKind {
    /// There is none that the loader knows of.
    None = 0,
    /// Characters, two bytes each: code and attribute (VGA text).
    Text = 1,
    /// Pixels of whole bytes; all ones is white.
    Pixels = 2,
}

/// A screen that firmware has set up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Screen {
    /// First byte, host physical.
    pub address: u64,
    /// A [`ScreenKind`].
    pub kind: u32,
    /// Bytes from one line to the next.
    pub pitch: u32,
    /// Columns: pixels or characters.
    pub width: u32,
    /// Lines of pixels or characters.
    pub height: u32,
    /// Bytes of a pixel or a character.
    pub cell_bytes: u32,
    /// Zero.
    pub reserved: u32,
}

impl Screen {
    /// VGA's text mode 3, in which a BIOS starts: 80 by 25 characters at 0xb8000.
    pub const VGA_TEXT: Self = Self {
        address: 0xb_8000,
        kind: ScreenKind::Text as u32,
        pitch: 160,
        width: 80,
        height: 25,
        cell_bytes: 2,
        reserved: 0,
    };
    /// No screen.
    pub const NONE: Self =
        Self { address: 0, kind: 0, pitch: 0, width: 0, height: 0, cell_bytes: 0, reserved: 0 };
}

/// Bytes of an ACPI root pointer of version 2 (ACPI 6.5, 5.2.5.3).
pub const RSDP_BYTES: usize = 36;

/// The structure itself. Native endianness: both sides run on the same machine.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct HandOff {
    /// [`MAGIC`].
    pub magic: u64,
    /// [`VERSION`].
    pub version: u32,
    /// CRC-32 of the whole structure with this field zero.
    pub checksum: u32,
    /// A [`Loader`].
    pub loader: u32,
    /// Regions in use.
    pub region_count: u32,
    /// First byte of the boot package, host physical, page-aligned.
    pub package_start: u64,
    /// Bytes in the boot package.
    pub package_len: u64,
    /// First byte of Herald's loaded image, host physical.
    pub image_start: u64,
    /// Bytes of Herald's loaded image, .bss included.
    pub image_len: u64,
    /// ACPI root pointer, host physical, or 0 where the loader does not know it.
    pub rsdp: u64,
    /// A copy of it, where its own place is not known (multiboot2); `rsdp` then points here. Else zeros.
    pub rsdp_copy: [u8; 40],
    /// The screen.
    pub screen: Screen,
    /// TSC when the loader began, for the boot-time report.
    pub start_tsc: u64,
    /// The memory map, in the firmware's order.
    pub regions: [Region; MAX_REGIONS],
}

const _: () = assert!(size_of::<HandOff>() == 72 + 40 + 32 + MAX_REGIONS * 24);

/// Why a hand-off was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HandOffError {
    /// Not [`MAGIC`].
    Magic(u64),
    /// Not [`VERSION`].
    Version(u32),
    /// The stored checksum is not that of the bytes.
    Checksum {
        /// As stored.
        stored: u32,
        /// As computed.
        computed: u32,
    },
    /// More than [`MAX_REGIONS`].
    Regions(u32),
}

impl core::fmt::Display for HandOffError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match *self {
            Self::Magic(magic) => write!(f, "no boot hand-off: magic {magic:#018x}"),
            Self::Version(version) => {
                write!(f, "boot hand-off of version {version}, this build reads {VERSION}")
            }
            Self::Checksum { stored, computed } => {
                write!(f, "boot hand-off corrupt: checksum {computed:#010x}, structure says {stored:#010x}")
            }
            Self::Regions(count) => {
                write!(f, "boot hand-off with {count} memory regions, at most {MAX_REGIONS} allowed")
            }
        }
    }
}

impl HandOff {
    /// An empty hand-off; the loader fills it in and then calls [`Self::seal`].
    #[must_use]
    pub const fn new(loader: Loader) -> Self {
        Self {
            magic: MAGIC,
            version: VERSION,
            checksum: 0,
            loader: loader as u32,
            region_count: 0,
            package_start: 0,
            package_len: 0,
            image_start: 0,
            image_len: 0,
            rsdp: 0,
            rsdp_copy: [0; 40],
            screen: Screen::NONE,
            start_tsc: 0,
            regions: [Region { start: 0, len: 0, kind: 0, reserved: 0 }; MAX_REGIONS],
        }
    }

    /// Adds a region; `false` where the table is full.
    #[must_use]
    pub fn push_region(&mut self, region: Region) -> bool {
        let Some(slot) = self.regions.get_mut(self.region_count as usize) else { return false };
        *slot = region;
        self.region_count += 1;
        true
    }

    /// Takes a copy of the ACPI root pointer, cut to what one may have.
    pub fn copy_rsdp(&mut self, bytes: &[u8]) {
        let len = bytes.len().min(RSDP_BYTES);
        self.rsdp_copy = [0; 40];
        self.rsdp_copy[..len].copy_from_slice(&bytes[..len]);
    }

    /// Tells the hand-off where it lies for good, host physical, and stores the checksum over everything else.
    pub fn seal_at(&mut self, address: u64) {
        if self.rsdp == 0 && self.rsdp_copy != [0; 40] {
            self.rsdp = address + core::mem::offset_of!(Self, rsdp_copy) as u64;
        }
        self.seal();
    }

    /// Stores the checksum over everything else.
    pub fn seal(&mut self) {
        self.checksum = self.computed_checksum();
    }

    fn computed_checksum(&self) -> u32 {
        crc32(Self { checksum: 0, ..*self }.as_bytes())
    }

    /// Checks what can be checked without looking at memory.
    ///
    /// # Errors
    /// Anything that [`HandOffError`] names.
    pub fn check(&self) -> Result<(), HandOffError> {
        if self.magic != MAGIC {
            return Err(HandOffError::Magic(self.magic));
        }
        if self.version != VERSION {
            return Err(HandOffError::Version(self.version));
        }
        if self.region_count as usize > MAX_REGIONS {
            return Err(HandOffError::Regions(self.region_count));
        }
        let computed = self.computed_checksum();
        if computed != self.checksum {
            return Err(HandOffError::Checksum { stored: self.checksum, computed });
        }
        Ok(())
    }

    /// The memory regions in use.
    #[must_use]
    pub fn regions(&self) -> &[Region] {
        &self.regions[..(self.region_count as usize).min(MAX_REGIONS)]
    }
}
