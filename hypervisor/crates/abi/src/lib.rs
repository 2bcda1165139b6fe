//! What two separately built programs must agree on: plain data, no behaviour beyond checks.
//!
//! ```text
//!  xtask ──package──► loader ──hand-off──► Herald ──link frames──► xtask
//!                                            ▲
//!  guest ──test device, hypercalls───────────┤
//!  xtask ──label of the swap's disk──────────┘
//! ```
#![no_std]
#![forbid(unsafe_code)]

pub mod config;
pub mod crc;
pub mod handoff;
pub mod hypercall;
pub mod kvmclock;
pub mod link;
pub mod memmap;
pub mod package;
pub mod status;
pub mod swapdisk;
pub mod telemetry;
pub mod testdev;

#[cfg(test)]
extern crate alloc;
#[cfg(test)]
mod tests;
