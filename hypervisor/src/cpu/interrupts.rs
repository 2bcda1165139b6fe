//! Interrupts of the host: the local APIC's timer, and COM1 and a disk through the legacy PICs, whose output comes in as
//! ExtINT on LINT0 ("virtual wire", SDM vol. 3A 11.5.1).
//!
//! Herald runs with interrupts off. They are taken at three places only, and there it holds no lock: after an exit that one
//! of them caused, while a CPU has nothing to do, and while it uses an hva (`uaccess`). So handlers may take locks.

use super::{flush, serial, timer};
use core::arch::asm;
use spin::Once;
use x86::io::{inb, outb};

/// Vector of the local APIC's timer.
pub(crate) const TIMER: u8 = 0xe0;
/// Vector by which one CPU makes another look up: a flush, or a thread to run.
pub(crate) const KICK: u8 = 0xe1;
/// Vector of spurious interrupts of the local APIC.
pub(crate) const SPURIOUS: u8 = 0xff;
/// First vector of the master PIC.
const PIC_MASTER: u8 = 0x20;
/// First vector of the slave PIC.
const PIC_SLAVE: u8 = 0x28;
/// Behind the slave PIC's vectors.
const PIC_END: u8 = PIC_SLAVE + LINES;
/// COM1's line.
const COM1: u8 = 4;
/// The line by which the slave PIC reaches the master.
const CASCADE: u8 = 2;
/// Lines of each PIC.
const LINES: u8 = 8;

/// Whom to tell of a disk's interrupt.
static DISK: Once<fn()> = Once::new();

const MASTER_COMMAND: u16 = 0x20;
const MASTER_DATA: u16 = 0x21;
const SLAVE_COMMAND: u16 = 0xa0;
const SLAVE_DATA: u16 = 0xa1;
const END_OF_INTERRUPT: u8 = 0x20;

/// Moves the PICs' vectors out of the processor's own, and masks all lines but COM1's.
pub(crate) fn init_pic() {
    let write = |port, value| {
        // SAFETY: the PICs' registers; interrupts are off while they are set up (8259A data sheet: ICW1 to 4).
        unsafe { outb(port, value) };
    };
    for (port, value) in [
        (MASTER_COMMAND, 0x11),
        (SLAVE_COMMAND, 0x11),
        (MASTER_DATA, PIC_MASTER),
        (SLAVE_DATA, PIC_SLAVE),
        (MASTER_DATA, 1 << CASCADE),
        (SLAVE_DATA, CASCADE),
        (MASTER_DATA, 1),
        (SLAVE_DATA, 1),
        (MASTER_DATA, !(1 << COM1)),
        (SLAVE_DATA, 0xff),
    ] {
        write(port, value);
    }
}

/// Lets a line of the slave PIC interrupt, and tells whom to call then, in the handler.
pub(crate) fn listen_to_disk(line: u8, tell: fn()) {
    DISK.call_once(|| tell);
    for (port, line) in [(SLAVE_DATA, line - LINES), (MASTER_DATA, CASCADE)] {
        // SAFETY: the PICs' mask registers.
        unsafe { outb(port, inb(port) & !(1 << line)) };
    }
}

/// Handles vector `vector`, 32 or more.
pub(super) fn handle(vector: u8) {
    match vector {
        TIMER => timer::end_of_interrupt(),
        KICK => {
            timer::end_of_interrupt();
            flush::acknowledge_primary();
        }
        SPURIOUS => {}
        PIC_MASTER..PIC_SLAVE => {
            if vector == PIC_MASTER + COM1 {
                serial::receive();
            }
            // SAFETY: tells the PIC that its interrupt was handled.
            unsafe { outb(MASTER_COMMAND, END_OF_INTERRUPT) };
        }
        PIC_SLAVE..PIC_END => {
            if let Some(tell) = DISK.get() {
                tell();
            }
            // SAFETY: tells both PICs that it was handled.
            unsafe {
                outb(SLAVE_COMMAND, END_OF_INTERRUPT);
                outb(MASTER_COMMAND, END_OF_INTERRUPT);
            }
        }
        // Whatever firmware has left behind.
        _ => timer::end_of_interrupt(),
    }
}

/// Lets pending interrupts in, and no more: STI holds them back for one instruction.
pub(crate) fn take_interrupts() {
    // SAFETY: the IDT is loaded; handlers take no lock that could be held here.
    unsafe { asm!("sti", "nop", "nop", "cli", options(nostack)) };
}

/// Waits for an interrupt and takes it. STI and HLT together: none can slip in between.
pub(super) fn wait() {
    // SAFETY: as above.
    unsafe { asm!("sti", "hlt", "cli", options(nostack)) };
}
