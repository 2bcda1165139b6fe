//! A guest's memory under every operation that the host memory manager has, in random order: whatever keeps data
//! keeps it, whatever drops it reads zero, and aging sees what the guest has touched.
//!
//! Arguments: `pages=N` (1536), `steps=N` (4000), `seed=N`, `shared=1` where the memory is a file: discarding and
//! unmapping keep its contents then.

use crate::Guest;
use crate::model::Model;
use crate::report::{Failure, same};
use abi::hypercall::{FAILED, HostOperation as Op, UNKNOWN};
use addr::PAGE_SIZE;
use guest::random::Random;
use guest::{hypercall, println};

/// Pages that one operation covers at most; now and then all.
const MOST_AT_ONCE: u64 = 24;
/// Operations that keep data.
const KEEPING: [Op; 13] = [
    Op::Migrate,
    Op::Age,
    Op::PageOut,
    Op::Cold,
    Op::HugePages,
    Op::Collapse,
    Op::Fork,
    Op::DropForks,
    Op::Move,
    Op::WriteProtect,
    Op::WriteBack,
    Op::Lock,
    Op::Unlock,
];

struct Hosted {
    model: Model,
    shared: bool,
    refused: u64,
}

impl Hosted {
    /// Has the host do something with pages; what it answers.
    fn ask(&mut self, operation: Op, page: u64, count: u64) -> u64 {
        let gpa = self.model.pages.page(page).as_u64();
        // SAFETY: `run` asked for Herald; the pages are the test's own.
        let answer = unsafe { hypercall::host_operation(operation, gpa, count * PAGE_SIZE) };
        self.refused += u64::from(answer == FAILED);
        answer
    }

    /// Contents go, unless a file keeps them.
    fn drop_pages(&mut self, page: u64, count: u64) -> Result<(), Failure> {
        if !self.shared {
            (page..page + count).for_each(|page| self.model.set_version(page, 0));
        }
        (page..page + count).try_for_each(|page| self.model.verify(page))
    }

    /// `MADV_FREE`: a page that is written afterwards keeps what was written, whatever reclaim does.
    fn free_and_write(&mut self, page: u64, count: u64) -> Result<(), Failure> {
        self.ask(Op::Free, page, count);
        (page..page + count).for_each(|page| self.model.write(page));
        self.ask(Op::PageOut, page, count);
        (page..page + count).try_for_each(|page| self.model.verify(page))
    }

    fn step(&mut self, random: &mut Random) -> Result<(), Failure> {
        let total = self.model.pages.count();
        let page = random.below(total);
        let count = match random.below(64) {
            0 => total - page,
            _ => 1 + random.below(MOST_AT_ONCE.min(total - page)),
        };
        match random.below(16) {
            0..=4 => self.model.write(page),
            5 => self.model.verify(page)?,
            6 => {
                same("answer to Unmap", page, 0, self.ask(Op::Unmap, page, count))?;
                self.drop_pages(page, count)?;
            }
            7 => self.free_and_write(page, count)?,
            8 if self.shared => {
                self.ask(Op::Rearrange, page, count);
            }
            _ => {
                let operation = KEEPING[random.below(KEEPING.len() as u64) as usize];
                self.ask(operation, page, count);
            }
        }
        Ok(())
    }
}

pub(crate) fn run(guest: &mut Guest) -> Result<(), Failure> {
    if !hypercall::present() {
        return Err(Failure::NoHerald);
    }
    let mut random = Random::new(guest.argument("seed").unwrap_or(2026));
    let steps = guest.argument("steps").unwrap_or(4000);
    let shared = guest.argument("shared").is_some();
    let count = guest.argument("pages").unwrap_or(1536).max(64);
    let mut hosted = Hosted { model: Model::new(guest, count)?, shared, refused: 0 };
    if hosted.ask(Op::CountYoung, 0, 1) == UNKNOWN {
        return Err(Failure::NoHostOperations);
    }
    (0..count).for_each(|page| hosted.model.write(page));
    aging_sees_touches(&mut hosted)?;
    swapped_pages_come_back(&mut hosted)?;
    forked_pages_are_our_own(&mut hosted)?;
    for _ in 0..steps {
        hosted.step(&mut random)?;
    }
    hosted.ask(Op::DropForks, 0, 1);
    hosted.model.verify_all()?;
    println!(
        "hostops: {count} pages, {} versions, {steps} steps, {} refused",
        hosted.model.next, hosted.refused
    );
    Ok(())
}

/// Asked once, pages are old; pages touched since are young, and no others.
fn aging_sees_touches(hosted: &mut Hosted) -> Result<(), Failure> {
    hosted.ask(Op::Age, 0, 64);
    same("young pages after aging", 0, 0, hosted.ask(Op::Age, 0, 64))?;
    for page in [3, 17, 63] {
        hosted.model.write(page);
    }
    same("young pages counted", 0, 3, hosted.ask(Op::CountYoung, 0, 64))?;
    same("young pages", 0, 3, hosted.ask(Op::Age, 0, 64))?;
    same("young pages left", 0, 0, hosted.ask(Op::CountYoung, 0, 64))
}

/// Out, and back with their data, by reads and by writes.
fn swapped_pages_come_back(hosted: &mut Hosted) -> Result<(), Failure> {
    let gone = hosted.ask(Op::PageOut, 0, 64);
    println!("hostops: {gone} of 64 pages went out");
    (0..32).try_for_each(|page| hosted.model.verify(page))?;
    (16..64).for_each(|page| hosted.model.write(page));
    hosted.model.verify_all()
}

/// What is written after a fork stays, and what was not written is still there when the copy is gone.
fn forked_pages_are_our_own(hosted: &mut Hosted) -> Result<(), Failure> {
    for _ in 0..2 {
        hosted.ask(Op::Fork, 0, 1);
        (0..hosted.model.pages.count()).step_by(3).for_each(|page| hosted.model.write(page));
        hosted.model.verify_all()?;
    }
    hosted.ask(Op::DropForks, 0, 1);
    (0..hosted.model.pages.count()).step_by(2).for_each(|page| hosted.model.write(page));
    hosted.model.verify_all()
}
