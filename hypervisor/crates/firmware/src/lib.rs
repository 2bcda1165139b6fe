//! What firmware and a boot loader would leave behind: a guest's memory and the state of its first
//! processor, from nothing but a kernel image and a few numbers.
//!
//! ```text
//!   kernel, initrd, command line, RAM size
//!                 │
//!                 ▼            ┌─ multiboot-1   ─┐
//!            image::detect ────┼─ Linux bzImage ─┼──► GuestWriter: image, initrd, ACPI tables,
//!                              ├─ PVH ELF       ─┤    memory map, start information, GDT
//!                              └─ ELF64         ─┘
//!                                       │
//!                                       ▼
//!                                     Entry: registers, segments, mode
//! ```
//!
//! There is no firmware that runs: a guest starts where its boot protocol says a boot loader would
//! start it. RAM reads zero before the first write here, so nothing writes zeros.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod acpi;
mod boot_params;
mod bzimage;
mod elf64;
mod elf_image;
mod entry;
mod error;
mod image;
pub mod layout;
mod memory_map;
mod multiboot;
mod problem;
mod pvh;
mod ram;
mod target;

#[cfg(test)]
mod tests;

pub use entry::{DescriptorTable, Entry, Mode, Segment};
pub use error::{Error, Limit, WriteError};
pub use image::Format;
pub use memory_map::{Region, RegionKind, memory_map};
pub use problem::{ElfProblem, Placement};
pub use ram::Ram;
pub use target::GuestWriter;

/// What a guest is started from.
#[derive(Clone, Copy, Debug)]
pub struct Guest<'a> {
    /// The kernel's file: bzImage, PVH ELF, multiboot-1, or an ELF64 to enter in 64-bit mode.
    pub kernel: &'a [u8],
    /// Initial RAM disk, or the one multiboot module.
    pub initrd: Option<&'a [u8]>,
    /// Kernel command line, without the final NUL.
    pub append: &'a str,
    /// Its RAM.
    pub ram: Ram,
    /// Virtual processors.
    pub vcpus: u32,
    /// There is a balloon.
    pub balloon: bool,
}

/// Fills the guest's memory and says how its first processor starts.
///
/// # Errors
/// Anything that [`Error`] names; the memory may be half filled then.
pub fn boot(guest: &Guest<'_>, writer: &mut dyn GuestWriter) -> Result<Entry, Error> {
    let format = image::detect(guest.kernel)?;
    let mut target = target::Target::new(guest.ram, writer);
    let rsdp = acpi::install(&mut target, guest)?;
    match format {
        Format::BzImage => bzimage::load(guest, rsdp, &mut target),
        Format::PvhElf => pvh::load(guest, rsdp, &mut target),
        Format::Multiboot => multiboot::load(guest, &mut target),
        Format::Elf64 => elf64::load(guest, rsdp, &mut target),
    }
}
