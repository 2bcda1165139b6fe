//! What Herald learns before its first guest: from firmware's tables, from the memory map, from its configuration file,
//! from devices.
//!
//! ```text
//!   RSDP ─► XSDT or RSDT ─► MADT, FADT ──────────► acpi::Machine       processors, interrupt controllers, legacy devices
//!   regions, what is taken, size of the metadata ─► memory::Plan       tables, heap, frames, what is left unused
//!   a TOML file, names of the images ─────────────► abi::config::BootConfig
//!   PCI configuration space ─► capabilities ──────► virtio::Structures  where a virtio device has its registers
//! ```
//!
//! All are input that nobody has checked: firmware and devices have defects, and people edit files. Nothing here panics
//! on them, and the work is bounded whatever they say.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod acpi;
pub mod config;
pub mod memory;
pub mod size;
pub mod virtio;
