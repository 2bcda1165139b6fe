//! The link from Herald to the program that started its machine: frames over a debug console.
//!
//! Herald writes frames to port [`PORT`], which Bochs (`port_e9_hack`) and QEMU (`isa-debugcon`) pass
//! on byte by byte and at once; a serial line would cost thousands of ticks a character. A read of the
//! port returns [`PRESENT`] where there is such a console. Input goes the other way, unframed, on COM1.
//!
//! ```text
//!   0xFE  channel  len_lo len_hi  payload[len]
//! ```
//!
//! Bytes outside frames (firmware chatter before Herald) are skipped up to the next 0xFE.

use crate::config::MAX_GUESTS;

/// I/O port of the debug console.
pub const PORT: u16 = 0xe9;
/// What a read of [`PORT`] returns where a debug console exists.
pub const PRESENT: u8 = 0xe9;
/// First byte of a frame.
pub const SYNC: u8 = 0xfe;
/// Longest payload, in bytes.
pub const MAX_PAYLOAD: usize = 4096;

const FIRST_CONSOLE: u8 = Channel::Console as u8;
const LAST_CONSOLE: u8 = FIRST_CONSOLE + (MAX_GUESTS - 1) as u8;
const _: () = assert!(MAX_GUESTS <= (SYNC - FIRST_CONSOLE) as usize);

/// What a frame carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Channel {
    /// One line of Herald's log, UTF-8 without a newline.
    Log = 1,
    /// Console output of guest 0, raw bytes. Guest N is `Console as u8 + N`, below [`MAX_GUESTS`].
    Console = 0x10,
    /// A [`crate::telemetry::Telemetry`] record, encoded with postcard.
    Telemetry = 2,
    /// The end: one byte [`crate::status::Status`], then the guest's exit code as u32, little-endian.
    End = 3,
}

/// The header of a frame, or `None` where the payload is longer than [`MAX_PAYLOAD`].
#[must_use]
pub const fn header(channel: u8, len: usize) -> Option<[u8; 4]> {
    if len > MAX_PAYLOAD {
        return None;
    }
    let len = (len as u16).to_le_bytes();
    Some([SYNC, channel, len[0], len[1]])
}

/// A frame as the decoder saw it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame<'a> {
    /// A [`Channel`] number.
    pub channel: u8,
    /// The payload.
    pub payload: &'a [u8],
}

/// Finds the first frame in `bytes`: the frame, if it is whole, and the bytes that are done with.
#[must_use]
pub fn decode(bytes: &[u8]) -> (Option<Frame<'_>>, usize) {
    let Some(start) = bytes.iter().position(|&byte| byte == SYNC) else { return (None, bytes.len()) };
    let [_, channel, lo, hi, rest @ ..] = &bytes[start..] else { return (None, start) };
    let len = usize::from(u16::from_le_bytes([*lo, *hi]));
    let known = matches!(channel, 1..=3 | FIRST_CONSOLE..=LAST_CONSOLE);
    if len > MAX_PAYLOAD || !known {
        return (None, start + 1);
    }
    match rest.get(..len) {
        Some(payload) => (Some(Frame { channel: *channel, payload }), start + 4 + len),
        None => (None, start),
    }
}
