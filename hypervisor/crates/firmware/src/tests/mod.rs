//! Synthesized images against a guest memory that refuses and records.

mod acpi;
mod bzimage;
mod elf;
mod elf64;
mod hostile;
mod images;
mod multiboot;

use crate::{Entry, Error, Guest, GuestWriter, Ram, WriteError, boot};
use addr::{Gpa, GpaRange};
use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;
use zerocopy::FromBytes;

pub(crate) const MIB: u64 = 1 << 20;

/// Sparse guest memory; a write outside RAM fails the test.
pub(crate) struct Memory {
    ram: Ram,
    writes: BTreeMap<u64, Vec<u8>>,
}

impl GuestWriter for Memory {
    fn write(&mut self, gpa: Gpa, bytes: &[u8]) -> Result<(), WriteError> {
        let range = GpaRange::sized(gpa, bytes.len() as u64).expect("a write past the address space");
        assert!(self.ram.contains(&range), "a write outside RAM: {range:?}");
        let previous = self.writes.insert(gpa.as_u64(), bytes.to_vec());
        assert!(previous.is_none_or(|old| old.is_empty()), "two writes at {gpa}");
        Ok(())
    }
}

impl Memory {
    pub(crate) fn new(bytes: u64) -> Self {
        Self { ram: Ram::new(bytes).unwrap(), writes: BTreeMap::new() }
    }

    /// What a guest reads there: zeros where nothing was written.
    pub(crate) fn bytes(&self, start: u64, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        for (&at, bytes) in &self.writes {
            for (offset, &byte) in bytes.iter().enumerate() {
                let index = (at + offset as u64).checked_sub(start);
                if let Some(slot) = index.and_then(|index| out.get_mut(index as usize)) {
                    *slot = byte;
                }
            }
        }
        out
    }

    pub(crate) fn read<T: FromBytes>(&self, start: u64) -> T {
        T::read_from_bytes(&self.bytes(start, size_of::<T>())).unwrap()
    }

    pub(crate) fn ram(&self) -> Ram {
        self.ram
    }
}

/// Boots `kernel` on `bytes` of RAM.
pub(crate) fn boot_on(
    bytes: u64,
    kernel: &[u8],
    initrd: Option<&[u8]>,
    append: &str,
) -> Result<(Entry, Memory), Error> {
    let mut memory = Memory::new(bytes);
    let guest = Guest { kernel, initrd, append, ram: memory.ram, vcpus: 1, balloon: false };
    boot(&guest, &mut memory).map(|entry| (entry, memory))
}

#[test]
fn ram_splits_around_the_device_hole() {
    let ram = Ram::new(5 << 30).unwrap();
    assert_eq!(ram.low(), GpaRange::new(Gpa::ZERO, Gpa::new(3 << 30)));
    assert_eq!(ram.high(), Some(GpaRange::new(Gpa::new(4 << 30), Gpa::new(6 << 30))));
    assert_eq!(ram.bytes(), 5 << 30);
    assert_eq!(Ram::new(3 << 30).unwrap().high(), None);
}

#[test]
fn impossible_ram_sizes_are_explained() {
    use alloc::string::ToString;
    let text = |bytes| Ram::new(bytes).unwrap_err().to_string();
    assert_eq!(text(3), "guest memory of 3 bytes: it must be at least 2097152 bytes");
    assert!(text((2 << 20) + 5).contains("multiple of 4096"));
    assert!(text(1 << 50).contains("at most"));
}

#[test]
fn unknown_files_are_refused() {
    assert_eq!(boot_on(64 * MIB, b"hello", None, "").err(), Some(Error::UnknownImage { bytes: 5 }));
}
