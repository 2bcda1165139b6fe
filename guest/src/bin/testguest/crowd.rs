//! What EPT violations cost when all CPUs have them at a time, and what an mprotect costs whose flush all CPUs have to hear of.
//! Argument: `pages=N` of each CPU (256).
//!
//! Each line `cost: NAME TICKS` is for `cargo xtask bench`.

use crate::Guest;
use crate::cpus;
use crate::once::Once;
use crate::report::{Failure, same};
use addr::PAGE_SIZE;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use guest::memory::Pages;
use guest::{cpu, hypercall, println};

/// The pages of all CPUs, and how many each has.
static FIELD: Once<(Pages, u64)> = Once::new();
static COME: AtomicU64 = AtomicU64::new(0);
static GO: AtomicBool = AtomicBool::new(false);
static STOP: AtomicBool = AtomicBool::new(false);
/// Ticks of all CPUs together, and how many have added theirs.
static TICKS: AtomicU64 = AtomicU64::new(0);
static TOUCHED: AtomicU64 = AtomicU64::new(0);

fn touch(number: u64) {
    let Some((pages, each)) = FIELD.get() else { return };
    let since = cpu::rdtsc();
    (0..*each).for_each(|page| pages.write(number * each + page, 0, page));
    TICKS.fetch_add(cpu::rdtsc() - since, Ordering::Relaxed);
    TOUCHED.fetch_add(1, Ordering::Release);
}

/// Touches its pages with all others, and stays in the guest while the first CPU changes its own.
fn work(number: u64) {
    COME.fetch_add(1, Ordering::Release);
    while !GO.load(Ordering::Acquire) {
        core::hint::spin_loop();
    }
    touch(number);
    while !STOP.load(Ordering::Acquire) {
        core::hint::spin_loop();
    }
}

pub(crate) fn run(guest: &mut Guest) -> Result<(), Failure> {
    if !hypercall::present() {
        return Err(Failure::NoHerald);
    }
    let each = guest.argument("pages").unwrap_or(256);
    let pages = guest.memory.take(crate::fwcfg::cpus() * each)?;
    let first = pages.page(0).as_u64();
    // SAFETY: no other CPU runs, and `set` is called here alone.
    unsafe { FIELD.set((pages, each)) };
    let count = cpus::start_all(&mut guest.memory, work)?;
    cpus::wait("the CPUs", || COME.load(Ordering::Acquire) == count - 1)?;
    GO.store(true, Ordering::Release);
    touch(0);
    cpus::wait("all pages", || TOUCHED.load(Ordering::Acquire) == count)?;
    println!("cost: first-touch {}", TICKS.load(Ordering::Relaxed) / (count * each));
    let since = cpu::rdtsc();
    for page in 0..each {
        // SAFETY: Herald is there, this is CPL 0, and the pages are the test's own.
        let refused = unsafe { hypercall::protect(first + page * PAGE_SIZE, PAGE_SIZE) };
        same("an answer", page, 0, refused)?;
    }
    println!("cost: mprotect-of-a-page {}", (cpu::rdtsc() - since) / each);
    STOP.store(true, Ordering::Release);
    cpus::join(count)
}
