//! Real threads: guests on their own CPUs store and load while the host works on the same memory. Which thread
//! comes first is luck; that nobody ever reads a wrong word is not. Everything ends by count.

use addr::{GfnRange, Gpa, Hva, PageSize};
use mm::{Access, CpuIndex, MapRequest, MigrateError, Placement, Protection, VmaKind};
use mmu::{FaultOutcome, MmuError, Slot};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tests::Violation;
use tests::lab::{GuestId, Lab, gpage, page, pages};
use tests::machine::{Options, Speculation};

const GUEST: GuestId = GuestId(0);
/// Small pages 0 to 511; huge page behind them.
const SMALL: u64 = 512;
const PAGES: u64 = 1024;
/// Pages below keep their contents; those from here on may be discarded at any time.
const LASTING: u64 = 12;
/// Pages that the threads fight about.
const CROWDED: u64 = 24;
/// Accesses of each guest CPU.
const ACCESSES: u64 = 30_000;

/// Numbers that look random and are the same each time.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

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

/// One access by the guest on a CPU: faults are resolved until it goes through. `None`: a store that the
/// protection of the moment refuses.
fn access(lab: &Lab, cpu: CpuIndex, gpa: Gpa, store: Option<u64>) -> Option<u64> {
    let guest = lab.guest(GUEST);
    loop {
        let done = match store {
            Some(value) => lab.machine.guest_store(cpu, gpa, value).map(|()| value),
            None => lab.machine.guest_load(cpu, gpa),
        };
        let Err(fault) = done else { return done.ok() };
        lab.machine.exit(cpu);
        let outcome = guest.mmu.fault(gpa, fault.access);
        lab.machine.enter(cpu, guest.root());
        match outcome {
            Ok(FaultOutcome::Mapped) => {}
            Err(MmuError::Host(_)) => return None,
            other => panic!("{gpa}: {other:?}"),
        }
    }
}

/// A guest CPU: each has a word of its own in every page, and knows what it must read.
fn run_guest(lab: &Lab, cpu: CpuIndex) -> u64 {
    lab.run_guest(GUEST, cpu);
    let mut random = Random(0x9e37_79b9 + cpu.0 as u64);
    let mut written = vec![0; CROWDED as usize + 1];
    for count in 1..=ACCESSES {
        let index = random.below(CROWDED + 1);
        let expected = &mut written[index as usize];
        // The last page is the huge one.
        let target = if index == CROWDED { SMALL + 77 } else { index };
        let gpa = gpage(target).add(cpu.0 as u64 * 8);
        if random.below(2) == 0 {
            if access(lab, cpu, gpa, Some(count)).is_some() {
                *expected = count;
            }
        } else if let Some(found) = access(lab, cpu, gpa, None) {
            let discarded = (LASTING..CROWDED).contains(&index) && found == 0;
            assert!(found == *expected || discarded, "{gpa}: {found}, last written {expected}");
            *expected = found;
        }
    }
    lab.machine.exit(cpu);
    written.iter().sum()
}

/// The host, until the guests have ended: every operation, on random pages. Returns how many there were.
fn run_host(lab: &Lab, guests_run: &AtomicBool) -> u64 {
    let mut random = Random(0x1234_5678);
    let mut operations = 0_u64;
    while guests_run.load(Ordering::Acquire) {
        operations += 1;
        let index = random.below(CROWDED);
        let (address, space) = (page(index), &lab.space);
        match random.below(6) {
            0 | 1 => match space.migrate_page(address) {
                Ok(_) | Err(MigrateError::NotResident(_)) => {}
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
        if operations.is_multiple_of(64) {
            lab.space.test_and_clear_young(page(SMALL));
            remap(lab);
        }
    }
    operations
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
    let guests_run = AtomicBool::new(true);
    let operations = std::thread::scope(|scope| {
        let (lab, guests_run) = (&lab, &guests_run);
        let host = scope.spawn(move || run_host(lab, guests_run));
        let guests = [0, 1].map(|cpu| scope.spawn(move || run_guest(lab, CpuIndex(cpu))));
        let ends = guests.map(|guest| guest.join());
        guests_run.store(false, Ordering::Release);
        assert!(ends.into_iter().all(|end| end.is_ok_and(|sum| sum > 0)), "a guest read a wrong word");
        host.join().expect("the host goes on")
    });
    assert!(operations > 100, "{operations} operations in the meantime");
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
        for _ in 0..ACCESSES {
            mmu.add_slot(slot).expect("no overlap");
            (0..random.below(64)).for_each(|_| std::hint::spin_loop());
            mmu.remove_slot(gfns.start()).expect("was there");
            (0..random.below(64)).for_each(|_| std::hint::spin_loop());
            assert_eq!(mmu.lookup(gfns.start()), None);
        }
        host_works.store(false, Ordering::Release);
    });
    assert_eq!(mmu.lookup(gfns.start()), None);
    lab.check()?;
    drop(mmu);
    lab.finish()
}

/// Address spaces come and go while guests fault in them.
#[test]
fn an_exit_under_faulting_guests_leaves_nothing() -> Result<(), Violation> {
    for round in 0..200 {
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
