//! Decodes the link from Herald ([`abi::link`]): frames in a stream of bytes that firmware also writes to.

use abi::link::{Channel, Frame, SYNC, decode};
use abi::telemetry::Telemetry;
use std::io::Read;

/// A frame's bytes before its payload.
const HEADER_BYTES: usize = 4;

/// What Herald said.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Message {
    /// A line of its log.
    Log(String),
    /// Bytes of a guest's console.
    Console {
        /// Index of the guest.
        vm: u8,
        /// Raw bytes.
        bytes: Vec<u8>,
    },
    /// Counters.
    Telemetry(Box<Telemetry>),
    /// The end: status as in [`abi::status::Status`], and the guest's exit code.
    End {
        /// Raw status.
        status: u8,
        /// What the guest wrote to the test device, where it did.
        code: u32,
    },
    /// A frame that this build cannot read.
    Unreadable(String),
}

/// Bytes that are not yet a whole frame.
#[derive(Default)]
pub(crate) struct Decoder {
    pending: Vec<u8>,
}

impl Decoder {
    /// Takes bytes; all messages that are whole now.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Vec<Message> {
        self.pending.extend_from_slice(bytes);
        let mut messages = Vec::new();
        let mut done = 0;
        loop {
            let (frame, used) = decode(&self.pending[done..]);
            messages.extend(frame.map(|frame| read(&frame)));
            done += used;
            if used == 0 {
                break;
            }
        }
        self.pending.drain(..done);
        messages
    }
}

/// What frames carry, and what is between them, without the frames' headers: for who looks for lines of text in all of it.
pub(crate) struct Payloads<R> {
    inner: R,
    /// Bytes of a header that are still to come.
    header: usize,
}

impl<R> Payloads<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self { inner, header: 0 }
    }
}

impl<R: Read> Read for Payloads<R> {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        loop {
            let len = self.inner.read(bytes)?;
            if len == 0 || self.header == 0 && !bytes[..len].contains(&SYNC) {
                return Ok(len);
            }
            let mut kept = 0;
            for index in 0..len {
                let byte = bytes[index];
                if self.header > 0 {
                    self.header -= 1;
                } else if byte == SYNC {
                    self.header = HEADER_BYTES - 1;
                } else {
                    bytes[kept] = byte;
                    kept += 1;
                }
            }
            if kept > 0 {
                return Ok(kept);
            }
        }
    }
}

fn read(frame: &Frame<'_>) -> Message {
    let unreadable = || Message::Unreadable(format!("channel {}: {:02x?}", frame.channel, frame.payload));
    let first_console = Channel::Console as u8;
    if frame.channel >= first_console {
        return Message::Console { vm: frame.channel - first_console, bytes: frame.payload.to_vec() };
    }
    if frame.channel == Channel::Log as u8 {
        return Message::Log(String::from_utf8_lossy(frame.payload).into_owned());
    }
    if frame.channel == Channel::Telemetry as u8 {
        return match postcard::from_bytes(frame.payload) {
            Ok(record) => Message::Telemetry(Box::new(record)),
            Err(_) => unreadable(),
        };
    }
    match frame.payload {
        &[status, a, b, c, d] => Message::End { status, code: u32::from_le_bytes([a, b, c, d]) },
        _ => unreadable(),
    }
}

#[cfg(test)]
mod tests {
    use super::{Decoder, Message, Payloads};
    use abi::link::{Channel, header};
    use abi::telemetry::Telemetry;
    use std::io::Read;

    fn frame(channel: u8, payload: &[u8]) -> Vec<u8> {
        [&header(channel, payload.len()).expect("short")[..], payload].concat()
    }

    #[test]
    fn a_line_may_be_in_two_frames() {
        let console = Channel::Console as u8;
        // A length of 10 is no end of a line.
        let frames = [frame(console, b"row: fork "), b"Bochs\n".to_vec(), frame(console, b"ticks=3\n")];
        for step in [1, 7, 4096] {
            let stream = frames.concat();
            let nothing: Box<dyn Read> = Box::new(std::io::empty());
            let pieces = stream.chunks(step).fold(nothing, |all, piece| Box::new(all.chain(piece)));
            let mut all = String::new();
            Payloads::new(pieces).read_to_string(&mut all).expect("text");
            assert_eq!(all, "row: fork Bochs\nticks=3\n");
        }
    }

    #[test]
    fn frames_may_arrive_byte_by_byte() {
        let record = Telemetry { vm: 0, invept: 7, ..Telemetry::default() };
        let mut stream = b"Bochs BIOS\n".to_vec();
        stream.extend(frame(Channel::Log as u8, b"hello"));
        stream.extend(frame(Channel::Console as u8 + 1, &[0xfe, 1, 0]));
        stream.extend(frame(Channel::Telemetry as u8, &postcard::to_stdvec(&record).expect("encodes")));
        stream.extend(frame(Channel::End as u8, &[1, 7, 0, 0, 0]));
        let mut decoder = Decoder::default();
        let messages: Vec<Message> = stream.iter().flat_map(|&byte| decoder.feed(&[byte])).collect();
        let expected = [
            Message::Log("hello".into()),
            Message::Console { vm: 1, bytes: vec![0xfe, 1, 0] },
            Message::Telemetry(Box::new(record)),
            Message::End { status: 1, code: 7 },
        ];
        assert_eq!(messages, expected);
        assert_eq!(Decoder::default().feed(&stream), expected);
    }
}
