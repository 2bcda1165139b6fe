//! A guest that never waits: counts loops until the TSC has advanced by `ticks=T`. Side by side with another one, the
//! counts tell their shares of the processor.

use crate::Guest;
use crate::report::Failure;
use guest::{cpu, println};

pub(crate) fn run(guest: &mut Guest) -> Result<(), Failure> {
    let ticks = guest.argument("ticks").unwrap_or(100_000_000);
    let start = cpu::rdtsc();
    let mut loops: u64 = 0;
    while cpu::rdtsc() - start < ticks {
        loops += 1;
    }
    println!("spin: {loops} loops");
    Ok(())
}
