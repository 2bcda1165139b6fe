//! The simulated machine: memory, tables and CPUs as values, an oracle over them, and a bench to work them.
//!
//! ```text
//!   Lab ── operations ──► mm::AddressSpace, mmu::SecondaryMmu      the product, unchanged
//!    │                          │ mm::Host (TableMemory, FrameMemory, Shootdown)
//!    │                          ▼
//!    ├── guest / hva access ► Machine: frames, CPUs that cache whatever they may
//!    ├── Model: what every word must read, what every operation must answer
//!    └── oracle after each step: tables ── TLBs ── frames ── VMAs agree
//! ```
//!
//! A fake must never be kinder than the hardware: a translation once cached stays until the flush that must
//! drop it, and is preferred to the tables as long as it allows the access.
#![forbid(unsafe_code)]

pub mod lab;
pub mod machine;
pub mod oracle;
pub mod paging;
pub mod random;
pub mod sequence;
mod violation;
pub mod worlds;

pub use violation::Violation;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks also after a panic elsewhere: a test that fails has said why already.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
