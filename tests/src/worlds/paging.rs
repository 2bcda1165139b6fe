//! Guests with paging: their tables lie in pages of their own space, and are reclaimed, migrated and copied like others.
//!
//! ```text
//!   gva = GVA + gpa:  PML4 ─► PDPT ─► PD ─┬─ pages of 2 MiB
//!                                         └─ PT: the arena's second region in pages of 4 KiB
//! ```
//!
//! They are made when a guest first needs them, and a child has its parent's. No area step reaches their pages; the guest itself
//! changes them (`rewrite`). Under a shadow the guest turns its paging on and off, as an access needs it.

use super::access::{Operation, Word, offset, retry};
use super::{ANNEX, Backing, World, address, number, rewrite};
use crate::Violation;
use crate::lab::Verdict;
use crate::machine::{Context, GuestFault, GuestMode, Kind, Paging};
use crate::paging::{OFF, load_root};
use addr::{Gfn, Gpa, Gva, PAGE_SIZE, PageSize};
use mm::{Access, CpuIndex, Protection};
use mmu::{Drops, GuestPaging, LinearAccess, LinearFault, Processor};

/// The pages that the tables of a guest lie in, and guest frames, too: first, and how many.
pub const TABLES: (u64, u64) = (ANNEX + 2048, 4);
/// Where the guest sees guest-physical address 0.
const GVA: Gva = Gva::new(0x5555_4000_0000);
/// Pages of 2 MiB that the guest maps: more than there is RAM.
const LARGE_PAGES: u16 = 12;
/// The one of them that is mapped in pages of 4 KiB.
pub(super) const SMALL_PAGES: u16 = 1;
/// P, W, U; and PS in a large page's entry. Hardware sets A and D.
pub(super) const ENTRY: u64 = 0b111;
pub(super) const LARGE: u64 = 1 << 7;
const ACCESSED_DIRTY: u64 = 0b11 << 5;

/// Registers of a guest with paging: four levels.
const PAGING: GuestPaging = GuestPaging {
    cr0: 1 << 31 | 1 << 16 | 1,
    cr3: TABLES.0 * PAGE_SIZE,
    cr4: 1 << 5,
    efer: 1 << 8 | 1 << 10 | 1 << 11,
    pdptes: [0; 4],
    physical_bits: 40,
    gigantic_pages: true,
};

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
        (2, index, if index == SMALL_PAGES { table(3) } else { large })
    });
    let first = u64::from(SMALL_PAGES) * PageSize::Size2M.bytes();
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
        if self.living(id).tables.is_some() {
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
            living.tables = Some(rewrite::Maps::default());
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
        self.flush_owed(id, cpu);
        self.enter_guest(id, cpu, GuestMode::Long);
        let gva = gva(at.page).add(offset(at.word));
        let found = retry(|| {
            self.try_linear(cpu, gva, operation).map_err(|trap| match trap {
                Trap::Nested(GuestFault::Page) => Some(Verdict::GuestFault),
                Trap::Nested(GuestFault::Ept { gpa, access }) => self.ept_violation(id, cpu, gpa, access),
                Trap::Page => self.page_fault(id, cpu, gva, operation.access()),
            })
        });
        if found == Verdict::DeviceFailed && self.swap.is_failing() {
            // It may have been for a table.
            self.absorb()?;
            return self.judged(|| format!("guest's access to {gva} in {id}"), &[found], found);
        }
        let what = format!("guest's {operation:?} of {gva} in {id}");
        let Some(gfn) = self.mapped(id, at.page) else {
            return self.judged(|| what, &[Verdict::GuestFault], found);
        };
        let page = self.page_of(id, Gfn::new(gfn).base()).map(|page| Word { page, ..at });
        self.judge_access(format_args!("{what}"), id, page, operation, found)
    }

    /// The CPU tries an access by the guest's own tables.
    fn try_linear(&self, cpu: CpuIndex, gva: Gva, operation: Operation) -> Result<Verdict, Trap> {
        // Under a shadow the CPU has but one kind of address.
        let alone = Gpa::new(gva.as_u64());
        match (self.machine.options.paging, operation) {
            (Paging::Ept, Operation::Load) => {
                self.machine.guest_load_linear(cpu, gva).map(Verdict::Value).map_err(Trap::Nested)
            }
            (Paging::Ept, Operation::Store(value)) => {
                self.machine.guest_store_linear(cpu, gva, value).map(|()| Verdict::Done).map_err(Trap::Nested)
            }
            (Paging::Shadow, Operation::Load) => {
                self.machine.guest_load(cpu, alone).map(Verdict::Value).map_err(|_| Trap::Page)
            }
            (Paging::Shadow, Operation::Store(value)) => {
                self.machine.guest_store(cpu, alone, value).map(|()| Verdict::Done).map_err(|_| Trap::Page)
            }
        }
    }

    /// The exit handler of a page fault under a shadow; `None`: the guest tries again.
    fn page_fault(&self, id: usize, cpu: CpuIndex, gva: Gva, access: Access) -> Option<Verdict> {
        let guest = self.living(id).guest.as_ref()?;
        let access =
            LinearAccess { write: access == Access::Write, fetch: false, user: false, passes_smap: false };
        self.machine.exit(cpu);
        let outcome = guest.mmu.fault_linear(Processor(cpu.0), &PAGING, gva.as_u64(), access);
        self.machine.settle();
        self.machine.enter(cpu, guest.root);
        match outcome {
            Ok(LinearFault::Mapped) => None,
            Ok(LinearFault::NotRam(_)) => Some(Verdict::NotRam),
            Ok(LinearFault::Guest(_)) => Some(Verdict::GuestFault),
            Err(error) => Some(error.into()),
        }
    }

    /// Under a shadow: the guest, which runs on this CPU, has its paging so.
    pub(super) fn set_mode(&self, id: usize, cpu: CpuIndex, mode: GuestMode) {
        let Some(guest) = &self.living(id).guest else { return };
        let now = self.machine.shadow_roots(guest.root).get(cpu.0).map(|shadow| shadow.mode);
        if now.is_some_and(|now| now != mode) {
            self.load_paging(id, cpu, mode);
        }
    }

    /// Under a shadow: MOV to CR0 or CR3 makes the guest exit.
    fn load_paging(&self, id: usize, cpu: CpuIndex, mode: GuestMode) {
        let Some(guest) = &self.living(id).guest else { return };
        self.machine.exit(cpu);
        let paging = if mode == GuestMode::Off { &OFF } else { &PAGING };
        load_root(&self.machine, &guest.mmu, cpu, (paging, Drops::All));
        self.machine.enter(cpu, guest.root);
    }

    /// The guest of a space flushes on this CPU what it has of a guest frame: INVLPG; or of all: MOV to CR3.
    pub(super) fn guest_flush(&self, id: usize, cpu: CpuIndex, gfn: Option<u64>) {
        match (self.machine.options.paging, gfn) {
            (Paging::Ept, None) => self.machine.guest_load_cr3(cpu, Gfn::new(TABLES.0).base()),
            (Paging::Ept, Some(gfn)) => self.machine.guest_invalidate(cpu, gva(gfn)),
            (Paging::Shadow, None) => self.load_paging(id, cpu, GuestMode::Long),
            (Paging::Shadow, Some(gfn)) => {
                let Some(guest) = &self.living(id).guest else { return };
                self.machine.exit(cpu);
                guest.mmu.invalidate_linear(Processor(cpu.0), gva(gfn).as_u64());
                self.machine.enter(cpu, guest.root);
            }
        }
    }

    /// Has the CPU fetch a translation for a guest frame that nobody asked for, by way of the guest's tables.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn speculate_linear(&mut self, id: usize, cpu: CpuIndex, gfn: u64) -> Result<Verdict, Violation> {
        if self.living(id).tables.is_none() || !self.enter_guest(id, cpu, GuestMode::Long) {
            return Ok(Verdict::NotRam);
        }
        match self.machine.options.paging {
            Paging::Ept => self.machine.speculate_guest(cpu, gva(gfn)),
            Paging::Shadow => self.machine.speculate(cpu, gva(gfn).as_u64()),
        }
        self.judged(|| format!("speculation in the guest of {id}"), &[Verdict::Done], Verdict::Done)
    }

    /// The CPU loses translations, as it may to make room, or because its guest says so.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn lose(&mut self, cpu: CpuIndex, what: Lost) -> Result<Verdict, Violation> {
        match (what, self.loaded[cpu.0]) {
            (Lost::GuestPhysical, _) => {
                [Kind::GuestPhysical, Kind::Shadow]
                    .into_iter()
                    .for_each(|kind| self.machine.evict(cpu, kind));
            }
            (_, Some(id))
                if self.living(id).tables.is_some() && self.enter_guest(id, cpu, GuestMode::Long) =>
            {
                self.guest_flush(id, cpu, if let Lost::GuestsPage(gfn) = what { Some(gfn) } else { None });
            }
            _ => {}
        }
        self.judged(|| format!("{what:?} on CPU {}", cpu.0), &[Verdict::Done], Verdict::Done)
    }

    /// The host takes the tables of a guest away and gives them back: mprotect, there and back.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn protect_tables(&mut self, id: usize, protection: Protection) -> Result<Verdict, Violation> {
        if self.living(id).tables.is_none() {
            return Ok(Verdict::NotRam);
        }
        self.mprotect(id, TABLES, protection)?;
        self.mprotect(id, TABLES, Protection::ReadWrite)
    }
}

/// Why an access by a guest's tables was not made.
enum Trap {
    /// By its own tables or by the EPT.
    Nested(GuestFault),
    /// By the shadow.
    Page,
}

/// Where the guest sees a guest frame.
#[must_use]
pub fn gva(gfn: u64) -> Gva {
    let gpa: Gpa = Gfn::new(gfn).base();
    GVA.add(gpa.as_u64())
}

/// The frame that a linear address leads to under a shadow, with the guest's paging or without. `None`: the guest may have changed that.
pub(super) fn frame_of(linear: Gva) -> Option<Gpa> {
    let Some(mapped) = linear.as_u64().checked_sub(GVA.as_u64()) else {
        return Some(Gpa::new(linear.as_u64()));
    };
    let small = u64::from(SMALL_PAGES) == mapped / PageSize::Size2M.bytes();
    (!small).then_some(Gpa::new(mapped))
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
