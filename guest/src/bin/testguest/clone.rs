//! Clones of itself: each, and the parent, finds what was there before, writes what only it would, and finds that again.
//! Arguments: `pages=N` (256), `clones=N` (3), `rounds=N` (4), `generations=N` (1): a clone has clones, too.
//!
//! ```text
//!   parent ─┬─ clone ─┬─ ... ─ writes, checks
//!           ├─ clone  └─ clone of a clone ...
//!           └─ writes, checks
//! ```

use crate::Guest;
use crate::report::{Failure, same};
use abi::hypercall::CLONE;
use guest::memory::Pages;
use guest::{hypercall, println};

/// What a page holds that `who` has written in a round: words that nobody else writes anywhere.
fn contents(who: u64, round: u64, page: u64) -> impl Fn(u64) -> u64 {
    let key = who << 48 | round << 40 | page << 12;
    move |word| key | word
}

fn fill(pages: &Pages, who: u64, round: u64) {
    (0..pages.count()).for_each(|index| pages.fill(index, contents(who, round, index)));
}

fn check(pages: &Pages, who: u64, round: u64) -> Result<(), Failure> {
    (0..pages.count()).try_for_each(|index| {
        let wanted = contents(who, round, index);
        match pages.difference(index, &wanted) {
            None => Ok(()),
            Some((word, found)) => same("word", index << 12 | word, wanted(word), found),
        }
    })
}

/// A clone's number, or 0 for whoever goes on.
fn clone() -> Result<u64, Failure> {
    // SAFETY: Herald is there; each has all of its memory afterwards.
    match unsafe { hypercall::call(CLONE, 0, 0) } {
        number if number < u64::from(u32::MAX) => Ok(number),
        found => {
            Err(Failure::Range { what: "result of the call", least: 0, most: u64::from(u32::MAX), found })
        }
    }
}

pub(crate) fn run(guest: &mut Guest) -> Result<(), Failure> {
    if !hypercall::present() {
        return Err(Failure::NoHerald);
    }
    let argument = |key, or| guest.argument(key).unwrap_or(or);
    let (clones, rounds) = (argument("clones", 3), argument("rounds", 4));
    let (mut generations, count) = (argument("generations", 1), argument("pages", 256));
    let pages = guest.memory.take(count)?;
    let (mut who, mut born) = (0, 0);
    fill(&pages, who, 0);
    while generations > 0 && born < clones {
        match clone()? {
            0 => born += 1,
            number => {
                check(&pages, who, 0)?;
                (who, born, generations) = (number, 0, generations - 1);
                fill(&pages, who, 0);
            }
        }
    }
    for round in 1..=rounds {
        check(&pages, who, round - 1)?;
        fill(&pages, who, round);
    }
    check(&pages, who, rounds)?;
    println!("clone: {who} is itself");
    Ok(())
}
