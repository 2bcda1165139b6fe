//! The user's terminal in raw mode, and back again on every way out: return, panic, signal.

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use std::io::{IsTerminal, stdin};
use std::sync::Mutex;

/// Ctrl-], as telnet has it: leaves the guest's console.
pub(crate) const ESCAPE: u8 = 0x1d;

/// The modes to go back to, while the terminal is raw.
static SAVED: Mutex<Option<Termios>> = Mutex::new(None);

/// While it lives, every key goes to the guest.
#[must_use = "the terminal is raw only while this lives"]
pub(crate) struct RawTerminal(());

impl RawTerminal {
    /// Makes standard input raw; `None` where it is no terminal.
    ///
    /// # Errors
    /// The terminal refuses.
    pub(crate) fn enter() -> std::io::Result<Option<Self>> {
        if !stdin().is_terminal() {
            return Ok(None);
        }
        let before = tcgetattr(stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        *saved() = Some(before);
        tcsetattr(stdin(), OptionalActions::Now, &raw)?;
        Ok(Some(Self(())))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        restore();
    }
}

/// Whether the terminal is raw now: then lines need a carriage return.
pub(crate) fn is_raw() -> bool {
    saved().is_some()
}

fn restore() {
    if let Some(before) = saved().take() {
        let _ = tcsetattr(stdin(), OptionalActions::Drain, &before);
    }
}

fn saved() -> std::sync::MutexGuard<'static, Option<Termios>> {
    SAVED.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Development builds abort on a panic, so no destructor runs; a hook does.
pub(crate) fn restore_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        restore();
        print(info);
    }));
}
