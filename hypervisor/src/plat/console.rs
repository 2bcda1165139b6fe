//! The guest's console, on its way to the link: bytes of its first UART, a frame for each line.
//!
//! A frame costs four bytes and a byte costs an OUT; a prompt without a newline waits only until the guest
//! goes idle or asks for input.

use abi::link::Channel;

/// Bytes of a line that are sent together.
const CHUNK: usize = 512;

/// Output that has not been sent yet.
#[derive(Debug)]
pub(super) struct Console {
    channel: u8,
    pending: heapless::Vec<u8, CHUNK>,
}

impl Console {
    /// The console of guest `vm`.
    #[must_use]
    pub(super) const fn new(vm: u8) -> Self {
        Self { channel: Channel::Console as u8 + vm, pending: heapless::Vec::new() }
    }

    /// Takes a byte of output.
    pub(super) fn put(&mut self, byte: u8) {
        // `flush` leaves room, so the push succeeds.
        let _ = self.pending.push(byte);
        if byte == b'\n' || self.pending.is_full() {
            self.flush();
        }
    }

    /// Sends what there is.
    pub(super) fn flush(&mut self) {
        if !self.pending.is_empty() {
            crate::link::send(self.channel, &self.pending);
            self.pending.clear();
        }
    }
}
