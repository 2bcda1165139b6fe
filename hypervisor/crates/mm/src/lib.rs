//! The host memory manager: frames, address spaces, faults, and the notifier chain.
//!
//! ```text
//!   AddressSpace ── VMAs ──────────────── what may be mapped            (mmap lock)
//!        │      └── primary tables ────── what is mapped                (page-table lock)
//!        │      └── NotifierChain ─────── who must hear of a change
//!        ▼
//!   Host ── Frames (buddy, metadata), table memory, frame memory, shootdown
//! ```
//!
//! This crate does not know that guests exist. Whoever caches its translations subscribes to the chain of
//! the address space ([`notifier`]) and is told before a frame it may use goes away.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod frames;
mod gather;
mod host;
pub mod notifier;
mod space;
mod vma;

pub use host::{CpuIndex, FrameMemory, Host, OutOfFrames};
pub use space::{AddressSpace, FaultError, MapError, MapRequest, Mapping, MigrateError, Placement, USER_END};
pub use vma::{Access, Protection, Vma, VmaKind};
