//! Secondary MMUs: tables and caches that follow a host address space and never own memory.
//!
//! ```text
//!    gpa ──slot──► hva ──mm::AddressSpace::fault_in──► frame ──entry──► EPT
//!                   ▲                                  frame ─────────► device TLB
//!                   └──── invalidate_*, clear_flush_young, release ──────┘ zap, flush
//! ```
//!
//! An address space may have any number of subscribers, of three kinds: a guest's EPT ([`SecondaryMmu`]), the
//! cache through which device models reach guest memory ([`DeviceTlb`]), and one that only takes note
//! ([`Observer`]).
//!
//! The coherence rule: every present secondary entry maps the frame that the primary entry maps, with no
//! more permission. [`SecondaryMmu::check_coherence`] and [`DeviceTlb::check_coherence`] are that rule as code.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod around;
mod device_tlb;
mod dirty_log;
mod entry;
mod notify;
mod observer;
mod oracle;
mod secondary;
mod shadow;
mod slots;
mod spare;
mod stats;
mod tdp;
#[cfg(test)]
mod tests;

pub use device_tlb::{DeviceEntry, DeviceTlb, DeviceTlbError};
pub use dirty_log::{DirtyPages, LogBy, LogError};
pub use observer::{Call, Observer};
pub use oracle::Incoherence;
pub use secondary::{FaultOutcome, MmuError, SecondaryMmu};
pub use shadow::{
    GuestPaging, GuestTables, LinearAccess, LinearFault, PAGES_OF_AN_INSTRUCTION, PageFault, Processor,
    ShadowLeaf, TABLES_OF_AN_INSTRUCTION, Translation, WalkEnd, Width, walk,
};
pub use slots::{Slot, SlotError, Slots};
pub use stats::{CallCounts, DeviceStats, DeviceStatsSnapshot, Stats, StatsSnapshot};
pub use tdp::AccessedDirty;
