//! A guest's memory while the host changes its mapping: after mprotect(NONE) and back each page faults again
//! with its data intact, after madvise(DONTNEED) it reads zero, and no other page is touched.
//!
//! Arguments: `pages=N` (4096), `steps=N` (10000) of the random part, `seed=N`.

use crate::Guest;
use crate::model::Model;
use crate::report::{Failure, same};
use abi::hypercall::{INVALID, UNKNOWN};
use addr::{Gpa, PAGE_SIZE};
use guest::random::Random;
use guest::{cpu, hypercall, println, testdev};

/// Most pages that one random hypercall covers.
const MOST_AT_ONCE: u64 = 8;
/// Pages whose accesses are timed.
const TIMED: u64 = 256;
/// Where no guest has RAM: the local APIC's page.
const NOT_RAM: Gpa = Gpa::new(0xfee0_0000);

impl Model {
    fn protect(&self, page: u64) -> Result<(), Failure> {
        let gpa = self.pages.page(page);
        testdev::protect(gpa).ok_or(Failure::Value {
            what: "page below 4 GiB",
            index: page,
            expected: 1,
            found: 0,
        })
    }

    fn protect_range(&self, page: u64, count: u64) -> Result<(), Failure> {
        // SAFETY: `run` asked for Herald, and the call keeps all data.
        let result = unsafe { hypercall::protect(self.pages.page(page).as_u64(), count * PAGE_SIZE) };
        same("PROTECT hypercall", page, 0, result)
    }

    fn discard(&self, page: u64, count: u64) -> Result<(), Failure> {
        // SAFETY: `run` asked for Herald, and the pages are the test's own.
        let result = unsafe { hypercall::discard(self.pages.page(page).as_u64(), count * PAGE_SIZE) };
        (page..page + count).for_each(|page| self.set_version(page, 0));
        same("DISCARD hypercall", page, 0, result)
    }
}

pub(crate) fn run(guest: &mut Guest) -> Result<(), Failure> {
    let mut random = Random::new(guest.argument("seed").unwrap_or(2008));
    let steps = guest.argument("steps").unwrap_or(10_000);
    let count = guest.argument("pages").unwrap_or(4096).max(TIMED);
    let mut model = Model::new(guest, count)?;
    // Memory that a guest sees for the first time is zero.
    model.verify_all()?;
    protect_each(&mut model, &mut random)?;
    if !hypercall::present() {
        return Err(Failure::NoHerald);
    }
    show_costs(&model)?;
    mixed(&mut model, &mut random, steps)?;
    discard_all(&mut model)?;
    bad_arguments()?;
    println!("notifier: {} pages, {} versions, {steps} steps", model.pages.count(), model.next);
    Ok(())
}

/// Each page loses its mapping once, and is then read, or written and read.
fn protect_each(model: &mut Model, random: &mut Random) -> Result<(), Failure> {
    let count = model.pages.count();
    (0..count).for_each(|page| model.write(page));
    for page in 0..count {
        model.protect(page)?;
    }
    model.verify_all()?;
    for _ in 0..count {
        let page = random.below(count);
        model.protect(page)?;
        if random.below(2) == 0 {
            model.write(page);
        }
        model.verify(page)?;
    }
    // A page that is not RAM is ignored.
    let _ = testdev::protect(NOT_RAM);
    model.verify_all()
}

/// TSC ticks of one read of each of the first pages.
fn read_ticks(model: &Model) -> u64 {
    let start = cpu::rdtsc();
    for page in 0..TIMED {
        let _ = model.pages.read(page, 0);
    }
    cpu::rdtsc() - start
}

/// What a refault costs. That it happens is for the host's counters to tell.
fn show_costs(model: &Model) -> Result<(), Failure> {
    read_ticks(model);
    let mapped = read_ticks(model);
    for page in 0..TIMED {
        model.protect(page)?;
    }
    let refault = read_ticks(model);
    println!("notifier: mapped {} ticks a page, refault {}", mapped / TIMED, refault / TIMED);
    Ok(())
}

fn mixed(model: &mut Model, random: &mut Random, steps: u64) -> Result<(), Failure> {
    let count = model.pages.count();
    for _ in 0..steps {
        let page = random.below(count);
        let span = 1 + random.below(MOST_AT_ONCE.min(count - page));
        match random.below(8) {
            0..=2 => model.write(page),
            3 => model.verify(page)?,
            4 | 5 => model.protect(page)?,
            6 => model.protect_range(page, span)?,
            _ => model.discard(page, span)?,
        }
    }
    model.verify_all()
}

/// One call over everything: huge mappings and table pages go too.
fn discard_all(model: &mut Model) -> Result<(), Failure> {
    let count = model.pages.count();
    (0..count).for_each(|page| model.write(page));
    model.discard(0, count)?;
    model.verify_all()?;
    (0..count).for_each(|page| model.write(page));
    model.protect_range(0, count)?;
    model.verify_all()
}

fn bad_arguments() -> Result<(), Failure> {
    // SAFETY: Herald is there; it refuses all of these.
    let results = unsafe {
        [
            hypercall::discard(NOT_RAM.as_u64(), PAGE_SIZE),
            hypercall::discard(PAGE_SIZE, 1),
            hypercall::discard(1, PAGE_SIZE),
            hypercall::protect(PAGE_SIZE, u64::MAX - PAGE_SIZE + 1),
            hypercall::protect(u64::MAX - PAGE_SIZE + 1, PAGE_SIZE),
        ]
    };
    for (index, result) in results.into_iter().enumerate() {
        same("hypercall with a bad range", index as u64, INVALID, result)?;
    }
    // SAFETY: no such call.
    same("hypercall that does not exist", 0, UNKNOWN, unsafe { hypercall::call(0, 0, 0) })
}
