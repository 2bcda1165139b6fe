//! The dirty log of a guest's memory, seen from inside: the guest knows what it has written, and the host tells page by page what
//! it has logged. Between harvests the host does to the pages whatever it can.
//!
//! Arguments: `pages=N` (256), `rounds=N` (100), `seed=N`.

use crate::Guest;
use crate::model::Model;
use crate::report::{Failure, same};
use abi::hypercall::{FAILED, HostOperation as Op, UNKNOWN};
use addr::PAGE_SIZE;
use guest::memory::WORDS;
use guest::random::Random;
use guest::{hypercall, println};

/// Operations that keep contents.
const KEEPING: [Op; 8] =
    [Op::Migrate, Op::Age, Op::PageOut, Op::Cold, Op::HugePages, Op::Collapse, Op::Fork, Op::DropForks];
/// Pages that one operation covers at most.
const MOST_AT_ONCE: u64 = 24;

struct Logged {
    model: Model,
    /// A word a page: whether it has changed since the last harvest.
    changed: guest::memory::Pages,
    harvested: u64,
}

impl Logged {
    fn ask(&self, operation: Op, page: u64, count: u64) -> u64 {
        let gpa = self.model.pages.page(page).as_u64();
        // SAFETY: `run` asked for Herald; the pages are the test's own.
        unsafe { hypercall::host_operation(operation, gpa, count * PAGE_SIZE) }
    }

    fn set_changed(&self, page: u64, changed: u64) {
        self.changed.write(page / WORDS, page % WORDS, changed);
    }

    fn has_changed(&self, page: u64) -> u64 {
        self.changed.read(page / WORDS, page % WORDS)
    }

    fn write(&mut self, page: u64) {
        self.model.write(page);
        self.set_changed(page, 1);
    }

    /// Something happens to some pages.
    fn step(&mut self, random: &mut Random) -> Result<(), Failure> {
        let total = self.model.pages.count();
        let page = random.below(total);
        let count = 1 + random.below(MOST_AT_ONCE.min(total - page));
        match random.below(8) {
            0..=3 => self.write(page),
            4 => self.model.verify(page)?,
            5 => {
                same("answer to Unmap", page, 0, self.ask(Op::Unmap, page, count))?;
                (page..page + count).for_each(|page| {
                    self.model.set_version(page, 0);
                    self.set_changed(page, 1);
                });
            }
            _ => {
                let operation = KEEPING[random.below(KEEPING.len() as u64) as usize];
                self.ask(operation, page, count);
            }
        }
        Ok(())
    }

    /// Each page alone, or a few at a time: those that have changed, and no others.
    fn harvest(&mut self, random: &mut Random) -> Result<(), Failure> {
        let total = self.model.pages.count();
        let mut page = 0;
        while page < total {
            let count = (1 + random.below(2) * random.below(MOST_AT_ONCE)).min(total - page);
            let changed = (page..page + count).map(|page| self.has_changed(page)).sum();
            same("pages in a harvest", page, changed, self.ask(Op::Harvest, page, count))?;
            (page..page + count).for_each(|page| self.set_changed(page, 0));
            self.harvested += changed;
            page += count;
        }
        same("pages in a second harvest", 0, 0, self.ask(Op::Harvest, 0, total))
    }
}

pub(crate) fn run(guest: &mut Guest) -> Result<(), Failure> {
    if !hypercall::present() {
        return Err(Failure::NoHerald);
    }
    let mut random = Random::new(guest.argument("seed").unwrap_or(2026));
    let rounds = guest.argument("rounds").unwrap_or(100);
    let count = guest.argument("pages").unwrap_or(256).max(64);
    let changed = guest.memory.take(count.div_ceil(WORDS))?;
    (0..count.div_ceil(WORDS)).for_each(|page| changed.fill(page, |_| 0));
    let mut logged = Logged { model: Model::new(guest, count)?, changed, harvested: 0 };
    if logged.ask(Op::CountYoung, 0, 1) == UNKNOWN {
        return Err(Failure::NoHostOperations);
    }
    (0..count).for_each(|page| logged.model.write(page));
    same("answer to BeginLog", 0, 0, logged.ask(Op::BeginLog, 0, 1))?;
    same("a log twice", 0, FAILED, logged.ask(Op::BeginLog, 0, 1))?;
    for _ in 0..rounds {
        for _ in 0..random.below(2 * MOST_AT_ONCE) {
            logged.step(&mut random)?;
        }
        logged.harvest(&mut random)?;
    }
    same("answer to EndLog", 0, 0, logged.ask(Op::EndLog, 0, 1))?;
    logged.write(0);
    same("a harvest without a log", 0, 0, logged.ask(Op::Harvest, 0, count))?;
    logged.ask(Op::DropForks, 0, 1);
    logged.model.verify_all()?;
    println!("dirtylog: {count} pages, {} harvested in {rounds} rounds", logged.harvested);
    Ok(())
}
