//! The loader's last words: as link frames on the debug console, else as text on COM1.

use abi::link::{Channel, PORT, PRESENT, header};
use abi::status::Status;
use core::fmt::{Arguments, Write};
use x86::io::{inb, outb};

/// COM1's data register; the line status register is 5 further on.
const COM1: u16 = 0x3f8;
/// Line status: room for a byte.
const TRANSMITTER_EMPTY: u8 = 1 << 5;

/// A message on the stack; what does not fit is cut.
struct Line {
    bytes: [u8; 256],
    len: usize,
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        let room = &mut self.bytes[self.len..];
        let fits = text.len().min(room.len());
        room[..fits].copy_from_slice(&text.as_bytes()[..fits]);
        self.len += fits;
        Ok(())
    }
}

/// Says why there is no Herald, and ends the machine.
pub(crate) fn fail(reason: Arguments<'_>) -> ! {
    let mut line = Line { bytes: [0; 256], len: 0 };
    // `Line` takes anything.
    let _ = line.write_fmt(reason);
    let text = &line.bytes[..line.len];
    // SAFETY: a read of the debug console's port has no effect.
    if unsafe { inb(PORT) } == PRESENT {
        send(Channel::Log, text);
        send(Channel::End, &[Status::HeraldFailed as u8, 0, 0, 0, 0]);
    } else {
        text.iter().chain(b"\r\n").for_each(|&byte| put_serial(byte));
    }
    end_machine()
}

fn send(channel: Channel, payload: &[u8]) {
    let Some(header) = header(channel as u8, payload.len()) else { return };
    // SAFETY: the debug console passes bytes on and has no other effect.
    header.iter().chain(payload).for_each(|&byte| unsafe { outb(PORT, byte) });
}

fn put_serial(byte: u8) {
    // SAFETY: COM1's registers, or ports that nothing decodes: those read all ones, so the loop ends.
    unsafe {
        while inb(COM1 + 5) & TRANSMITTER_EMPTY == 0 {}
        outb(COM1, byte);
    }
}

fn end_machine() -> ! {
    // SAFETY: Bochs' shutdown port and QEMU's isa-debug-exit; elsewhere nothing decodes them, and the CPU
    // halts with interrupts off.
    unsafe {
        b"Shutdown".iter().for_each(|&byte| outb(0x8900, byte));
        outb(0x501, Status::HeraldFailed as u8);
        loop {
            core::arch::asm!("cli", "hlt", options(nomem, nostack));
        }
    }
}
