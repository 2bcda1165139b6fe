//! COM1 (16550): input for the guest's console, and Herald's output where there is no debug console.
//!
//! The FIFO stays off. Whoever feeds the line then holds each byte back until the last one was taken, and when
//! Herald's own ring is full, interrupts are switched off and the byte stays where it is: none is lost.

use core::sync::atomic::{AtomicBool, Ordering};
use heapless::Deque;
use spin::{Mutex, Once};
use x86::io::{inb, outb};

const BASE: u16 = 0x3f8;
const DATA: u16 = BASE;
const INTERRUPT_ENABLE: u16 = BASE + 1;
const FIFO_CONTROL: u16 = BASE + 2;
const LINE_CONTROL: u16 = BASE + 3;
const MODEM_CONTROL: u16 = BASE + 4;
const LINE_STATUS: u16 = BASE + 5;
/// Line status: a byte has come.
const RECEIVED: u8 = 1 << 0;
/// Line status: the transmitter takes a byte.
const CAN_SEND: u8 = 1 << 5;
/// Interrupt enable: a byte has come.
const RECEIVE_INTERRUPT: u8 = 1 << 0;
/// Bytes that wait for the guest.
const RING: usize = 256;

/// Interrupts are off wherever the lock is taken: in handlers, and in all of Herald but its waits.
static INPUT: Mutex<Deque<u8, RING>> = Mutex::new(Deque::new());
/// Whether anything is there, to be looked at without the lock.
static WAITING: AtomicBool = AtomicBool::new(false);
static LISTENER: Once<fn()> = Once::new();
static PRESENT: AtomicBool = AtomicBool::new(false);

fn read(port: u16) -> u8 {
    // SAFETY: COM1's registers; reads affect nothing but the UART.
    unsafe { inb(port) }
}

fn write(port: u16, value: u8) {
    // SAFETY: COM1's registers; writes affect nothing but the UART.
    unsafe { outb(port, value) }
}

/// Sets the line to 115200 baud, 8N1. A machine without the UART reads all ones.
pub(crate) fn init() {
    write(LINE_CONTROL, 0x80);
    write(DATA, 1);
    write(INTERRUPT_ENABLE, 0);
    write(LINE_CONTROL, 0x03);
    write(FIFO_CONTROL, 0);
    // DTR, RTS, and OUT2, which lets its interrupts through.
    write(MODEM_CONTROL, 0x0b);
    PRESENT.store(read(LINE_STATUS) != 0xff, Ordering::Relaxed);
}

/// Lets received bytes interrupt.
pub(crate) fn listen() {
    if PRESENT.load(Ordering::Relaxed) {
        write(INTERRUPT_ENABLE, RECEIVE_INTERRUPT);
    }
}

/// Sends a byte, waiting for the transmitter.
pub(crate) fn put(byte: u8) {
    if PRESENT.load(Ordering::Relaxed) {
        while read(LINE_STATUS) & CAN_SEND == 0 {
            core::hint::spin_loop();
        }
        write(DATA, byte);
    }
}

/// Tells whom to call when something has come: in the handler of the interrupt.
pub(crate) fn on_input(tell: fn()) {
    LISTENER.call_once(|| tell);
}

/// Takes what has come, as far as there is room.
pub(crate) fn receive() {
    take();
    if let Some(tell) = LISTENER.get() {
        tell();
    }
}

fn take() {
    let mut input = INPUT.lock();
    while PRESENT.load(Ordering::Relaxed) && read(LINE_STATUS) & RECEIVED != 0 {
        if input.is_full() {
            write(INTERRUPT_ENABLE, 0);
            return;
        }
        // There is room, so the push succeeds.
        let _ = input.push_back(read(DATA));
        WAITING.store(true, Ordering::Release);
    }
}

/// Whether a byte waits.
#[must_use]
pub(crate) fn has_input() -> bool {
    WAITING.load(Ordering::Acquire)
}

/// The next byte that has come, which stays.
#[must_use]
pub(crate) fn peek() -> Option<u8> {
    INPUT.lock().front().copied()
}

/// The next byte that has come, if any.
#[must_use]
pub(crate) fn get() -> Option<u8> {
    let mut input = INPUT.lock();
    let was_full = input.is_full();
    let byte = input.pop_front()?;
    WAITING.store(!input.is_empty(), Ordering::Release);
    if was_full {
        write(INTERRUPT_ENABLE, RECEIVE_INTERRUPT);
    }
    Some(byte)
}
