//! Secondary MMUs: tables that follow a host address space and never own memory.
//!
//! ```text
//!    gpa ──slot──► hva ──mm::AddressSpace::fault_in──► frame ──entry──► EPT
//!                   ▲                                                    │
//!                   └──── invalidate_*, clear_flush_young, release ──────┘ zap, flush
//! ```
//!
//! The coherence rule: every present secondary entry maps the frame that the primary entry maps, with no
//! more permission. [`SecondaryMmu::check_coherence`] is that rule as code.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod entry;
mod notify;
mod oracle;
mod secondary;
mod slots;
mod stats;
mod tdp;

pub use oracle::Incoherence;
pub use secondary::{FaultOutcome, MmuError, SecondaryMmu};
pub use slots::{Slot, SlotError, Slots};
pub use stats::{Stats, StatsSnapshot};
pub use tdp::AccessedDirty;
