//! All CPUs write, read and verify their own pages, while the host does what it likes with them: `operations=N` of a storm
//! have to be done before the guest is content. In each CPU's last page group the host may also discard: there a page holds
//! what was written last, or zeros.

use crate::Guest;
use crate::cpus;
use crate::once::Once;
use crate::report::{Failure, same};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use guest::memory::{Pages, WORDS};
use guest::random::Random;
use guest::{hypercall, println};

/// Most CPUs that take part.
const MOST: usize = 32;
/// Pages of each CPU that keep what is written.
const KEPT: u64 = 96;
/// Pages of each CPU that the host may discard, behind all that are kept.
const GIVEN_AWAY: u64 = 32;

/// The memory of all CPUs: pages that are kept, CPU by CPU; then pages that are given away, CPU by CPU. And how many CPUs.
static FIELD: Once<(Pages, u64)> = Once::new();
static STOP: AtomicBool = AtomicBool::new(false);
/// What a CPU has found: the page's address, the word, what was expected, what was found. The first counts.
static WRONG: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];
static IS_WRONG: AtomicBool = AtomicBool::new(false);
static ROUNDS: [AtomicU64; MOST] = [const { AtomicU64::new(0) }; MOST];

/// The word that belongs there after a CPU's round.
fn pattern(page: u64, word: u64, round: u64) -> u64 {
    (page << 32 ^ word << 20 ^ round).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1
}

fn report(address: u64, word: u64, expected: u64, found: u64) {
    if !IS_WRONG.swap(true, Ordering::AcqRel) {
        for (place, value) in WRONG.iter().zip([address, word, expected, found]) {
            place.store(value, Ordering::Release);
        }
    }
    STOP.store(true, Ordering::Release);
}

/// A word of each of some pages: what was written in an earlier round is there, and the next is written.
fn work(number: u64) {
    let Some((pages, count)) = FIELD.get() else { return };
    let mut random = Random::new(number + 1);
    let mut rounds = [0u32; (KEPT + GIVEN_AWAY) as usize];
    while !STOP.load(Ordering::Acquire) {
        let own = random.below(KEPT + GIVEN_AWAY);
        let kept = own < KEPT;
        let page = if kept { number * KEPT + own } else { count * KEPT + number * GIVEN_AWAY + own - KEPT };
        let round = u64::from(rounds[own as usize]);
        if round != 0 {
            verify(pages, page, round, kept);
        }
        (0..WORDS).step_by(37).for_each(|word| pages.write(page, word, pattern(page, word, round + 1)));
        rounds[own as usize] += 1;
        ROUNDS[number as usize].fetch_add(1, Ordering::Relaxed);
    }
}

fn verify(pages: &Pages, page: u64, round: u64, kept: bool) {
    for word in (0..WORDS).step_by(37) {
        let (expected, found) = (pattern(page, word, round), pages.read(page, word));
        if found != expected && (kept || found != 0) {
            report(pages.page(page).as_u64(), word, expected, found);
            return;
        }
    }
}

pub(crate) fn run(guest: &mut Guest) -> Result<(), Failure> {
    if !hypercall::present() {
        return Err(Failure::NoHerald);
    }
    let operations = guest.argument("operations").unwrap_or(1000);
    let count = crate::fwcfg::cpus();
    let pages = guest.memory.take(count * (KEPT + GIVEN_AWAY))?;
    let given_away = pages.page(count * KEPT).as_u64();
    // SAFETY: no other CPU runs, and `set` is called here alone.
    unsafe { FIELD.set((pages, count)) };
    // SAFETY: Herald is there, this is CPL 0, and the pages hold no Rust object.
    let before = unsafe { hypercall::storm(given_away, count * GIVEN_AWAY * WORDS * 8) };
    println!("storm: {count} CPUs, {before} operations before");
    cpus::start_all(&mut guest.memory, work)?;
    // SAFETY: as above; nothing is given away.
    let done = || unsafe { hypercall::storm(0, 0) };
    let mut told = 0;
    while done() < operations && !STOP.load(Ordering::Acquire) {
        work_for_a_while();
        let tenths = done() * 10 / operations.max(1);
        if tenths > told && tenths < 10 {
            told = tenths;
            println!("storm: {tenths}0 % of {operations} operations");
        }
    }
    STOP.store(true, Ordering::Release);
    cpus::join(count)?;
    if IS_WRONG.load(Ordering::Acquire) {
        let [address, word, expected, found] = [0, 1, 2, 3].map(|index| WRONG[index].load(Ordering::Acquire));
        println!("storm: word {word} of the page at {address:#x}");
        same("word", word, expected, found)?;
    }
    let rounds: u64 = ROUNDS.iter().map(|rounds| rounds.load(Ordering::Relaxed)).sum();
    println!("storm: {rounds} pages written");
    Ok(())
}

/// The first CPU's share: its own kept pages, in turn.
fn work_for_a_while() {
    static ROUND: AtomicU64 = AtomicU64::new(0);
    let Some((pages, _)) = FIELD.get() else { return };
    let round = ROUND.fetch_add(1, Ordering::Relaxed);
    for page in 0..KEPT {
        if round != 0 {
            verify(pages, page, round, true);
        }
        (0..WORDS).step_by(37).for_each(|word| pages.write(page, word, pattern(page, word, round + 1)));
        ROUNDS[0].fetch_add(1, Ordering::Relaxed);
    }
}
