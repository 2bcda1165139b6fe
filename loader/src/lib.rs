//! What the loader's programs decide without a machine: what firmware's structures say, what the modules are, where
//! Herald's image goes. The programs in `bin` do it.
//!
//! ```text
//!   hvm_start_info ──► pvh ─────────┐
//!   multiboot2 information ─► multiboot2 ─┼─► Findings ─► modules (one package) ─► image ─► HandOff
//!   E820: the program ──────────────┤
//!   EFI memory map, screen ─► efi ──┘
//! ```
#![no_std]
#![forbid(unsafe_code)]

pub mod efi;
mod error;
mod findings;
pub mod image;
pub mod modules;
pub mod multiboot2;
pub mod pvh;
pub mod tables;

pub use error::LoadError;
pub use findings::{Findings, Images, Memory};

#[cfg(test)]
extern crate alloc;
