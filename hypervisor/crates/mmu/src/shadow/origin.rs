//! What a table of a shadow stands for: a guest's table, or a part of a large page, where a processor would read it in this mode.
//!
//! ```text
//!   guest:    CR3 ─► PML4 ─► PDPT ─► PD, an entry for 2 MiB ──────────────► gpa
//!   shadow:         (gfn, 4)  (gfn, 3)  (gfn, 2)      ├► (first frame, 1) ─► frame        base leaves, or
//!                                                     └────────────────────► frames       a large one
//! ```
//!
//! Rights are not part of it: each entry of a shadow has those of the guest's entry that it was derived from, and the processor takes
//! them together on its way, as it would in the guest's tables. So ways of different rights share what is below (CVE-2021-38198 was
//! a table that had the rights of one way, and was found by another). Only where the supervisor writes past W (CR0.WP clear)
//! a table belongs to ways of one kind, by W and by U: entries that name tables allow stores there, and leaves say what is allowed.

use super::format::Rights;
use super::walk::{DIRTY, GuestPaging, NO_EXECUTE, Path, Translation, USER, Used, WRITABLE};
use addr::{Gfn, PAGE_SHIFT, Pfn};
use mm::Host;
use mutants::{Mutant, intact};
use paging::Level;

/// How a processor reads a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Role(u16);

impl Role {
    /// There is no table: it is part of a large page, or of memory without paging.
    const PART: u16 = 1 << 0;
    const LONG: u16 = 1 << 1;
    /// Entries of 32 bits.
    const NARROW: u16 = 1 << 2;
    const NO_EXECUTE: u16 = 1 << 3;
    /// Entries of 32 bits may map 4 MiB.
    const LARGE: u16 = 1 << 4;
    /// CR0.WP is clear.
    const UNPROTECTED: u16 = 1 << 5;
    /// And CR4.SMEP is set.
    const NO_USER_CODE: u16 = 1 << 6;
    /// And some entry above forbids stores.
    const BELOW_READ_ONLY: u16 = 1 << 7;
    /// And some entry above keeps the user away.
    const BELOW_SUPERVISOR: u16 = 1 << 8;
    /// What matters in a part of a page.
    const OF_PART: u16 =
        Self::UNPROTECTED | Self::NO_USER_CODE | Self::BELOW_READ_ONLY | Self::BELOW_SUPERVISOR;

    fn of(paging: &GuestPaging) -> Self {
        let narrow = !paging.is_off() && paging.is_legacy_32();
        let unprotected = !paging.is_off() && !paging.protects_supervisor();
        let bits = [
            (Self::LONG, paging.is_long()),
            (Self::NARROW, narrow),
            (Self::NO_EXECUTE, paging.has_no_execute()),
            (Self::LARGE, narrow && paging.has_large_pages() && intact(Mutant::ShadowRoleWithoutPse)),
            (Self::UNPROTECTED, unprotected),
            (Self::NO_USER_CODE, unprotected && paging.has_smep()),
        ];
        Self(bits.into_iter().filter(|(_, is_set)| *is_set).fold(0, |all, (bit, _)| all | bit))
    }

    const fn has(self, bit: u16) -> bool {
        self.0 & bit != 0
    }

    const fn with(self, bit: u16) -> Self {
        Self(self.0 | bit)
    }

    /// What is below an entry: leaves have the rights of the whole way, where CR0.WP is clear, so ways of different rights share none.
    const fn below(self, entry: u64) -> Self {
        let mut below = self;
        if !self.is_protected() && entry & WRITABLE == 0 {
            below = below.with(Self::BELOW_READ_ONLY);
        }
        if !self.is_protected() && entry & USER == 0 {
            below = below.with(Self::BELOW_SUPERVISOR);
        }
        below
    }

    /// Whether CR0.WP is set.
    const fn is_protected(self) -> bool {
        !self.has(Self::UNPROTECTED)
    }

    /// What an entry that maps a page, or names a table, allows by itself.
    const fn rights(self, entry: u64) -> Rights {
        Rights {
            write: entry & WRITABLE != 0 || !self.is_protected(),
            user: entry & USER != 0,
            execute: entry & NO_EXECUTE == 0 || !self.has(Self::NO_EXECUTE),
        }
    }
}

/// What a table stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Origin {
    /// The guest's table; of a part of a large page, its first frame.
    pub(super) gfn: Gfn,
    pub(super) level: Level,
    /// Which part of a table of 1,024 entries.
    part: u8,
    role: Role,
}

impl Origin {
    fn of_table(gfn: Gfn, level: Level, part: u8, role: Role) -> Self {
        let part = if intact(Mutant::ShadowRoleWithoutPart) { part } else { 0 };
        Self { gfn, level, part, role }
    }

    /// The part of a page, or of memory without paging, that a table of this level spans around a frame.
    const fn of_part(gfn: Gfn, level: Level, role: Role) -> Self {
        let frames = 1 << (level.shift() + 9 - PAGE_SHIFT);
        let role = Role(role.0 & Role::OF_PART).with(Role::PART);
        Self { gfn: Gfn::new(gfn.as_u64() & !(frames - 1)), level, part: 0, role }
    }

    /// Whether it is a table of the guest's.
    pub(super) const fn is_table(&self) -> bool {
        !self.role.has(Role::PART)
    }

    /// Whether the rights of an entry are its own: CR0.WP is set.
    pub(super) const fn is_protected(&self) -> bool {
        self.role.is_protected()
    }

    /// Whether the supervisor may come to write pages of it that the entries do not allow it to.
    const fn may_be_lent(&self) -> bool {
        self.role.has(Role::BELOW_READ_ONLY)
    }

    /// What an entry of the guest's allows by itself.
    pub(super) const fn rights(&self, entry: u64) -> Rights {
        self.role.rights(entry)
    }

    /// The guest's entry for an entry of the shadow, from the frame of its table.
    pub(super) fn guest_entry<H: Host>(&self, host: &H, frame: Pfn, index: u16) -> u64 {
        if !self.role.has(Role::NARROW) {
            return host.load_word(frame, index);
        }
        // One of 4 MiB has two entries of the shadow; 1,024 of 4 KiB have two tables.
        let number = match self.level {
            Level::Pt => u16::from(self.part) * 512 + index,
            Level::Pd | Level::Pdpt | Level::Pml4 => u16::from(self.part) * 256 + index / 2,
        };
        host.load_word(frame, number / 2) >> (number % 2 * 32) & 0xffff_ffff
    }

    /// Whether an entry of a shadow with these bits allows no more than this entry of the guest's does by itself.
    pub(super) fn allows(&self, entry: u64, bits: u64) -> bool {
        self.role.rights(entry).covers(bits)
    }
}

/// Whether what was derived from an entry still is as that entry says: it has not changed, but for D, which came to it.
pub(super) const fn still_says(now: u64, from: u64) -> bool {
    now == from || now == from | DIRTY
}

/// A step of a way: a table, the entry there, and what the entry is derived from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    pub(super) origin: Origin,
    pub(super) index: u16,
    pub(super) from: u64,
    pub(super) rights: Rights,
}

/// Where a translation leads in a shadow.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way {
    /// Outside long mode it begins at one of PAE's four pointers.
    pub(super) pointer: Option<u16>,
    steps: [Option<Step>; 4],
    /// What the leaf allows, as far as the guest is concerned.
    pub(super) rights: Rights,
    /// A store by the supervisor that the entries do not allow, and CR0.WP does not forbid: for it alone the page is the supervisor's.
    pub(super) is_lent: bool,
}

impl Way {
    /// The steps, from the root on; the last one is the leaf's.
    pub(super) fn steps(&self) -> impl Iterator<Item = Step> + '_ {
        self.steps.iter().flatten().copied()
    }

    /// The way of a translation.
    pub(super) fn new(paging: &GuestPaging, linear: u64, found: &Translation, path: &Path) -> Self {
        let mut role = Role::of(paging);
        let levels =
            &[Level::Pml4, Level::Pdpt, Level::Pd, Level::Pt][if paging.is_long() { 0 } else { 2 }..];
        let (mut steps, mut used) = ([None; 4], path.used.iter().flatten().peekable());
        for (step, &level) in steps.iter_mut().zip(levels) {
            *step = Some(match used.next() {
                Some(entry) => {
                    let named = Step::through(role, (linear, level), *entry, used.peek().is_none());
                    role = role.below(entry.entry);
                    named
                }
                None => Step::within(role, (linear, level), found.gpa.gfn()),
            });
        }
        let own = steps.iter().flatten().next_back().map_or(Rights::ALL, |step| step.rights);
        let rights = if role.is_protected() {
            Rights { write: own.write, user: own.user, execute: own.execute }
        } else {
            Rights { write: found.write, user: found.user, execute: found.execute }
        };
        let pointer = (!paging.is_long()).then_some((linear >> 30 & 3) as u16);
        Self { pointer, steps, rights, is_lent: found.write && !path.write }
    }

    /// The way to all of the 2 MiB around, where the guest has them in one page, and no single page of it may be lent.
    pub(super) fn large(&self) -> Option<Self> {
        let last = self.steps.iter().rposition(Option::is_some)?;
        let Step { origin, .. } = self.steps[last]?;
        if origin.is_table() || origin.may_be_lent() && intact(Mutant::ShadowLargeLent) {
            return None;
        }
        let mut large = *self;
        large.steps[last] = None;
        if origin.is_protected() {
            large.rights = large.steps().last()?.rights;
        }
        Some(large)
    }
}

impl Step {
    /// By an entry of the guest's.
    fn through(role: Role, (linear, level): (u64, Level), used: Used, is_leaf: bool) -> Self {
        let part = match level {
            _ if !role.has(Role::NARROW) => 0,
            Level::Pt => linear >> 21 & 1,
            Level::Pd | Level::Pdpt | Level::Pml4 => linear >> 30 & 3,
        };
        let origin = Origin::of_table(used.at.gfn(), level, part as u8, role);
        let mut rights = role.rights(used.entry);
        // Until D is set, a store has to be seen.
        rights.write &= !is_leaf || used.entry & DIRTY != 0;
        Self { origin, index: level.index(linear), from: used.entry, rights }
    }

    /// Within a large page, or memory without paging.
    const fn within(role: Role, (linear, level): (u64, Level), gfn: Gfn) -> Self {
        let origin = Origin::of_part(gfn, level, role);
        Self { origin, index: level.index(linear), from: 0, rights: Rights::ALL }
    }
}

/// Where a guest's tables begin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Root {
    /// In long mode.
    Long(Origin),
    /// In any other: what PAE's four pointers name.
    Legacy([Option<Origin>; 4]),
}

impl Root {
    pub(super) fn of(paging: &GuestPaging) -> Self {
        const PRESENT: u64 = 1 << 0;
        let role = Role::of(paging);
        let table =
            |bits: u64, level, part| Origin::of_table(super::walk::gpa_of(bits).gfn(), level, part, role);
        if paging.is_long() {
            return Self::Long(table(paging.cr3, Level::Pml4, 0));
        }
        let quarter = |part: u8| {
            if paging.is_off() {
                let first = u64::from(part) << (Level::Pdpt.shift() - PAGE_SHIFT);
                return Some(Origin::of_part(Gfn::new(first), Level::Pd, role));
            }
            if paging.is_legacy_32() {
                return Some(table(paging.cr3 & 0xffff_ffff, Level::Pd, part));
            }
            let pointer = paging.pdptes[usize::from(part)];
            (pointer & PRESENT != 0).then(|| table(pointer, Level::Pd, 0))
        };
        Self::Legacy([quarter(0), quarter(1), quarter(2), quarter(3)])
    }
}
