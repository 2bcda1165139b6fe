//! The tables that are walked, and how one entry or two of them differ from entries that allow everything.
//!
//! ```text
//!   root ─┬─ the program, one to one                          (in long mode, as the boot code has it)
//!         ├─ first:  table ─► ... ─► table ─► the target       each entry as the case wants it; pages of all sizes lead to the target
//!         └─ second: table ─► ... ─► table ─► the user's code  all that the user needs
//! ```

use super::expect::{ACCESSED, DIRTY, Features, LARGE, Mode, NO_EXECUTE, PRESENT, USER, WRITABLE};
use super::probe::{Code, UD2};
use crate::Guest;
use crate::report::Failure;
use guest::cpu;
use guest::memory::Pages;

const GRANTED: u64 = PRESENT | WRITABLE | USER;
/// PAT of a large page, and what processors ignore: bits 8 to 11, and, in long mode, 52 to 58 (SDM vol. 3A tables 4-4 to 4-20).
const LARGE_PAT: u64 = 1 << 12;
const IGNORED: u64 = 0xf00;
const IGNORED_IN_LONG_MODE: u64 = 0x07f0_0000_0000_0000;
const IGNORED_IN_POINTERS: u64 = 0xe00;

/// How an entry differs from one that allows everything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mark {
    /// It does not.
    None,
    /// Without some of the rights: 1 write, 2 user, 4 execute.
    Without(u8),
    /// Not present, whatever else it says.
    Absent,
    AbsentGarbage,
    /// The first bit that no physical address has.
    Address,
    /// The last one, and all rights missing.
    HighAddress,
    /// A bit of its own kind: PS, or one below a large page's frame; of a page table's entry it is PAT.
    Shape,
    /// All that processors ignore.
    Ignored,
}

/// All of them but `None`.
pub(super) const MARKS: [Mark; 13] = [
    Mark::Without(1),
    Mark::Without(2),
    Mark::Without(3),
    Mark::Without(4),
    Mark::Without(5),
    Mark::Without(6),
    Mark::Without(7),
    Mark::Absent,
    Mark::AbsentGarbage,
    Mark::Address,
    Mark::HighAddress,
    Mark::Shape,
    Mark::Ignored,
];

/// Which entry it is.
#[derive(Clone, Copy)]
struct Place {
    mode: Mode,
    shift: u32,
    is_leaf: bool,
}

impl Place {
    const fn is_large(&self) -> bool {
        self.is_leaf && self.shift > 12
    }

    const fn ignored(&self) -> u64 {
        let high = match self.mode {
            Mode::Long => IGNORED_IN_LONG_MODE,
            Mode::Pae | Mode::Narrow { .. } | Mode::Off => 0,
        };
        let large = if self.is_large() { LARGE_PAT } else { 0 };
        if self.mode.is_pointer(self.shift) { IGNORED_IN_POINTERS } else { IGNORED | high | large }
    }

    /// The lowest bit, and the highest, that would belong to an address, were addresses longer.
    fn beyond_addresses(&self, features: &Features) -> [u64; 2] {
        if self.mode.is_narrow() {
            let first = (1 << features.first_reserved_of_4_mib()) & ((1 << 22) - 1);
            return if self.is_large() { [first, 1 << 21] } else { [0, 0] };
        }
        [(1 << features.physical_bits) & ((1 << 52) - 1), 1 << 51]
    }
}

impl Mark {
    fn apply(self, entry: u64, features: &Features, place: Place) -> u64 {
        let without = |rights: u8| {
            let cleared =
                [WRITABLE, USER].map(|right| if rights & right as u8 >> 1 == 0 { 0 } else { right });
            let added = if rights & 4 == 0 { 0 } else { NO_EXECUTE };
            entry & !cleared[0] & !cleared[1] | added
        };
        let [low, high] = place.beyond_addresses(features);
        match self {
            Self::None => entry,
            Self::Without(rights) => without(rights),
            Self::Absent => entry & !PRESENT,
            Self::AbsentGarbage => !PRESENT,
            Self::Address => entry | low,
            Self::HighAddress => without(7) | high,
            Self::Shape if place.is_large() => entry | 1 << (place.shift - 1),
            Self::Shape => entry | LARGE,
            Self::Ignored => entry | place.ignored(),
        }
    }

    /// Whether a processor with these features can have it there.
    fn fits(self, features: &Features, Place { mode, shift, is_leaf }: Place) -> bool {
        if mode.is_narrow() {
            // A table's address with PS is one of 4 MiB far away.
            return match self {
                Self::Without(rights) => rights < 4,
                Self::Shape => mode == Mode::Narrow { large: false } || shift == 12 || is_leaf,
                _ => true,
            };
        }
        match self {
            Self::Address => features.physical_bits < 52,
            Self::HighAddress => features.physical_bits < 52 && features.no_execute,
            Self::Without(rights) => rights < 4 || features.no_execute,
            _ => true,
        }
    }
}

/// What A and D are before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Before {
    Clear,
    Accessed,
    Dirty,
}

/// A way to the target.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    /// Entries on it: as many as there are levels, or fewer for a large page.
    pub(super) entries: usize,
    /// Which of them differ.
    pub(super) marks: [(usize, Mark); 2],
    pub(super) before: Before,
}

impl Layout {
    /// Whether the processor can have it.
    pub(super) fn fits(&self, mode: Mode, features: &Features) -> bool {
        (mode != Mode::Long || self.entries > 2 || features.gigantic_pages)
            && self
                .marks
                .iter()
                .all(|&(level, mark)| mark == Mark::None || mark.fits(features, self.place(mode, level)))
    }

    /// Whether MOV to CR3 has to tell of it.
    pub(super) fn has_marked_pointer(&self, mode: Mode) -> bool {
        self.marks.iter().any(|&(level, mark)| mark != Mark::None && level < mode.pointers())
    }

    const fn place(&self, mode: Mode, level: usize) -> Place {
        Place { mode, shift: mode.shifts()[level], is_leaf: level + 1 == self.entries }
    }

    const fn flags(&self) -> u64 {
        match self.before {
            Before::Clear => 0,
            Before::Accessed => ACCESSED,
            // In an entry for a table D means nothing.
            Before::Dirty => ACCESSED | DIRTY,
        }
    }
}

/// The tables.
pub(super) struct Tables {
    mode: Mode,
    pages: Pages,
}

const USER_PAGE: u64 = 0;
const TARGET: u64 = 1;
/// The root, and what is below it on the way to the target; then those on the way to the user's code; then the program's.
const ROOT: u64 = 2;
/// Page tables of 32-bit entries that the program needs: 8 MiB.
const PROGRAM_TABLES: u64 = 2;
const MIB: u64 = 1 << 20;

impl Tables {
    pub(super) fn new(guest: &mut Guest, mode: Mode) -> Result<Self, Failure> {
        let levels = mode.shifts().len() as u64;
        let count = ROOT + 2 * levels + PROGRAM_TABLES;
        let pages = guest.memory.take(count)?;
        (0..count).for_each(|page| pages.fill(page, |_| 0));
        let tables = Self { mode, pages };
        tables.map_program(ROOT + 2 * levels);
        for level in 0..mode.shifts().len() {
            let table = |level| if level == 0 { ROOT } else { ROOT + levels + level as u64 - 1 };
            let is_last = level + 1 == mode.shifts().len();
            let next = if is_last { USER_PAGE } else { table(level + 1) };
            let entry = tables.pages.page(next).as_u64() | tables.granted(level);
            tables.write(table(level), tables.user_code(), level, entry);
        }
        Ok(tables)
    }

    /// Where the program is, and all that it has taken: supervisor's pages, one to one.
    fn map_program(&self, first: u64) {
        let end = self.pages.page(self.pages.count() - 1).as_u64();
        let table = self.pages.page(first).as_u64();
        match self.mode {
            Mode::Off => {}
            Mode::Long => {
                // SAFETY: the boot code's root, one to one, which nobody writes any more.
                let boot =
                    unsafe { core::ptr::with_exposed_provenance::<u64>(cpu::cr3() as usize).read_volatile() };
                self.pages.write(ROOT, 0, boot);
            }
            Mode::Pae => {
                self.pages.fill(first, |entry| (entry * 2 * MIB) | LARGE | PRESENT | WRITABLE);
                self.pages.write(ROOT, 0, table | PRESENT);
            }
            Mode::Narrow { .. } => {
                assert!(end < PROGRAM_TABLES * 4 * MIB, "the program has taken memory at {end:#x}");
                for number in 0..PROGRAM_TABLES {
                    let next = self.pages.page(first + number).as_u64() | PRESENT | WRITABLE;
                    let linear = number * 4 * MIB;
                    self.write(ROOT, linear, 0, next);
                    (0..4 * MIB).step_by(4096).map(|offset| linear + offset).for_each(|page| {
                        self.write(first + number, page, 1, page | PRESENT | WRITABLE);
                    });
                }
            }
        }
    }

    pub(super) const fn mode(&self) -> Mode {
        self.mode
    }

    pub(super) fn root(&self) -> u64 {
        self.pages.page(ROOT).as_u64()
    }

    /// What an entry that names a table has besides.
    const fn granted(&self, level: usize) -> u64 {
        if level < self.mode.pointers() { PRESENT } else { GRANTED }
    }

    /// Where CPL 3 finds its code.
    pub(super) fn user_code(&self) -> u64 {
        match self.mode {
            Mode::Long => 2 << 39,
            Mode::Pae | Mode::Narrow { .. } => 2 << 30,
            Mode::Off => self.pages.page(USER_PAGE).as_u64(),
        }
    }

    /// Puts code there; whatever is behind it ends an attempt.
    pub(super) fn set_user_code(&self, code: &Code) {
        self.pages.fill(USER_PAGE, |word| code.get(word as usize).copied().unwrap_or(UD2));
    }

    /// The linear address whose page of whatever size is the target's.
    pub(super) fn linear(&self) -> u64 {
        let target = self.pages.page(TARGET).as_u64();
        match self.mode {
            Mode::Long => 1 << 39 | target,
            Mode::Pae | Mode::Narrow { .. } => 1 << 30 | target,
            Mode::Off => target,
        }
    }

    /// Bytes from a table's start to the entry of an address.
    fn offset(&self, linear: u64, level: usize) -> u64 {
        let number = linear >> self.mode.shifts()[level];
        if self.mode.is_narrow() { (number & 1023) * 4 } else { (number & 511) * 8 }
    }

    fn write(&self, table: u64, linear: u64, level: usize, entry: u64) {
        let offset = self.offset(linear, level);
        let (word, shift) = (offset / 8, offset % 8 * 8);
        let kept =
            if self.mode.is_narrow() { 0xffff_ffff_0000_0000_u64.rotate_left(shift as u32) } else { 0 };
        self.pages.write(table, word, self.pages.read(table, word) & kept | entry << shift);
    }

    /// The entries of a way, and nothing for levels that it has not.
    pub(super) fn plan(&self, layout: &Layout, features: &Features) -> [u64; 4] {
        core::array::from_fn(|level| {
            if level >= layout.entries {
                return 0;
            }
            let place = layout.place(self.mode, level);
            let target = self.pages.page(TARGET).as_u64() >> place.shift << place.shift;
            let frame = match (place.is_leaf, place.is_large()) {
                (false, _) => self.pages.page(ROOT + level as u64 + 1).as_u64(),
                (true, is_large) => target | if is_large { LARGE } else { 0 },
            };
            let flags = if level < self.mode.pointers() { 0 } else { layout.flags() };
            let marks = layout.marks.iter().filter(|(at, _)| *at == level);
            let entry = marks.fold(frame | self.granted(level) | flags, |entry, (_, mark)| {
                mark.apply(entry, features, place)
            });
            if self.mode.is_narrow() { entry & 0xffff_ffff } else { entry }
        })
    }

    /// Lays a way.
    pub(super) fn lay(&self, entries: &[u64]) {
        for (level, &entry) in entries.iter().enumerate() {
            self.write(ROOT + level as u64, self.linear(), level, entry);
        }
    }

    /// The guest-physical address of an entry on the way.
    pub(super) fn address(&self, level: usize) -> u64 {
        self.pages.page(ROOT + level as u64).as_u64() + self.offset(self.linear(), level)
    }

    /// The entries on a way of so many, of 64 bits each, as they are now.
    pub(super) fn entries(&self, count: usize) -> [u64; 4] {
        core::array::from_fn(|level| {
            let word = |level| self.offset(self.linear(), level) / 8;
            if level < count { self.pages.read(ROOT + level as u64, word(level)) } else { 0 }
        })
    }

    /// Where the target is.
    pub(super) fn target_address(&self) -> u64 {
        self.pages.page(TARGET).as_u64()
    }

    /// What the target holds.
    pub(super) fn target(&self) -> u64 {
        self.pages.read(TARGET, 0)
    }

    pub(super) fn set_target(&self, value: u64) {
        self.pages.write(TARGET, 0, value);
    }
}
