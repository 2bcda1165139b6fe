//! Multiboot-1.

use super::images::{ElfSpec, elf32, plain};
use super::{MIB, boot_on};
use crate::layout::START_INFO;
use crate::multiboot::{Info, MapEntry, Module};
use crate::{Error, Mode};
use alloc::vec;
use alloc::vec::Vec;

#[test]
fn elf_kernel_gets_its_information() {
    let spec = ElfSpec { multiboot_flags: Some(3), pvh: Some(0x20_0000), ..plain() };
    let (entry, memory) = boot_on(64 * MIB, &elf32(&spec), Some(b"a module"), "one two").unwrap();
    assert_eq!((entry.mode, entry.rip), (Mode::Protected32, 0x20_0200));
    assert_eq!((entry.rax, entry.rbx), (0x2bad_b002, START_INFO.as_u64()));

    let info: Info = memory.read(entry.rbx);
    assert_eq!(info.flags.get(), 0b10_0100_1101);
    assert_eq!((info.mem_lower.get(), info.mem_upper.get()), (639, 63 * 1024));
    assert_eq!(memory.bytes(info.command_line.get().into(), 8), b"one two\0");
    assert_eq!(memory.bytes(info.loader_name.get().into(), 7), b"Herald\0");
    assert_eq!(info.modules.get(), 1);
    let module: Module = memory.read(info.module_list.get().into());
    assert_eq!((module.start.get(), module.end.get()), (0x20_1000, 0x20_1008));
    assert_eq!(memory.bytes(0x20_1000, 8), b"a module");

    assert_eq!(info.mmap_bytes.get() % 24, 0);
    let lines: Vec<MapEntry> = (0..u64::from(info.mmap_bytes.get() / 24))
        .map(|index| memory.read(u64::from(info.mmap.get()) + index * 24))
        .collect();
    assert!(lines.iter().all(|line| line.size.get() == 20));
    let usable: u64 = lines.iter().filter(|line| line.kind.get() == 1).map(|line| line.bytes.get()).sum();
    assert_eq!(usable, 64 * MIB - 0x10_0000 + 0x9_fc00);
}

#[test]
fn virtual_entry_point_becomes_physical() {
    let spec = ElfSpec { multiboot_flags: Some(0), vaddr: 0xc020_0000, entry: 0xc020_0040, ..plain() };
    let (entry, memory) = boot_on(64 * MIB, &elf32(&spec), None, "").unwrap();
    assert_eq!(entry.rip, 0x20_0040);
    assert_eq!(memory.read::<Info>(entry.rbx).modules.get(), 0);
}

#[test]
fn unknown_requirements_are_refused() {
    let spec = ElfSpec { multiboot_flags: Some(4), ..plain() };
    assert_eq!(
        boot_on(64 * MIB, &elf32(&spec), None, "").err(),
        Some(Error::MultibootFlags { flags: 4, unsupported: 4 })
    );
}

/// A flat file with a header at offset 16: header_addr, load_addr, load_end, bss_end, entry.
fn flat(addresses: [u32; 5]) -> Vec<u8> {
    let flags = 1u32 << 16;
    let head = [0x1bad_b002, flags, 0u32.wrapping_sub(0x1bad_b002 + flags)];
    let mut file = vec![0x90; 16];
    file.extend(head.iter().chain(&addresses).flat_map(|word| word.to_le_bytes()));
    file.resize(0x100, 0x90);
    file
}

#[test]
fn header_addresses_place_a_flat_file() {
    let file = flat([0x10_0010, 0x10_0000, 0, 0x10_1000, 0x10_0080]);
    let (entry, memory) = boot_on(64 * MIB, &file, None, "").unwrap();
    assert_eq!(entry.rip, 0x10_0080);
    assert_eq!(memory.bytes(0x10_0000, 0x100), file);
    // Only a part of the file.
    let file = flat([0x10_0000, 0x10_0000, 0x10_0020, 0, 0x10_0010]);
    let (_, memory) = boot_on(64 * MIB, &file, None, "").unwrap();
    assert_eq!(memory.bytes(0x10_0000, 0x20), file[16..48]);
}

#[test]
fn contradicting_addresses_are_refused() {
    for addresses in [
        [0x10_0000, 0x20_0000, 0, 0, 0x20_0000],
        [0x20_0000, 0x10_0000, 0, 0, 0x10_0000],
        [0x10_0010, 0x10_0000, 0x10_0000 - 1, 0, 0x10_0000],
        [0x10_0010, 0x10_0000, 0, 0x10_0001, 0x10_0000],
    ] {
        assert!(matches!(
            boot_on(64 * MIB, &flat(addresses), None, "").err(),
            Some(Error::MultibootAddresses { .. })
        ));
    }
    assert!(matches!(
        boot_on(64 * MIB, &flat([0x10_0010, 0x10_0000, 0x11_0000, 0, 0x10_0000]), None, "").err(),
        Some(Error::Truncated { found: 0x100, needed: 0x1_0000, .. })
    ));
}
