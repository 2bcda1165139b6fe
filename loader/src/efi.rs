//! What UEFI says of memory and of the screen, in the words of the hand-off. The UEFI application asks; here is what
//! becomes of the answers.
//!
//! ```text
//!   EFI      |conv|BS|load|RT|ACPI|conv   ...     in any order, hundreds of them, also touching ones of one kind
//!   Regions  |  usable    |2 | 3  |usable ...     sorted, as few as may be, at most MAX_REGIONS
//! ```

use abi::handoff::{MAX_REGIONS, REGION_USABLE, Region, Screen, ScreenKind};
use addr::PAGE_SIZE;

/// One entry of the memory map (UEFI 2.10, 7.2.3: `EFI_MEMORY_DESCRIPTOR`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Descriptor {
    /// `EFI_MEMORY_TYPE`.
    pub kind: u32,
    /// First byte, host physical.
    pub start: u64,
    /// Pages of 4 KiB.
    pub pages: u64,
    /// `EFI_MEMORY_*` bits.
    pub attributes: u64,
}

/// Attribute: the memory can be cached, with write-back.
const WRITE_BACK: u64 = 1 << 3;
/// Attribute: the memory is meant for something special.
const SPECIFIC_PURPOSE: u64 = 1 << 18;

/// ACPI: reserved.
const RESERVED: u32 = 2;
/// Most regions that are not usable: as many again are left for those that are.
const MOST_OTHERS: usize = MAX_REGIONS / 2;

/// The hand-off's regions, at most [`MAX_REGIONS`].
pub type Regions = heapless::Vec<Region, MAX_REGIONS>;

impl Descriptor {
    /// Its ACPI type once boot services are gone (ACPI 6.5, table 15.6; UEFI 2.10, table 7.6).
    fn acpi_kind(&self) -> u32 {
        const LOADER_CODE: u32 = 1;
        const BOOT_SERVICES_DATA: u32 = 4;
        const CONVENTIONAL: u32 = 7;
        match self.kind {
            LOADER_CODE..=BOOT_SERVICES_DATA | CONVENTIONAL if self.is_ordinary() => REGION_USABLE,
            // Unusable, ACPI reclaim, ACPI NVS, persistent.
            8 => 5,
            9 => 3,
            10 => 4,
            14 => 7,
            _ => RESERVED,
        }
    }

    fn is_ordinary(&self) -> bool {
        self.attributes & (WRITE_BACK | SPECIFIC_PURPOSE) == WRITE_BACK
    }

    fn region(&self) -> Region {
        let len = self.pages.saturating_mul(PAGE_SIZE).min(u64::MAX - self.start);
        Region { start: self.start, len, kind: self.acpi_kind(), reserved: 0 }
    }
}

/// The memory map as the hand-off has it: what touches is joined. Where there are too many regions, the smallest usable
/// ones are left out, and others are joined over the smallest gaps: less memory, never wrong memory.
#[must_use]
pub fn regions(map: impl Iterator<Item = Descriptor> + Clone) -> Regions {
    let mut regions = Regions::new();
    let of_kind = |usable| {
        let all = map.clone().map(|descriptor| descriptor.region());
        all.filter(move |region| region.len != 0 && (region.kind == REGION_USABLE) == usable)
    };
    for region in of_kind(false) {
        insert(&mut regions, region);
        if regions.len() > MOST_OTHERS {
            join_closest(&mut regions);
        }
    }
    for region in of_kind(true) {
        if regions.is_full() && !leave_out_smaller(&mut regions, &region) {
            continue;
        }
        insert(&mut regions, region);
    }
    regions
}

fn end(region: &Region) -> u64 {
    region.start + region.len
}

/// Adds a region in its place, joined with those of its kind that it touches. There is room for it.
fn insert(regions: &mut Regions, region: Region) {
    let mut joined = region;
    regions.retain(|other| {
        let touches = other.kind == joined.kind && other.start <= end(&joined) && joined.start <= end(other);
        if touches {
            joined = hull(&joined, other, joined.kind);
        }
        !touches
    });
    let index = regions.partition_point(|other| other.start < joined.start);
    // The caller's promise.
    let _ = regions.insert(index, joined);
}

fn hull(a: &Region, b: &Region, kind: u32) -> Region {
    let start = a.start.min(b.start);
    Region { start, len: end(a).max(end(b)) - start, kind, reserved: 0 }
}

/// Makes one region of the two neighbours with the smallest gap between them.
fn join_closest(regions: &mut Regions) {
    let gap = |index: usize| regions[index].start.saturating_sub(end(&regions[index - 1]));
    let Some(index) = (1..regions.len()).min_by_key(|&index| gap(index)) else { return };
    let second = regions.remove(index);
    let first = &mut regions[index - 1];
    *first = hull(first, &second, if first.kind == second.kind { first.kind } else { RESERVED });
}

/// Takes out the smallest usable region if it is smaller than `region`; whether it did.
fn leave_out_smaller(regions: &mut Regions, region: &Region) -> bool {
    let usable = (0..regions.len()).filter(|&index| regions[index].kind == REGION_USABLE);
    match usable.min_by_key(|&index| regions[index].len) {
        Some(index) if regions[index].len < region.len => {
            regions.remove(index);
            true
        }
        _ => false,
    }
}

/// How the bytes of a pixel are used (UEFI 2.10, 12.9.2: `EFI_GRAPHICS_PIXEL_FORMAT`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pixels {
    /// One byte for each color, in whatever order, and one more.
    FourBytes,
    /// Masks of red, green, blue, and of what is reserved.
    Masks([u32; 4]),
    /// They cannot be written to.
    BltOnly,
}

impl Pixels {
    /// Bytes of one pixel; 0 where these are not whole bytes.
    fn bytes(self) -> u32 {
        match self {
            Self::FourBytes => 4,
            Self::Masks(masks) => {
                let bits = u32::BITS - masks.iter().fold(0, |all, mask| all | mask).leading_zeros();
                if bits.is_multiple_of(8) { bits / 8 } else { 0 }
            }
            Self::BltOnly => 0,
        }
    }
}

/// A graphics output's mode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mode {
    /// First byte of the frame buffer, host physical.
    pub address: u64,
    /// Bytes of the frame buffer.
    pub bytes: u64,
    /// How pixels are made.
    pub pixels: Pixels,
    /// Pixels shown of a line.
    pub width: u32,
    /// Lines.
    pub height: u32,
    /// Pixels from one line to the next.
    pub stride: u32,
}

impl Mode {
    /// The screen; [`Screen::NONE`] where a screen of the hand-off cannot be like that.
    #[must_use]
    pub fn screen(&self) -> Screen {
        let Self { address, width, height, stride, .. } = *self;
        let cell_bytes = self.pixels.bytes();
        let pitch = stride.checked_mul(cell_bytes);
        let Some(pitch) = pitch.filter(|&pitch| u64::from(pitch) * u64::from(height) <= self.bytes) else {
            return Screen::NONE;
        };
        if !(2..=4).contains(&cell_bytes) || width > stride || address == 0 {
            return Screen::NONE;
        }
        Screen { address, kind: ScreenKind::Pixels as u32, pitch, width, height, cell_bytes, reserved: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::{Descriptor, MOST_OTHERS, Mode, Pixels, Regions, WRITE_BACK, end, regions};
    use abi::handoff::{MAX_REGIONS, Screen, ScreenKind};
    use alloc::vec::Vec;

    fn descriptor(kind: u32, start: u64, pages: u64) -> Descriptor {
        Descriptor { kind, start, pages, attributes: 0xf }
    }

    fn of(map: &[Descriptor]) -> Regions {
        regions(map.iter().copied())
    }

    fn numbers(regions: &Regions) -> Vec<(u64, u64, u32)> {
        regions.iter().map(|region| (region.start, end(region), region.kind)).collect()
    }

    #[test]
    fn what_touches_is_joined() {
        let map = [
            descriptor(7, 0x5000, 1),
            descriptor(3, 0x1000, 1),
            descriptor(9, 0x6000, 2),
            descriptor(2, 0x2000, 3),
            descriptor(7, 0x9000, 1),
            descriptor(4, 0x8000, 1),
            descriptor(5, 0xa000, 1),
            descriptor(0, 0xb000, 1),
            descriptor(1, 0xc000, 0),
        ];
        assert_eq!(
            numbers(&of(&map)),
            [(0x1000, 0x6000, 1), (0x6000, 0x8000, 3), (0x8000, 0xa000, 1), (0xa000, 0xc000, 2)]
        );
    }

    #[test]
    fn kinds_are_those_of_acpi() {
        let kinds = |attributes| {
            let kind = |kind| of(&[Descriptor { attributes, ..descriptor(kind, 0x1000, 1) }])[0].kind;
            (0..17).chain([0x8000_0000]).map(kind).collect::<Vec<_>>()
        };
        assert_eq!(kinds(WRITE_BACK), [2, 1, 1, 1, 1, 2, 2, 1, 5, 3, 4, 2, 2, 2, 7, 2, 2, 2]);
        for not_ordinary in [0, 1, WRITE_BACK | 1 << 18] {
            assert_eq!(kinds(not_ordinary), [2, 2, 2, 2, 2, 2, 2, 2, 5, 3, 4, 2, 2, 2, 7, 2, 2, 2]);
        }
    }

    #[test]
    fn wild_numbers_stay_numbers() {
        let map =
            [descriptor(7, u64::MAX - 5, u64::MAX), descriptor(0, u64::MAX, 7), descriptor(7, 0, u64::MAX)];
        assert_eq!(numbers(&of(&map)), [(0, u64::MAX, 1)]);
    }

    #[test]
    fn the_smallest_usable_are_left_out() {
        let map: Vec<_> = (0..200).map(|n| descriptor(7, n << 32, n + 1)).collect();
        let found = of(&map);
        assert_eq!((found.len(), found[0].start), (MAX_REGIONS, 72 << 32));
    }

    #[test]
    fn others_are_joined_over_the_smallest_gaps() {
        let reserved = (0..100).map(|n| descriptor(0, n << 32, (n % 10 + 1) << 16));
        let mut map: Vec<_> = reserved.collect();
        map.push(descriptor(7, 0, 100 << 20));
        let found = of(&map);
        assert_eq!(found.len(), MOST_OTHERS + 1);
        for descriptor in &map[..100] {
            let covers =
                |start, end_| found.iter().any(|r| r.kind == 2 && r.start <= start && end_ <= end(r));
            assert!(covers(descriptor.start, descriptor.start + (descriptor.pages << 12)));
        }
        // The largest gaps are still there.
        assert!(!found.iter().any(|r| r.kind == 2 && r.start <= 0x6000_0000 && 0x6000_0000 < end(r)));
    }

    const MODE: Mode = Mode {
        address: 0x8000_0000,
        bytes: 1280 * 800 * 4,
        pixels: Pixels::FourBytes,
        width: 1270,
        height: 800,
        stride: 1280,
    };

    #[test]
    fn screens_of_whole_bytes() {
        let screen = MODE.screen();
        assert_eq!((screen.kind, screen.pitch, screen.cell_bytes), (ScreenKind::Pixels as u32, 5120, 4));
        let masks = |masks| Mode { pixels: Pixels::Masks(masks), ..MODE }.screen();
        assert_eq!(masks([0xf800, 0x7e0, 0x1f, 0]).cell_bytes, 2);
        assert_eq!(masks([0xff0000, 0xff00, 0xff, 0xff00_0000]).cell_bytes, 4);
        assert_eq!(masks([0x7c00, 0x3e0, 0x1f, 0]), Screen::NONE);
        assert_eq!(masks([0xe0, 0x1c, 3, 0]), Screen::NONE);
        assert_eq!(masks([0; 4]), Screen::NONE);
    }

    #[test]
    fn screens_that_cannot_be() {
        for mode in [
            Mode { pixels: Pixels::BltOnly, ..MODE },
            Mode { bytes: 1280 * 800 * 4 - 1, ..MODE },
            Mode { width: 1281, ..MODE },
            Mode { address: 0, ..MODE },
            Mode { stride: u32::MAX, ..MODE },
        ] {
            assert_eq!(mode.screen(), Screen::NONE);
        }
    }
}
