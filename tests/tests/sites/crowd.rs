//! Real threads: two guests and Herald in both of their spaces load and store, while the host swaps, writes back,
//! migrates, forks, moves and protects the same pages. Each program has a word of its own in every page, and must read
//! what it wrote last. Everything ends by count.

use crate::Outcome;
use crate::bench::{Bench, SMALL, Space, bytes};
use addr::PAGE_SIZE;
use mm::{Access, Advice, File, Protection, Remap, VmaKind};
use mmu::{FaultOutcome, MmuError};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use tests::lab::{gpage, page, pages};
use tests::machine::Machine;
use tests::paging::resolve;
use tests::random::Random;

/// Private pages 0 to 7, and four of a shared file behind them.
const PRIVATE: u64 = 8;
const PAGES: u64 = 12;
/// Operations of the host; the programs go on as long as it does.
const OPERATIONS: u64 = 400;

/// Who accesses memory.
#[derive(Clone, Copy)]
enum Who {
    Guest,
    Herald,
}

/// One access, faults resolved; `None` where the host refuses it at the moment.
fn access(b: &Bench, space: &Space, who: Who, (index, word): (u64, u64), store: Option<u64>) -> Option<u64> {
    let (gpa, hva) = (gpage(index).add(word * 8), page(index).add(word * 8));
    loop {
        let done = match (who, store) {
            (Who::Guest, Some(value)) => b.machine.guest_store(space.guest_cpu, gpa, value).map(|()| value),
            (Who::Guest, None) => b.machine.guest_load(space.guest_cpu, gpa),
            (Who::Herald, Some(value)) => {
                b.machine.store_linear(space.herald_cpu, hva, value).map(|()| value)
            }
            (Who::Herald, None) => b.machine.load_linear(space.herald_cpu, hva),
        };
        let Err(fault) = done else { return done.ok() };
        // Spinning writers of the mmap lock get their turn.
        std::thread::yield_now();
        match who {
            Who::Guest => ept_violation(b, space, gpa, fault.access)?,
            Who::Herald => drop(space.space.fault_in(hva, fault.access).ok()?),
        }
    }
}

fn ept_violation(b: &Bench, space: &Space, gpa: addr::Gpa, access: Access) -> Option<()> {
    b.machine.exit(space.guest_cpu);
    let outcome = resolve(&b.machine, &space.mmu, space.guest_cpu, (gpa, access));
    b.machine.enter(space.guest_cpu, space.root);
    match outcome {
        Ok(FaultOutcome::Mapped) => Some(()),
        Err(MmuError::Host(_)) => None,
        other => panic!("{gpa}: {other:?}"),
    }
}

/// Loads and stores as long as the host works; `word` is the program's own in every page.
fn run_program(b: &Bench, id: usize, who: Who, word: u64, host_works: &AtomicBool) {
    let space = b.space(id);
    let mut random = Random(0x9e37_79b9 + word);
    let mut written = [0; PAGES as usize];
    let mut count = 0;
    while host_works.load(Ordering::Acquire) {
        count += 1;
        let index = random.below(PAGES);
        let expected = &mut written[index as usize];
        if random.below(2) == 0 {
            if access(b, &space, who, (index, word), Some(count)).is_some() {
                *expected = count;
            }
        } else if let Some(found) = access(b, &space, who, (index, word), None) {
            assert_eq!(found, *expected, "page {index} of space {id}, word {word}, access {count}");
        }
    }
}

/// One operation of the host, which may find the page busy.
fn work(b: &Bench, file: &Arc<File<Machine>>, random: &mut Random) {
    let space = &b.space(random.below(2) as usize).space;
    let index = random.below(PAGES);
    let at = page(index);
    match random.below(10) {
        0..=2 => space.madvise(at, bytes(1 + random.below(2)), Advice::PageOut).unwrap_or_default(),
        3 => b.mm.write_back(file).expect("a disk that works"),
        4 => drop(space.migrate_page(at)),
        5 => {
            space.mprotect(at, PAGE_SIZE, Protection::Read).expect("an area");
            space.mprotect(at, PAGE_SIZE, Protection::ReadWrite).expect("an area");
        }
        6 => {
            let child = space.fork().expect("memory for a child");
            child.fault_in(page(index % PRIVATE), Access::Write).expect("a page");
            child.exit();
        }
        7 => {
            let away = page(1000 + index);
            space.mremap(at, PAGE_SIZE, PAGE_SIZE, Remap::Fixed(away)).expect("a move");
            space.mremap(away, PAGE_SIZE, PAGE_SIZE, Remap::Fixed(at)).expect("a move back");
        }
        8 => drop(space.test_and_clear_young(at)),
        _ => space.discard(page(PRIVATE + index % 4), PAGE_SIZE).expect("a page of the file"),
    }
}

#[test]
fn nobody_reads_a_wrong_word_whatever_the_host_does_meanwhile() -> Outcome {
    let b = Bench::new(SMALL);
    let (file, platter) = b.disk_file(4);
    b.map_pages(0, 0, PRIVATE)?;
    b.map(0, pages(PRIVATE, 4), VmaKind::Shared(Arc::clone(&file), 0))?;
    for index in 0..PAGES {
        b.guest_writes(0, index, 0)?;
    }
    b.fork(0)?;
    let (host_works, start) = (AtomicBool::new(true), Barrier::new(5));
    std::thread::scope(|scope| {
        for (word, (id, who)) in
            (0..).zip([(0, Who::Guest), (0, Who::Herald), (1, Who::Guest), (1, Who::Herald)])
        {
            let (b, host_works, start) = (&b, &host_works, &start);
            scope.spawn(move || {
                start.wait();
                run_program(b, id, who, word, host_works);
            });
        }
        let mut random = Random(0x1234_5678);
        start.wait();
        let stop = StopAtTheEnd(&host_works);
        (0..OPERATIONS).for_each(|_| work(&b, &file, &mut random));
        drop(stop);
    });
    b.check()?;
    assert!(platter.writes() > 0 && b.swap.writes() > 0, "the host was not idle");
    drop(file);
    b.finish()
}

/// Lets the programs end also when the host panics.
struct StopAtTheEnd<'a>(&'a AtomicBool);

impl Drop for StopAtTheEnd<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}
