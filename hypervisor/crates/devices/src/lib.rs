//! The devices of a guest: a PC without PCI. Pure state machines: time is an argument, and what the host
//! must do is a return value ([`Effect`]).
//!
//! ```text
//!           port I/O, MMIO, MSRs
//!                   │
//!                 Board ──► Effect
//!      ┌────┬───┬───┴──┬─────┬──────┬───┐
//!     PIT serial RTC  PM   test  balloon │
//!      │    │              device   │   │
//!      └────┴──── lines ─────┴──────┘   │
//!          ┌────────┴─────┐             │
//!         PIC          I/O APIC ──► local APICs ──► vector
//!          └───── LINT0 ────────────────┘
//! ```
//!
//! A [`Board`] is all that a host sees. It has no lock: one around it is the owner's. The owner
//!
//! - hands over each access that leaves RAM: [`Board::port_read`], [`Board::mmio_write`],
//!   [`Board::msr_read`] and their like, with the time-stamp counter of the moment;
//! - calls [`Board::advance`] before each entry, and no later than [`Board::next_deadline`];
//! - asks for [`Board::take_nmi`] and [`Board::pending_interrupt`], and calls [`Board::acknowledge`] once it
//!   delivers the vector; with several processors also for [`Board::take_startup`];
//! - may ask for [`Board::lend_apic`], if the processor can deliver interrupts by itself;
//! - moves the console's bytes: [`Board::console_input`] and [`Board::console_output`];
//! - serves the balloon after [`Effect::Balloon`], outside of any lock: [`Board::lend_balloon`], [`BalloonWork::perform`],
//!   [`Board::return_balloon`], until nothing is lent.
//!
//! What is where:
//!
//! | ports | device | interrupt |
//! |---|---|---|
//! | 0x20, 0xa0, 0x4d0 | 8259A pair, ELCR | vector of its own |
//! | 0x40-0x43, 0x61 | 8254, speaker | IRQ 0, which is pin 2 of the I/O APIC |
//! | 0x64, 0x92, 0xcf9 | reset; there is no keyboard controller: 0x60 and 0x64 read all ones, by which a driver sees that soonest | |
//! | 0x70, 0x71 | MC146818, CMOS memory | |
//! | 0x3f8-0x3ff | 16550A | IRQ 4 |
//! | 0x600-0x60b | ACPI PM1a event, control, timer | IRQ 9, never raised |
//! | 0xe0-0xe7, 0xf4, 0x2000-0x2017 | test device ([`abi::testdev`]) | the lines it drives |
//! | 0x510, 0x511 | fw_cfg: RAM size, processors, end of RAM; other items read 0 | |
//!
//! In memory: the I/O APIC at 0xfec00000, each processor's local APIC where its IA32_APIC_BASE says, the balloon, if
//! there is one, at 0xfeb00000 with I/O APIC pin 16. All else reads all ones and ignores writes.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod balloon;
mod board;
mod interrupts;
mod ioapic;
mod lapic;
mod lapic_timer;
mod message;
mod pic;
mod pit;
mod pm;
mod rtc;
mod serial;
mod testdev;
mod time;
mod vectors;
mod virtio;
mod virtual_apic;

pub use balloon::{BASE as BALLOON_BASE, BYTES as BALLOON_BYTES, IRQ as BALLOON_IRQ};
pub use balloon::{BalloonState, Given, Work as BalloonWork};
pub use board::{Board, Config, Effect, VcpuId};
pub use lapic::Startup;
pub use time::Ticks;
pub use virtio::Memory;
pub use virtual_apic::{Loan, RegisterPage, interrupt_status, interrupt_waits};

/// An MSR access that raises #GP(0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GeneralProtection;
