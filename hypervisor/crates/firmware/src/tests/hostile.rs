//! Files from an enemy: nothing panics, and nothing is written outside RAM (the memory asserts that).

use super::images::{ElfSpec, bzimage, elf32, elf64, plain, setup_header};
use super::{MIB, Memory};
use crate::{Guest, GuestWriter, WriteError, boot};
use addr::Gpa;
use alloc::string::ToString;
use alloc::vec::Vec;
use proptest::prelude::{Just, Strategy, any, prop_oneof, proptest};
use proptest::{collection, sample};

/// As [`Memory`], but a hostile file may write a place twice.
struct Bounds(Memory);

impl GuestWriter for Bounds {
    fn write(&mut self, gpa: Gpa, bytes: &[u8]) -> Result<(), WriteError> {
        self.0.writes.clear();
        self.0.write(gpa, bytes)
    }
}

fn survive(kernel: &[u8], initrd: Option<&[u8]>) {
    let memory = Memory::new(32 * MIB);
    let guest = Guest { kernel, initrd, append: "a=b", ram: memory.ram, vcpus: 1, balloon: false };
    if let Err(error) = boot(&guest, &mut Bounds(memory)) {
        assert!(!error.to_string().is_empty());
    }
}

fn seeds() -> impl Strategy<Value = Vec<u8>> {
    let spec = ElfSpec { pvh: Some(0x20_0100), ..plain() };
    let multiboot = ElfSpec { multiboot_flags: Some(3), ..plain() };
    let flat = ElfSpec { multiboot_flags: Some(1 << 16), ..plain() };
    prop_oneof![
        Just(bzimage(&setup_header())),
        Just(elf32(&spec)),
        Just(elf64(&spec)),
        Just(elf64(&plain())),
        Just(elf32(&multiboot)),
        Just(elf32(&flat)),
    ]
}

/// A byte that headers react to.
fn bytes() -> impl Strategy<Value = u8> {
    prop_oneof![any::<u8>(), sample::select(&[0u8, 1, 0x7f, 0x80, 0xff][..])]
}

proptest! {
    #[test]
    fn random_bytes(file in collection::vec(any::<u8>(), 0..4096)) {
        survive(&file, None);
    }

    #[test]
    fn mutated_headers(
        mut file in seeds(),
        edits in collection::vec((any::<sample::Index>(), bytes()), 1..12),
        near in 0usize..3,
        cut in any::<Option<sample::Index>>(),
    ) {
        // The fields of bzImage, ELF and multiboot lie in different places.
        let window = [0x1f1..0x268, 0..0x100, 0x300..0x320][near].clone();
        for (index, byte) in edits {
            file[window.start + index.index(window.len())] = byte;
        }
        if let Some(cut) = cut {
            file.truncate(cut.index(file.len()));
        }
        survive(&file, Some(&[1; 5000]));
    }
}
