//! The loader: brings the boot package into memory, Herald out of it, and a [`HandOff`] to Herald.
//!
//! ```text
//!   BIOS ──► boot_sector.s ──► stage.s ──┐ E820                    ┌─► package by ATA PIO ──┐
//!                                        ├─► long_mode.s ──► here ─┤                        ├─► Herald
//!   PVH loader ──► pvh/entry.s ──────────┘ hvm_start_info          └─► package is a module ─┘
//! ```
//!
//! It runs at 1 MiB, with the first 4 GiB mapped to themselves and the first GiB also at
//! [`abi::handoff::IMAGE_OFFSET`]; interrupts are off.
#![no_std]
#![no_main]

mod bios;
mod console;
mod error;
mod image;
mod memory;
mod pvh;

use abi::handoff::{HandOff, Loader};
use abi::memmap::MemoryMap;
use abi::package::{Kind, Table};
use addr::HpaRange;
use core::arch::{asm, global_asm};
use error::LoadError;
use memory::bytes_at;

global_asm!(include_str!("long_mode.s"), options(att_syntax));

/// What the two ways in have in common: where the package is, and what the firmware tells.
struct Found {
    handoff: HandOff,
    package: HpaRange,
}

/// Entered from `long_mode.s`.
#[unsafe(no_mangle)]
extern "sysv64" fn loader_main(loader: u32, start_info: u32, start_tsc: u64) -> ! {
    let found = if loader == Loader::Pvh as u32 { pvh::find(start_info) } else { bios::find() };
    match found.and_then(|found| load(found, start_tsc)) {
        Ok((entry, handoff)) => enter(entry, handoff),
        Err(error) => console::fail(format_args!("loader: {error}")),
    }
}

/// Places Herald and seals the hand-off; the entry point and the hand-off.
fn load(found: Found, start_tsc: u64) -> Result<(u64, &'static HandOff), LoadError> {
    let Found { mut handoff, package } = found;
    // SAFETY: the package stays where it is; it is taken out of the map below, before anything is placed by that.
    let bytes = unsafe { bytes_at(package) };
    let table = Table::parse(bytes)?;
    let entry = table.find(Kind::Herald).ok_or(LoadError::NoHerald)?;
    let elf = entry.payload(bytes).ok_or(LoadError::NoHerald)?;
    let mut map = MemoryMap::new(handoff.regions());
    map.reserve(package);
    map.reserve(memory::own_range());
    let image = image::load(elf, &map)?;
    handoff.package_start = package.start().as_u64();
    handoff.package_len = table.total_len();
    handoff.image_start = image.range.start().as_u64();
    handoff.image_len = image.range.len();
    handoff.start_tsc = start_tsc;
    handoff.seal();
    Ok((image.entry, memory::keep(handoff)))
}

fn enter(entry: u64, handoff: &'static HandOff) -> ! {
    // SAFETY: `entry` lies in Herald's image, loaded and mapped; Herald expects just this state (abi::handoff).
    unsafe {
        asm!("cli", "cld", "jmp {entry}", entry = in(reg) entry, in("rdi") handoff, options(noreturn));
    }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    console::fail(format_args!("loader: {info}"))
}
