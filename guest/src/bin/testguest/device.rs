//! Guest memory as devices see it: string I/O moves a page's bytes through Herald's device TLB while the host keeps
//! changing the page's mapping. What the guest wrote is what the device reads, and the other way round; after
//! madvise(DONTNEED) the device reads zero.
//!
//! Arguments: `steps=N` (2000), `seed=N`.

use crate::Guest;
use crate::report::{Failure, same};
use abi::testdev::SCRATCH;
use addr::PAGE_SIZE;
use guest::memory::Pages;
use guest::random::Random;
use guest::{hypercall, port, println};

/// Few enough for a device TLB to keep them all.
const PAGES: u64 = 8;
/// Bytes of a word.
const WORD: u64 = 8;

pub(crate) fn run(guest: &mut Guest) -> Result<(), Failure> {
    if !hypercall::present() {
        return Err(Failure::NoHerald);
    }
    let mut random = Random::new(guest.argument("seed").unwrap_or(1969));
    let steps = guest.argument("steps").unwrap_or(2000);
    let pages = guest.memory.take(PAGES)?;
    let mut values = [0; PAGES as usize];
    for step in 0..steps {
        let page = random.below(PAGES);
        let value = &mut values[page as usize];
        match random.below(4) {
            0 => {
                *value = random.below(1 << 63);
                pages.write(page, 0, *value);
            }
            1 => {
                let byte = random.below(256) as u8;
                port::write8(SCRATCH, byte);
                pages.receive(page * PAGE_SIZE, WORD, SCRATCH);
                *value = u64::from_le_bytes([byte; WORD as usize]);
            }
            2 => protect(&pages, page)?,
            _ => {
                discard(&pages, page)?;
                *value = 0;
            }
        }
        check(&pages, page, *value, step)?;
    }
    println!("device: {PAGES} pages, {steps} steps");
    Ok(())
}

/// The device takes the word byte by byte, and the last one stays in its register.
fn check(pages: &Pages, page: u64, value: u64, step: u64) -> Result<(), Failure> {
    pages.send(page * PAGE_SIZE, WORD, SCRATCH);
    same("last byte that a device read", step, value >> 56, port::read8(SCRATCH).into())?;
    same("word of a page", step, value, pages.read(page, 0))
}

fn protect(pages: &Pages, page: u64) -> Result<(), Failure> {
    // SAFETY: `run` asked for Herald, and the call keeps all data.
    let result = unsafe { hypercall::protect(pages.page(page).as_u64(), PAGE_SIZE) };
    same("PROTECT hypercall", page, 0, result)
}

fn discard(pages: &Pages, page: u64) -> Result<(), Failure> {
    // SAFETY: `run` asked for Herald, and the page is the test's own.
    let result = unsafe { hypercall::discard(pages.page(page).as_u64(), PAGE_SIZE) };
    same("DISCARD hypercall", page, 0, result)
}
