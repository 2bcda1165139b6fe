//! The screen, for Herald's last words and the guest's console where nobody listens on a serial line.
//!
//! It is written where the loader's identity map has it at first, and by a mapping of Herald's own as soon as there is one.

use crate::layout;
use abi::handoff::Screen;
use addr::{Hpa, HpaRange, Hva, PAGE_SIZE, PageSize};
use screen::{Geometry, ScreenError, ScreenMemory, Terminal};
use spin::Mutex;

/// The screen's bytes, mapped.
struct Mapped {
    start: Hva,
    bytes: usize,
}

// Interrupts are off wherever the lock is taken, but for a panic, which does not wait for it.
static CONSOLE: Mutex<Option<(Terminal, Mapped)>> = Mutex::new(None);

impl ScreenMemory for Mapped {
    fn write(&mut self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.bytes, "{} bytes at {offset} of {}", bytes.len(), self.bytes);
        let first = (self.start.as_u64() + offset as u64) as *mut u8;
        for (index, &byte) in bytes.iter().enumerate() {
            // SAFETY: within the screen's memory, which is mapped and holds nothing else (abi::handoff::Screen).
            unsafe { first.add(index).write_volatile(byte) };
        }
    }
}

/// The pages that the screen's memory touches; `None` where there is no screen.
///
/// # Errors
/// [`ScreenError`].
pub(crate) fn pages(screen: &Screen) -> Result<Option<HpaRange>, ScreenError> {
    let Some(geometry) = Geometry::new(screen)? else { return Ok(None) };
    let start = Hpa::new(screen.address);
    let end = start.add(geometry.bytes()).align_up(PageSize::Size4K).ok_or(ScreenError(*screen))?;
    Ok(Some(HpaRange::new(start.align_down(PageSize::Size4K), end)))
}

/// Starts a console on a screen that the loader's identity map reaches.
pub(crate) fn init(screen: &Screen) {
    let Ok(Some(geometry)) = Geometry::new(screen) else { return };
    if screen.address + geometry.bytes() > 1 << 32 {
        return;
    }
    let mut memory = Mapped { start: Hva::new(screen.address), bytes: geometry.bytes() as usize };
    let terminal = Terminal::new(geometry, &mut memory);
    *CONSOLE.lock() = Some((terminal, memory));
}

/// Goes on at [`layout::SCREEN`], where `pages` has mapped it.
pub(crate) fn use_own_mapping(screen: &Screen) {
    let Ok(Some(geometry)) = Geometry::new(screen) else { return };
    let start = layout::SCREEN.add(screen.address % PAGE_SIZE);
    let mut memory = Mapped { start, bytes: geometry.bytes() as usize };
    let mut console = CONSOLE.lock();
    let terminal = match console.take() {
        Some((terminal, _)) => terminal,
        None => Terminal::new(geometry, &mut memory),
    };
    *console = Some((terminal, memory));
}

/// Shows a byte, if there is a screen. One that a panic meets half-way is lost.
pub(crate) fn put(byte: u8) {
    if let Some(mut console) = CONSOLE.try_lock()
        && let Some((terminal, memory)) = console.as_mut()
    {
        terminal.put(byte, memory);
    }
}
