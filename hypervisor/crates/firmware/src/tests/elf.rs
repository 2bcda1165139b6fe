//! PVH, and what both kinds of ELF share.

use super::images::{ELF_BYTES, ElfSpec, elf32, elf64, plain};
use super::{MIB, boot_on};
use crate::layout::{ACPI, START_INFO};
use crate::pvh::{MapEntry, Module, StartInfo};
use crate::{ElfProblem, Error, Mode, Placement};
use alloc::string::ToString;

#[test]
fn pvh_kernel_gets_its_start_information() {
    let spec = ElfSpec { pvh: Some(0x20_0100), vaddr: 0xc020_0000, ..plain() };
    for kernel in [elf32(&spec), elf64(&spec)] {
        let (entry, memory) = boot_on(5 << 30, &kernel, Some(b"initrd"), "console=ttyS0").unwrap();
        assert_eq!((entry.mode, entry.rip), (Mode::Protected32, 0x20_0100));
        assert_eq!(entry.rbx, START_INFO.as_u64());
        assert_eq!(memory.bytes(0x20_0000, ELF_BYTES), kernel);

        let info: StartInfo = memory.read(entry.rbx);
        assert_eq!((info.magic.get(), info.version.get()), (0x336e_c578, 1));
        assert_eq!(info.rsdp.get(), ACPI.as_u64());
        assert_eq!(memory.bytes(info.command_line.get(), 14), b"console=ttyS0\0");
        assert_eq!(info.modules.get(), 1);
        let module: Module = memory.read(info.module_list.get());
        assert_eq!((module.start.get(), module.bytes.get()), ((3 << 30) - 0x1000, 6));
        assert_eq!(memory.bytes(module.start.get(), 6), b"initrd");
        let last = u64::from(info.memory_map_entries.get()) - 1;
        let high: MapEntry = memory.read(info.memory_map.get() + last * 24);
        assert_eq!((high.start.get(), high.bytes.get(), high.kind.get()), (4 << 30, 2 << 30, 1));
    }
}

#[test]
fn segment_outside_ram_is_named_with_the_ram() {
    let spec = ElfSpec { paddr: 0x4000_0000, pvh: Some(0x4000_0000), ..plain() };
    let error = boot_on(256 * MIB, &elf64(&spec), None, "").err().unwrap();
    assert_eq!(
        error.to_string(),
        "a part of the kernel (2048 bytes at 0x40000000) lies outside guest memory: RAM at 0x0..0x10000000"
    );
    let wrapping = ElfSpec { paddr: u64::MAX - 0x100, ..spec };
    assert!(matches!(
        boot_on(256 * MIB, &elf64(&wrapping), None, "").err(),
        Some(Error::Placement(Placement::OutsideRam { .. }))
    ));
    let firmware = ElfSpec { paddr: 0xe_0000, ..spec };
    assert!(matches!(
        boot_on(256 * MIB, &elf64(&firmware), None, "").err(),
        Some(Error::Placement(Placement::Reserved { .. }))
    ));
}

#[test]
fn damaged_elf_files_are_refused() {
    let spec = ElfSpec { pvh: Some(0x20_0100), ..plain() };
    let cut = &elf64(&spec)[..0x300];
    assert_eq!(
        boot_on(64 * MIB, cut, None, "").err().unwrap().to_string(),
        "the PVH ELF kernel is truncated: 768 bytes found, 1024 needed"
    );
    assert!(matches!(
        boot_on(64 * MIB, &cut[..60], None, "").err(),
        Some(Error::Elf(ElfProblem::Headers { bytes: 60 }))
    ));
    let small = ElfSpec { memory: 0x100, ..spec };
    assert!(matches!(
        boot_on(64 * MIB, &elf64(&small), None, "").err(),
        Some(Error::Elf(ElfProblem::SegmentSize { .. }))
    ));
    let outside = ElfSpec { pvh: Some(0x30_0000), ..spec };
    assert!(matches!(
        boot_on(64 * MIB, &elf64(&outside), None, "").err(),
        Some(Error::Placement(Placement::EntryPoint { entry: 0x30_0000, .. }))
    ));
}

#[test]
fn segments_that_lie_over_each_other_are_refused() {
    let spec = ElfSpec { multiboot_flags: Some(3), ..plain() };
    let mut lower = elf32(&spec);
    // The note becomes a segment of 0x14 bytes in the zeros behind the first one's bytes.
    for (offset, word) in [(0, 1u32), (12, 0x20_0700)] {
        lower[52 + 32 + offset..][..4].copy_from_slice(&word.to_le_bytes());
    }
    let error = boot_on(64 * MIB, &lower, None, "").err();
    assert_eq!(error, Some(Error::Elf(ElfProblem::Overlap { start: 0x20_0700, memory: 0x14 })));
    lower[52 + 32 + 12..][..4].copy_from_slice(&0x20_0800u32.to_le_bytes());
    assert!(boot_on(64 * MIB, &lower, None, "").is_ok());
}

#[test]
fn an_entry_point_between_two_segments_is_refused() {
    let spec = ElfSpec { entry: 0x20_0200, multiboot_flags: Some(3), ..plain() };
    let mut file = elf32(&spec);
    // The segments are at 2 MiB and 4 KiB, the entry point where the firmware's tables lie.
    for (offset, word) in [(0, 1u32), (12, 0x1000)] {
        file[52 + 32 + offset..][..4].copy_from_slice(&word.to_le_bytes());
    }
    assert!(boot_on(64 * MIB, &file, None, "").is_ok());
    file[24..28].copy_from_slice(&0xe_0000u32.to_le_bytes());
    assert!(matches!(
        boot_on(64 * MIB, &file, None, "").err(),
        Some(Error::Placement(Placement::EntryPoint { entry: 0xe_0000, .. }))
    ));
}

#[test]
fn notes_that_add_up_to_more_than_their_file_are_not_read() {
    let mut file = elf32(&ElfSpec { pvh: Some(0x20_0100), ..plain() });
    // The first segment is notes too, before the note that counts.
    file[52..56].copy_from_slice(&4u32.to_le_bytes());
    let mut boot_with = |bytes: u32| {
        file[52 + 16..][..4].copy_from_slice(&bytes.to_le_bytes());
        boot_on(64 * MIB, &file, None, "").err()
    };
    assert_eq!(boot_with(0x3ec), Some(Error::Elf(ElfProblem::NoSegments)));
    assert!(matches!(boot_with(0x3ed), Some(Error::UnknownImage { .. })));
}
