//! Tables as firmware writes them, and as it should not.

use super::{
    AcpiError, IoApic, LegacyDevices, MAX_PROCESSORS, MAX_TABLE_BYTES, MAX_TABLES, Machine, PhysicalBytes,
    Processor, Signature,
};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::{Aml, fadt::FADTBuilder};
use addr::{Hpa, HpaRange};
use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;

/// Where the tests put things.
const RSDP: u64 = 0xf_5aa0;
const ROOT: u64 = 0x10_0000;
const MADT: u64 = 0x20_0000_0001;
const FADT: u64 = 0x7ff_f003;

/// Pieces of memory; everything else is not mapped.
#[derive(Default)]
struct Memory(Vec<(u64, Vec<u8>)>);

impl PhysicalBytes for Memory {
    fn bytes(&self, range: HpaRange) -> Option<&[u8]> {
        self.0.iter().rev().find_map(|(start, bytes)| {
            let offset = range.start().as_u64().checked_sub(*start)? as usize;
            bytes.get(offset..offset.checked_add(range.len() as usize)?)
        })
    }
}

impl Memory {
    fn put(&mut self, at: u64, bytes: &[u8]) {
        self.0.push((at, bytes.to_vec()));
    }

    fn read(&self) -> Result<Machine, AcpiError> {
        Machine::read(self, RSDP)
    }

    /// The machine, which has no problems.
    fn sound(&self) -> Machine {
        let machine = self.read().expect("a root");
        assert!(machine.problems.is_empty(), "{:?}", machine.problems);
        machine
    }

    /// The one problem of the machine, in words.
    fn problem(&self) -> alloc::string::String {
        let machine = self.read().expect("a root");
        let [problem] = machine.problems.first() else { panic!("{:?}", machine.problems) };
        problem.to_string()
    }

    fn error(&self) -> alloc::string::String {
        self.read().expect_err("no root").to_string()
    }
}

/// A table with a right length and sum.
fn sdt(signature: &[u8; 4], revision: u8, body: &[u8]) -> Vec<u8> {
    let mut table = Sdt::new(*signature, 36, revision, *b"HERALD", *b"TESTTEST", 1);
    table.append_slice(body);
    table.as_slice().to_vec()
}

fn xsdt(addresses: &[u64]) -> Vec<u8> {
    let body: Vec<u8> = addresses.iter().flat_map(|address| address.to_le_bytes()).collect();
    sdt(b"XSDT", 1, &body)
}

fn rsdt(addresses: &[u32]) -> Vec<u8> {
    let body: Vec<u8> = addresses.iter().flat_map(|address| address.to_le_bytes()).collect();
    sdt(b"RSDT", 1, &body)
}

/// Makes byte `at` such that all bytes add up to 0.
fn mend(bytes: &mut [u8], at: usize) {
    bytes[at] = 0;
    bytes[at] = bytes.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte));
}

fn old_pointer(rsdt: u64) -> Vec<u8> {
    let mut bytes = b"RSD PTR \0HERALD\0".to_vec();
    bytes.extend_from_slice(&(rsdt as u32).to_le_bytes());
    mend(&mut bytes, 8);
    bytes
}

fn new_pointer(rsdt: u64, xsdt: u64) -> Vec<u8> {
    let mut bytes = old_pointer(rsdt);
    bytes[15] = 2;
    mend(&mut bytes, 8);
    bytes.extend_from_slice(&36u32.to_le_bytes());
    bytes.extend_from_slice(&xsdt.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    mend(&mut bytes, 32);
    bytes
}

fn madt(entries: &[Vec<u8>]) -> Vec<u8> {
    let mut body = 0xfee0_0000u32.to_le_bytes().to_vec();
    body.extend_from_slice(&1u32.to_le_bytes());
    body.extend(entries.iter().flatten());
    sdt(b"APIC", 5, &body)
}

fn local_apic(id: u8, flags: u8) -> Vec<u8> {
    vec![0, 8, id, id, flags, 0, 0, 0]
}

fn x2apic(id: u32, flags: u8) -> Vec<u8> {
    let mut entry = vec![9, 16, 0, 0];
    entry.extend_from_slice(&id.to_le_bytes());
    entry.extend_from_slice(&[flags, 0, 0, 0, 7, 0, 0, 0]);
    entry
}

fn io_apic(id: u8, address: u32, first: u32) -> Vec<u8> {
    let mut entry = vec![1, 12, id, 0];
    entry.extend_from_slice(&address.to_le_bytes());
    entry.extend_from_slice(&first.to_le_bytes());
    entry
}

fn fadt(flags: u16) -> Vec<u8> {
    let mut fadt = FADTBuilder::new(*b"HERALD", *b"TESTTEST", 1);
    fadt.iapc_boot_arch = flags.into();
    let mut bytes = Vec::new();
    fadt.finalize().to_aml_bytes(&mut bytes);
    bytes
}

/// A machine of these tables, at [`ROOT`] and the addresses in the list.
fn machine_of(tables: &[(u64, Vec<u8>)]) -> Memory {
    let mut memory = Memory::default();
    let addresses: Vec<u64> = tables.iter().map(|(address, _)| *address).collect();
    memory.put(RSDP, &new_pointer(0, ROOT));
    memory.put(ROOT, &xsdt(&addresses));
    for (address, table) in tables {
        memory.put(*address, table);
    }
    memory
}

fn enabled(apic_id: u32) -> Processor {
    Processor { apic_id, enabled: true, online_capable: false }
}

#[test]
fn an_old_machine() {
    let mut memory = Memory::default();
    memory.put(RSDP, &old_pointer(ROOT));
    memory.put(ROOT, &rsdt(&[0x1000, 0x2000]));
    memory.put(0x1000, &sdt(b"FACP", 1, &[0; 80]));
    memory.put(0x2000, &madt(&[local_apic(0, 1), local_apic(4, 1), io_apic(2, 0xfec0_0000, 0)]));
    let machine = memory.sound();
    assert_eq!(machine.processors, [enabled(0), enabled(4)]);
    assert_eq!(machine.enabled_processors(), 2);
    assert_eq!(machine.local_apic, Some(Hpa::new(0xfee0_0000)));
    let io_apic = IoApic { id: 2, address: Hpa::new(0xfec0_0000), first_interrupt: 0 };
    assert_eq!(machine.io_apics, [io_apic]);
    assert_eq!(machine.legacy, LegacyDevices { vga: true, keyboard_controller: true, cmos_clock: true });
}

#[test]
fn a_large_machine() {
    let mut entries: Vec<_> = (0..255).map(|id| local_apic(id, 1)).collect();
    entries.extend((0..1000).map(|id| x2apic(id * 3, 1)));
    entries.push(vec![5, 12, 0, 0, 0, 0, 0xe0, 0xfe, 1, 0, 0, 0]);
    entries.push(vec![0x80, 7, 1, 2, 3, 4, 5]);
    let memory = machine_of(&[(FADT, fadt(0b10_0100)), (MADT, madt(&entries))]);
    let machine = memory.sound();
    let expected: Vec<_> = (0..255).chain((255..3000).filter(|id| id % 3 == 0)).map(enabled).collect();
    assert_eq!(machine.processors, expected);
    assert_eq!(machine.local_apic, Some(Hpa::new(0x1_fee0_0000)));
    assert_eq!(machine.legacy, LegacyDevices { vga: false, keyboard_controller: false, cmos_clock: false });
}

#[test]
fn an_independent_writer_of_the_pointer_is_understood() {
    let mut memory = machine_of(&[(FADT, fadt(0b10))]);
    let mut pointer = Vec::new();
    Rsdp::new(*b"HERALD", ROOT).to_aml_bytes(&mut pointer);
    memory.put(RSDP, &pointer);
    assert!(memory.sound().legacy.keyboard_controller);
}

#[test]
fn processors_that_are_none_and_those_that_may_come() {
    let entries = [
        local_apic(1, 0),
        local_apic(0xff, 1),
        x2apic(u32::MAX, 1),
        local_apic(2, 2),
        local_apic(3, 2),
        x2apic(3, 1),
        local_apic(4, 3),
    ];
    let machine = machine_of(&[(MADT, madt(&entries))]).sound();
    let later = Processor { apic_id: 2, enabled: false, online_capable: true };
    assert_eq!(machine.processors, [later, enabled(3), enabled(4)]);
    assert_eq!(machine.enabled_processors(), 2);
}

#[test]
fn the_first_table_of_a_kind_counts_and_empty_entries_do_not() {
    let mut memory = machine_of(&[
        (ROOT, Vec::new()),
        (MADT, madt(&[local_apic(1, 1)])),
        (0x3000, madt(&[local_apic(2, 1)])),
        (0x4000, sdt(b"SSDT", 2, b"code")),
    ]);
    memory.put(ROOT, &xsdt(&[0, ROOT, MADT, 0x3000, 0x4000, RSDP & !0xf, 0]));
    memory.put(RSDP & !0xf, &new_pointer(0, ROOT));
    assert_eq!(memory.sound().processors, [enabled(1)]);
}

#[test]
fn no_root() {
    let mut memory = Memory::default();
    assert_eq!(memory.error(), "RSDP at hpa:0xf5aa0..hpa:0xf5ab4: no memory that can be read");
    let error = Machine::read(&memory, u64::MAX - 3).expect_err("nowhere");
    assert_eq!(error, AcpiError::Address { signature: Signature(*b"RSDP"), address: u64::MAX - 3 });
    assert!(Machine::read(&memory, (1 << 52) - 8).is_err());
    memory.put(RSDP, b"RSD PTP 01234567890123456789");
    assert_eq!(memory.error(), "no root pointer at 0xf5aa0, but `RSD PTP `");
    memory.put(RSDP, &old_pointer(0));
    assert_eq!(memory.error(), "the root pointer at 0xf5aa0 names no table");
    let mut pointer = old_pointer(ROOT);
    pointer[9] ^= 1;
    memory.put(RSDP, &pointer);
    assert!(memory.error().starts_with("RSDP at 0xf5aa0: its 20 bytes add up to 0x"));
    memory.put(RSDP, &old_pointer(ROOT));
    memory.put(ROOT, &xsdt(&[]));
    assert_eq!(memory.error(), "`XSDT` at 0x100000 instead of RSDT");
}

#[test]
fn a_damaged_root_falls_back_on_the_older_one() {
    let mut memory = machine_of(&[(0x20_0000, madt(&[local_apic(9, 1)]))]);
    memory.put(0x3000, &rsdt(&[0x20_0000]));
    let pointer = new_pointer(0x3000, ROOT);
    memory.put(RSDP, &pointer);
    memory.sound();
    let mut no_sum = pointer.clone();
    no_sum[32] ^= 1;
    let mut wrong_length = pointer.clone();
    wrong_length[20..24].copy_from_slice(&[255; 4]);
    for (pointer, problem) in [
        (no_sum, "RSDP at 0xf5aa0: its 36 bytes add up to 0x"),
        (wrong_length, "RSDP at 0xf5aa0: length 4294967295, not 36 to 4096"),
        (new_pointer(0x3000, 1 << 60), "SDT  at 0x1000000000000000: no such memory"),
        (new_pointer(0x3000, 0x3000), "`RSDT` at 0x3000 instead of XSDT"),
    ] {
        memory.put(RSDP, &pointer);
        assert!(memory.problem().starts_with(problem), "{}", memory.problem());
        assert_eq!(memory.read().expect("the older root").processors, [enabled(9)]);
    }
    memory.put(RSDP, &new_pointer(0, 0x3000));
    assert_eq!(memory.error(), "`RSDT` at 0x3000 instead of XSDT");
    memory.put(RSDP, &new_pointer(0, 0));
    assert_eq!(memory.error(), "the root pointer at 0xf5aa0 names no table");
}

#[test]
fn bad_tables_are_left_out_and_the_rest_is_used() {
    let good = madt(&[local_apic(0, 1)]);
    let mut no_sum = fadt(0);
    no_sum[9] ^= 0x10;
    let mut short = fadt(0);
    short[4..8].copy_from_slice(&110u32.to_le_bytes());
    mend(&mut short[..110], 9);
    let mut shorter = fadt(0);
    shorter[4..8].copy_from_slice(&35u32.to_le_bytes());
    let mut endless = fadt(0);
    endless[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
    let mut long = fadt(0);
    long[4..8].copy_from_slice(&277u32.to_le_bytes());
    for (fadt, problem) in [
        (no_sum, "FACP at 0x7fff003: its 276 bytes add up to 0x"),
        (short, "FACP at 0x7fff003: length 110, not 111 to 1048576"),
        (shorter, "FACP at 0x7fff003: length 35, not 36 to 1048576"),
        (endless, "FACP at 0x7fff003: length 4294967295, not 36 to 1048576"),
        (long, "FACP at hpa:0x7fff003..hpa:0x7fff118: no memory that can be read"),
        (vec![b'x'; 20], "SDT  at hpa:0x7fff003..hpa:0x7fff027: no memory that can be read"),
    ] {
        let memory = machine_of(&[(FADT, fadt), (MADT, good.clone())]);
        assert!(memory.problem().starts_with(problem), "{} is not {problem}", memory.problem());
        let machine = memory.read().expect("a root");
        assert_eq!((machine.processors.len(), machine.legacy), (1, LegacyDevices::default()));
    }
}

#[test]
fn the_madt_is_read_as_far_as_it_is_in_order() {
    for (last, problem) in [
        (vec![0, 0, 0, 0], "MADT: the entry of type 0 at offset 52 has length 0, 4 bytes are left"),
        (vec![9, 1], "MADT: the entry of type 9 at offset 52 has length 1, 2 bytes are left"),
        (vec![3], "MADT: the entry of type 3 at offset 52 has length 0, 1 bytes are left"),
        (vec![0, 8, 1, 1], "MADT: the entry of type 0 at offset 52 has length 8, 4 bytes are left"),
        (
            vec![9, 8, 1, 1, 1, 0, 0, 0],
            "MADT: the entry of type 9 at offset 52 has length 8, 8 bytes are left",
        ),
        (vec![1, 2], "MADT: the entry of type 1 at offset 52 has length 2, 2 bytes are left"),
    ] {
        let memory = machine_of(&[(MADT, madt(&[local_apic(6, 1), last]))]);
        assert_eq!(memory.problem(), problem);
        assert_eq!(memory.read().expect("a root").processors, [enabled(6)]);
    }
    let far = vec![5, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x80];
    let memory = machine_of(&[(MADT, madt(&[far, local_apic(6, 1)]))]);
    assert_eq!(memory.problem(), "APIC at 0x8000000000000000: no such memory");
    assert_eq!(memory.read().expect("a root").processors, [enabled(6)]);
}

#[test]
fn there_is_an_end_to_everything() {
    let most = (MAX_TABLE_BYTES as usize - 44) / 16;
    let ids: Vec<_> = (0..most as u32).map(|id| x2apic(id, 1)).collect();
    let memory = machine_of(&[(MADT, madt(&ids))]);
    assert_eq!(memory.read().expect("a root").processors.len(), MAX_PROCESSORS);
    assert_eq!(memory.problem(), "more than 8192 processors, the rest is left out");

    let million: Vec<_> = (0..1_000_000).map(|id| x2apic(id, 1)).collect();
    let memory = machine_of(&[(MADT, madt(&million))]);
    assert_eq!(memory.problem(), "APIC at 0x2000000001: length 16000044, not 44 to 1048576");

    let many: Vec<_> = (0..300).map(|id| io_apic(0, id << 12, 0)).collect();
    let memory = machine_of(&[(MADT, madt(&many))]);
    assert_eq!(memory.problem(), "more than 256 I/O APICs, the rest is left out");

    // The root names itself over and over: the last entry is not looked at.
    let mut memory = machine_of(&[(MADT, madt(&[local_apic(1, 1)]))]);
    let mut addresses = vec![ROOT; MAX_TABLES];
    addresses.push(MADT);
    memory.put(ROOT, &xsdt(&addresses));
    assert_eq!(memory.problem(), "513 tables, only 512 are looked at");

    // A problem for each table: the first eight are told, others counted.
    let mut memory = machine_of(&[]);
    memory.put(ROOT, &xsdt(&(0..100).map(|page| (page << 12) + (1 << 50)).collect::<Vec<_>>()));
    let machine = memory.read().expect("a root");
    assert_eq!((machine.problems.first().len(), machine.problems.more()), (8, 92));
}
