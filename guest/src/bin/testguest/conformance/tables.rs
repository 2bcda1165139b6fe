//! The tables that are walked, and how one entry or two of them differ from entries that allow everything.
//!
//! ```text
//!   root ─┬─ 0 ─► the boot code's tables: the program, one to one
//!         ├─ 1 ─► PDPT ─► PD ─► PT ─► the target       each entry as the case wants it; pages of all sizes lead to the target
//!         └─ 2 ─► PDPT ─► PD ─► PT ─► the user's code  all that the user needs
//! ```

use super::expect::{ACCESSED, DIRTY, Features, LARGE, NO_EXECUTE, PRESENT, SHIFTS, USER, WRITABLE};
use crate::Guest;
use crate::report::Failure;
use guest::cpu;
use guest::memory::Pages;

const GRANTED: u64 = PRESENT | WRITABLE | USER;
/// PAT of a large page, and what processors ignore: bits 8 to 11, and 52 to 58 (SDM vol. 3A tables 4-15 to 4-20).
const LARGE_PAT: u64 = 1 << 12;
const IGNORED: u64 = 0x07f0_0000_0000_0f00;

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

impl Mark {
    fn apply(self, entry: u64, features: &Features, shift: u32, is_leaf: bool) -> u64 {
        let without = |rights: u8| {
            let cleared =
                [WRITABLE, USER].map(|right| if rights & right as u8 >> 1 == 0 { 0 } else { right });
            let added = if rights & 4 == 0 { 0 } else { NO_EXECUTE };
            entry & !cleared[0] & !cleared[1] | added
        };
        match self {
            Self::None => entry,
            Self::Without(rights) => without(rights),
            Self::Absent => entry & !PRESENT,
            Self::AbsentGarbage => !PRESENT,
            Self::Address => entry | (1 << features.physical_bits) & ((1 << 52) - 1),
            Self::HighAddress => without(7) | 1 << 51,
            Self::Shape if is_leaf && shift > 12 => entry | 1 << (shift - 1),
            Self::Shape => entry | LARGE,
            Self::Ignored if is_leaf && shift > 12 => entry | IGNORED | LARGE_PAT,
            Self::Ignored => entry | IGNORED,
        }
    }

    /// Whether a processor with these features can have it.
    fn fits(self, features: &Features) -> bool {
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
    /// Entries on it: 4, or 3 for a page of 2 MiB, 2 for one of 1 GiB.
    pub(super) entries: usize,
    /// Which of them differ.
    pub(super) marks: [(usize, Mark); 2],
    pub(super) before: Before,
}

impl Layout {
    /// Whether the processor can have it.
    pub(super) fn fits(&self, features: &Features) -> bool {
        (self.entries > 2 || features.gigantic_pages)
            && self.marks.iter().all(|(_, mark)| mark.fits(features))
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
    /// Root, then PDPT, PD and PT of the target, then those of the user's code, that code, and the target.
    pages: Pages,
}

const ROOT: u64 = 0;
const USER_TABLES: u64 = 4;
const USER_PAGE: u64 = 7;
const TARGET: u64 = 8;
const PAGES: u64 = 9;

impl Tables {
    pub(super) fn new(guest: &mut Guest) -> Result<Self, Failure> {
        let pages = guest.memory.take(PAGES)?;
        (0..PAGES).for_each(|page| pages.fill(page, |_| 0));
        let boot = cpu::cr3();
        // SAFETY: the boot code's root, one to one, which nobody writes any more.
        let first = unsafe { core::ptr::with_exposed_provenance::<u64>(boot as usize).read_volatile() };
        pages.write(ROOT, 0, first);
        let tables = Self { pages };
        tables.write(ROOT, tables.user_code(), 0, tables.pages.page(USER_TABLES).as_u64() | GRANTED);
        for level in 1..4 {
            let next = tables.pages.page(USER_TABLES + level).as_u64() | GRANTED;
            tables.write(USER_TABLES + level - 1, tables.user_code(), level as usize, next);
        }
        // SAFETY: the boot code's first entry is there.
        unsafe { cpu::set_cr3(tables.pages.page(ROOT).as_u64()) };
        Ok(tables)
    }

    /// Where CPL 3 finds its code, and the page that holds it.
    pub(super) fn user_code(&self) -> u64 {
        2 << SHIFTS[0]
    }

    pub(super) fn user_page(&self) -> (&Pages, u64) {
        (&self.pages, USER_PAGE)
    }

    /// The linear address whose page of whatever size is the target's.
    pub(super) fn linear(&self) -> u64 {
        1 << SHIFTS[0] | self.pages.page(TARGET).as_u64()
    }

    fn write(&self, table: u64, linear: u64, level: usize, entry: u64) {
        self.pages.write(table, linear >> SHIFTS[level] & 511, entry);
    }

    /// Lays the way, and drops what was cached of the one before.
    pub(super) fn lay(&self, layout: &Layout, features: &Features) {
        let linear = self.linear();
        for (level, shift) in SHIFTS.into_iter().enumerate().take(layout.entries) {
            let is_leaf = level + 1 == layout.entries;
            let frame = match (is_leaf, level) {
                (false, _) => self.pages.page(level as u64 + 1).as_u64(),
                (true, 3) => self.pages.page(TARGET).as_u64(),
                (true, _) => self.pages.page(TARGET).as_u64() >> shift << shift | LARGE,
            };
            let entry = layout
                .marks
                .iter()
                .filter(|(at, _)| *at == level)
                .fold(frame | GRANTED | layout.flags(), |entry, (_, mark)| {
                    mark.apply(entry, features, shift, is_leaf)
                });
            self.write(level as u64, linear, level, entry);
        }
        cpu::invalidate(linear);
    }

    /// The entries on the way, as they are now.
    pub(super) fn entries(&self) -> [u64; 4] {
        let linear = self.linear();
        [0, 1, 2, 3].map(|level| self.pages.read(level as u64, linear >> SHIFTS[level] & 511))
    }

    /// What the target holds.
    pub(super) fn target(&self) -> u64 {
        self.pages.read(TARGET, 0)
    }

    pub(super) fn set_target(&self, value: u64) {
        self.pages.write(TARGET, 0, value);
    }
}
