//! What host operations cost a guest, in TSC ticks a page: touches after each, and the operations themselves, called by
//! hypercall. Contents are compared as well, so that no figure comes from doing it wrong. Argument: `pages=N` (2048).
//!
//! Each line `cost: NAME TICKS` is for `cargo xtask bench`.

use crate::Guest;
use crate::report::{Failure, same};
use abi::hypercall::{FAILED, HostOperation as Op, INVALID, UNKNOWN};
use addr::PAGE_SIZE;
use guest::memory::Pages;
use guest::{cpu, hypercall, println};

/// A stride that visits every page of a power of two, and no two neighbours.
const STRIDE: u64 = 617;

struct Bench {
    pages: Pages,
}

impl Bench {
    fn report(&self, name: &str, since: u64) {
        self.report_for(self.pages.count(), name, since);
    }

    /// For so many pages.
    fn report_for(&self, pages: u64, name: &str, since: u64) {
        println!("cost: {name} {}", (cpu::rdtsc() - since) / pages.max(1));
    }

    fn write_all(&self, value: u64) {
        (0..self.pages.count()).for_each(|page| self.pages.write(page, 0, page ^ value));
    }

    /// In an order that no neighbour helps.
    fn read_scattered(&self) -> u64 {
        let count = self.pages.count();
        (0..count).fold(0, |sum, index| sum ^ self.pages.read(index * STRIDE % count, 0))
    }

    fn verify(&self, value: u64) -> Result<(), Failure> {
        (0..self.pages.count())
            .try_for_each(|page| same("word", page, page ^ value, self.pages.read(page, 0)))
    }

    /// Times one call over all pages.
    fn ask(&self, name: &'static str, operation: Op) -> Result<(), Failure> {
        let since = cpu::rdtsc();
        self.call(name, operation)?;
        self.report(name, since);
        Ok(())
    }

    /// One call over all pages; what it counts.
    fn call(&self, name: &'static str, operation: Op) -> Result<u64, Failure> {
        let (gpa, len) = (self.pages.page(0).as_u64(), self.pages.count() * PAGE_SIZE);
        // SAFETY: `run` asked for Herald; the pages are the test's own.
        let answer = unsafe { hypercall::host_operation(operation, gpa, len) };
        let refused = [UNKNOWN, FAILED, INVALID].contains(&answer);
        same(name, 0, 0, u64::from(refused)).map(|()| answer)
    }

    fn timed(&self, name: &str, what: impl FnOnce()) {
        let since = cpu::rdtsc();
        what();
        self.report(name, since);
    }
}

pub(crate) fn run(guest: &mut Guest) -> Result<(), Failure> {
    if !hypercall::present() {
        return Err(Failure::NoHerald);
    }
    let count = guest.argument("pages").unwrap_or(2048).next_power_of_two();
    let bench = Bench { pages: guest.memory.take(count)? };
    bench.timed("first-touch", || bench.write_all(1));
    bench.timed("touch-when-mapped", || bench.write_all(2));
    protected(&bench)?;
    bench.ask("age-young", Op::Age)?;
    bench.ask("age-idle", Op::Age)?;
    bench.timed("touch-after-age", || bench.write_all(4));
    bench.verify(4)?;
    bench.ask("fork", Op::Fork)?;
    bench.timed("cow-break", || bench.write_all(5));
    bench.verify(5)?;
    bench.ask("end-of-fork", Op::DropForks)?;
    bench.ask("swap-out", Op::PageOut)?;
    bench.timed("swap-in", || bench.write_all(6));
    bench.verify(6)?;
    bench.ask("swap-out-again", Op::PageOut)?;
    bench.timed("swap-in-scattered", || {
        let _ = bench.read_scattered();
    });
    bench.verify(6)?;
    let (gpa, len) = (bench.pages.page(0).as_u64(), count * PAGE_SIZE);
    bench.timed("discard", || {
        // SAFETY: as in `ask`.
        let _ = unsafe { hypercall::discard(gpa, len) };
    });
    bench.timed("read-touch", || {
        let _ = bench.read_scattered();
    });
    bench.timed("write-after-read", || bench.write_all(7));
    bench.verify(7)?;
    logged(&bench)?;
    merged(&bench)
}

/// The dirty log: what a write costs after each harvest, and a page of the harvest itself.
fn logged(bench: &Bench) -> Result<(), Failure> {
    bench.ask("log-begin", Op::BeginLog)?;
    bench.timed("write-when-logged", || bench.write_all(8));
    bench.ask("harvest", Op::Harvest)?;
    bench.timed("write-after-harvest", || bench.write_all(9));
    bench.timed("write-when-in-log", || bench.write_all(10));
    bench.ask("harvest-again", Op::Harvest)?;
    bench.ask("harvest-of-nothing", Op::Harvest)?;
    bench.ask("log-end", Op::EndLog)?;
    bench.verify(10)
}

/// Each page becomes the one that its neighbour is; then each is written. A pass that only looks at a page comes first, and is
/// part of what the merge of a page costs.
fn merged(bench: &Bench) -> Result<(), Failure> {
    let count = bench.pages.count();
    let twin = |page: u64| page / 2 + 1;
    (0..count).for_each(|page| bench.pages.write(page, 0, twin(page)));
    let since = cpu::rdtsc();
    bench.ask("merge-look", Op::Merge)?;
    let pages = bench.call("merge", Op::Merge)?;
    bench.report_for(pages, "merge", since);
    same("pages merged", 0, count / 2, pages)?;
    (0..count).try_for_each(|page| same("merged word", page, twin(page), bench.pages.read(page, 0)))?;
    bench.timed("merge-break", || bench.write_all(8));
    bench.verify(8)
}

/// mprotect(NONE) and back, and what comes after it.
fn protected(bench: &Bench) -> Result<(), Failure> {
    let (gpa, len) = (bench.pages.page(0).as_u64(), bench.pages.count() * PAGE_SIZE);
    for (name, scattered) in [("refault", false), ("refault-scattered", true)] {
        let since = cpu::rdtsc();
        // SAFETY: as in `ask`; the call keeps all data.
        let answer = unsafe { hypercall::protect(gpa, len) };
        if !scattered {
            bench.report("mprotect-both-ways", since);
        }
        same("PROTECT", 0, 0, answer)?;
        bench.timed(name, || match scattered {
            false => bench.write_all(3),
            true => {
                let _ = bench.read_scattered();
            }
        });
    }
    bench.verify(3)
}
