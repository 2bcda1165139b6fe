//! The page tables that Herald starts with, where a loader makes them in Rust: the first 4 GiB mapped to themselves by
//! 2 MiB pages (1 GiB pages are not everywhere), and Herald's image where it is linked. `long_mode.s` has the same in
//! assembly.
//!
//! ```text
//!   PML4[0], PML4[511] -> PDPT;  PDPT[0..4] -> four directories;  PDPT[510] -> the image's directory
//! ```

use addr::{Hpa, HpaRange, PageSize};

/// Entries of a table.
const ENTRIES: usize = 512;
/// How many tables there are.
pub const TABLES: usize = 7;
/// All tables, one after the other; the first is the root.
pub type Tables = [[u64; ENTRIES]; TABLES];

/// Present, writable (SDM vol. 3A, tables 4-15 and 4-16).
const TABLE: u64 = 0x3;
/// Present, writable, a 2 MiB page (SDM vol. 3A, table 4-18).
const LARGE_PAGE: u64 = 0x83;

const PML4: usize = 0;
const PDPT: usize = 1;
const DIRECTORIES: usize = 2;
const IMAGE_DIRECTORY: usize = 6;

/// Fills tables that lie at `start`, a page's first byte below 4 GiB, with the image that is linked for `linked` at
/// `place`; both start on 2 MiB, and `linked` ends in the first GiB.
pub fn fill(tables: &mut Tables, start: Hpa, linked: HpaRange, place: HpaRange) {
    let size = PageSize::Size2M.bytes();
    let table = |index: usize| (start.as_u64() + (index * size_of::<[u64; ENTRIES]>()) as u64) | TABLE;
    *tables = [[0; ENTRIES]; TABLES];
    tables[PML4][0] = table(PDPT);
    tables[PML4][ENTRIES - 1] = table(PDPT);
    let pages = tables[DIRECTORIES..IMAGE_DIRECTORY].iter_mut().flatten();
    for (number, entry) in (0..).zip(pages) {
        *entry = (number * size) | LARGE_PAGE;
    }
    for index in DIRECTORIES..IMAGE_DIRECTORY {
        tables[PDPT][index - DIRECTORIES] = table(index);
    }
    tables[PDPT][ENTRIES - 2] = table(IMAGE_DIRECTORY);
    let first = (linked.start().as_u64() / size) as usize;
    let pages = tables[IMAGE_DIRECTORY].iter_mut().skip(first);
    for (number, entry) in (0..place.len().div_ceil(size)).zip(pages) {
        *entry = (place.start().as_u64() + number * size) | LARGE_PAGE;
    }
}

#[cfg(test)]
mod tests {
    use super::{ENTRIES, TABLES, Tables, fill};
    use abi::handoff::IMAGE_OFFSET;
    use addr::{Hpa, HpaRange};

    const START: u64 = 0x7_5000;

    /// What a processor makes of an address.
    fn walk(tables: &Tables, address: u64) -> Option<u64> {
        let mut table = START;
        for shift in [39, 30, 21] {
            let index = (address >> shift) as usize % ENTRIES;
            let entry = tables[((table - START) / 4096) as usize][index];
            match entry & 0xfff {
                0x3 => table = entry & !0xfff,
                0x83 => return Some((entry & !0x1f_ffff) | (address & 0x1f_ffff)),
                _ => return None,
            }
        }
        None
    }

    #[test]
    fn herald_starts_with_them() {
        let mut tables = [[u64::MAX; ENTRIES]; TABLES];
        let range = |start, len| HpaRange::sized(Hpa::new(start), len).expect("a range");
        fill(&mut tables, Hpa::new(START), range(0x20_0000, 0x30_1000), range(0x8000_0000, 0x30_1000));
        for address in [0, 0x1000, 0x3fff_ffff, 0x4000_0000, 0x8765_4321, 0xffff_ffff] {
            assert_eq!(walk(&tables, address), Some(address));
        }
        let image = |offset| walk(&tables, IMAGE_OFFSET + offset);
        assert_eq!(image(0x20_0000), Some(0x8000_0000));
        assert_eq!(image(0x50_0fff), Some(0x8030_0fff));
        assert_eq!((image(0x1f_ffff), image(0x60_0000)), (None, None));
        assert_eq!((walk(&tables, 1 << 32), walk(&tables, IMAGE_OFFSET - 1)), (None, None));
    }
}
