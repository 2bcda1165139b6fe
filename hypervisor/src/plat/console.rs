//! A guest's console, on its way to the link: bytes of its first UART, a frame for each line.
//!
//! A frame costs four bytes and a byte costs an OUT; a prompt without a newline waits only until the guest
//! goes idle or asks for input. Where several guests run, each line begins with the guest's name; a line that another
//! guest's output has interrupted is shown again from its beginning, so that no word is torn.

use abi::link::Channel;
use alloc::format;
use alloc::string::String;
use devices::Ticks;
use spin::Mutex;

/// Bytes of a line that are sent together.
const CHUNK: usize = 512;

/// Whose output came last, and whether it ended in the middle of a line.
static LAST: Mutex<(u8, bool)> = Mutex::new((0, false));

/// Output that has not been sent yet.
#[derive(Debug)]
pub(super) struct Console {
    channel: u8,
    /// What each line begins with.
    prefix: Option<String>,
    /// What was sent last was no newline.
    in_line: bool,
    /// What has been sent of the line, to be shown again; of one that is longer than this only its last part.
    shown: heapless::Vec<u8, CHUNK>,
    pending: heapless::Vec<u8, CHUNK>,
    last_input: Ticks,
    last_output: Ticks,
}

impl Console {
    /// The console of guest `vm`; with a name where it is not the only one.
    #[must_use]
    pub(super) fn new(vm: u8, name: Option<&str>) -> Self {
        Self {
            channel: Channel::Console as u8 + vm,
            prefix: name.map(|name| format!("[{name}] ")),
            in_line: false,
            shown: heapless::Vec::new(),
            pending: heapless::Vec::new(),
            last_input: Ticks(0),
            last_output: Ticks(0),
        }
    }

    /// Each line begins with the guest's name from now on.
    pub(super) fn name_lines(&mut self, name: &str) {
        self.prefix.get_or_insert_with(|| format!("[{name}] "));
    }

    /// Takes output.
    pub(super) fn put_all(&mut self, bytes: &[u8], now: Ticks) {
        if !bytes.is_empty() {
            self.last_output = now;
        }
        bytes.iter().for_each(|&byte| self.put(byte));
    }

    /// The guest is about to get a byte of input.
    pub(super) fn note_input(&mut self, now: Ticks) {
        self.last_input = now;
    }

    /// Ticks from the last byte of input to the last byte of output behind it; 0: there was none.
    pub(super) fn answer_ticks(&self) -> u64 {
        let heard = self.last_input != Ticks(0);
        if heard { self.last_output.0.saturating_sub(self.last_input.0) } else { 0 }
    }

    fn put(&mut self, byte: u8) {
        // `flush` leaves room, so the push succeeds.
        let _ = self.pending.push(byte);
        if byte == b'\n' || self.pending.is_full() {
            self.flush();
        }
    }

    /// Sends what there is.
    pub(super) fn flush(&mut self) {
        let Some(&last) = self.pending.last() else { return };
        let ends = last == b'\n';
        if let Some(prefix) = &self.prefix {
            let mut before = LAST.lock();
            let interrupted = before.0 != self.channel;
            if interrupted && before.1 {
                crate::link::send(self.channel, b"\r\n");
            }
            if interrupted || !self.in_line {
                crate::link::send(self.channel, prefix.as_bytes());
                crate::link::send(self.channel, &self.shown);
            }
            crate::link::send(self.channel, &self.pending);
            *before = (self.channel, !ends);
        } else {
            crate::link::send(self.channel, &self.pending);
        }
        self.in_line = !ends;
        if ends || self.shown.extend_from_slice(&self.pending).is_err() {
            self.shown.clear();
        }
        self.pending.clear();
    }
}
