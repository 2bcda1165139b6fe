//! The minimal fw_cfg (QEMU docs/specs/fw_cfg.rst): a 16-bit selector at 0x510, then the item byte by byte
//! from 0x511, little-endian.

use crate::Guest;
use crate::report::{Failure, same, within};
use guest::{port, println};

const SELECTOR: u16 = 0x510;
const DATA: u16 = 0x511;
const RAM_SIZE: u16 = 3;
const CPUS: u16 = 5;
const MAX_CPUS: u16 = 0x0f;
const RAM_END: u16 = 0x11;

/// RAM that a map may leave out of what the guest was given: below 1 MiB, and tables at the top.
const SLACK: u64 = 2 << 20;

fn item<const BYTES: usize>(selector: u16) -> u64 {
    port::write16(SELECTOR, selector);
    let mut bytes = [0; 8];
    for byte in &mut bytes[..BYTES] {
        *byte = port::read8(DATA);
    }
    u64::from_le_bytes(bytes)
}

/// CPUs that the machine has.
pub(crate) fn cpus() -> u64 {
    item::<2>(CPUS)
}

pub(crate) fn run(guest: &mut Guest) -> Result<(), Failure> {
    let total = guest.info.ram().map(|range| range.len()).sum::<u64>();
    let end = guest.info.ram().map(|range| range.end().as_u64()).max().unwrap_or(0);
    let size = item::<8>(RAM_SIZE);
    println!(
        "fw_cfg: {size:#x} bytes of RAM, {} CPUs, RAM ends at {:#x}",
        item::<2>(CPUS),
        item::<8>(RAM_END)
    );
    within("RAM size against the memory map", total, total + SLACK, size)?;
    same("CPUs", 0, guest.argument("cpus").unwrap_or(1), item::<2>(CPUS))?;
    within("most CPUs", item::<2>(CPUS), 4096, item::<2>(MAX_CPUS))?;
    within("end of RAM against the memory map", end, end + SLACK, item::<8>(RAM_END))?;
    // Selecting again starts again.
    same("RAM size, read twice", 0, size, item::<8>(RAM_SIZE))
}
