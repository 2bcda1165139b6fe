//! ELF64 by the 64-bit entry.

use super::images::{ELF_BYTES, ElfSpec, elf32, elf64, plain};
use super::{MIB, boot_on};
use crate::boot_params::BootParams;
use crate::layout::{ACPI, PML4, START_INFO};
use crate::{ElfProblem, Error, Mode, Placement};
use alloc::string::ToString;
use alloc::vec::Vec;

/// Offsets in the file: e_type, e_machine, e_phoff, and of its one segment p_offset and p_filesz.
const TYPE: usize = 16;
const MACHINE: usize = 18;
const SEGMENTS: usize = 32;
const OFFSET: usize = 64 + 8;
const FILE_BYTES: usize = 64 + 32;

fn error_of(file: &[u8]) -> Error {
    boot_on(64 * MIB, file, None, "").err().expect("refused")
}

/// [`plain`] with one field changed.
fn with<const BYTES: usize>(at: usize, field: [u8; BYTES]) -> Vec<u8> {
    let mut file = elf64(&plain());
    file[at..at + BYTES].copy_from_slice(&field);
    file
}

#[test]
fn the_kernel_starts_in_64_bit_mode_with_boot_params() {
    // As a vmlinux is linked: its entry point is a virtual address.
    for (vaddr, entry) in [(0x20_0000, 0x20_0200), (0xffff_ffff_8100_0000, 0xffff_ffff_8100_0200)] {
        // Of a multiboot header without addresses a file of 64 bits has nothing.
        let spec = ElfSpec { vaddr, entry, multiboot_flags: Some(3), ..plain() };
        let (entry, memory) = boot_on(64 * MIB, &elf64(&spec), Some(b"initrd"), "console=ttyS0").unwrap();
        assert_eq!((entry.mode, entry.rip), (Mode::Long64 { cr3: PML4 }, 0x20_0200));
        assert_eq!((entry.rax, entry.rsi), (0, START_INFO.as_u64()));
        assert_eq!(memory.bytes(0x20_0000, ELF_BYTES), elf64(&spec));
        let params: BootParams = memory.read(START_INFO.as_u64());
        assert_eq!((params.header.boot_flag.get(), params.header.magic), (0xaa55, *b"HdrS"));
        // Linux takes version 0 for boot_params that are still to be copied.
        assert_eq!((params.header.version.get(), params.header.loadflags), (0x020f, 1));
        assert_eq!(params.acpi_rsdp_addr.get(), ACPI.as_u64());
        assert_eq!(memory.bytes(params.header.cmd_line_ptr.get().into(), 14), b"console=ttyS0\0");
        assert_eq!(memory.bytes(params.header.ramdisk_image.get().into(), 6), b"initrd");
        let lines = &params.e820[..usize::from(params.e820_entries)];
        let usable = lines.iter().filter(|line| line.kind.get() == 1).map(|line| line.bytes.get());
        assert_eq!(usable.sum::<u64>(), 64 * MIB - 0x10_0000 + 0x9_fc00);
    }
}

#[test]
fn other_protocols_come_first() {
    let pvh = ElfSpec { pvh: Some(0x20_0100), ..plain() };
    let addresses = ElfSpec { multiboot_flags: Some(1 << 16), ..plain() };
    assert_eq!(boot_on(64 * MIB, &elf64(&pvh), None, "").unwrap().0.mode, Mode::Protected32);
    // Its addresses are 0xcc bytes.
    let by_addresses = error_of(&elf64(&addresses));
    assert!(matches!(by_addresses, Error::Placement(Placement::EntryPoint { entry: 0xcccc_cccc, .. })));
    assert!(matches!(error_of(&elf32(&plain())), Error::UnknownImage { .. }));
}

#[test]
fn what_is_no_kernel_of_64_bits_is_refused() {
    // A program that may be moved, and one for i386 in an ELF64.
    for file in [with(TYPE, [3, 0]), with(MACHINE, [3, 0])] {
        assert_eq!(error_of(&file), Error::UnknownImage { bytes: ELF_BYTES as u64 });
    }
    assert!(matches!(error_of(&with(MACHINE, [183, 0])), Error::Elf(ElfProblem::Machine(183))));
}

#[test]
fn truncated_files_are_refused_with_their_sizes() {
    let file = elf64(&plain());
    assert_eq!(
        error_of(&file[..0x300]).to_string(),
        "the ELF64 kernel is truncated: 768 bytes found, 1024 needed"
    );
    assert_eq!(error_of(&file[..60]), Error::Elf(ElfProblem::Headers { bytes: 60 }));
    assert_eq!(error_of(&file[..100]), Error::Elf(ElfProblem::Headers { bytes: 100 }));
    assert_eq!(
        error_of(&with(SEGMENTS, u64::MAX.to_le_bytes())),
        Error::Elf(ElfProblem::Headers { bytes: ELF_BYTES as u64 })
    );
}

#[test]
fn absurd_sizes_and_places_are_refused_with_their_values() {
    let spec = ElfSpec { memory: 1 << 62, ..plain() };
    assert_eq!(
        error_of(&elf64(&spec)).to_string(),
        "a part of the kernel (4611686018427387904 bytes at 0x200000) lies outside guest memory: \
         RAM at 0x0..0x4000000"
    );
    let spec = ElfSpec { paddr: 0xffff_ffff_8100_0000, ..plain() };
    assert_eq!(
        error_of(&elf64(&spec)).to_string(),
        "a part of the kernel (2048 bytes at 0xffffffff81000000) lies outside guest memory: RAM at 0x0..0x4000000"
    );
    let huge = u64::MAX.to_le_bytes();
    assert!(matches!(error_of(&with(OFFSET, huge)), Error::Truncated { needed: u64::MAX, .. }));
    assert!(matches!(
        error_of(&with(FILE_BYTES, huge)),
        Error::Elf(ElfProblem::SegmentSize { file: u64::MAX, memory: 0x800, .. })
    ));
    let spec = ElfSpec { paddr: 0x8_0000, ..plain() };
    assert!(matches!(error_of(&elf64(&spec)), Error::Placement(Placement::Reserved { .. })));
    let spec = ElfSpec { entry: 0x20_0800, ..plain() };
    assert_eq!(
        error_of(&elf64(&spec)).to_string(),
        "the kernel's entry point 0x200800 is outside its image at 0x200000..0x200800"
    );
    assert_eq!(
        boot_on(64 * MIB, &elf64(&plain()), None, &"x".repeat(0x8000)).err(),
        Some(Error::CommandLineTooLong { bytes: 0x8000, most: 0x7fff })
    );
}
