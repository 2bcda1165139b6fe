//! Real threads: guests and Herald on their own CPUs store and load while the host works on the same memory. Which thread
//! comes first is luck; that nobody ever reads a wrong word is not. Everything ends by count.

mod faults;

use addr::{GfnRange, Gpa, Hva, PageSize};
use mm::{Access, CpuIndex, MapRequest, MigrateError, Placement, Protection, VmaKind};
use mmu::{FaultOutcome, MmuError, Slot};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use tests::Violation;
use tests::lab::{GuestId, Lab, gpage, page, pages};
use tests::machine::{Options, Speculation};
use tests::random::Random;

const GUEST: GuestId = GuestId(0);
/// Small pages 0 to 511; huge page behind them.
const SMALL: u64 = 512;
const PAGES: u64 = 1024;
/// Pages below keep their contents; those from here on may be discarded at any time.
const LASTING: u64 = 12;
/// Pages that the threads fight about.
const CROWDED: u64 = 24;
/// Operations of the host; the programs go on as long as it does.
const OPERATIONS: u64 = 60_000;
/// Accesses that each program makes at least.
const ACCESSES: u64 = 1_000;
/// How often a slot comes and goes.
const TOGGLES: u64 = 20_000;

fn bench(speculation: Speculation) -> Lab {
    let options = Options { cpus: 3, quarantine: 512, speculation, ..Options::default() };
    let lab = Lab::with_ram(options, PAGES);
    for (range, size) in
        [(pages(0, SMALL), PageSize::Size4K), (pages(SMALL, PAGES - SMALL), PageSize::Size2M)]
    {
        lab.mmap(range, Protection::ReadWrite, size).expect("maps");
    }
    lab
}

/// What a thread stands for.
#[derive(Clone, Copy)]
enum Program {
    /// A guest on its CPU, through the EPT.
    Guest,
    /// Herald on its CPU, through the hva.
    Herald,
}

impl Program {
    /// One access to a word of a page: faults are resolved until it goes through. `None`: the protection of the
    /// moment refuses it.
    fn access(self, lab: &Lab, cpu: CpuIndex, word: Word, store: Option<u64>) -> Option<u64> {
        loop {
            let done = match (self, store) {
                (Self::Guest, Some(value)) => lab.machine.guest_store(cpu, word.gpa(), value).map(|()| value),
                (Self::Guest, None) => lab.machine.guest_load(cpu, word.gpa()),
                (Self::Herald, Some(value)) => {
                    lab.machine.store_linear(cpu, word.hva(), value).map(|()| value)
                }
                (Self::Herald, None) => lab.machine.load_linear(cpu, word.hva()),
            };
            let Err(fault) = done else { return done.ok() };
            match self {
                Self::Guest => ept_violation(lab, cpu, word.gpa(), fault.access)?,
                Self::Herald => drop(lab.space.fault_in(word.hva(), fault.access).ok()?),
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Word {
    page: u64,
    index: u64,
}

impl Word {
    fn gpa(self) -> Gpa {
        gpage(self.page).add(self.index * 8)
    }

    fn hva(self) -> Hva {
        page(self.page).add(self.index * 8)
    }
}

/// `None`: the host address space refuses.
fn ept_violation(lab: &Lab, cpu: CpuIndex, gpa: Gpa, access: Access) -> Option<()> {
    let guest = lab.guest(GUEST);
    lab.machine.exit(cpu);
    let outcome = guest.mmu.fault(gpa, access);
    lab.machine.enter(cpu, guest.root());
    match outcome {
        Ok(FaultOutcome::Mapped) => Some(()),
        Err(MmuError::Host(_)) => None,
        other => panic!("{gpa}: {other:?}"),
    }
}

/// A program on its CPU: each has a word of its own in every page, and knows what it must read. Returns how many
/// accesses it made.
fn run_program(lab: &Lab, cpu: CpuIndex, program: Program, host_works: &AtomicBool) -> u64 {
    if matches!(program, Program::Guest) {
        lab.run_guest(GUEST, cpu);
    }
    let mut random = Random(0x9e37_79b9 + cpu.0 as u64);
    let mut written = vec![0; CROWDED as usize + 1];
    let mut count = 0;
    while count < ACCESSES || host_works.load(Ordering::Acquire) {
        count += 1;
        let slot = random.below(CROWDED + 1);
        let expected = &mut written[slot as usize];
        // The last page is the huge one.
        let page = if slot == CROWDED { SMALL + 77 } else { slot };
        let word = Word { page, index: cpu.0 as u64 };
        if random.below(2) == 0 {
            if program.access(lab, cpu, word, Some(count)).is_some() {
                *expected = count;
            }
        } else if let Some(found) = program.access(lab, cpu, word, None) {
            let discarded = (LASTING..CROWDED).contains(&slot) && found == 0;
            assert!(found == *expected || discarded, "page {page}: {found}, last written {expected}");
            *expected = found;
        }
    }
    lab.machine.exit(cpu);
    count
}

/// Clears a flag when dropped, also by a panic: nobody waits for a thread that has failed.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// The host: every operation, on random pages.
fn run_host(lab: &Lab) {
    let mut random = Random(0x1234_5678);
    for operation in 0..OPERATIONS {
        let index = random.below(CROWDED);
        let (address, space) = (page(index), &lab.space);
        match random.below(6) {
            0 | 1 => match space.migrate_page(address) {
                // Shared: the zero page, or a page that is being copied.
                Ok(_) | Err(MigrateError::NotResident(_) | MigrateError::Shared(_)) => {}
                Err(other) => panic!("{address}: {other:?}"),
            },
            2 => {
                space.test_and_clear_young(address);
            }
            3 => protect_for_a_while(lab, address, Protection::Read),
            4 => protect_for_a_while(lab, address, Protection::None),
            _ => discard_one(lab, page(LASTING + random.below(CROWDED - LASTING))),
        }
        // Now and then the memory of a whole range is replaced, and the huge page aged.
        if operation.is_multiple_of(64) {
            lab.space.test_and_clear_young(page(SMALL));
            remap(lab);
        }
    }
}

fn protect_for_a_while(lab: &Lab, address: Hva, protection: Protection) {
    for protection in [protection, Protection::ReadWrite] {
        lab.space.mprotect(address, PageSize::Size4K.bytes(), protection).expect("is mapped");
    }
}

fn discard_one(lab: &Lab, address: Hva) {
    lab.space.discard(address, PageSize::Size4K.bytes()).expect("is mapped");
}

/// Replaces the memory of the pages that do not last.
fn remap(lab: &Lab) {
    let range = pages(LASTING, CROWDED - LASTING);
    let request = MapRequest {
        placement: Placement::Fixed(range.start()),
        len: range.len(),
        protection: Protection::ReadWrite,
        kind: VmaKind::Anonymous(PageSize::Size4K),
    };
    lab.space.mmap(request).expect("maps");
}

fn guests_against_host(speculation: Speculation) -> Result<(), Violation> {
    let lab = bench(speculation);
    lab.machine.limit_table_accesses(u64::MAX >> 1);
    let (host_works, start) = (AtomicBool::new(true), Barrier::new(4));
    std::thread::scope(|scope| {
        let (lab, host_works, start) = (&lab, &host_works, &start);
        let programs =
            [(0, Program::Guest), (1, Program::Guest), (2, Program::Herald)].map(|(cpu, program)| {
                scope.spawn(move || {
                    start.wait();
                    run_program(lab, CpuIndex(cpu), program, host_works)
                })
            });
        start.wait();
        {
            let _ending = Ending(host_works);
            run_host(lab);
        }
        let accesses = programs.map(|program| program.join().expect("no wrong word was read"));
        println!("{OPERATIONS} operations against {accesses:?} accesses");
    });
    lab.check()?;
    lab.finish()
}

#[test]
fn guests_read_what_they_wrote_whatever_the_host_does() -> Result<(), Violation> {
    guests_against_host(Speculation::Off)
}

#[test]
fn and_so_they_do_on_cpus_that_speculate() -> Result<(), Violation> {
    guests_against_host(Speculation::AfterFlush)
}

/// A guest frame that has stopped being RAM has no entry, also if a fault was under way when it stopped.
#[test]
fn a_fault_never_installs_into_a_slot_that_has_gone() -> Result<(), Violation> {
    let lab = bench(Speculation::Off);
    let mmu = Arc::clone(&lab.guest(GUEST).mmu);
    let gfns = GfnRange::sized(gpage(PAGES).gfn(), 1).expect("a guest frame");
    let slot = Slot::try_new(gfns, page(0)).expect("aligned");
    let host_works = AtomicBool::new(true);
    let mut random = Random(77);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while host_works.load(Ordering::Acquire) {
                let outcome = mmu.fault(gpage(PAGES), Access::Read);
                assert!(outcome.is_ok(), "{outcome:?}");
            }
        });
        let _ending = Ending(&host_works);
        for _ in 0..TOGGLES {
            mmu.add_slot(slot).expect("no overlap");
            (0..random.below(64)).for_each(|_| std::hint::spin_loop());
            mmu.remove_slot(gfns.start()).expect("was there");
            (0..random.below(64)).for_each(|_| std::hint::spin_loop());
            assert_eq!(mmu.lookup(gfns.start()), None);
        }
    });
    assert_eq!(mmu.lookup(gfns.start()), None);
    lab.check()?;
    drop(mmu);
    lab.finish()
}

/// Address spaces come and go while guests fault in them.
#[test]
fn an_exit_under_faulting_guests_leaves_nothing() -> Result<(), Violation> {
    for round in 0..40 {
        let lab = bench(Speculation::AfterFlush);
        std::thread::scope(|scope| {
            for cpu in [0, 1] {
                let lab = &lab;
                scope.spawn(move || {
                    let cpu = CpuIndex(cpu);
                    lab.run_guest(GUEST, cpu);
                    // Until its memory is gone.
                    (0..).map(|index| gpage(index % CROWDED)).all(|gpa| touch(lab, cpu, gpa));
                });
            }
            (0..round).for_each(|_| std::thread::yield_now());
            lab.space.exit();
        });
        lab.finish()?;
    }
    Ok(())
}

/// Whether the guest still has memory there.
fn touch(lab: &Lab, cpu: CpuIndex, gpa: Gpa) -> bool {
    lab.machine.guest_load(cpu, gpa).is_ok()
        || lab.guest(GUEST).mmu.fault(gpa, Access::Read) == Ok(FaultOutcome::Mapped)
}
