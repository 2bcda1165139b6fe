//! A snapshot of itself, while all other CPUs write: whoever goes on, at once or restored, finds the memory of that instant.
//! Arguments: `pages=N` of the first CPU (256), `load=N` of each other one (64), `rounds=N` until the snapshot (2).
//!
//! ```text
//!   CPU 0: fills its pages ─► snapshot ─┬─ 0: finds them, writes others there at once ─┐
//!                                       └─ 1: finds them                              ─┴─► lets the others go on ─► ok
//!   others: page after page: finds what they wrote last, by their registers; writes what comes next
//! ```

use crate::Guest;
use crate::cpus;
use crate::once::Once;
use crate::report::{Failure, same};
use abi::hypercall::SNAPSHOT;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use guest::memory::Pages;
use guest::{cpu, hypercall, println};

/// Most CPUs.
const MOST: usize = 32;

/// The pages of all other CPUs, and how many each has.
static FIELD: Once<(Pages, u64)> = Once::new();
/// Rounds that each has done.
static ROUNDS: [AtomicU64; MOST] = [const { AtomicU64::new(0) }; MOST];
/// Pages that were not what they had to be.
static LOST: AtomicU64 = AtomicU64::new(0);
static STOP: AtomicBool = AtomicBool::new(false);

/// What a page holds that a CPU has written in a round: words that nobody else writes anywhere.
fn contents(cpu: u64, round: u64, page: u64) -> impl Fn(u64) -> u64 {
    let key = cpu << 56 | round << 28 | page << 9;
    move |word| key | word
}

/// Goes over its pages again and again, and knows by its registers what it finds.
fn work(number: u64) {
    let Some((pages, each)) = FIELD.get() else { return };
    let first = (number - 1) * each;
    (0..*each).for_each(|page| pages.fill(first + page, contents(number, 0, page)));
    let mut round = 1;
    while !STOP.load(Ordering::Acquire) {
        for page in 0..*each {
            if pages.difference(first + page, contents(number, round - 1, page)).is_some() {
                LOST.fetch_add(1, Ordering::Relaxed);
            }
            pages.fill(first + page, contents(number, round, page));
        }
        ROUNDS[number as usize].store(round, Ordering::Release);
        round += 1;
    }
}

fn check(pages: &Pages, round: u64) -> Result<(), Failure> {
    (0..pages.count()).try_for_each(|page| {
        let wanted = contents(0, round, page);
        match pages.difference(page, &wanted) {
            None => Ok(()),
            Some((word, found)) => same("word", page << 9 | word, wanted(word), found),
        }
    })
}

/// Lets all other CPUs do so many rounds more.
fn go_on(count: u64, rounds: u64) -> Result<(), Failure> {
    for done in &ROUNDS[1..count as usize] {
        let since = done.load(Ordering::Acquire);
        cpus::wait("rounds of the others", || done.load(Ordering::Acquire) >= since + rounds)?;
    }
    Ok(())
}

pub(crate) fn run(guest: &mut Guest) -> Result<(), Failure> {
    if !hypercall::present() {
        return Err(Failure::NoHerald);
    }
    let argument = |key, or| guest.argument(key).unwrap_or(or);
    let (own, each, rounds) = (argument("pages", 256), argument("load", 64), argument("rounds", 2));
    let pages = guest.memory.take(own)?;
    let field = guest.memory.take((crate::fwcfg::cpus() - 1) * each)?;
    // SAFETY: no other CPU runs, and `set` is called here alone.
    unsafe { FIELD.set((field, each)) };
    (0..own).for_each(|page| pages.fill(page, contents(0, 0, page)));
    let count = cpus::start_all(&mut guest.memory, work)?;
    go_on(count, rounds)?;
    let before = cpu::rdtsc();
    // SAFETY: Herald is there; each has all of its memory afterwards.
    let answer = unsafe { hypercall::call(SNAPSHOT, 0, 0) };
    let after = cpu::rdtsc();
    match answer {
        0 => {
            // What the snapshot holds is not this.
            (0..own).for_each(|page| pages.fill(page, contents(0, 1, page)));
            check(&pages, 1)?;
            println!("snapshot: taken");
        }
        1 => {
            check(&pages, 0)?;
            println!("snapshot: restored");
        }
        found => return Err(Failure::Range { what: "result of the call", least: 0, most: 1, found }),
    }
    same("a clock that runs backwards", 0, 0, u64::from(after < before))?;
    go_on(count, rounds)?;
    STOP.store(true, Ordering::Release);
    cpus::join(count)?;
    same("pages of the others that were lost", 0, 0, LOST.load(Ordering::Relaxed))
}
