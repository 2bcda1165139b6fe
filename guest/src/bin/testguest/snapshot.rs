//! Snapshots of itself, while all other CPUs write: whoever goes on, at once or restored, finds the memory of that instant.
//! Arguments: `pages=N` of the first CPU (256), `load=N` of each other one (64), `rounds=N` until the snapshot (2), `instants=N`
//! of the first life (1), `again=N` of each later one until there are so many more in all (0).
//!
//! ```text
//!   CPU 0: fills its pages ─► snapshot ─┬─ 0: taken ────────────────┬─ writes a third of its pages, discards one ─► the next one
//!                ▲                      └─ 1: restored; finds them ─┴─ the last: writes all ─► lets the others go on ─► ok
//!                └───────────────────────────────────────────────────────────────── (again)
//!   others: page after page: finds what they wrote last, by their registers; writes what comes next
//! ```

use crate::Guest;
use crate::cpus;
use crate::once::Once;
use crate::report::{Failure, same};
use abi::hypercall::{BUSY, SNAPSHOT};
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

/// The round of the last write to a page of the first CPU, at an instant.
fn round_at(instant: u64, page: u64) -> u64 {
    (0..=instant).rev().find(|&round| round == 0 || page % 3 == round % 3).unwrap_or(0)
}

/// What a page of the first CPU holds at an instant. The last page is discarded before each but the first.
fn at(instant: u64, count: u64, page: u64) -> impl Fn(u64) -> u64 {
    let written = contents(0, round_at(instant, page), page);
    let is_discarded = instant > 0 && page + 1 == count;
    move |word| if is_discarded { 0 } else { written(word) }
}

fn check(pages: &Pages, instant: u64) -> Result<(), Failure> {
    (0..pages.count()).try_for_each(|page| {
        let wanted = at(instant, pages.count(), page);
        match pages.difference(page, &wanted) {
            None => Ok(()),
            Some((word, found)) => same("word", page << 9 | word, wanted(word), found),
        }
    })
}

/// Writes what differs between an instant and the one before.
fn advance(pages: &Pages, instant: u64) -> Result<(), Failure> {
    let last = pages.count() - 1;
    let changed = (0..last).filter(|&page| round_at(instant, page) == instant);
    changed.for_each(|page| pages.fill(page, contents(0, instant, page)));
    // SAFETY: Herald is there; nobody has a reference into these pages.
    let answer = unsafe { hypercall::discard(pages.page(last).as_u64(), 4096) };
    same("result of a discard", last, 0, answer)
}

/// Takes a snapshot, once there is none under way: whether this is who was restored.
fn take() -> Result<bool, Failure> {
    let before = cpu::rdtsc();
    let answer = loop {
        // SAFETY: Herald is there; each has all of its memory afterwards.
        match unsafe { hypercall::call(SNAPSHOT, 0, 0) } {
            BUSY => core::hint::spin_loop(),
            answer => break answer,
        }
    };
    same("a clock that runs backwards", 0, 0, u64::from(cpu::rdtsc() < before))?;
    match answer {
        0 | 1 => Ok(answer == 1),
        found => Err(Failure::Range { what: "result of the call", least: 0, most: 1, found }),
    }
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
    let (first_life, again) = (argument("instants", 1), argument("again", 0));
    let pages = guest.memory.take(own)?;
    let field = guest.memory.take((crate::fwcfg::cpus() - 1) * each)?;
    // SAFETY: no other CPU runs, and `set` is called here alone.
    unsafe { FIELD.set((field, each)) };
    (0..own).for_each(|page| pages.fill(page, contents(0, 0, page)));
    let count = cpus::start_all(&mut guest.memory, work)?;
    go_on(count, rounds)?;
    let mut is_restored = false;
    for instant in 0..first_life + again {
        if instant >= first_life && !is_restored {
            break;
        }
        if instant > 0 {
            advance(&pages, instant)?;
        }
        if take()? {
            is_restored = true;
            check(&pages, instant)?;
            println!("snapshot: restored, instant {instant}");
        } else {
            println!("snapshot: taken, instant {instant}");
        }
    }
    // What the last one holds is not this.
    (0..own).for_each(|page| pages.fill(page, contents(1, 1, page)));
    go_on(count, rounds)?;
    STOP.store(true, Ordering::Release);
    cpus::join(count)?;
    same("pages of the others that were lost", 0, 0, LOST.load(Ordering::Relaxed))
}
