//! The start-up code of the tiny Linux, out of its image as the build leaves it.
//!
//! What is known of it (arch/x86/include/asm/realmode.h, arch/x86/realmode): a blob at the start of a page, with a table of
//! offsets first; at its end a signature, and behind it two lists of places: of 16-bit segments, of 32-bit addresses.

use super::computer::Computer;
use crate::run::step;
use crate::{Outcome, SegmentName, State, run};
use std::path::{Path, PathBuf};
use std::vec::Vec;

const SIGNATURE: u32 = 0x65a2_2c82;
/// Where the blob is put.
const BASE: usize = 0x9_0000;
const PAGE: usize = 4096;
/// Largest blob that is looked for.
const LARGEST: usize = 16 * PAGE;
const CR4_PAE: u32 = 1 << 5;
const EFER: u64 = 0xd01;

fn kernel() -> Vec<u8> {
    let guests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../target/guest");
    let built =
        std::fs::read_dir(&guests).expect("the build's guests").map(|entry| entry.expect("an entry").path());
    let image = built.map(|dir| dir.join("vmlinux")).find(|path: &PathBuf| path.is_file()).expect("a kernel");
    std::fs::read(image).expect("readable")
}

fn long(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// The blob, put in its place, and the offset of the trampoline and of its parameters.
fn place(computer: &mut Computer) -> (usize, usize) {
    let image = kernel();
    let signature = SIGNATURE.to_le_bytes();
    let end = image.windows(4).position(|bytes| bytes == signature).expect("a signature") + 4;
    // The first page with a table whose trampoline begins a page of its own, and ends in the blob.
    let first = (end - LARGEST) / PAGE * PAGE;
    let is_table = |at: &usize| {
        let (text, read_only, trampoline, parameters) =
            (long(&image, *at), long(&image, at + 4), long(&image, at + 8), long(&image, at + 12));
        let size = (end - at) as u32;
        text < read_only
            && read_only < size
            && trampoline % 4096 == 0
            && trampoline != 0
            && parameters < size
            && parameters > trampoline
            && image[at + trampoline as usize] == 0xfa
    };
    let start = (first..end).step_by(PAGE).find(is_table).expect("a table");
    computer.put(BASE, &image[start..end]);
    let segments = long(&image, end) as usize;
    for number in 0..segments {
        let at = BASE + long(&image, end + 4 + number * 4) as usize;
        computer.put(at, &((BASE >> 4) as u16).to_le_bytes());
    }
    let list = end + 4 + segments * 4;
    for number in 0..long(&image, list) as usize {
        let at = BASE + long(&image, list + 4 + number * 4) as usize;
        let moved = computer.long(at) + BASE as u32;
        computer.put(at, &moved.to_le_bytes());
    }
    ((computer.long(BASE + 8)) as usize, computer.long(BASE + 12) as usize)
}

/// A processor of 64 bits with everything.
fn cpuid(leaf: u32) -> [u32; 4] {
    match leaf {
        0 => [0xd, u32::from_le_bytes(*b"Genu"), u32::from_le_bytes(*b"ntel"), u32::from_le_bytes(*b"ineI")],
        0x8000_0000 => [0x8000_0008, 0, 0, 0],
        1 => [0x306c3, 0, u32::MAX, u32::MAX],
        _ => [0, 0, u32::MAX, u32::MAX],
    }
}

#[test]
fn linux_s_own_code_goes_to_long_mode() {
    let mut computer = Computer::new(0x10_0000);
    computer.cpuid = cpuid;
    computer.msrs.push((0x1a0, 0));
    let (trampoline, parameters) = place(&mut computer);
    computer.put(parameters, &0xffff_ffff_8100_0060_u64.to_le_bytes());
    computer.put(parameters + 8, &EFER.to_le_bytes());
    computer.put(parameters + 16, &CR4_PAE.to_le_bytes());
    let start = State::started_at((trampoline >> 12) as u8);

    let mut state = start;
    assert_eq!(run(&mut state, &mut computer, 10_000), Ok(Outcome::Enterable), "{state:x?}");
    assert_eq!(state.cr0 & 1, 1);

    // The rest of the way, which is the processor's.
    let mut count = 0;
    while state.cr0 >> 31 == 0 {
        assert_eq!(step(&mut state, &mut computer), Ok(None), "{state:x?}");
        count += 1;
        assert!(count < 10_000, "no end: {state:x?}");
    }
    assert_eq!(state.efer, EFER & !0x400 | 0x400);
    assert_eq!(u64::from(CR4_PAE), state.cr4 & u64::from(CR4_PAE));
    assert_eq!(state.segments[SegmentName::Ss].base, 0);
    assert_eq!(state.obstacle(), None);
}
