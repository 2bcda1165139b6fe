//! The tables as an operating system walks them.

use super::images::{bzimage, setup_header};
use super::{MIB, Memory};
use crate::layout::ACPI;
use crate::{Error, Guest, boot};
use alloc::vec::Vec;

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

/// A table with a right checksum.
fn table(memory: &Memory, at: u64) -> Vec<u8> {
    let len = memory.read::<u32>(at + 4);
    let bytes = memory.bytes(at, len as usize);
    assert_eq!(sum(&bytes), 0, "checksum of {:?}", &bytes[..4]);
    bytes
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()))
}

fn boot_with(vcpus: u32) -> Result<Memory, Error> {
    boot_with_balloon(vcpus, false)
}

fn boot_with_balloon(vcpus: u32, balloon: bool) -> Result<Memory, Error> {
    let kernel = bzimage(&setup_header());
    let mut memory = Memory::new(64 * MIB);
    let guest = Guest { kernel: &kernel, initrd: None, append: "", ram: memory.ram(), vcpus, balloon };
    boot(&guest, &mut memory)?;
    Ok(memory)
}

/// FADT, MADT, found through RSDP and XSDT.
fn tables(memory: &Memory) -> [Vec<u8>; 2] {
    let rsdp = memory.bytes(ACPI.as_u64(), 36);
    assert_eq!(&rsdp[..8], b"RSD PTR ");
    assert_eq!((sum(&rsdp[..20]), sum(&rsdp), rsdp[15]), (0, 0, 2));
    let xsdt = table(memory, word(&rsdp, 24));
    assert_eq!((&xsdt[..4], xsdt.len()), (&b"XSDT"[..], 36 + 16));
    [36, 44].map(|at| table(memory, word(&xsdt, at)))
}

#[test]
fn fadt_names_the_registers() {
    let memory = boot_with(1).unwrap();
    let [fadt, _] = tables(&memory);
    assert_eq!((&fadt[..4], fadt.len()), (&b"FACP"[..], 276));
    assert_eq!(u16::from_le_bytes([fadt[46], fadt[47]]), 9);
    assert_eq!([56, 64, 76].map(|at| word(&fadt, at)), [0x600, 0x604, 0x608]);
    assert_eq!(word(&fadt, 48), 0, "no SMI command: ACPI mode is always on");
    assert_eq!((fadt[116], word(&fadt, 120), fadt[128]), (1, 0xcf9, 6));
    assert_eq!(&memory.bytes(word(&fadt, 36), 4), b"FACS");

    let dsdt = table(&memory, word(&fadt, 40));
    assert_eq!(&dsdt[..4], b"DSDT");
    assert_eq!(dsdt[36..], *b"\x08_S5_\x12\x08\x04\x0a\x05\x0a\x05\x00\x00");
}

#[test]
fn dsdt_has_the_balloon_where_there_is_one() {
    let memory = boot_with_balloon(1, true).unwrap();
    let [fadt, _] = tables(&memory);
    let dsdt = table(&memory, word(&fadt, 40));
    let has = |part: &[u8]| dsdt.windows(part.len()).any(|window| window == part);
    assert!(has(b"_SB_BLLN") && has(b"_HID\x0dLNRO0005\0"), "{dsdt:x?}");
    // Registers, written too, at 0xfeb00000, 4 KiB; interrupt 16, consumed, by level, active high.
    assert!(has(b"\x86\x09\0\x01\0\0\xb0\xfe\0\x10\0\0\x89\x06\0\x01\x01\x10\0\0\0"), "{dsdt:x?}");
}

#[test]
fn madt_lists_processors_and_wiring() {
    let memory = boot_with(3).unwrap();
    let [_, madt] = tables(&memory);
    assert_eq!((&madt[..4], word(&madt, 36), word(&madt, 40)), (&b"APIC"[..], 0xfee0_0000, 1));
    let mut entries = Vec::new();
    let mut at = 44;
    while at < madt.len() {
        let end = at + usize::from(madt[at + 1]);
        entries.push(&madt[at..end]);
        at = end;
    }
    assert_eq!(entries.iter().filter(|entry| entry[0] == 0).count(), 3);
    assert_eq!(entries[2], [0, 8, 2, 2, 1, 0, 0, 0]);
    assert_eq!(entries[3], [1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0]);
    assert_eq!(entries[4], [2, 10, 0, 0, 2, 0, 0, 0, 0, 0]);
    assert_eq!(entries[5], [2, 10, 0, 9, 9, 0, 0, 0, 13, 0]);
    assert_eq!(entries[6], [4, 6, 0xff, 0, 0, 1]);
}

#[test]
fn processor_counts_are_limited() {
    assert!(boot_with(255).is_ok());
    assert_eq!(boot_with(256).err(), Some(Error::Vcpus { found: 256, most: 255 }));
    assert_eq!(boot_with(0).err(), Some(Error::Vcpus { found: 0, most: 255 }));
}
