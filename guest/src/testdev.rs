//! The guest's side of the test device; `abi::testdev` has the table of its ports.

use crate::{cpu, port};
use abi::testdev::{EXIT, IRQ_LINE, PROTECT};
use addr::Gpa;

/// Ends the guest with this code.
pub fn exit(code: u32) -> ! {
    port::write32(EXIT, code);
    // Not under Herald, and no such device.
    cpu::halt_for_good()
}

/// The host runs mprotect(NONE) and back on the page. The port is 32 bits wide: `None` above 4 GiB.
pub fn protect(page: Gpa) -> Option<()> {
    port::write32(PROTECT, u32::try_from(page.as_u64()).ok()?);
    Some(())
}

/// The level of an interrupt line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Level {
    /// 0.
    Low,
    /// 1.
    High,
}

/// Raises or lowers interrupt line `line`.
pub fn set_line(line: u8, level: Level) {
    port::write8(IRQ_LINE + u16::from(line), u8::from(level == Level::High));
}
