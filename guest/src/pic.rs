//! The two 8259A interrupt controllers and the 8254 timer (their Intel data sheets), as a PC wires them:
//! timer channel 0 is line 0, the second controller hangs on line 2.

use crate::port;
use core::ops::Range;

/// Vectors of the sixteen lines, once [`start`] ran.
pub const VECTORS: Range<u8> = 0x20..0x30;
/// Vector of the timer.
pub const TIMER_VECTOR: u8 = VECTORS.start;
/// Timer ticks a second.
pub const TIMER_HZ: u64 = 1_193_182;

const FIRST: u16 = 0x20;
const SECOND: u16 = 0xa0;
/// ICW1: edge-triggered, cascaded, ICW4 follows.
const START: u8 = 0x11;
/// ICW4: 8086 mode.
const MODE_8086: u8 = 1;
/// OCW2: non-specific end of interrupt.
const ACKNOWLEDGE: u8 = 0x20;
const CASCADE_LINE: u8 = 2;

const TIMER_DATA: u16 = 0x40;
const TIMER_COMMAND: u16 = 0x43;

/// Initialises both controllers with all lines masked but those in `open`.
pub fn start(open: u16) {
    for (base, vector, cascade) in
        [(FIRST, VECTORS.start, 1 << CASCADE_LINE), (SECOND, VECTORS.start + 8, CASCADE_LINE)]
    {
        port::write8(base, START);
        port::write8(base + 1, vector);
        port::write8(base + 1, cascade);
        port::write8(base + 1, MODE_8086);
    }
    let [low, high] = (!open).to_le_bytes();
    port::write8(FIRST + 1, low);
    port::write8(SECOND + 1, high);
}

/// Ends the interrupt in service that came as `vector`.
pub fn acknowledge(vector: u8) {
    if vector >= VECTORS.start + 8 {
        port::write8(SECOND, ACKNOWLEDGE);
    }
    port::write8(FIRST, ACKNOWLEDGE);
}

/// The masks of both controllers, as they read back.
#[must_use]
pub fn masks() -> u16 {
    u16::from_le_bytes([port::read8(FIRST + 1), port::read8(SECOND + 1)])
}

/// How timer channel 0 raises its line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TimerMode {
    /// Mode 0: once, when the count ends.
    Once,
    /// Mode 2: again each time that the count ends.
    Rate,
}

/// Starts timer channel 0; `count` is in ticks of [`TIMER_HZ`].
pub fn start_timer(mode: TimerMode, count: u16) {
    // Channel 0, low byte then high byte, mode in bits 1 to 3.
    let mode = if mode == TimerMode::Once { 0 } else { 2 };
    port::write8(TIMER_COMMAND, 0x30 | mode << 1);
    for byte in count.to_le_bytes() {
        port::write8(TIMER_DATA, byte);
    }
}

/// The count of timer channel 0, latched.
#[must_use]
pub fn timer_count() -> u16 {
    port::write8(TIMER_COMMAND, 0);
    u16::from_le_bytes([port::read8(TIMER_DATA), port::read8(TIMER_DATA)])
}
