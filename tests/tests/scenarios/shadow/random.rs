//! A guest's tables written at random, by itself, by another processor, by a device, and moved, discarded, protected, aged and logged by the
//! host. After each flush what the guest finds is what its tables say, and each harvest has what was written.
//!
//! ```text
//!   entry anywhere in ten tables ── accesses by what may be stale: anything but harm ── flush ── the same as a walk made anew
//! ```
//!
//! Tables name one another at every level, themselves too, and ways of all rights lead to the same ones. On huge memory half of them lie in a huge page,
//! which large pages of the guest's map, too.

use super::large::AREA;
use super::{A, CPU0, D, End, GUEST, Guest, LONG, P, PROCESSOR, PS, RAM, READ, U, W, WRITE};
use crate::Outcome;
use addr::{Gfn, GfnRange, Gpa};
use mm::{Access, Protection};
use mmu::{Drops, GuestPaging, GuestTables, LinearAccess, LogBy, PageFault, WalkEnd, Width, walk};
use paging::Level;
use std::convert::Infallible;
use tests::lab::{DeviceId, gpage, page, pages};
use tests::random::Random;

const XD: u64 = 1 << 63;
/// Pages 1 to 10 are tables, those from 16 on are what they map.
const TABLES: u64 = 10;
const DATA: u64 = 16;
/// Entries of each table that are used.
const USED: u64 = 3;
/// Tables that are loaded as roots.
const ROOTS: [u64; 3] = [1, 2, 3];

/// A guest's memory as it is now, read past all that anybody has cached.
struct Now<'g>(&'g Guest);

impl GuestTables for Now<'_> {
    type Error = Infallible;

    fn load(&self, at: Gpa, width: Width) -> Result<u64, Infallible> {
        let word = self.0.now(Gpa::new(at.as_u64() & !7));
        Ok(match width {
            Width::Bits64 => word,
            Width::Bits32 => word >> (at.as_u64() % 8 * 8) & 0xffff_ffff,
        })
    }

    /// A and D are the processor's to set.
    fn exchange(&self, _: Gpa, _: Width, _: u64, _: u64) -> Result<bool, Infallible> {
        Ok(true)
    }
}

impl Guest {
    /// How many pages of RAM there are.
    fn ram(&self) -> u64 {
        self.lab.guest(GUEST).mmu.slots().iter().map(|slot| slot.gfns().len()).sum()
    }

    /// Where a page that is used lies: on huge memory each second one in the first huge page.
    fn place(&self, number: u64) -> u64 {
        if self.ram() > RAM && number.is_multiple_of(2) { AREA + number } else { number }
    }

    fn now(&self, at: Gpa) -> u64 {
        if at.gfn() >= gpage(self.ram()).gfn() {
            return u64::MAX;
        }
        self.lab.guest(GUEST).mmu.fault(at, Access::Read).expect("there is memory");
        self.word(at)
    }

    /// What an access comes to by the tables of now.
    fn expected(&self, linear: u64, access: LinearAccess) -> Result<Gpa, u32> {
        walk(&Now(self), &self.paging, linear, access).map(|found| found.gpa).map_err(|end| match end {
            WalkEnd::Fault(PageFault { code }) => code,
            WalkEnd::Failed(never) => match never {},
        })
    }

    /// An access right after a flush.
    fn agrees(&self, linear: u64, value: Option<u64>) -> Outcome {
        let expected = self.expected(linear, if value.is_some() { WRITE } else { READ });
        let found = self.access(linear, value)?;
        match (expected, found) {
            (Err(code), End::Fault(found)) => assert_eq!(found, code, "at {linear:#x}"),
            (Ok(gpa), End::Device(found)) => assert_eq!((found, gpa >= gpage(self.ram())), (gpa, true)),
            (Ok(gpa), End::Value(found)) => assert_eq!(found, self.now(gpa), "at {linear:#x}"),
            (expected, found) => panic!("{linear:#x}: {found:?} instead of {expected:x?}"),
        }
        Ok(())
    }
}

fn entry(guest: &Guest, random: &mut Random) -> u64 {
    let to = if random.below(3) == 0 { DATA + random.below(8) } else { 1 + random.below(TABLES) };
    let to = if random.below(40) == 0 { 0xfee00 } else { guest.place(to) };
    // In the last one no tables lie.
    let large = random.below(guest.ram().div_ceil(AREA)) * AREA;
    let flags = [W, U, W | U, A, D, A | D, W | U | A | D, XD][random.below(8) as usize];
    match random.below(8) {
        0 => 0,
        1 => gpage(large).as_u64() | P | W | PS | flags,
        2 => gpage(to).as_u64() | P | flags,
        _ => gpage(to).as_u64() | P | W | flags,
    }
}

fn linear(guest: &Guest, random: &mut Random) -> u64 {
    let levels = [Level::Pml4, Level::Pdpt, Level::Pd, Level::Pt];
    let address = levels.into_iter().fold(0, |all, level| all | random.below(USED) << level.shift());
    let address = address + random.below(USED) * 8;
    if guest.paging.is_long() { address } else { address & 0xffff_ffff }
}

/// A table, and an entry of it.
fn place(guest: &Guest, random: &mut Random) -> (u64, u64) {
    (guest.place(1 + random.below(TABLES)), random.below(USED) * 8)
}

/// What all words that are used held at the last harvest, if there is a log.
type Seen = Option<Vec<u64>>;

/// All pages that the guest uses.
fn used(guest: &Guest) -> impl Iterator<Item = u64> {
    (1..=TABLES).chain(DATA..DATA + 8).map(|number| guest.place(number))
}

/// The words in them that are used.
fn words(guest: &Guest) -> Vec<u64> {
    let used = used(guest).flat_map(|page| (0..USED).map(move |word| gpage(page).add(word * 8)));
    used.map(|at| guest.now(at)).collect()
}

/// What the host does to some page, so that the guest notices nothing.
fn host(guest: &Guest, seen: &mut Seen, random: &mut Random) -> Outcome {
    let mmu = &guest.lab.guest(GUEST).mmu;
    let index = used(guest).nth(random.below(TABLES + 8) as usize).expect("so many are used");
    match random.below(7) {
        0 | 1 => {
            guest.lab.space.test_and_clear_young(page(index));
        }
        2 => {
            guest.lab.mprotect(pages(index, 2), Protection::Read)?;
            guest.lab.mprotect(pages(index, 2), Protection::ReadWrite)?;
        }
        3 => {
            // Of a huge page nothing, until something has split it.
            let _ = guest.lab.space.migrate_page(page(index));
        }
        4 if guest.ram() > RAM => {
            guest.lab.space.collapse(page(AREA)).expect("there is memory");
        }
        5 if seen.is_some() && random.below(4) == 0 => {
            mmu.end_log(Gfn::ZERO);
            *seen = None;
        }
        _ => {
            let all = GfnRange::new(Gfn::ZERO, gpage(guest.ram()).gfn());
            let begun = mmu.begin_log(Gfn::ZERO, LogBy::WriteFault).is_ok();
            assert_eq!(begun, seen.is_none());
            let written = mmu.harvest(all);
            let now = words(guest);
            let pages = now.chunks(USED as usize).zip(seen.as_ref().unwrap_or(&now).chunks(USED as usize));
            for (index, (now, then)) in used(guest).zip(pages) {
                let is_logged = written.contains(gpage(index).gfn());
                assert!(now == then || is_logged, "page {index} was written, and the log has it not");
            }
            *seen = Some(now);
        }
    }
    guest.lab.check().map(|_| ())
}

/// PCIDs that are used, and which of them may have something cached.
struct Pcids([bool; 4]);

const PCIDE: u64 = 1 << 17;

/// A PCID comes back without a flush, or is flushed while it is not loaded. One that can have cached nothing finds what its tables say.
fn pcids(guest: &mut Guest, Pcids(used): &mut Pcids, random: &mut Random) -> Outcome {
    let (pcid, current) = (random.below(4), guest.paging.cr3 & 3);
    if pcid != current && random.below(3) == 0 {
        let address = (random.below(2) == 0).then(|| linear(guest, random));
        guest.lab.guest(GUEST).mmu.invalidate_pcid(PROCESSOR, pcid as u16, address);
        used[pcid as usize] &= address.is_some();
        return Ok(());
    }
    guest.paging.cr3 = gpage(guest.place(ROOTS[random.below(3) as usize])).as_u64() | pcid;
    guest.loads(Drops::Nothing);
    let is_new = !core::mem::replace(&mut used[pcid as usize], true);
    for _ in 0..2 {
        let address = linear(guest, random);
        if is_new {
            guest.agrees(address, None)?;
        } else {
            guest.access(address, None)?;
        }
    }
    Ok(())
}

fn step(guest: &mut Guest, (seen, known): (&mut Seen, &mut Pcids), random: &mut Random) -> Outcome {
    let mmu = |guest: &Guest| std::sync::Arc::clone(&guest.lab.guest(GUEST).mmu);
    match random.below(20) {
        0..=5 => {
            let ((table, offset), value) = (place(guest, random), entry(guest, random));
            guest.write(gpage(table).add(offset), value)?;
        }
        6 => {
            let ((table, offset), value) = (place(guest, random), entry(guest, random));
            guest.lab.device_store(DeviceId(0), page(table).add(offset), value)?;
        }
        7 | 8 => {
            // It may lead to one of its tables, by a translation of before.
            let value = entry(guest, random);
            let address = linear(guest, random);
            guest.access(address, Some(value))?;
        }
        9 | 10 => {
            guest.access(linear(guest, random), None)?;
        }
        11 => {
            let address = linear(guest, random);
            guest.lab.machine.exit(CPU0);
            mmu(guest).invalidate_linear(PROCESSOR, address);
            guest.agrees(address, None)?;
        }
        12 => {
            let _ = guest.lab.space.migrate_page(page(guest.place(1 + random.below(TABLES))));
        }
        13 if random.below(8) == 0 => {
            let table = guest.place(1 + random.below(TABLES));
            guest.lab.discard(pages(table, 1))?;
            // The bench is to know that it is there again.
            guest.write(gpage(table), entry(guest, random))?;
        }
        14..=17 => host(guest, seen, random)?,
        18 if guest.paging.cr4 & PCIDE != 0 => pcids(guest, known, random)?,
        _ => {
            let pcid = guest.paging.cr3 & 3;
            guest.paging.cr3 = gpage(guest.place(ROOTS[random.below(3) as usize])).as_u64() | pcid;
            guest.loads_cr3();
            for _ in 0..2 {
                guest.agrees(linear(guest, random), None)?;
            }
            let value = entry(guest, random);
            guest.agrees(linear(guest, random), Some(value))?;
        }
    }
    Ok(())
}

fn storm(mut guest: Guest, seed: u64, steps: u64) -> Outcome {
    let mut random = Random(seed);
    for number in 0..8 {
        guest.write(gpage(guest.place(DATA + number)), number)?;
    }
    for table in 1..=TABLES {
        for index in 0..USED {
            let below = gpage(guest.place(1 + (table + index) % TABLES)).as_u64();
            guest.write(gpage(guest.place(table)).add(index * 8), below | P | W | U)?;
        }
    }
    let (mut seen, mut known) = (None, Pcids([true, false, false, false]));
    for _ in 0..steps {
        step(&mut guest, (&mut seen, &mut known), &mut random)?;
    }
    guest.finish()
}

#[test]
fn tables_that_anybody_writes() -> Outcome {
    for seed in 1..=6 {
        storm(Guest::new(LONG), 0x9e37_79b9 + seed, 500)?;
    }
    Ok(())
}

#[test]
fn tables_that_anybody_writes_in_huge_pages() -> Outcome {
    let of_32_bits = GuestPaging { cr4: 1 << 4, efer: 0, ..LONG };
    for seed in 1..=4 {
        storm(Guest::on_huge(LONG, 3 * AREA), 0x9e37_79b9 + seed, 500)?;
        storm(Guest::on_huge(of_32_bits, 3 * AREA), 0x9e37_79b9 + seed, 200)?;
    }
    Ok(())
}

#[test]
fn tables_that_anybody_writes_with_pcids() -> Outcome {
    let paging = GuestPaging { cr4: LONG.cr4 | PCIDE, ..LONG };
    for seed in 1..=8 {
        storm(Guest::new(paging), 0x9e37_79b9 + seed, 500)?;
        storm(Guest::on_huge(paging, 3 * AREA), 0x9e37_79b9 + seed, 200)?;
    }
    Ok(())
}

#[test]
fn tables_that_anybody_writes_where_the_supervisor_may_write_everything() -> Outcome {
    let paging = GuestPaging { cr0: LONG.cr0 & !(1 << 16), ..LONG };
    for seed in 1..=4 {
        storm(Guest::new(paging), 0x9e37_79b9 + seed, 500)?;
    }
    Ok(())
}

#[test]
fn tables_that_anybody_writes_of_32_bits() -> Outcome {
    let paging = GuestPaging { cr4: 1 << 4, efer: 0, ..LONG };
    for seed in 1..=4 {
        storm(Guest::new(paging), 0x9e37_79b9 + seed, 500)?;
    }
    Ok(())
}
