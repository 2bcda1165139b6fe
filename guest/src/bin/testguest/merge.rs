//! Merging: pages that are equal, in this guest and in another one, become one; then each guest writes its own, and finds that.
//! Arguments: `pages=N` (256), `rounds=N` (2), `who=N` (1), of which another guest has another one, `swap=1`: goes to swap while merged.
//!
//! ```text
//!   the same in all guests ─► until all is merged ─► to swap, if asked to ─► half of it its own ─► found again, both
//!        ▲ next round                                                                              │
//!        └─────────────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! Each page has a twin in this guest: so none waits for a guest that is elsewhere in its rounds.

use crate::Guest;
use crate::report::{Failure, same};
use abi::hypercall::{FAILED, HostOperation as Op, INVALID, UNKNOWN};
use addr::PAGE_SIZE;
use guest::memory::Pages;
use guest::{hypercall, println};

/// So manyeth twins have nothing but zeros.
const ZEROS: u64 = 8;

/// What a page holds in a round, in every guest.
fn equal(round: u64, page: u64) -> impl Fn(u64) -> u64 {
    let (twin, key) = (page / 2, round << 40 | (page / 2) << 12);
    move |word| if twin % ZEROS == ZEROS - 1 { 0 } else { key | word }
}

/// What it holds once this guest has written it.
fn own(who: u64, round: u64, page: u64) -> impl Fn(u64) -> u64 {
    let key = who << 48 | round << 40 | page << 12;
    move |word| key | word
}

fn is(pages: &Pages, index: u64, wanted: impl Fn(u64) -> u64) -> Result<(), Failure> {
    match pages.difference(index, &wanted) {
        None => Ok(()),
        Some((word, found)) => same("word", index << 12 | word, wanted(word), found),
    }
}

fn are_equal(pages: &Pages, round: u64) -> Result<(), Failure> {
    (0..pages.count()).try_for_each(|index| is(pages, index, equal(round, index)))
}

/// What the host has counted in all pages.
fn ask(pages: &Pages, operation: Op) -> Result<u64, Failure> {
    let (gpa, len) = (pages.page(0).as_u64(), pages.count() * PAGE_SIZE);
    // SAFETY: Herald is there, says `run`; the pages are the test's own, and keep what they hold.
    let answer = unsafe { hypercall::host_operation(operation, gpa, len) };
    let refused = [UNKNOWN, FAILED, INVALID].contains(&answer);
    same("refusal of the operation", operation as u64, 0, u64::from(refused)).map(|()| answer)
}

/// Reads them all the while.
fn until_merged(pages: &Pages, round: u64) -> Result<(), Failure> {
    while ask(pages, Op::CountMerged)? < pages.count() {
        are_equal(pages, round)?;
    }
    are_equal(pages, round)
}

pub(crate) fn run(guest: &mut Guest) -> Result<(), Failure> {
    if !hypercall::present() {
        return Err(Failure::NoHerald);
    }
    let argument = |key, or| guest.argument(key).unwrap_or(or);
    let (count, rounds, who) = (argument("pages", 256), argument("rounds", 2), argument("who", 1));
    let swaps = argument("swap", 0) != 0;
    let pages = guest.memory.take(count)?;
    for round in 1..=rounds {
        (0..count).for_each(|index| pages.fill(index, equal(round, index)));
        until_merged(&pages, round)?;
        if swaps {
            let _ = ask(&pages, Op::PageOut)?;
        }
        // Odd pages: one of each two twins stays what it was.
        (1..count).step_by(2).for_each(|index| pages.fill(index, own(who, round, index)));
        for index in 0..count {
            match index % 2 {
                0 => is(&pages, index, equal(round, index))?,
                _ => is(&pages, index, own(who, round, index))?,
            }
        }
    }
    println!("merge: {who} has its own");
    Ok(())
}
