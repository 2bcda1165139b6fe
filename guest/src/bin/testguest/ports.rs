//! Port I/O: the scratch register in all widths and by string instructions, and ports without a device.

use crate::Guest;
use crate::report::{Failure, same};
use abi::testdev::SCRATCH;
use guest::port;

/// Ports that no device of the platform has: one in the ISA range, two above it.
const ABSENT: [u16; 3] = [0x2f0, 0x1234, 0xfffc];

pub(crate) fn run(_: &mut Guest) -> Result<(), Failure> {
    scratch_widths()?;
    scratch_strings()?;
    absent()
}

fn scratch_widths() -> Result<(), Failure> {
    port::write32(SCRATCH, 0x8765_4321);
    same("scratch, 32 bits", 0, 0x8765_4321, port::read32(SCRATCH).into())?;
    port::write16(SCRATCH, 0xbeef);
    same("scratch, 16 bits", 0, 0xbeef, port::read16(SCRATCH).into())?;
    for index in 0..4u8 {
        let at = SCRATCH + u16::from(index);
        port::write8(at, 0xa0 + index);
        same("scratch, 8 bits", index.into(), 0xa0 + u64::from(index), port::read8(at).into())?;
    }
    Ok(())
}

/// A string instruction leaves the last byte, and reads the same byte each time.
fn scratch_strings() -> Result<(), Failure> {
    port::write_string(SCRATCH, b"Herald\x5a");
    same("scratch after rep outsb", 0, 0x5a, port::read8(SCRATCH).into())?;
    let mut bytes = [0; 5];
    port::read_string(SCRATCH, &mut bytes);
    for (index, byte) in bytes.into_iter().enumerate() {
        same("rep insb", index as u64, 0x5a, byte.into())?;
    }
    Ok(())
}

fn absent() -> Result<(), Failure> {
    for at in ABSENT {
        port::write8(at, 0);
        port::write16(at, 0);
        port::write32(at, 0);
        same("absent port, 8 bits", at.into(), u8::MAX.into(), port::read8(at).into())?;
        same("absent port, 16 bits", at.into(), u16::MAX.into(), port::read16(at).into())?;
        same("absent port, 32 bits", at.into(), u32::MAX.into(), port::read32(at).into())?;
    }
    Ok(())
}
