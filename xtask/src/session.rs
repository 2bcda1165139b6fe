//! One run of a machine, from its start to its `End` frame.
//!
//! ```text
//!  debug console ──frames──► reader thread ──┐
//!  signals ──────────────► signal thread ────┼──► events ──► session ──► stdout, stderr, files
//!  stdin ──► input thread ──Ctrl-]───────────┘
//!                 └──bytes──► serial line (a full line blocks the thread: nothing is lost)
//! ```

use crate::link::{Decoder, Message};
use crate::machine::Running;
use crate::terminal::{self, ESCAPE};
use abi::status::Status;
use abi::telemetry::Telemetry;
use anyhow::{Context, Result};
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// How long a machine may take to stop after its `End` frame.
const STOP: Duration = Duration::from_secs(2);
/// Lines of the machine's own log that are shown when it dies.
const LOG_TAIL: usize = 25;
/// Status of a process that a signal ends is 128 and its number; here SIGTERM's.
const TERMINATED: u8 = 143;

/// Where the console's input comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Input {
    /// A terminal in raw mode: Ctrl-] leaves.
    Keys,
    /// Bytes, all for the guest.
    Stream,
}

/// Takes a record of telemetry.
pub(crate) type Records = Box<dyn FnMut(&Telemetry) -> Result<()>>;

/// Where output goes, and how long a run may last.
pub(crate) struct Session {
    /// Origin of input; its bytes come from `source`.
    pub(crate) input: Input,
    /// Bytes for the guest's console.
    pub(crate) source: Box<dyn Read + Send>,
    /// The guest's console.
    pub(crate) output: Box<dyn Write>,
    /// Herald's log, without line ends.
    pub(crate) log: Box<dyn FnMut(&str)>,
    /// A copy of the guest's console.
    pub(crate) console: Option<File>,
    /// Gets each record.
    pub(crate) telemetry: Records,
    /// Wall time from the machine's start.
    pub(crate) timeout: Option<Duration>,
}

enum Event {
    Link(Message),
    LinkClosed,
    Leave,
    Signal(i32),
}

impl Session {
    /// Runs to the end; the exit status, as [`Status`] has it.
    ///
    /// # Errors
    /// An output file cannot be written.
    pub(crate) fn run(mut self, mut machine: Running) -> Result<u8> {
        let (events, received) = channel();
        let link = std::mem::replace(&mut machine.link, Box::new(std::io::empty()));
        spawn_reader(link, events.clone());
        spawn_signals(events.clone())?;
        let source = std::mem::replace(&mut self.source, Box::new(std::io::empty()));
        spawn_input(source, self.input, machine.serial.try_clone()?, events);
        let deadline = self.timeout.map(|timeout| Instant::now() + timeout);
        self.follow(&received, deadline, &mut machine)
    }

    fn follow(
        &mut self,
        events: &Receiver<Event>,
        deadline: Option<Instant>,
        machine: &mut Running,
    ) -> Result<u8> {
        loop {
            let Some(event) = next(events, deadline) else {
                let seconds = self.timeout.unwrap_or_default().as_secs_f64();
                (self.log)(&format!("xtask: time-out after {seconds} s"));
                return Ok(Status::TimeOut as u8);
            };
            match event {
                Event::Link(Message::End { status, code }) => {
                    wait_for_stop(machine);
                    return Ok(self.ended(status, code));
                }
                Event::Link(message) => self.show(message)?,
                Event::LinkClosed => {
                    let status = machine.child.wait()?;
                    (self.log)(&format!("xtask: the machine stopped without a word from Herald ({status})"));
                    self.show_tail(&machine.log);
                    return Ok(Status::HeraldFailed as u8);
                }
                Event::Leave => return Ok(Status::Interrupted as u8),
                Event::Signal(signal_hook::consts::SIGINT) => return Ok(Status::Interrupted as u8),
                Event::Signal(_) => return Ok(TERMINATED),
            }
        }
    }

    fn ended(&mut self, status: u8, code: u32) -> u8 {
        match Status::from_u8(status) {
            Some(Status::GuestCode) => {
                (self.log)(&format!("guest exit code {code}"));
                status
            }
            Some(_) => status,
            None => {
                (self.log)(&format!("xtask: Herald ended with status {status}, which means nothing"));
                Status::HeraldFailed as u8
            }
        }
    }

    fn show(&mut self, message: Message) -> Result<()> {
        match message {
            Message::Log(line) => (self.log)(&line),
            Message::Unreadable(what) => (self.log)(&format!("xtask: unreadable frame on the link, {what}")),
            Message::Console { bytes, .. } => {
                // Whoever reads standard output may have gone (`| head`); the run goes on.
                let _ = self.output.write_all(&bytes).and_then(|()| self.output.flush());
                if let Some(file) = &mut self.console {
                    file.write_all(&bytes).context("--console")?;
                }
            }
            Message::Telemetry(record) => (self.telemetry)(&record)?,
            Message::End { .. } => {}
        }
        Ok(())
    }

    fn show_tail(&mut self, log: &Path) {
        let text = std::fs::read(log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        for line in &lines[lines.len().saturating_sub(LOG_TAIL)..] {
            (self.log)(&format!("  {line}"));
        }
    }
}

/// The next event, or `None` once the deadline has passed.
fn next(events: &Receiver<Event>, deadline: Option<Instant>) -> Option<Event> {
    let Some(deadline) = deadline else { return Some(events.recv().unwrap_or(Event::LinkClosed)) };
    match events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        Ok(event) => Some(event),
        Err(RecvTimeoutError::Timeout) => None,
        Err(RecvTimeoutError::Disconnected) => Some(Event::LinkClosed),
    }
}

/// Gives a machine that has said its last word a moment to stop by itself.
fn wait_for_stop(machine: &mut Running) {
    let started = Instant::now();
    while started.elapsed() < STOP && matches!(machine.child.try_wait(), Ok(None)) {
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn spawn_reader(mut link: Box<dyn Read + Send>, events: Sender<Event>) {
    std::thread::spawn(move || {
        let mut decoder = Decoder::default();
        let mut buffer = [0; 16384];
        loop {
            let count = match link.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => break,
            };
            for message in decoder.feed(&buffer[..count]) {
                if events.send(Event::Link(message)).is_err() {
                    return;
                }
            }
        }
        let _ = events.send(Event::LinkClosed);
    });
}

fn spawn_signals(events: Sender<Event>) -> Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGHUP, SIGINT, SIGQUIT, SIGTERM])?;
    std::thread::spawn(move || {
        for signal in signals.forever() {
            if events.send(Event::Signal(signal)).is_err() {
                return;
            }
        }
    });
    Ok(())
}

fn spawn_input(mut source: Box<dyn Read + Send>, input: Input, serial: TcpListener, events: Sender<Event>) {
    std::thread::spawn(move || {
        let Ok((mut serial, _)) = serial.accept() else { return };
        let _ = serial.set_nodelay(true);
        spawn_drain(&serial);
        let mut buffer = [0; 1024];
        loop {
            let bytes = match source.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => &buffer[..count],
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => break,
            };
            let leave =
                (input == Input::Keys).then(|| bytes.iter().position(|&byte| byte == ESCAPE)).flatten();
            let sent = serial.write_all(&bytes[..leave.unwrap_or(bytes.len())]);
            if leave.is_some() && events.send(Event::Leave).is_ok() {
                return;
            }
            if sent.is_err() {
                return;
            }
        }
        // End of input is no end of the run: the line stays open while the machine runs.
        std::mem::forget(serial);
    });
}

/// Reads and drops what the machine writes to its serial line, so that it never waits for a reader.
fn spawn_drain(serial: &TcpStream) {
    if let Ok(mut serial) = serial.try_clone() {
        std::thread::spawn(move || std::io::copy(&mut serial, &mut std::io::sink()));
    }
}

/// Prints a line of Herald's log to standard error, also while the terminal is raw.
pub(crate) fn print_log(line: &str) {
    let end = if terminal::is_raw() { "\r\n" } else { "\n" };
    let _ = std::io::stderr().write_all(format!("{line}{end}").as_bytes());
}
