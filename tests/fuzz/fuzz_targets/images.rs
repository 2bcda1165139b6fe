//! Kernels from an enemy: any file, started as bzImage, PVH ELF, multiboot image or ELF64 into a memory that records.
//!
//! ```text
//!   input = sizes of RAM, module and command line, processors │ the kernel's file
//! ```
//!
//! A refusal says something. A kernel that is accepted lies in RAM, apart from the firmware's data, its module and
//! everything else that was written; it is entered in itself, with descriptors and page tables that are there; and the
//! ACPI tables that it is told of add up.
#![no_main]

use addr::{Gpa, GpaRange, Gva};
use arbitrary::{Arbitrary, Unstructured};
use emulate::{GuestMemory, PagingState, translate};
use firmware::{Entry, Guest, GuestWriter, Mode, Ram, RegionKind, WriteError, layout, memory_map};
use libfuzzer_sys::fuzz_target;
use std::collections::BTreeMap;

/// Bytes of RAM that matter: the least, small ones, and what goes beyond the hole below 4 GiB.
const RAM: [u64; 6] = [2 << 20, 3 << 20, 16 << 20, 64 << 20, 3 << 30, 5 << 30];
/// What modules and command lines are made of.
static FILL: [u8; 1 << 16] = [b'x'; 1 << 16];

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    ram: RamSize,
    module: u16,
    command_line: u16,
    vcpus: u8,
    kernel: &'a [u8],
}

#[derive(Debug)]
struct RamSize(u64);

impl<'a> Arbitrary<'a> for RamSize {
    fn arbitrary(u: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        let choice = usize::from(u.arbitrary::<u8>()?);
        let pages = u64::from(u.arbitrary::<u16>()?);
        Ok(Self(RAM.get(choice).copied().unwrap_or(pages << 12)))
    }
}

/// Guest memory that keeps what is written, and refuses nothing but holes.
struct Recorder {
    ram: Ram,
    writes: BTreeMap<u64, Vec<u8>>,
}

impl GuestWriter for Recorder {
    fn write(&mut self, gpa: Gpa, bytes: &[u8]) -> Result<(), WriteError> {
        let range = GpaRange::sized(gpa, bytes.len() as u64).expect("a write past the address space");
        assert!(self.ram.contains(&range), "a write outside RAM: {range:?}");
        if !bytes.is_empty() {
            let below = self.writes.range(..range.end().as_u64()).next_back();
            let apart = below.is_none_or(|(at, bytes)| at + bytes.len() as u64 <= gpa.as_u64());
            assert!(apart, "{range:?} is written twice");
            self.writes.insert(gpa.as_u64(), bytes.to_vec());
        }
        Ok(())
    }
}

impl GuestMemory for Recorder {
    fn read(&self, gpa: Gpa, bytes: &mut [u8]) -> bool {
        let Some(range) = GpaRange::sized(gpa, bytes.len() as u64) else { return false };
        bytes.fill(0);
        for (&at, written) in self.writes.range(..range.end().as_u64()).rev().take(bytes.len()) {
            for (offset, byte) in bytes.iter_mut().enumerate() {
                let index = (gpa.as_u64() + offset as u64).checked_sub(at);
                if let Some(found) = index.and_then(|index| written.get(index as usize)) {
                    *byte = *found;
                }
            }
        }
        self.ram.contains(&range)
    }
}

fuzz_target!(|input: Input<'_>| {
    let RamSize(bytes) = input.ram;
    let Ok(ram) = Ram::new(bytes) else { return };
    assert_eq!(ram.bytes(), bytes);
    let module = &FILL[..usize::from(input.module)];
    let append = std::str::from_utf8(&FILL[..usize::from(input.command_line)]).expect("letters");
    let initrd = (!module.is_empty()).then_some(module);
    let guest = Guest {
        kernel: input.kernel,
        initrd,
        append,
        ram,
        vcpus: input.vcpus.into(),
        balloon: input.vcpus > 1,
    };
    let mut memory = Recorder { ram, writes: BTreeMap::new() };
    match firmware::boot(&guest, &mut memory) {
        Ok(entry) => {
            check_entry(&entry, &memory);
            check_map(&guest, &memory);
            check_acpi(&memory);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});

/// The first processor starts in the kernel, with its tables in place.
fn check_entry(entry: &Entry, memory: &Recorder) {
    let rip = Gpa::try_new(entry.rip).expect("an entry point in the address space");
    assert!(memory.ram.low().contains(rip), "entry outside RAM");
    assert!(!firmware_data().iter().any(|range| range.contains(rip)), "entry in the firmware's data");
    let mut descriptors = [0; 5 * 8];
    assert_eq!(usize::from(entry.gdt.limit) + 1, descriptors.len());
    assert!(memory.read(entry.gdt.base, &mut descriptors));
    for segment in [entry.code, entry.data, entry.task] {
        let at = usize::from(segment.selector);
        assert!(descriptors[at..at + 8].iter().any(|&byte| byte != 0), "no descriptor {at:#x}");
    }
    if let Mode::Long64 { cr3 } = entry.mode {
        let state = PagingState { cr0: 1 << 31, cr3: cr3.as_u64(), cr4: 1 << 5, efer: 1 << 10 };
        let end = memory.ram.low().end().as_u64();
        for address in [0, entry.rip, entry.rsi, end - 1] {
            assert_eq!(translate(memory, &state, Gva::new(address)), Ok(Gpa::new(address)));
        }
    }
}

/// What a kernel must not lie over.
fn firmware_data() -> [GpaRange; 2] {
    let boot_data_end = layout::COMMAND_LINE.add(layout::COMMAND_LINE_BYTES);
    [GpaRange::new(layout::GDT, boot_data_end), GpaRange::new(layout::EBDA, layout::ONE_MIB)]
}

/// The map is in order, promises no memory that is not there, and no usable memory holds what must be kept.
fn check_map(guest: &Guest<'_>, memory: &Recorder) {
    let map = memory_map(&guest.ram);
    for pair in map.windows(2) {
        assert!(pair[0].range.end() <= pair[1].range.start(), "{pair:?}");
    }
    for region in &map {
        assert!(memory.ram.contains(&region.range), "{region:?} is no RAM");
    }
    let usable = |range: &GpaRange| {
        map.iter().any(|region| region.kind == RegionKind::Usable && region.range.contains_span(range))
    };
    let [_, firmware] = firmware_data();
    for (&at, bytes) in &memory.writes {
        let range = GpaRange::sized(Gpa::new(at), bytes.len() as u64).expect("checked");
        assert!(usable(&range) || firmware.contains_span(&range), "{range:?} is not the guest's");
    }
    if let Some(module) = guest.initrd {
        let found = memory.writes.iter().find(|(at, bytes)| *bytes == module && *at % 4096 == 0);
        let (&at, bytes) = found.expect("the module is nowhere");
        let range = GpaRange::sized(Gpa::new(at), bytes.len() as u64).expect("checked");
        assert!(usable(&range), "the module at {range:?} is not the guest's");
    }
}

/// RSDP, XSDT and the tables that it names: checksums and lengths.
fn check_acpi(memory: &Recorder) {
    let rsdp = memory.bytes(layout::ACPI.as_u64(), 36);
    assert_eq!(&rsdp[..8], b"RSD PTR ");
    assert_eq!((sum(&rsdp[..20]), sum(&rsdp)), (0, 0), "RSDP");
    let xsdt = memory.table(u64::from_le_bytes(rsdp[24..32].try_into().expect("8 bytes")));
    let entries = xsdt[36..].chunks_exact(8);
    assert!(entries.len() >= 2, "FADT and MADT");
    for entry in entries {
        memory.table(u64::from_le_bytes(entry.try_into().expect("8 bytes")));
    }
}

impl Recorder {
    fn bytes(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        assert!(self.read(Gpa::new(at), &mut bytes), "{at:#x} is no RAM");
        bytes
    }

    /// An ACPI table, whose bytes add up to 0.
    fn table(&self, at: u64) -> Vec<u8> {
        let header = self.bytes(at, 36);
        let len = u32::from_le_bytes(header[4..8].try_into().expect("4 bytes")) as usize;
        assert!((36..0x1_0000).contains(&len), "a table of {len} bytes at {at:#x}");
        let table = self.bytes(at, len);
        assert_eq!(sum(&table), 0, "checksum of the table at {at:#x}");
        table
    }
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}
