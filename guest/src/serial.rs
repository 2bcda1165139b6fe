//! Output on COM1, a 16550 at 0x3f8, by polling. The line's speed is left as it is.

use crate::port;
use core::fmt;

const DATA: u16 = 0x3f8;
const LINE_STATUS: u16 = DATA + 5;
/// Line status: the transmitter takes a byte.
const TRANSMIT_EMPTY: u8 = 1 << 5;

/// The port as a place for `write!`. It has no state: there can be any number of these.
pub struct Serial;

impl fmt::Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            while port::read8(LINE_STATUS) & TRANSMIT_EMPTY == 0 {}
            port::write8(DATA, byte);
        }
        Ok(())
    }
}

/// Prints one line on COM1.
#[macro_export]
macro_rules! println {
    ($($text:tt)*) => {{
        use ::core::fmt::Write as _;
        // Writing to the port cannot fail.
        let _ = ::core::writeln!($crate::serial::Serial, $($text)*);
    }};
}
