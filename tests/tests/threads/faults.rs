//! Faults of one guest side by side: a thread for each CPU of the machine that runs the tests, two at least. All of them
//! touch the same pages in the same order, so that they meet where tables are missing and where entries are; another
//! thread takes pages away meanwhile. Now and then all stop, and the oracle looks.

use crate::{CROWDED, GUEST, LASTING, Program, Word, discard_one, protect_for_a_while};
use addr::PageSize;
use mm::{CpuIndex, MigrateError, Protection};
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use tests::Violation;
use tests::lab::{Lab, page, pages};
use tests::machine::{Options, Speculation};
use tests::random::Random;

/// Benches, each with empty tables at first.
const ROUNDS: u64 = 100;
/// Pauses of a bench.
const PAUSES: u64 = 5;
/// How often each CPU goes through all pages between two pauses.
const PASSES: u64 = 100;
/// Neighbours of a kind: a few in each of some page tables.
const REGIONS: u64 = CROWDED / NEIGHBOURS;
const NEIGHBOURS: u64 = 4;
const REGION: u64 = 512;

/// Where a page lies, by number: the first of them keep their contents, see [`LASTING`].
const fn place(number: u64) -> u64 {
    number / NEIGHBOURS * REGION + number % NEIGHBOURS
}

/// A guest's program on one CPU: what it has stored last in its own word of each page.
struct Memory {
    cpu: CpuIndex,
    written: [u64; CROWDED as usize],
    random: Random,
}

impl Memory {
    fn new(cpu: usize) -> Self {
        Self { cpu: CpuIndex(cpu), written: [0; CROWDED as usize], random: Random(0x51de + cpu as u64) }
    }

    fn work(&mut self, lab: &Lab) {
        lab.run_guest(GUEST, self.cpu);
        for number in (0..PASSES).flat_map(|_| 0..CROWDED) {
            let word = Word { page: place(number), index: self.cpu.0 as u64 };
            let known = &mut self.written[number as usize];
            if self.random.below(2) == 0 {
                let next = *known + 1;
                if Program::Guest.access(lab, self.cpu, word, Some(next)).is_some() {
                    *known = next;
                }
            } else if let Some(found) = Program::Guest.access(lab, self.cpu, word, None) {
                let discarded = number >= LASTING && found == 0;
                assert!(found == *known || discarded, "page {number}: {found}, last written {known}");
                *known = found;
            }
        }
        lab.machine.exit(self.cpu);
    }
}

/// Counts a thread out when dropped, also by a panic: nobody works against threads that have failed.
struct Leaving<'a>(&'a AtomicUsize);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}

/// Takes pages away as long as somebody works; how often.
fn invalidate(lab: &Lab, random: &mut Random, at_work: &AtomicUsize) -> u64 {
    let mut operations: u64 = 0;
    while at_work.load(Ordering::Acquire) > 0 {
        operations += 1;
        let address = page(place(random.below(CROWDED)));
        match random.below(5) {
            0 | 1 => match lab.space.migrate_page(address) {
                Ok(_) | Err(MigrateError::NotResident(_) | MigrateError::Shared(_)) => {}
                Err(other) => panic!("{address}: {other:?}"),
            },
            2 => drop(lab.space.test_and_clear_young(address)),
            3 => protect_for_a_while(lab, address, Protection::Read),
            _ => discard_one(lab, page(place(LASTING + random.below(CROWDED - LASTING)))),
        }
        // There are more threads than CPUs: those that fault are to have their share.
        if operations.is_multiple_of(16) {
            std::thread::yield_now();
        }
    }
    operations
}

/// All work, from one moment on until all guests have done their part.
fn work(lab: &Lab, guests: &mut [Memory], random: &mut Random) -> u64 {
    let (start, at_work) = (Barrier::new(guests.len() + 1), AtomicUsize::new(guests.len()));
    std::thread::scope(|scope| {
        let (start, at_work) = (&start, &at_work);
        for guest in guests {
            scope.spawn(move || {
                let _leaving = Leaving(at_work);
                start.wait();
                guest.work(lab);
            });
        }
        start.wait();
        invalidate(lab, random, at_work)
    })
}

fn side_by_side(speculation: Speculation) -> Result<(), Violation> {
    let cpus = std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 16);
    let mut random = Random(0xfa_0175);
    let (mut operations, mut installed, mut spurious) = (0, 0, 0);
    for _ in 0..ROUNDS {
        let options = Options { cpus, quarantine: 512, speculation, ..Options::default() };
        let lab = Lab::with_ram(options, REGIONS * REGION);
        lab.mmap(pages(0, REGIONS * REGION), Protection::ReadWrite, PageSize::Size4K)?;
        let mut guests: Vec<_> = (0..cpus).map(Memory::new).collect();
        for _ in 0..PAUSES {
            operations += work(&lab, &mut guests, &mut random);
            lab.check()?;
        }
        let stats = lab.guest(GUEST).mmu.stats().snapshot();
        (installed, spurious) = (installed + stats.installed, spurious + stats.spurious);
        lab.finish()?;
    }
    println!("{cpus} CPUs: {installed} entries installed, {spurious} found; {operations} operations");
    Ok(())
}

#[test]
fn cpus_of_a_guest_fault_side_by_side_while_pages_are_taken_away() -> Result<(), Violation> {
    side_by_side(Speculation::Off)
}

#[test]
fn and_so_do_cpus_that_speculate() -> Result<(), Violation> {
    side_by_side(Speculation::AfterFlush)
}
