//! The devices of a guest: a PC without PCI. Pure state machines: time is an argument, and what the host
//! must do is a return value ([`Effect`]).
//!
//! ```text
//!           port I/O, MMIO, MSRs
//!                   │
//!                 Board ──► Effect
//!      ┌────┬───┬───┴──┬─────┬──────────┐
//!     PIT serial RTC  PM   test device  │
//!      │    │              │            │
//!      └────┴──── lines ───┘            │
//!          ┌────────┴─────┐             │
//!         PIC          I/O APIC ──► local APICs ──► vector
//!          └───── LINT0 ────────────────┘
//! ```

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

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

pub use board::{Board, Config, Effect, VcpuId};
pub use time::Ticks;

/// An MSR access that raises #GP(0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GeneralProtection;
