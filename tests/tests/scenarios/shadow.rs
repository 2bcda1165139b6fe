//! Guests under shadows, with paging of their own: what their tables say, their flushes, and what the host does meanwhile.
//!
//! The guest's first processor, on CPU 0, uses the tables that its second one, on CPU 1, writes without paging.

mod aging;
mod beside;
mod kept;
mod large;
mod pcid;
mod random;

use crate::{CPU0, CPU1, GUEST, Outcome, lab_with};
use addr::{Gfn, GfnRange, Gpa, PAGE_SIZE, PageSize, Pfn};
use mmu::{AccessedDirty, Drops, GuestPaging, LinearAccess, LinearFault, LogBy, PageFault, Processor};
use paging::{Level, OutOfTables};
use tests::lab::{Lab, Verdict, gpage, page, pages};
use tests::machine::{Failing, Machine, Options, Paging};
use tests::paging::load_root;

/// Pages of RAM: the tables lie in the first ones.
const RAM: u64 = 64;
const PROCESSOR: Processor = Processor(0);
const P: u64 = 1 << 0;
const W: u64 = 1 << 1;
const U: u64 = 1 << 2;
const A: u64 = 1 << 5;
const D: u64 = 1 << 6;
const PS: u64 = 1 << 7;

/// What an access has come to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    Value(u64),
    Fault(u32),
    Device(Gpa),
}

const READ: LinearAccess = LinearAccess { write: false, fetch: false, user: false, passes_smap: false };
const WRITE: LinearAccess = LinearAccess { write: true, ..READ };

/// Four levels: the root is page 1, below it pages 2 and 3 for the first GiB, and page 4 for its first 2 MiB.
const LONG: GuestPaging = GuestPaging {
    cr0: 1 << 31 | 1 << 16 | 1,
    cr3: 0x1000,
    cr4: 1 << 5,
    efer: 1 << 8 | 1 << 10 | 1 << 11,
    pdptes: [0; 4],
    physical_bits: 40,
    gigantic_pages: true,
};

/// A guest whose first processor has this paging.
struct Guest {
    lab: Lab,
    paging: GuestPaging,
}

impl Guest {
    fn new(paging: GuestPaging) -> Self {
        let options =
            Options { paging: Paging::Shadow, accessed_dirty: AccessedDirty::Absent, ..Options::default() };
        let lab = lab_with(options, RAM);
        let guest = Self { lab, paging };
        guest.loads_cr3();
        guest
    }

    /// With four levels that map no page yet.
    fn long() -> Result<Self, tests::Violation> {
        let guest = Self::new(LONG);
        for (table, below) in [(1, 2), (2, 3), (3, 4)] {
            guest.write(gpage(table), gpage(below).as_u64() | P | W | U)?;
        }
        Ok(guest)
    }

    /// The second processor writes a word.
    fn write(&self, at: Gpa, value: u64) -> Outcome {
        let done = self.lab.guest_store(GUEST, CPU1, at, value)?;
        assert_eq!(done, Verdict::Done);
        Ok(())
    }

    /// What is there, past the bench's opinion: it does not know what processors write into tables.
    fn word(&self, at: Gpa) -> u64 {
        let leaf = self.lab.guest(GUEST).mmu.lookup(at.gfn()).expect("was used");
        self.lab.machine.peek(leaf.pfn, (at.offset_in(PageSize::Size4K) / 8) as u16)
    }

    /// Page `index` of the first 2 MiB is this page of RAM.
    fn map(&self, index: u64, to: u64, flags: u64) -> Outcome {
        self.write(gpage(4).add(index * 8), gpage(to).as_u64() | flags)
    }

    /// The first processor makes an access, and takes its faults.
    fn access(&self, linear: u64, value: Option<u64>) -> Result<End, tests::Violation> {
        let machine = &self.lab.machine;
        self.lab.run_guest(GUEST, CPU0);
        let end = loop {
            let tried = match value {
                None => machine.guest_load(CPU0, Gpa::new(linear)),
                Some(value) => machine.guest_store(CPU0, Gpa::new(linear), value).map(|()| value),
            };
            if let Ok(value) = tried {
                break End::Value(value);
            }
            machine.exit(CPU0);
            let access = if value.is_some() { WRITE } else { READ };
            match self.lab.guest(GUEST).mmu.fault_linear(PROCESSOR, &self.paging, linear, access) {
                Ok(LinearFault::Mapped) => {}
                Ok(LinearFault::Guest(PageFault { code })) => break End::Fault(code),
                Ok(LinearFault::NotRam(gpa)) => break End::Device(gpa),
                Err(error) => panic!("{error}"),
            }
            self.lab.run_guest(GUEST, CPU0);
        };
        self.lab.check()?;
        Ok(end)
    }

    fn reads(&self, linear: u64, value: u64) -> Outcome {
        assert_eq!(self.access(linear, None)?, End::Value(value), "at {linear:#x}");
        Ok(())
    }

    fn writes(&self, linear: u64, value: u64) -> Outcome {
        assert_eq!(self.access(linear, Some(value))?, End::Value(value), "at {linear:#x}");
        Ok(())
    }

    /// INVLPG.
    fn invalidates(&self, linear: u64) {
        self.lab.machine.exit(CPU0);
        self.lab.guest(GUEST).mmu.invalidate_linear(PROCESSOR, linear);
    }

    /// MOV to CR3.
    fn loads_cr3(&self) {
        self.loads(Drops::Pcid);
    }

    /// The same, with or without bit 63, or something else that drops all.
    fn loads(&self, drops: Drops) {
        self.lab.machine.exit(CPU0);
        load_root(&self.lab.machine, &self.lab.guest(GUEST).mmu, CPU0, (&self.paging, drops));
    }

    fn finish(self) -> Outcome {
        self.lab.finish()
    }
}

/// Words that the second processor puts into pages 16 to 31: their numbers.
fn numbered(guest: &Guest) -> Outcome {
    (16..32).try_for_each(|number| guest.write(gpage(number), number))
}

#[test]
fn a_guest_reaches_its_pages_by_its_own_tables() -> Outcome {
    let guest = Guest::long()?;
    numbered(&guest)?;
    guest.map(5, 20, P | W)?;
    guest.reads(0x5000, 20)?;
    assert_eq!(guest.word(gpage(4).add(5 * 8)) & (A | D), A);
    guest.writes(0x5008, 77)?;
    assert_eq!(guest.word(gpage(4).add(5 * 8)) & (A | D), A | D);
    assert_eq!(guest.word(gpage(20).add(8)), 77);
    guest.finish()
}

#[test]
fn what_the_guest_forbids_is_its_own_fault_until_it_allows_it() -> Outcome {
    let guest = Guest::long()?;
    numbered(&guest)?;
    assert_eq!(guest.access(0x5000, None)?, End::Fault(0));
    // From absent to present takes no flush.
    guest.map(5, 20, P)?;
    guest.reads(0x5000, 20)?;
    assert_eq!(guest.access(0x5000, Some(1))?, End::Fault(PageFault::PRESENT | PageFault::WRITE));
    guest.map(5, 20, P | W)?;
    guest.writes(0x5000, 21)?;
    guest.finish()
}

#[test]
fn what_the_guest_takes_away_is_gone_after_its_flush() -> Outcome {
    let guest = Guest::long()?;
    numbered(&guest)?;
    for by_cr3 in [false, true] {
        guest.map(5, 20, P | W)?;
        guest.invalidates(0x5000);
        guest.reads(0x5000, 20)?;
        guest.map(5, 21, P | W)?;
        if by_cr3 {
            guest.loads_cr3();
        } else {
            guest.invalidates(0x5abc);
        }
        guest.reads(0x5000, 21)?;
    }
    guest.map(5, 0, 0)?;
    guest.invalidates(0x5000);
    assert_eq!(guest.access(0x5000, Some(1))?, End::Fault(PageFault::WRITE));
    guest.finish()
}

#[test]
fn a_flush_of_one_address_of_a_large_page_is_one_of_the_page() -> Outcome {
    // Page sizes, and addresses as far apart in a page as they can be: not in the same table of the shadow.
    let four_mib = GuestPaging { cr4: 1 << 4, efer: 0, ..LONG };
    for (paging, entry, (near, far)) in [
        (LONG, gpage(3).add(8), (0x20_0000, 0x20_f000)),
        (LONG, gpage(2).add(8), (0x4000_0000, 0x4000_f000)),
        (four_mib, gpage(1), (0x0000_0000, 0x0000_f000)),
    ] {
        let guest = if paging.is_long() { Guest::long()? } else { Guest::new(paging) };
        guest.write(gpage(15), 15)?;
        guest.write(entry, P | W | PS)?;
        guest.reads(far, 15)?;
        // The page is not there any more: the whole of it goes, whichever of its addresses is named.
        guest.write(entry, 0)?;
        guest.invalidates(near);
        assert_eq!(guest.access(far, None)?, End::Fault(0), "{far:#x}");
        guest.finish()?;
    }
    Ok(())
}

#[test]
fn a_flush_reaches_the_other_half_of_four_mebibytes() -> Outcome {
    let paging = GuestPaging { cr4: 1 << 4, efer: 0, ..LONG };
    let guest = Guest::new(paging);
    // 2 MiB above the page's start there is a slot with a page of RAM.
    guest.lab.add_slot(GUEST, Gpa::new(0x20_0000), pages(20, 1));
    guest.write(gpage(20), 5)?;
    guest.write(gpage(1), P | W | PS)?;
    guest.reads(0x20_0000, 5)?;
    guest.write(gpage(1), 0)?;
    guest.invalidates(0x1000);
    assert_eq!(guest.access(0x20_0000, None)?, End::Fault(0));
    guest.finish()
}

#[test]
fn a_flush_reaches_all_of_a_gibibyte() -> Outcome {
    let guest = Guest::long()?;
    guest.lab.add_slot(GUEST, Gpa::new(0x60_0000), pages(20, 1));
    guest.write(gpage(20), 6)?;
    guest.write(gpage(2).add(8), P | W | PS)?;
    guest.reads(0x4060_0000, 6)?;
    guest.write(gpage(2).add(8), 0)?;
    guest.invalidates(0x4000_0000);
    assert_eq!(guest.access(0x4060_0000, None)?, End::Fault(0));
    guest.finish()
}

#[test]
fn pae_and_32_bit_guests_are_translated() -> Outcome {
    let pae = GuestPaging { efer: 1 << 11, pdptes: [0, 0, 0, 0x3000 | P], ..LONG };
    let guest = Guest::new(pae);
    numbered(&guest)?;
    guest.write(gpage(3).add(511 * 8), gpage(4).as_u64() | P | W)?;
    guest.write(gpage(4).add(511 * 8), gpage(17).as_u64() | P | W)?;
    guest.reads(0xffff_f000, 17)?;
    assert_eq!(guest.access(0x1000, None)?, End::Fault(0));
    guest.finish()?;
    let guest = Guest::new(GuestPaging { cr4: 0, efer: 0, ..LONG });
    numbered(&guest)?;
    // Two entries a word: those of linear pages 2 and 3 of the last 4 MiB.
    guest.write(gpage(1).add(1022 * 4), (gpage(4).as_u64() | P | W) << 32)?;
    guest.write(gpage(4).add(8), gpage(18).as_u64() | P | (gpage(19).as_u64() | P | W) << 32)?;
    guest.reads(0xffc0_2000, 18)?;
    guest.writes(0xffc0_3008, 3)?;
    let flags = guest.word(gpage(4).add(8));
    assert_eq!((flags & 0xfff, flags >> 32 & 0xfff), (P | A, P | W | A | D));
    guest.finish()
}

#[test]
fn each_half_of_a_table_of_32_bits_is_one_of_its_own() -> Outcome {
    let guest = Guest::new(GuestPaging { cr4: 0, efer: 0, ..LONG });
    numbered(&guest)?;
    guest.write(gpage(1), gpage(4).as_u64() | P | W)?;
    // Entry 4 of either half: linear pages 4 and 516.
    for (entry, to) in [(4, 20), (516, 21)] {
        guest.write(gpage(4).add(entry * 4), gpage(to).as_u64() | P | W)?;
        guest.reads(entry << 12, to)?;
    }
    guest.reads(0x4000, 20)?;
    guest.finish()
}

/// The root is its own first page table without CR4.PSE, and its first entry 4 MiB from address 0 on with it.
#[test]
fn an_entry_of_32_bits_becomes_one_of_four_mebibytes_with_pse() -> Outcome {
    let mut guest = Guest::new(GuestPaging { cr4: 0, efer: 0, ..LONG });
    numbered(&guest)?;
    guest.write(gpage(1), 0x1000 | P | W | PS)?;
    guest.write(gpage(1).add(18 * 4), gpage(20).as_u64() | P | W)?;
    for (cr4, number) in [(0, 20), (1 << 4, 18), (0, 20)] {
        guest.paging.cr4 = cr4;
        guest.loads_cr3();
        guest.reads(18 << 12, number)?;
    }
    guest.finish()
}

#[test]
fn what_the_host_takes_away_leaves_the_shadow() -> Outcome {
    let guest = Guest::long()?;
    numbered(&guest)?;
    guest.map(5, 20, P | W)?;
    guest.map(6, 20, P | W)?;
    for linear in [0x5000, 0x6000] {
        guest.reads(linear, 20)?;
    }
    guest.lab.migrate(page(20))?;
    guest.writes(0x5000, 99)?;
    guest.reads(0x6000, 99)?;
    guest.lab.discard(pages(20, 1))?;
    guest.reads(0x6000, 0)?;
    guest.reads(0x5000, 0)?;
    // Its own tables, too, may lie elsewhere by now.
    for table in 1..5 {
        guest.lab.migrate(page(table))?;
    }
    guest.loads_cr3();
    guest.reads(0x5000, 0)?;
    guest.finish()
}

#[test]
fn bytes_are_exchanged_where_they_are_as_expected() -> Outcome {
    let guest = Guest::long()?;
    guest.write(gpage(40), 0x1122_3344_5566_7788)?;
    let mmu = &guest.lab.guest(GUEST).mmu;
    let at = gpage(40).add(2);
    assert_eq!(mmu.begin_log(Gfn::ZERO, LogBy::WriteFault), Ok(()));
    assert_eq!(mmu.exchange(at, &[0x66, 0x55], &[1, 2]), Ok(Some(true)));
    assert_eq!(mmu.exchange(at, &[0x66, 0x55], &[3, 4]), Ok(Some(false)));
    assert_eq!(guest.word(gpage(40)), 0x1122_3344_0201_7788);
    assert_eq!(mmu.harvest(GfnRange::new(Gfn::ZERO, Gfn::new(RAM))).iter().next(), Some(Gfn::new(40)));
    assert_eq!(mmu.exchange(gpage(RAM + 8), &[0], &[1]), Ok(None), "a hole");
    guest.lab.check()?;
    guest.finish()
}

#[test]
fn a_page_that_becomes_a_device_in_place_is_one() -> Outcome {
    let guest = Guest::long()?;
    numbered(&guest)?;
    guest.map(5, 20, P | W)?;
    guest.writes(0x5000, 1)?;
    // CVE-2026-23401: RAM, and then none, by the same entry.
    let hole = Gpa::new(0xfee0_0000);
    guest.write(gpage(4).add(5 * 8), hole.as_u64() | P | W)?;
    guest.invalidates(0x5000);
    assert_eq!(guest.access(0x5010 - 8, Some(1))?, End::Device(hole.add(8)));
    assert_eq!(guest.access(0x5000, None)?, End::Device(hole));
    guest.map(5, 21, P | W)?;
    guest.invalidates(0x5000);
    guest.reads(0x5000, 21)?;
    guest.finish()
}

#[test]
fn an_address_that_no_table_reaches_is_no_other_one() -> Outcome {
    let mut guest = Guest::long()?;
    guest.paging.physical_bits = 52;
    numbered(&guest)?;
    let far = Gpa::new(1 << 48 | gpage(20).as_u64());
    guest.map(20, 20, P | W)?;
    guest.reads(20 * 4096, 20)?;
    guest.write(gpage(4).add(5 * 8), far.as_u64() | P | W)?;
    assert_eq!(guest.access(0x5000, None)?, End::Device(far));
    // Nor is a table, which reads all ones.
    guest.write(gpage(3).add(8), 1 << 48 | gpage(4).as_u64() | P | W)?;
    assert_eq!(guest.access(0x20_0000, None)?, End::Device(Gpa::new(((1 << 52) - 1) & !0xfff)));
    guest.finish()
}

#[test]
fn a_huge_entry_that_turns_into_a_table_takes_its_pages_along() -> Outcome {
    // CVE-2026-53359: the entry changes behind the shadow's back, and the frame goes.
    let guest = Guest::long()?;
    numbered(&guest)?;
    guest.write(gpage(3).add(8), P | W | PS)?;
    guest.reads(0x20_0000 + 20 * 4096, 20)?;
    guest.write(gpage(3).add(8), gpage(4).as_u64() | P | W)?;
    guest.map(20, 30, P | W)?;
    guest.lab.discard(pages(20, 1))?;
    // Not flushed by the guest: the old translation is gone with the frame all the same.
    guest.reads(0x20_0000 + 20 * 4096, 30)?;
    guest.finish()
}

#[test]
fn rights_of_one_way_are_not_those_of_another() -> Outcome {
    // CVE-2021-38198: one table below two entries, of which one forbids stores.
    let guest = Guest::long()?;
    numbered(&guest)?;
    guest.write(gpage(3).add(8), gpage(4).as_u64() | P)?;
    guest.map(5, 20, P | W)?;
    guest.writes(0x5000, 1)?;
    guest.reads(0x20_5000, 1)?;
    assert_eq!(guest.access(0x20_5000, Some(2))?, End::Fault(PageFault::PRESENT | PageFault::WRITE));
    guest.writes(0x5000, 3)?;
    guest.finish()
}

#[test]
fn the_dirty_log_sees_writes_by_shadows() -> Outcome {
    let guest = Guest::long()?;
    numbered(&guest)?;
    for index in 0..4 {
        guest.map(index, 20 + index, P | W | A | D)?;
        guest.writes(index << 12, 1)?;
    }
    let mmu = &guest.lab.guest(GUEST).mmu;
    assert_eq!(mmu.begin_log(Gfn::ZERO, LogBy::WriteFault), Ok(()));
    guest.lab.check()?;
    let all = GfnRange::new(Gfn::ZERO, Gfn::new(RAM));
    let written = || mmu.harvest(all).iter().map(Gfn::as_u64).collect::<Vec<_>>();
    assert_eq!(written(), []);
    for round in 0..2 {
        guest.writes(0x1000, 50 + round)?;
        guest.reads(0x2000, 1)?;
        assert_eq!(written(), [21], "round {round}");
        guest.lab.check()?;
    }
    // What Herald sets in the guest's tables is written, too.
    guest.map(3, 23, P | W)?;
    guest.invalidates(0x3000);
    assert_eq!(written(), [4]);
    guest.reads(0x3000, 1)?;
    assert_eq!(written(), [4]);
    // All that there is, by whomever: the guest's right to write goes as it does of one page.
    guest.writes(0x1000, 60)?;
    (0..RAM).try_for_each(|number| guest.write(gpage(number).add(PAGE_SIZE - 8), 0))?;
    assert_eq!(written(), (0..RAM).collect::<Vec<_>>());
    guest.writes(0x1000, 61)?;
    assert_eq!(written(), [21]);
    guest.finish()
}

/// These 2 MiB have a page table of their own, whose page 5 is page 20 of RAM.
fn page_table_of(guest: &Guest, index: u64) -> Outcome {
    let table = gpage(32 + index);
    guest.write(table.add(5 * 8), gpage(20).as_u64() | P | W)?;
    guest.write(gpage(3).add(index * 8), table.as_u64() | P | W)
}

fn in_2_mib(index: u64) -> u64 {
    index * Level::Pd.span() + 5 * 4096
}

#[test]
fn a_shadow_that_is_full_drops_what_is_oldest() -> Outcome {
    let guest = Guest::long()?;
    numbered(&guest)?;
    // More page tables than there may be tables.
    (0..30).try_for_each(|index| page_table_of(&guest, index))?;
    for index in (0..30).chain(0..30) {
        guest.reads(in_2_mib(index), 20)?;
    }
    let faults = guest.lab.machine.faults();
    for index in 30 - mmu::PAGES_OF_AN_INSTRUCTION as u64..30 {
        guest.reads(in_2_mib(index), 20)?;
    }
    assert_eq!(guest.lab.machine.faults(), faults, "the newest are there");
    // A table in each 512 GiB: no page table that could go has room for three of each kind.
    for index in 1..20 {
        guest.write(gpage(1).add(index * 8), gpage(2).as_u64() | P | W)?;
        guest.reads(index << 39 | in_2_mib(0), 20)?;
    }
    guest.lab.migrate(page(20))?;
    guest.reads(in_2_mib(0), 20)?;
    guest.finish()
}

#[test]
fn a_shadow_without_memory_goes_on_with_the_tables_that_it_has() -> Outcome {
    let guest = Guest::long()?;
    numbered(&guest)?;
    guest.map(5, 20, P | W)?;
    guest.reads(0x5000, 20)?;
    (0..8).try_for_each(|index| page_table_of(&guest, index))?;
    guest.lab.machine.fail_allocations_after(0, Failing::FromThenOn);
    for index in 0..8 {
        guest.reads(in_2_mib(index), 20)?;
    }
    guest.lab.machine.cancel_failure();
    guest.finish()
}

fn paths() -> impl Iterator<Item = u64> {
    1..=mmu::PAGES_OF_AN_INSTRUCTION as u64
}

/// As many ways as an instruction may want, which have nothing in common.
fn with_paths() -> Result<Guest, tests::Violation> {
    let guest = Guest::long()?;
    for path in paths() {
        let tables = [1, 3 * path + 5, 3 * path + 6, 3 * path + 7, 40 + path];
        for pair in tables.windows(2) {
            guest.write(gpage(pair[0]).add(path * 8), gpage(pair[1]).as_u64() | P | W)?;
        }
    }
    Ok(guest)
}

/// One shadow for this guest's memory, that cannot grow; its root.
fn of_few_tables(guest: &Guest) -> (mmu::SecondaryMmu<Machine>, Pfn) {
    let only = mmu::TABLES_OF_AN_INSTRUCTION;
    let mmu = mmu::SecondaryMmu::new(std::sync::Arc::clone(&guest.lab.space), AccessedDirty::Absent);
    let mmu = mmu.and_then(|mmu| mmu.with_shadows(1, only..=only)).expect("there is memory");
    for slot in guest.lab.guest(GUEST).mmu.slots() {
        mmu.add_slot(slot).expect("as the guest's own");
    }
    let root = mmu.load_root(PROCESSOR, &guest.paging, Drops::All).expect("a shadow");
    (mmu, root)
}

/// Whatever an instruction wants at a time is there at a time, by however different ways, though the shadow cannot grow.
#[test]
fn a_shadow_that_cannot_grow_has_all_pages_of_an_instruction() -> Outcome {
    let guest = with_paths()?;
    let far = |path: u64| path << 39 | path << 30 | path << 21 | path << 12;
    let (mmu, root) = of_few_tables(&guest);
    for path in paths() {
        let outcome = mmu.fault_linear(PROCESSOR, &guest.paging, far(path), READ);
        assert_eq!(outcome, Ok(LinearFault::Mapped));
    }
    for path in paths() {
        assert_eq!(entry_below(&guest, root, far(path), Level::Pt) & P, P, "{path}");
    }
    drop(mmu);
    guest.finish()
}

/// The same, where others have left directories, each with one page table, more than the shadow has room for.
#[test]
fn directories_crowd_no_page_of_an_instruction_out() -> Outcome {
    let guest = with_paths()?;
    // What two ways have one below the other are two directories here.
    for path in paths() {
        for lower in 0..2 {
            let directory = gpage(3 * path + 5 + lower);
            guest.write(gpage(2).add((2 * path + lower) * 8), directory.as_u64() | P | W)?;
        }
    }
    let near = |path: u64, lower: u64| (2 * path + lower) << 30 | path << 21 | path << 12;
    let (mmu, root) = of_few_tables(&guest);
    let read = |linear| {
        let outcome = mmu.fault_linear(PROCESSOR, &guest.paging, linear, READ);
        assert_eq!(outcome, Ok(LinearFault::Mapped));
    };
    paths().for_each(|path| (0..2).for_each(|lower| read(near(path, lower))));
    let is_there = |path| entry_below(&guest, root, near(path, 0), Level::Pt) & P != 0;
    // As a processor does that wants all of them at a time.
    for _ in 0..1000 {
        let Some(path) = paths().find(|&path| !is_there(path)) else { break };
        read(near(path, 0));
    }
    assert!(paths().all(is_there), "an instruction never ends");
    drop(mmu);
    guest.finish()
}

#[test]
fn an_mmu_whose_shadows_find_no_memory_leaves_none_behind() -> Outcome {
    let guest = Guest::long()?;
    for successes in 0..12 {
        guest.lab.machine.fail_allocation_after(successes);
        let mmu = mmu::SecondaryMmu::new(std::sync::Arc::clone(&guest.lab.space), AccessedDirty::Absent);
        let mmu = mmu.and_then(|mmu| mmu.with_shadows(2, 5..=8));
        assert_eq!(mmu.err(), (successes < 11).then_some(OutOfTables), "{successes}");
        guest.lab.machine.cancel_failure();
        guest.lab.check()?;
    }
    guest.finish()
}

/// The entry of the shadow for a linear address, as it is in memory.
fn shadow_entry(guest: &Guest, linear: u64) -> u64 {
    let machine = &guest.lab.machine;
    entry_below(guest, machine.shadow_roots(guest.lab.guest(GUEST).root())[0].root, linear, Level::Pt)
}

fn entry_below(guest: &Guest, root: Pfn, linear: u64, level: Level) -> u64 {
    let levels = [Level::Pml4, Level::Pdpt, Level::Pd, Level::Pt].into_iter();
    levels.filter(|other| *other >= level).fold(root.base().as_u64(), |table, level| {
        guest.lab.machine.peek(addr::Hpa::new(table & 0x000f_ffff_ffff_f000).pfn(), level.index(linear))
    })
}

#[test]
fn rights_of_user_and_supervisor_are_in_the_shadow() -> Outcome {
    const XD: u64 = 1 << 63;
    const RIGHTS: u64 = XD | U | W | P;
    let mut guest = Guest::long()?;
    numbered(&guest)?;
    for (flags, expected) in
        [(P | W | U, P | W | U), (P | W, P | W), (P | W | U | XD, P | W | U | XD), (P | U, P | U)]
    {
        guest.map(5, 20, flags | A | D)?;
        guest.loads_cr3();
        guest.reads(0x5000, 20)?;
        assert_eq!(shadow_entry(&guest, 0x5000) & RIGHTS, expected);
    }
    // CR0.WP clear: the supervisor writes a page that it may not, and nobody else has it meanwhile.
    guest.paging.cr0 &= !(1 << 16);
    guest.loads_cr3();
    guest.writes(0x5000, 1)?;
    assert_eq!(shadow_entry(&guest, 0x5000) & RIGHTS, P | W);
    let mmu = &guest.lab.guest(GUEST).mmu;
    guest.lab.machine.exit(CPU0);
    let user = LinearAccess { user: true, ..READ };
    let outcome = mmu.fault_linear(PROCESSOR, &guest.paging, 0x5000, user);
    assert_eq!(outcome, Ok(LinearFault::Mapped));
    assert_eq!(shadow_entry(&guest, 0x5000) & RIGHTS, P | U);
    guest.lab.check()?;
    guest.finish()
}

#[test]
fn tables_in_a_hole_and_a_host_that_is_gone() -> Outcome {
    let guest = Guest::long()?;
    guest.write(gpage(3), 0xfee0_0000 | P | W)?;
    assert_eq!(guest.access(0x5000, None)?, End::Fault(PageFault::PRESENT | PageFault::RESERVED));
    guest.lab.exit_space()?;
    guest.loads_cr3();
    let mmu = &guest.lab.guest(GUEST).mmu;
    assert!(mmu.fault_linear(PROCESSOR, &guest.paging, 0x5000, READ).is_err());
    guest.finish()
}

#[test]
fn each_processor_has_a_shadow_of_its_own() -> Outcome {
    let guest = Guest::long()?;
    numbered(&guest)?;
    guest.map(5, 20, P | W)?;
    guest.reads(0x5000, 20)?;
    // CPU 1 has no paging: page 5 is page 5.
    guest.write(gpage(5), 5)?;
    guest.reads(0x5000, 20)?;
    assert!(guest.lab.guest_has_cached(CPU0, Gpa::new(0x5000)));
    guest.lab.discard(pages(20, 1))?;
    assert!(!guest.lab.guest_has_cached(CPU0, Gpa::new(0x5000)), "the CPU had it, and was told");
    assert_eq!(guest.lab.guest_load(GUEST, CPU1, gpage(5))?, Verdict::Value(5));
    guest.finish()
}
