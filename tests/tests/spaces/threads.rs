//! Real threads in two spaces and a guest, while the host reclaims, forks, writes back, migrates and moves protections.
//! Which thread comes first is luck; that nobody ever reads a wrong word is not. Everything ends by count.

use crate::{Outcome, SMALL};
use addr::{Gfn, Hva, PAGE_SIZE};
use mm::{Access, AddressSpace, Advice, CpuIndex, Protection, Remap};
use mmu::FaultOutcome;
use std::sync::atomic::{AtomicBool, Ordering};
use tests::lab::page;
use tests::machine::{Machine, Options, Speculation};
use tests::random::Random;
use tests::worlds::{Backing, STORED, With, World};

/// Pages that everybody works on: private ones, those of a shared file, private ones of a file.
const PAGES: u64 = 18;
const RW: Protection = Protection::ReadWrite;
/// Operations of the host.
const OPERATIONS: u64 = 4_000;

/// A program: a CPU, a space, and whether it is the guest there.
#[derive(Clone, Copy, Debug)]
struct Program {
    cpu: usize,
    space: usize,
    guest: bool,
}

impl Program {
    /// Its own word of each page.
    const fn word(self) -> u16 {
        8 + self.cpu as u16
    }
}

const PROGRAMS: [Program; 3] = [
    Program { cpu: 0, space: 0, guest: false },
    Program { cpu: 1, space: 0, guest: true },
    Program { cpu: 2, space: 1, guest: false },
];

/// One access to a program's own word of a page, tried until it goes through; `None` where it is refused now.
fn access(world: &World, program: Program, index: u64, store: Option<u64>) -> Option<u64> {
    let (machine, cpu) = (&world.machine, CpuIndex(program.cpu));
    let word = u64::from(program.word()) * 8;
    let (hva, gpa) = (page(index).add(word), Gfn::new(index).base().add(word));
    loop {
        let done = match (program.guest, store) {
            (true, Some(value)) => machine.guest_store(cpu, gpa, value).map(|()| value),
            (true, None) => machine.guest_load(cpu, gpa),
            (false, Some(value)) => machine.store_linear(cpu, hva, value).map(|()| value),
            (false, None) => machine.load_linear(cpu, hva),
        };
        let Err(fault) = done else { return done.ok() };
        if program.guest {
            let (mmu, root) = world.guest(program.space).expect("a guest");
            machine.exit(cpu);
            let outcome = mmu.fault(gpa, fault.access);
            machine.enter(cpu, root);
            assert_eq!(outcome.ok()?, FaultOutcome::Mapped);
        } else {
            let _mapping = world.space(program.space).fault_in(hva, fault.access).ok()?;
        }
    }
}

/// Works until the host has worked; returns what the program's words hold then.
fn run_program(world: &World, program: Program, host_works: &AtomicBool) -> [u64; PAGES as usize] {
    let mut random = Random(0x9e37_79b9 + program.cpu as u64);
    let mut written = [0; PAGES as usize];
    let mut count = 0;
    while host_works.load(Ordering::Acquire) {
        count += 1;
        let index = random.below(PAGES);
        let expected = &mut written[index as usize];
        if random.below(2) == 0 {
            if access(world, program, index, Some(count)).is_some() {
                *expected = count;
            }
        } else if let Some(found) = access(world, program, index, None) {
            assert_eq!(found, *expected, "{program:?} reads page {index}");
        }
    }
    written
}

/// Clears a flag when dropped, also by a panic: nobody waits for a thread that has failed.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// Reclaims the frame at a page, or asks for its age.
fn work_on_frame(world: &World, space: &AddressSpace<Machine>, hva: Hva, what: u64) {
    let Some(mapping) = space.lookup(hva) else { return };
    // By way of advice, which holds the frame: a frame that was only looked up may be gone.
    match what {
        0 => drop(space.madvise(hva, PAGE_SIZE, Advice::PageOut)),
        1 => drop(space.madvise(hva, PAGE_SIZE, Advice::Cold)),
        2 => drop(space.test_and_clear_young(hva)),
        _ => drop(space.migrate_page(hva)),
    }
    assert!(mapping.pfn != world.mm.zero_page() || !mapping.writable, "the zero page is writable");
}

/// Who changes areas; the other host thread only works on frames.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Host {
    Areas,
    Frames,
}

/// Changes areas, and undoes it.
fn work_on_areas(space: &AddressSpace<Machine>, hva: Hva, what: u64) {
    match what {
        0 => {
            for protection in [Protection::Read, Protection::None, RW] {
                space.mprotect(hva, PAGE_SIZE, protection).expect("is mapped");
            }
        }
        1 => {
            let away = page(4 * 512);
            space.mremap(hva, PAGE_SIZE, PAGE_SIZE, Remap::Fixed(away)).expect("is mapped");
            space.mremap(away, PAGE_SIZE, PAGE_SIZE, Remap::Fixed(hva)).expect("is mapped");
        }
        _ => {
            space.mlock(hva, PAGE_SIZE).expect("is mapped");
            space.munlock(hva, PAGE_SIZE).expect("is mapped");
        }
    }
}

fn run_host(world: &World, host: Host, seed: u64) {
    let mut random = Random(seed);
    for operation in 0..OPERATIONS {
        let space = world.space(random.below(2) as usize);
        let hva = page(random.below(PAGES));
        match random.below(8) {
            kind @ 0..=3 => work_on_frame(world, &space, hva, kind),
            4 => work_on_frame(world, &space, hva, 0),
            5 if host == Host::Areas => work_on_areas(&space, hva, random.below(3)),
            6 => world.mm.write_back(world.file(STORED)).expect("the store works"),
            _ => drop(space.madvise(page(0), PAGES * PAGE_SIZE, Advice::PageOut)),
        }
        if operation.is_multiple_of(32) {
            let child = space.fork().expect("frames for tables");
            let _ = child.fault_in(hva, Access::Write);
            let _ = child.fault_in(page(0), Access::Write);
            child.exit();
        }
    }
}

fn crowd(speculation: Speculation) -> Outcome {
    let options = Options { cpus: 4, quarantine: 256, speculation, ..Options::default() };
    let mut world = World::new(options, 12);
    world.machine.excuse_unaged_guests();
    world.machine.ignore_writes();
    world.spawn(0, With::Guest)?;
    world.mmap(0, (0, 6), RW, SMALL)?;
    world.mmap(0, (6, 6), RW, Backing::Shared { file: STORED, index: 0 })?;
    world.mmap(0, (12, 6), RW, Backing::Private { file: STORED, index: 10 })?;
    world.fork(0, 1, With::Guest)?;
    for Program { cpu, space, guest } in PROGRAMS {
        world.load(space, CpuIndex(cpu), 0, 0)?;
        if guest {
            world.guest_load(space, CpuIndex(cpu), 0, 0)?;
        }
    }
    world.machine.limit_table_accesses(u64::MAX >> 1);
    let host_works = AtomicBool::new(true);
    let written = std::thread::scope(|scope| {
        let (world, host_works) = (&world, &host_works);
        let programs = PROGRAMS.map(|program| scope.spawn(move || run_program(world, program, host_works)));
        let ending = Ending(host_works);
        let second = scope.spawn(move || run_host(world, Host::Frames, 0x1234_5678));
        run_host(world, Host::Areas, 0x8765_4321);
        second.join().expect("the second host thread is content");
        drop(ending);
        programs.map(|program| program.join().expect("the program reads what it wrote"))
    });
    for (program, words) in PROGRAMS.into_iter().zip(written) {
        for (index, value) in words.into_iter().enumerate().filter(|(_, value)| *value != 0) {
            world.note_store(program.space, (index as u64, program.word()), value);
        }
    }
    world.check()?;
    world.finish()
}

#[test]
fn programs_in_two_spaces_read_what_they_wrote_whatever_is_reclaimed() -> Outcome {
    crowd(Speculation::Off)
}

#[test]
fn and_so_they_do_on_cpus_that_speculate() -> Outcome {
    crowd(Speculation::AfterFlush)
}
