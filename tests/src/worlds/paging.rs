//! Guests with paging: their tables lie in pages of their own space, and are reclaimed, migrated and copied like others.
//!
//! ```text
//!   gva = GVA + gpa:  PML4 ─► PDPT ─► PD ─┬─ pages of 2 MiB
//!                                         └─ PT: the arena's second region in pages of 4 KiB
//! ```
//!
//! They are made when a guest first needs them, and a child has its parent's. No area step reaches their pages.

use super::access::{Operation, Word, offset, retry};
use super::{ANNEX, Backing, World, address, number};
use crate::Violation;
use crate::lab::Verdict;
use crate::machine::{Context, GuestFault, Kind};
use addr::{Gfn, Gpa, Gva, PAGE_SIZE, PageSize};
use mm::{CpuIndex, Protection};

/// The pages that the tables of a guest lie in, and guest frames, too: first, and how many.
pub const TABLES: (u64, u64) = (ANNEX + 2048, 4);
/// Where the guest sees guest-physical address 0.
const GVA: Gva = Gva::new(0x5555_4000_0000);
/// Pages of 2 MiB that the guest maps: more than there is RAM.
const LARGE_PAGES: u16 = 12;
/// The one of them that is mapped in pages of 4 KiB.
const IN_SMALL: u16 = 1;
/// P, W, U; and PS in a large page's entry. Hardware sets A and D.
const ENTRY: u64 = 0b111;
const LARGE: u64 = 1 << 7;
const ACCESSED_DIRTY: u64 = 0b11 << 5;

/// Whether a page, by its number, holds a guest's table.
pub(super) fn is_table(page: u64) -> bool {
    (number(TABLES.0)..number(TABLES.0) + TABLES.1).contains(&page)
}

/// What a word of a page counts as: in tables, CPUs set bits whenever they like.
pub(super) fn seen(page: u64, word: u64) -> u64 {
    if is_table(page) { word & !ACCESSED_DIRTY } else { word }
}

/// All entries: table, place, entry.
fn entries() -> impl Iterator<Item = (u64, u16, u64)> {
    let table = |index: u64| Gfn::new(TABLES.0 + index).base().as_u64() | ENTRY;
    let place = |level: u32| (GVA.as_u64() >> (12 + 9 * (level - 1)) & 511) as u16;
    let upper = [(0, place(4), table(1)), (1, place(3), table(2))];
    let directory = (0..LARGE_PAGES).map(move |index| {
        let large = u64::from(index) * PageSize::Size2M.bytes() + (ENTRY | LARGE);
        (2, index, if index == IN_SMALL { table(3) } else { large })
    });
    let first = u64::from(IN_SMALL) * PageSize::Size2M.bytes();
    let small = (0..512u16).map(move |index| (3, index, first + u64::from(index) * PAGE_SIZE + ENTRY));
    upper.into_iter().chain(directory).chain(small)
}

impl World {
    /// What VM entry loads for the guest of a space.
    pub(super) fn context(id: usize) -> Context {
        Context { vpid: id as u16 + 1, cr3: Gfn::new(TABLES.0).base() }
    }

    /// Makes a guest's tables if it has none. The verdict is not `Done` where memory ran out.
    fn make_tables(&mut self, id: usize, cpu: CpuIndex) -> Result<Verdict, Violation> {
        if self.living(id).has_tables {
            return Ok(Verdict::Done);
        }
        let made = self.mmap(id, TABLES, Protection::ReadWrite, Backing::Anonymous(PageSize::Size4K))?;
        if made != Verdict::Done {
            return Ok(made);
        }
        for (table, place, entry) in entries() {
            let page = TABLES.0 + table;
            let hva = address(number(page)).add(offset(place));
            // The first store of each page faults; the others are made by the same translation.
            if self.machine.store_linear(cpu, hva, entry).is_ok() {
                self.note_store(id, (page, place), entry);
            } else if let verdict @ (Verdict::OutOfMemory | Verdict::DeviceFailed) =
                self.store(id, cpu, (page, place), entry)?
            {
                return Ok(verdict);
            }
        }
        if let Some(living) = &mut self.spaces[id] {
            living.has_tables = true;
        }
        self.judged(|| format!("tables of the guest of {id}"), &[Verdict::Done], Verdict::Done)
    }

    /// The guest of a space loads a word of a guest frame, by way of its own tables.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn guest_load_linear(
        &mut self,
        id: usize,
        cpu: CpuIndex,
        gfn: u64,
        word: u16,
    ) -> Result<Verdict, Violation> {
        self.nested(id, cpu, Word { page: gfn, word }, Operation::Load)
    }

    /// The guest of a space stores a word of a guest frame, by way of its own tables.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn guest_store_linear(
        &mut self,
        id: usize,
        cpu: CpuIndex,
        (gfn, word): (u64, u16),
        value: u64,
    ) -> Result<Verdict, Violation> {
        self.nested(id, cpu, Word { page: gfn, word }, Operation::Store(value))
    }

    fn nested(
        &mut self,
        id: usize,
        cpu: CpuIndex,
        at: Word,
        operation: Operation,
    ) -> Result<Verdict, Violation> {
        if self.guest(id).is_none() {
            return Ok(Verdict::NotRam);
        }
        self.enter_space(id, cpu);
        let made = self.make_tables(id, cpu)?;
        if made != Verdict::Done {
            return Ok(made);
        }
        self.enter_guest(id, cpu);
        let gpa = Gfn::new(at.page).base().add(offset(at.word));
        let gva = GVA.add(gpa.as_u64());
        let found = retry(|| {
            let tried = match operation {
                Operation::Load => self.machine.guest_load_linear(cpu, gva).map(Verdict::Value),
                Operation::Store(value) => {
                    self.machine.guest_store_linear(cpu, gva, value).map(|()| Verdict::Done)
                }
            };
            tried.map_err(|fault| match fault {
                GuestFault::Page => Some(Verdict::GuestFault),
                GuestFault::Ept { gpa, access } => self.ept_violation(id, cpu, gpa, access),
            })
        });
        if found == Verdict::DeviceFailed && self.swap.is_failing() {
            // It may have been for a table.
            self.absorb()?;
            return self.judged(|| format!("guest's access to {gva} in {id}"), &[found], found);
        }
        let page = self.page_of(id, gpa).map(|page| Word { page, ..at });
        self.judge_access(format_args!("guest's {operation:?} of {gva} in {id}"), id, page, operation, found)
    }

    /// Has the CPU fetch a translation for a guest frame that nobody asked for, by way of the guest's tables.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn speculate_linear(&mut self, id: usize, cpu: CpuIndex, gfn: u64) -> Result<Verdict, Violation> {
        if !self.living(id).has_tables || !self.enter_guest(id, cpu) {
            return Ok(Verdict::NotRam);
        }
        self.machine.speculate_guest(cpu, gva(gfn));
        self.judged(|| format!("speculation in the guest of {id}"), &[Verdict::Done], Verdict::Done)
    }

    /// The CPU loses translations, as it may to make room, or because its guest says so.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn lose(&mut self, cpu: CpuIndex, what: Lost) -> Result<Verdict, Violation> {
        match what {
            Lost::GuestPhysical => self.machine.evict(cpu, Kind::GuestPhysical),
            Lost::GuestsAll => self.machine.guest_load_cr3(cpu, Gfn::new(TABLES.0).base()),
            Lost::GuestsPage(gfn) => self.machine.guest_invalidate(cpu, gva(gfn)),
        }
        self.judged(|| format!("{what:?} on CPU {}", cpu.0), &[Verdict::Done], Verdict::Done)
    }

    /// The host takes the tables of a guest away and gives them back: mprotect, there and back.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn protect_tables(&mut self, id: usize, protection: Protection) -> Result<Verdict, Violation> {
        if !self.living(id).has_tables {
            return Ok(Verdict::NotRam);
        }
        self.mprotect(id, TABLES, protection)?;
        self.mprotect(id, TABLES, Protection::ReadWrite)
    }
}

/// Where the guest sees a guest frame.
#[must_use]
pub fn gva(gfn: u64) -> Gva {
    let gpa: Gpa = Gfn::new(gfn).base();
    GVA.add(gpa.as_u64())
}

/// Translations that a CPU loses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lost {
    /// All guest-physical ones; combined ones stay.
    GuestPhysical,
    /// All combined ones of the guest: its MOV to CR3.
    GuestsAll,
    /// The combined ones of a guest frame: its INVLPG.
    GuestsPage(u64),
}
