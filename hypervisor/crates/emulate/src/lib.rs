//! Instructions that touch devices, done in software: the guest's own tables walked to find the instruction,
//! a library to decode it, and the few kinds that drivers use on MMIO.
//!
//! ```text
//!   EPT violation at gpa, no slot
//!      rip ──walk──► gpa of the code ──read──► bytes ──decode──► Mov, Xchg, Stos, …
//!                                                                  │ one access of 1, 2, 4 or 8 bytes
//!                                                                  ▼
//!                                                     Bus::read / Bus::write at the faulting gpa
//! ```
//!
//! The address of the access is the one that the processor reported: nothing here computes an effective
//! address, so segmentation plays no part.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

mod alu;
mod mmio;
mod walk;

pub use mmio::{Bus, CodeSize, Done, EmulateError, Registers, emulate};
pub use walk::{GuestMemory, PagingMode, PagingState, WalkError, translate};

#[cfg(test)]
mod tests;
