//! Firmware's ACPI tables from an enemy: any bytes, at several places of physical memory at once.
//!
//! ```text
//!   input = mended or not │ memory, the root pointer first
//! ```
//!
//! Whatever the tables say: each read lies in one piece, the work is bounded, no processor is there twice. Where the
//! tables add up (they are mended in half of the inputs, or nothing would get past the sums), the processors are those
//! that a second reader finds in the MADT that was read.
#![no_main]

use addr::HpaRange;
use arbitrary::{Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;
use startup::acpi::{AcpiError, MAX_IO_APICS, MAX_PROCESSORS, MAX_TABLES, Machine, PhysicalBytes};
use std::cell::RefCell;
use std::collections::BTreeMap;

/// Where the same bytes lie: as a BIOS has them, below 4 GiB and above.
const PLACES: [u64; 3] = [0xe_0000, 0x7fe0_0000, 0x12_3450_0000];

#[derive(Debug)]
struct Input {
    mended: bool,
    memory: Vec<u8>,
}

impl<'a> Arbitrary<'a> for Input {
    fn arbitrary(u: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        let mended = u.arbitrary()?;
        Ok(Self { mended, memory: u.bytes(u.len())?.to_vec() })
    }
}

/// Memory that keeps a list of what was read.
struct Memory {
    bytes: Vec<u8>,
    reads: RefCell<Vec<(usize, usize)>>,
}

impl Memory {
    /// The bytes' index of an address.
    fn index(&self, address: u64) -> Option<usize> {
        let offsets = PLACES.iter().filter_map(|&place| address.checked_sub(place));
        offsets.map(|offset| offset as usize).find(|&offset| offset < self.bytes.len())
    }
}

impl PhysicalBytes for Memory {
    fn bytes(&self, range: HpaRange) -> Option<&[u8]> {
        let start = self.index(range.start().as_u64())?;
        let end = start.checked_add(range.len() as usize)?;
        let found = self.bytes.get(start..end)?;
        self.reads.borrow_mut().push((start, end));
        Some(found)
    }
}

fuzz_target!(|input: Input| {
    let mut memory = Memory { bytes: input.memory, reads: RefCell::default() };
    if input.mended {
        mend_all(&mut memory);
    }
    let outcome = Machine::read(&memory, PLACES[0]);
    let reads = memory.reads.borrow();
    let read: usize = reads.iter().map(|(start, end)| end - start).sum();
    // Each table's header; pointer, both roots, FADT twice, MADT whole.
    assert!(reads.len() <= MAX_TABLES + 16, "{} reads", reads.len());
    assert!(read <= MAX_TABLES * 36 + 10 * memory.bytes.len(), "{read} bytes read");
    let machine = match outcome {
        Ok(machine) => machine,
        Err(error) => return check_error(&error),
    };
    machine.problems.first().iter().for_each(check_error);
    let mut ids: Vec<u32> = machine.processors.iter().map(|processor| processor.apic_id).collect();
    ids.sort_unstable();
    assert!(ids.len() <= MAX_PROCESSORS && ids.windows(2).all(|pair| pair[0] < pair[1]), "{ids:?}");
    assert!(machine.processors.iter().all(|processor| processor.enabled != processor.online_capable));
    assert!(machine.io_apics.len() <= MAX_IO_APICS && machine.enabled_processors() <= ids.len());
    let madt =
        reads.iter().find(|&&(start, end)| end - start >= 44 && memory.bytes[start..].starts_with(b"APIC"));
    let found = match madt {
        Some(&(start, end)) if sum(&memory.bytes[start..end]) == 0 => {
            processors(&memory.bytes[start + 44..end])
        }
        _ => BTreeMap::new(),
    };
    let told = machine.processors.iter().map(|processor| (processor.apic_id, processor.enabled)).collect();
    assert_eq!(found, told);
});

fn check_error(error: &AcpiError) {
    let text = error.to_string();
    assert!(!text.is_empty() && !text.contains(char::is_control), "{text:?}");
}

/// The processors that a MADT's entries name, and whether they are enabled: as far as its entries are in order.
fn processors(mut entries: &[u8]) -> BTreeMap<u32, bool> {
    let mut found = BTreeMap::new();
    while let [kind, length, ..] = *entries {
        let least = match kind {
            0 => 8,
            1 | 5 => 12,
            9 => 16,
            _ => 2,
        };
        let length = usize::from(length);
        if length < least || length > entries.len() {
            break;
        }
        let word = |at: usize| u32::from_le_bytes(entries[at..at + 4].try_into().expect("4 bytes"));
        let named = match kind {
            0 if entries[3] != 0xff => Some((u32::from(entries[3]), word(4))),
            9 if word(4) != u32::MAX => Some((word(4), word(8))),
            _ => None,
        };
        if let Some((id, flags)) = named.filter(|(_, flags)| flags & 3 != 0) {
            *found.entry(id).or_default() |= flags & 1 != 0;
        }
        entries = &entries[length..];
    }
    found
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

/// Makes everything add up that can be found from the root pointer, roots first.
fn mend_all(memory: &mut Memory) {
    if memory.bytes.len() < 36 {
        return;
    }
    memory.bytes[..8].copy_from_slice(b"RSD PTR ");
    mend(&mut memory.bytes[..20], 8);
    mend(&mut memory.bytes[..36], 32);
    for (at, size) in [(16, 4), (24, 8)] {
        let Some(root) = memory.index(number(&memory.bytes[at..at + size])) else { continue };
        let end = (root + length(memory, root)).min(memory.bytes.len());
        for entry in (root + 36..end).step_by(size).take(MAX_TABLES) {
            let table = memory.bytes.get(entry..entry + size).map(number);
            if let Some(table) = table.and_then(|table| memory.index(table)) {
                mend_table(memory, table);
            }
        }
        mend_table(memory, root);
    }
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn length(memory: &Memory, table: usize) -> usize {
    memory.bytes.get(table + 4..table + 8).map_or(0, |length| number(length) as usize)
}

fn mend_table(memory: &mut Memory, table: usize) {
    let end = table + length(memory, table);
    if let Some(bytes) = memory.bytes.get_mut(table..end).filter(|bytes| bytes.len() >= 36) {
        mend(bytes, 9);
    }
}

fn mend(bytes: &mut [u8], at: usize) {
    bytes[at] = bytes[at].wrapping_sub(sum(bytes));
}
