//! A person at a terminal or a serial line: waits for texts, and types.

use anyhow::{Result, bail};
use std::io::{Read, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What has appeared so far.
#[derive(Default)]
pub(super) struct Screen(Arc<Mutex<Vec<u8>>>);

impl Screen {
    /// Collects what comes from `source`, until it ends.
    pub(super) fn watch(mut source: impl Read + Send + 'static) -> Self {
        let screen = Self::default();
        let seen = Arc::clone(&screen.0);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = source.read(&mut buffer) {
                seen.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&buffer[..count]);
            }
        });
        screen
    }

    /// All of it.
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }
}

/// Waits for each text and types the keys beside it.
///
/// # Errors
/// A text does not appear in time.
pub(super) fn type_keys(
    keyboard: &mut impl Write,
    screen: &Screen,
    steps: &[(&str, &str)],
    deadline: Instant,
) -> Result<()> {
    let mut seen = 0;
    for (wanted, keys) in steps {
        loop {
            let text = screen.text();
            if let Some(at) = text[seen.min(text.len())..].find(wanted) {
                seen += at + wanted.len();
                break;
            }
            if Instant::now() > deadline {
                bail!("the terminal never showed `{wanted}`; it shows\n{text}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        keyboard.write_all(keys.as_bytes())?;
    }
    Ok(())
}
