//! Sparse use of all RAM, also above 4 GiB: some thousand pages, spread evenly, hold what was written to
//! them, and the words beside it are zero. Argument: `pages=N`, about how many (2048).

use crate::Guest;
use crate::report::{Failure, same};
use guest::memory::{Pages, WORDS};
use guest::{hypercall, println};

fn key(pages: &Pages, index: u64) -> u64 {
    pages.page(index).as_u64() ^ 0x5eed_0000_0000_0001
}

/// The word that is used, another one in each page.
fn slot(index: u64) -> u64 {
    index.wrapping_mul(0x9e37_79b9) % WORDS
}

/// Every `stride`-th page and the last.
fn sample(pages: &Pages, stride: u64) -> impl Iterator<Item = u64> + use<> {
    let last = pages.count() - 1;
    (0..last).step_by(stride as usize).chain([last])
}

pub(crate) fn run(guest: &mut Guest) -> Result<(), Failure> {
    let wanted = guest.argument("pages").unwrap_or(2048).max(1);
    let total = guest.info.ram().map(|range| range.len()).sum::<u64>() / (WORDS * 8);
    let stride = (total / wanted).max(1);
    let mut ranges = [const { None }; 20];
    for (place, pages) in ranges.iter_mut().zip(guest.memory.take_all()) {
        *place = Some(pages);
    }
    let mut touched = 0;
    for pages in ranges.iter().flatten() {
        for index in sample(pages, stride) {
            pages.write(index, slot(index), key(pages, index));
            touched += 1;
        }
        println!("bigmem: {} to {}", pages.page(0), pages.page(pages.count() - 1));
    }
    // Elsewhere the firmware may have used the memory before.
    let fresh_is_zero = hypercall::present();
    for pages in ranges.iter().flatten() {
        for index in sample(pages, stride) {
            let address = pages.page(index).as_u64();
            same("word written", address, key(pages, index), pages.read(index, slot(index)))?;
            if fresh_is_zero {
                same("word beside it", address, 0, pages.read(index, (slot(index) + 1) % WORDS))?;
            }
        }
    }
    println!("bigmem: {touched} of {total} pages touched");
    Ok(())
}
