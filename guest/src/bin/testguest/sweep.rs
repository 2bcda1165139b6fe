//! Sweeps over all RAM: each page is filled, and in each later round checked, word by word, and filled anew. For hosts with less
//! memory than that. Arguments: `rounds=N` (2), `every=N` (4): how far words without order are apart; `busy=N` (0): so many pages,
//! beside the others, are read all of them behind each page that is filled, as a system's own are.
//!
//! | pages | contents |
//! |---|---|
//! | each 8th | one word over and over |
//! | each 16th | words without order |
//! | the rest | each Nth word without order, one word else |

use crate::Guest;
use crate::report::{Failure, same};
use guest::memory::Pages;
use guest::println;

/// What a busy page has its number in.
const BUSY_WORD: u64 = 7;

/// A word that looks like any other.
const fn mix(number: u64) -> u64 {
    let number = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ number >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ number >> 31
}

/// What a page holds after a round.
fn contents(page: u64, index: u64, round: u64, apart: u64) -> impl Fn(u64) -> u64 {
    let key = mix(page ^ round << 52);
    let every = match index % 16 {
        0 | 8 => u64::MAX,
        4 => 1,
        _ => apart,
    };
    move |word| if word % every == 0 && every != u64::MAX { mix(key ^ word << 40) } else { key }
}

fn check(pages: &Pages, index: u64, round: u64, apart: u64) -> Result<(), Failure> {
    let page = pages.page(index).as_u64();
    let wanted = contents(page, index, round, apart);
    match pages.difference(index, &wanted) {
        None => Ok(()),
        Some((word, found)) => same("word", page + word * 8, wanted(word), found),
    }
}

pub(crate) fn run(guest: &mut Guest) -> Result<(), Failure> {
    let rounds = guest.argument("rounds").unwrap_or(2);
    let apart = guest.argument("every").unwrap_or(4).max(1);
    let busy = guest.memory.take(guest.argument("busy").unwrap_or(0))?;
    (0..busy.count()).for_each(|index| busy.write(index, BUSY_WORD, index));
    let mut ranges = [const { None }; 20];
    for (place, pages) in ranges.iter_mut().zip(guest.memory.take_all()) {
        *place = Some(pages);
    }
    for round in 0..rounds {
        let mut count = 0;
        for pages in ranges.iter().flatten() {
            for index in 0..pages.count() {
                if round > 0 {
                    check(pages, index, round - 1, apart)?;
                }
                pages.fill(index, contents(pages.page(index).as_u64(), index, round, apart));
                (0..busy.count())
                    .try_for_each(|page| same("busy page", page, page, busy.read(page, BUSY_WORD)))?;
            }
            count += pages.count();
        }
        println!("sweep: round {round}, {count} pages");
    }
    for pages in ranges.iter().flatten().filter(|_| rounds > 0) {
        (0..pages.count()).try_for_each(|index| check(pages, index, rounds - 1, apart))?;
    }
    Ok(())
}
