//! The loader for a BIOS, PVH and multiboot2: brings the boot package into memory, Herald out of it, and a [`HandOff`]
//! to Herald.
//!
//! ```text
//!   BIOS ──► boot_sector.s ──► stage.s ──┐ E820                    ┌─► package by ATA PIO ──┐
//!                                        ├─► long_mode.s ──► here ─┼─► package is a module ─┼─► Herald
//!   PVH, multiboot2 ────────► entry.s ───┘ information             └─► package of modules ──┘
//! ```
//!
//! It runs at 1 MiB, with the first 4 GiB mapped to themselves; interrupts are off.
#![no_std]
#![no_main]

mod bios;
mod console;
mod memory;

use abi::handoff::{HandOff, Loader};
use abi::memmap::MemoryMap;
use abi::package::{Kind, Table};
use addr::{HpaRange, PageSize};
use core::arch::{asm, global_asm};
use loader::image::Image;
use loader::modules::{Module, assemble, layout};
use loader::{Findings, Images, LoadError, multiboot2, pvh};
use memory::{MAPPED_END, bytes_at, bytes_to_fill, mapped, own_range};

global_asm!(include_str!("long_mode.s"), options(att_syntax));
global_asm!(
    include_str!("entry.s"),
    loader_pvh = const Loader::Pvh as u32,
    loader_multiboot2 = const Loader::Multiboot2 as u32,
    options(att_syntax)
);

/// Entered from `long_mode.s`; `information` is what the way in has passed in EBX.
#[unsafe(no_mangle)]
extern "sysv64" fn loader_main(way: u32, information: u32, start_tsc: u64) -> ! {
    let found = match way {
        way if way == Loader::Pvh as u32 => pvh::find(&mapped, information),
        way if way == Loader::Multiboot2 as u32 => multiboot2::find(&mapped, information),
        _ => bios::find(),
    };
    match found.and_then(|found| load(found, start_tsc)) {
        Ok((entry, handoff)) => enter(entry, handoff),
        Err(error) => console::fail(format_args!("loader: {error}")),
    }
}

/// Places Herald and seals the hand-off; the entry point and the hand-off.
fn load(found: Findings, start_tsc: u64) -> Result<(u64, &'static HandOff), LoadError> {
    let Findings { mut handoff, images } = found;
    let package = match images {
        Images::Package(package) => package,
        Images::Modules(modules) => pack(&handoff, &modules)?,
    };
    // SAFETY: the package stays where it is; it is taken out of the map below, before anything is placed by that.
    let bytes = unsafe { bytes_at(package) };
    let table = Table::parse(bytes)?;
    let elf = table.find(Kind::Herald).and_then(|entry| entry.payload(bytes)).ok_or(LoadError::NoHerald)?;
    let image = Image::parse(elf)?;
    let place = image.place(&free_memory(&handoff, [package])?, MAPPED_END)?;
    // SAFETY: free in the map, which leaves out the package and the loader. Modules are packed by now.
    image.load(unsafe { bytes_to_fill(place) })?;
    memory::map_image(image.linked(), place);
    handoff.package_start = package.start().as_u64();
    handoff.package_len = table.total_len();
    handoff.image_start = place.start().as_u64();
    handoff.image_len = place.len();
    handoff.start_tsc = start_tsc;
    Ok((image.entry(), memory::keep(handoff)))
}

/// What is free to be filled, but for `taken`.
fn free_memory(handoff: &HandOff, taken: impl IntoIterator<Item = HpaRange>) -> Result<MemoryMap, LoadError> {
    let mut map = MemoryMap::new(handoff.regions());
    if map.is_empty() {
        return Err(LoadError::NoMemoryMap);
    }
    map.reserve(own_range());
    taken.into_iter().for_each(|range| map.reserve(range));
    Ok(map)
}

/// Copies modules, wherever they lie, into one package.
fn pack(handoff: &HandOff, modules: &[Module]) -> Result<HpaRange, LoadError> {
    let layout = layout(modules.iter().map(|module| (module.name(), module.range().len())))?;
    let map = free_memory(handoff, modules.iter().map(Module::range))?;
    let bytes = layout.total_len();
    let place = map.highest_fit(bytes, PageSize::Size4K, MAPPED_END).ok_or(LoadError::NoRoom { bytes })?;
    for module in modules {
        let (start, len) = (module.range().start().as_u64(), module.range().len());
        if module.range().end() > MAPPED_END {
            return Err(LoadError::OutOfReach { start, len });
        }
    }
    let copy = |index: usize, target: &mut [u8]| {
        // SAFETY: the modules stay as they are while they are copied: the target is free in a map without them.
        target.copy_from_slice(unsafe { bytes_at(modules[index].range()) });
        Ok::<_, LoadError>(())
    };
    // SAFETY: free in the map.
    assemble(&layout, unsafe { bytes_to_fill(place) }, copy)?;
    Ok(place)
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
