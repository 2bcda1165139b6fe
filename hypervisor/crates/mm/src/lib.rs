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

mod batch;
mod churn;
mod file;
pub mod frames;
mod gather;
mod host;
mod limits;
mod merge;
mod mm;
pub mod notifier;
mod pool;
mod reclaim;
mod rmap;
mod shrink;
mod space;
mod swap;
mod vma;

pub use file::{Direct, File, Store, StoreError, Zeros};
pub use host::{CpuIndex, FrameMemory, Host, OutOfFrames, zero_ahead};
pub use merge::{MOST_SHARERS, MergeCounts, Pass, sampled_word};
pub use mm::{Mm, NewError};
pub use reclaim::Spared;
pub use shrink::{Attempts, Progress, Shrunk};
pub use space::{
    AddressSpace, Advice, AskBeside, Beside, Change, FaultError, MOST_AHEAD, MOST_BESIDE, MapError,
    MapRequest, Mapping, MigrateError, Placement, Remap, Stretch, SwappedPages, USER_END,
};
pub use swap::{BYTES_PER_SLOT, SlotError, SwapCounts, SwapDevice, Unwritten};
pub use vma::{Access, MOST_AREAS, Protection, Vma, VmaFlags, VmaKind};
