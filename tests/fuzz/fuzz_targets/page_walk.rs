//! A guest's page tables, as wild as they come, against a second walk that is written level by level.
//!
//! The walk reads only whole, aligned entries of guest memory, as many as the mode has levels at most, and it stops
//! where memory ends.
#![no_main]

use addr::{Gpa, Gva};
use arbitrary::{Arbitrary, Unstructured};
use emulate::{GuestMemory, PagingMode, PagingState, WalkError, translate};
use libfuzzer_sys::fuzz_target;
use std::cell::RefCell;
use std::collections::BTreeMap;

/// Bytes of guest RAM: tables are near each other, so that one is often used twice.
const RAM: u64 = 16 << 12;
const FRAME: u64 = 0x000f_ffff_ffff_f000;
const PRESENT: u64 = 1;
const PAGE_SIZE_BIT: u64 = 1 << 7;

#[derive(Arbitrary, Debug)]
struct Input {
    paging: bool,
    long: bool,
    pae: bool,
    pse: bool,
    root: Entry,
    linear: u64,
    entries: Vec<(Slot, Entry)>,
}

/// Where in RAM an entry lies, in units of 4 bytes: mostly at the start of a table.
#[derive(Debug)]
struct Slot(u64);

impl<'a> Arbitrary<'a> for Slot {
    fn arbitrary(u: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        let table = u64::from(u.int_in_range(0..=15u8)?) << 12;
        let index = if u.arbitrary()? { u.int_in_range(0..=3u16)? } else { u.int_in_range(0..=1023)? };
        Ok(Self(table + u64::from(index) * 4))
    }
}

/// An entry, mostly one that leads to another table.
#[derive(Debug)]
struct Entry(u64);

impl<'a> Arbitrary<'a> for Entry {
    fn arbitrary(u: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        if u.ratio(1, 4)? {
            return u.arbitrary().map(Self);
        }
        let flags = u.int_in_range(0..=0xfffu64)?;
        Ok(Self(u64::from(u.int_in_range(0..=17u8)?) << 12 | flags | PRESENT))
    }
}

/// RAM that counts the accesses.
struct Memory {
    words: BTreeMap<u64, u32>,
    reads: RefCell<Vec<(u64, usize)>>,
}

impl Memory {
    fn word(&self, at: u64) -> u64 {
        self.words.get(&at).copied().unwrap_or(0).into()
    }

    fn entry(&self, at: u64, width: u64) -> Option<u64> {
        let high = if width == 8 { self.word(at + 4) << 32 } else { 0 };
        (at + width <= RAM).then_some(high | self.word(at))
    }
}

impl GuestMemory for Memory {
    fn read(&self, gpa: Gpa, bytes: &mut [u8]) -> bool {
        self.reads.borrow_mut().push((gpa.as_u64(), bytes.len()));
        let Some(value) = self.entry(gpa.as_u64(), bytes.len() as u64) else { return false };
        bytes.copy_from_slice(&value.to_le_bytes()[..bytes.len()]);
        true
    }
}

fuzz_target!(|input: Input| {
    let mut memory = Memory { words: BTreeMap::new(), reads: RefCell::default() };
    for (Slot(at), Entry(value)) in &input.entries {
        memory.words.insert(*at, *value as u32);
        memory.words.insert(at + 4, (value >> 32) as u32);
    }
    let bit = |set: bool, number: u32| u64::from(set) << number;
    let state = PagingState {
        cr0: bit(input.paging, 31),
        cr3: input.root.0,
        cr4: bit(input.pae, 5) | bit(input.pse, 4),
        efer: bit(input.long, 10),
    };
    // Canonical, as the processor's own address would be.
    let linear = ((input.linear << 16) as i64 >> 16) as u64;
    let found = translate(&memory, &state, Gva::new(linear));
    assert_eq!(found.as_ref().ok().map(|gpa| gpa.as_u64()), walk(&memory, &state, linear), "{found:?}");

    let reads = memory.reads.borrow();
    let (levels, width) = match state.mode() {
        PagingMode::None => (0, 0),
        PagingMode::Bits32 => (2, 4),
        PagingMode::Pae => (3, 8),
        PagingMode::FourLevel => (4, 8),
    };
    assert!(reads.len() <= levels, "{reads:x?}");
    assert!(reads.iter().all(|&(at, len)| len == width && at % width as u64 == 0), "{reads:x?}");
    if let Err(WalkError::NotPresent { gva, entry } | WalkError::NotRam { gva, entry }) = found {
        assert_eq!(gva.as_u64(), linear);
        assert_eq!(reads.last().map(|&(at, _)| at), Some(entry.as_u64()), "it stopped elsewhere");
    }
});

/// The translation, mode by mode and level by level (SDM vol. 3A 4.3, 4.4.2, 4.5.4).
fn walk(memory: &Memory, state: &PagingState, linear: u64) -> Option<u64> {
    match state.mode() {
        PagingMode::None => Some(linear & 0xffff_ffff),
        PagingMode::Bits32 => walk_32_bit(memory, state, linear as u32),
        PagingMode::Pae => {
            let index = linear >> 30 & 3;
            let pointer = present(memory, (state.cr3 & 0xffff_ffe0) + index * 8)?;
            walk_directory(memory, pointer, linear & 0xffff_ffff)
        }
        PagingMode::FourLevel => {
            let pml4e = present(memory, (state.cr3 & FRAME) + (linear >> 39 & 511) * 8)?;
            let pdpte = present(memory, (pml4e & FRAME) + (linear >> 30 & 511) * 8)?;
            if pdpte & PAGE_SIZE_BIT != 0 {
                return Some(pdpte & 0x000f_ffff_c000_0000 | linear & 0x3fff_ffff);
            }
            walk_directory(memory, pdpte, linear)
        }
    }
}

fn walk_directory(memory: &Memory, pointer: u64, linear: u64) -> Option<u64> {
    let directory = present(memory, (pointer & FRAME) + (linear >> 21 & 511) * 8)?;
    if directory & PAGE_SIZE_BIT != 0 {
        return Some(directory & 0x000f_ffff_ffe0_0000 | linear & 0x1f_ffff);
    }
    let entry = present(memory, (directory & FRAME) + (linear >> 12 & 511) * 8)?;
    Some(entry & FRAME | linear & 0xfff)
}

fn walk_32_bit(memory: &Memory, state: &PagingState, linear: u32) -> Option<u64> {
    let entry = |at: u32| memory.entry(at.into(), 4).filter(|entry| entry & PRESENT != 0);
    let directory = entry((state.cr3 as u32 & 0xffff_f000) | linear >> 22 << 2)? as u32;
    if state.cr4 >> 4 & 1 != 0 && u64::from(directory) & PAGE_SIZE_BIT != 0 {
        // PSE-36: bits 20:13 go on top.
        let high = u64::from(directory >> 13 & 0xff) << 32;
        return Some(high | u64::from(directory & 0xffc0_0000 | linear & 0x3f_ffff));
    }
    let page = entry((directory & 0xffff_f000) | (linear >> 12 & 0x3ff) << 2)? as u32;
    Some(u64::from(page & 0xffff_f000 | linear & 0xfff))
}

fn present(memory: &Memory, at: u64) -> Option<u64> {
    memory.entry(at, 8).filter(|entry| entry & PRESENT != 0)
}
