//! The link to whoever started the machine (`abi::link`): frames on the debug console, or plain text on COM1
//! and on the screen where there is none.

use abi::link::{Channel, MAX_PAYLOAD, PORT, PRESENT, header};
use abi::status::Status;
use core::arch::asm;
use core::sync::atomic::{AtomicBool, Ordering};
use x86::io::{inb, outb};

use crate::cpu::{screen, serial};
use crate::panic;
use spin::Mutex;

static FRAMED: AtomicBool = AtomicBool::new(false);

/// Looks for the debug console. Until then everything goes to COM1 and the screen.
pub(crate) fn init() {
    // SAFETY: the debug console's port, or one that nothing decodes: a read has no effect.
    FRAMED.store(unsafe { inb(PORT) } == PRESENT, Ordering::Relaxed);
}

/// Held while a frame is sent, or a line.
static SENDING: Mutex<()> = Mutex::new(());
/// Rounds in which whoever panics waits for it: the CPU that holds it may have stopped for good.
const PATIENCE: u32 = 10_000_000;

/// Sends bytes on a channel, in as many frames as they need.
pub(crate) fn send(channel: u8, bytes: &[u8]) {
    let _sending = if panic::is_panicking() {
        (0..PATIENCE).find_map(|_| {
            core::hint::spin_loop();
            SENDING.try_lock()
        })
    } else {
        Some(SENDING.lock())
    };
    if !FRAMED.load(Ordering::Relaxed) {
        return send_text(channel, bytes);
    }
    for chunk in bytes.chunks(MAX_PAYLOAD) {
        if let Some(header) = header(channel, chunk.len()) {
            put(&header);
            put(chunk);
        }
    }
}

/// Log lines and console output as they are; the rest has no meaning for a person.
fn send_text(channel: u8, bytes: &[u8]) {
    let is_log = channel == Channel::Log as u8;
    if is_log || channel >= Channel::Console as u8 {
        bytes.iter().for_each(|&byte| put_text(byte));
    }
    if is_log {
        b"\r\n".iter().for_each(|&byte| put_text(byte));
    }
}

fn put_text(byte: u8) {
    serial::put(byte);
    screen::put(byte);
}

fn put(bytes: &[u8]) {
    // SAFETY: reads `bytes` and writes a port that only passes them on.
    unsafe {
        asm!("rep outsb", in("dx") PORT, inout("rsi") bytes.as_ptr() => _, inout("rcx") bytes.len() => _,
             options(nostack, readonly));
    }
}

/// Tells how the run ended and switches the machine off, by whichever way it has.
pub(crate) fn end_machine(status: Status, code: u32) -> ! {
    let mut payload = [status as u8, 0, 0, 0, 0];
    payload[1..].copy_from_slice(&code.to_le_bytes());
    send(Channel::End as u8, &payload);
    // SAFETY: Bochs' shutdown port and QEMU's isa-debug-exit, where xtask puts it; elsewhere nothing decodes
    // them. Then there is nothing left to do but halt with interrupts off.
    unsafe {
        b"Shutdown".iter().for_each(|&byte| outb(0x8900, byte));
        outb(0x501, status as u8);
        loop {
            asm!("cli", "hlt", options(nomem, nostack));
        }
    }
}
