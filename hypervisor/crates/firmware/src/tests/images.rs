//! Kernels made of a few bytes.

use crate::boot_params::SetupHeader;
use alloc::vec;
use alloc::vec::Vec;
use zerocopy::{FromZeros, IntoBytes};

/// Sectors of real-mode code in [`bzimage`].
pub(crate) const SETUP_SECTS: u8 = 3;
/// Bytes of protected-mode code in [`bzimage`].
pub(crate) const CODE_BYTES: usize = 0x1000;

/// The setup header of a current, relocatable kernel with a 64-bit entry.
pub(crate) fn setup_header() -> SetupHeader {
    let mut header = SetupHeader::new_zeroed();
    header.setup_sects = SETUP_SECTS;
    header.syssize = (CODE_BYTES as u32 / 16).into();
    header.boot_flag = 0xaa55.into();
    header.jump = [0xeb, 0x6a];
    header.magic = *b"HdrS";
    header.version = 0x20f.into();
    header.loadflags = 1;
    header.initrd_addr_max = 0x7fff_ffff.into();
    header.kernel_alignment = 0x20_0000.into();
    header.relocatable_kernel = 1;
    header.xloadflags = 1.into();
    header.cmdline_size = 2047.into();
    header.pref_address = 0x100_0000.into();
    header.init_size = 0x30_0000.into();
    header
}

/// A bzImage with this header; its code is all 0x90.
pub(crate) fn bzimage(header: &SetupHeader) -> Vec<u8> {
    let mut file = vec![0; (usize::from(SETUP_SECTS) + 1) * 512];
    file[0x1f1..0x1f1 + size_of::<SetupHeader>()].copy_from_slice(header.as_bytes());
    file.resize(file.len() + CODE_BYTES, 0x90);
    file
}

/// What an ELF of one segment says.
#[derive(Clone, Copy)]
pub(crate) struct ElfSpec {
    pub(crate) entry: u64,
    pub(crate) vaddr: u64,
    pub(crate) paddr: u64,
    pub(crate) memory: u64,
    pub(crate) pvh: Option<u32>,
    pub(crate) multiboot_flags: Option<u32>,
}

/// Bytes of a synthesized ELF; its one segment is the whole file.
pub(crate) const ELF_BYTES: usize = 0x400;
/// Where its PVH note lies.
const NOTE: usize = 0x200;
/// Where its multiboot header lies.
const MULTIBOOT: usize = 0x300;

fn mark(file: &mut [u8], spec: &ElfSpec) {
    if let Some(entry) = spec.pvh {
        for (index, word) in [4, 4, 18, u32::from_le_bytes(*b"Xen\0"), entry].iter().enumerate() {
            file[NOTE + index * 4..][..4].copy_from_slice(&u32::to_le_bytes(*word));
        }
    }
    if let Some(flags) = spec.multiboot_flags {
        let checksum = 0u32.wrapping_sub(0x1bad_b002).wrapping_sub(flags);
        for (index, word) in [0x1bad_b002, flags, checksum].iter().enumerate() {
            file[MULTIBOOT + index * 4..][..4].copy_from_slice(&u32::to_le_bytes(*word));
        }
    }
}

/// A little-endian ELF32 for i386.
pub(crate) fn elf32(spec: &ElfSpec) -> Vec<u8> {
    let mut file = Vec::from(*b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x03\0\x01\0\0\0");
    let mut words = |words: &[u32]| file.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    // e_entry, e_phoff, e_shoff, e_flags; then six halves: e_ehsize .. e_shstrndx.
    words(&[spec.entry as u32, 52, 0, 0, 52 | 32 << 16, 2 | 40 << 16, 0]);
    let size = ELF_BYTES as u32;
    words(&[1, 0, spec.vaddr as u32, spec.paddr as u32, size, spec.memory as u32, 7, 0x1000]);
    words(&[4, NOTE as u32, 0, 0, 20, 20, 4, 4]);
    file.resize(ELF_BYTES, 0xcc);
    mark(&mut file, spec);
    file
}

/// A little-endian ELF64 for x86-64.
pub(crate) fn elf64(spec: &ElfSpec) -> Vec<u8> {
    let mut file = Vec::from(*b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0");
    let mut words = |words: &[u64]| file.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    // e_entry, e_phoff, e_shoff; then e_flags and six halves.
    words(&[spec.entry, 64, 0, 64 << 32 | 56 << 48, 2 | 64 << 16]);
    let size = ELF_BYTES as u64;
    words(&[1 | 7 << 32, 0, spec.vaddr, spec.paddr, size, spec.memory, 0x1000]);
    words(&[4 | 4 << 32, NOTE as u64, 0, 0, 20, 20, 4]);
    file.resize(ELF_BYTES, 0xcc);
    mark(&mut file, spec);
    file
}

/// One segment at 2 MiB with 1 KiB of bss, entered at its second half; no note, no header.
pub(crate) fn plain() -> ElfSpec {
    ElfSpec {
        entry: 0x20_0200,
        vaddr: 0x20_0000,
        paddr: 0x20_0000,
        memory: 0x800,
        pvh: None,
        multiboot_flags: None,
    }
}
