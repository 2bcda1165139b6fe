//! The way of another processor of an SMP guest: from a start-up IPI to long mode, as kernels go it.

use super::computer::Computer;
use crate::run::step;
use crate::{Outcome, SegmentName, State, Table, run};

/// Where it starts.
const PAGE: u8 = 8;
const BASE: usize = 0x8000;
const EFER: u32 = 0xc000_0080;

/// CLI; WBINVD; data segments and stack from CS; a word that says it is there; a check of the processor by CPUID that
/// switches EFER.LME on; LIDT, LGDT with 32 bits; CR0.PE; a far jump through memory.
const CODE_16: [u8; 0x67] = [
    0xfa, 0x0f, 0x09, 0x8c, 0xc8, 0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0, 0x66, 0xc7, 0x06, 0x00, 0x02, 0xa5,
    0xa5, 0xa5, 0xa5, 0xbc, 0x00, 0x10, 0xb8, 0x02, 0x00, 0xe8, 0x24, 0x00, 0x09, 0xc0, 0x75, 0x1d, 0x66,
    0x0f, 0x01, 0x1e, 0x10, 0x02, 0x66, 0x0f, 0x01, 0x16, 0x18, 0x02, 0xba, 0x18, 0x00, 0x66, 0xb8, 0x01,
    0x00, 0x00, 0x00, 0x0f, 0x22, 0xc0, 0x66, 0xff, 0x2e, 0x20, 0x02, 0xf4, 0xeb, 0xfd, 0x66, 0x6a, 0x00,
    0x66, 0x9d, 0x66, 0x31, 0xc0, 0x0f, 0xa2, 0x66, 0x83, 0xf8, 0x01, 0x73, 0x12, 0x66, 0xb9, 0x80, 0x00,
    0x00, 0xc0, 0x0f, 0x32, 0x66, 0x0f, 0xba, 0xe8, 0x08, 0x0f, 0x30, 0x31, 0xc0, 0xc3, 0xb8, 0x01, 0x00,
    0xc3,
];

/// SS; the stack's base; DS, ES, FS, GS; LLDT; CR4.PAE; CR3; CR0.PG; a far jump.
const CODE_32: [u8; 0x36] = [
    0x8e, 0xd2, 0x81, 0xc4, 0x00, 0x80, 0x00, 0x00, 0x8e, 0xda, 0x8e, 0xc2, 0x8e, 0xe2, 0x8e, 0xea, 0x0f,
    0x00, 0x15, 0x30, 0x82, 0x00, 0x00, 0xb8, 0x20, 0x00, 0x00, 0x00, 0x0f, 0x22, 0xe0, 0xb8, 0x00, 0x90,
    0x00, 0x00, 0x0f, 0x22, 0xd8, 0xb8, 0x01, 0x00, 0x00, 0x80, 0x0f, 0x22, 0xc0, 0xea, 0x40, 0x81, 0x00,
    0x00, 0x10, 0x00,
];

/// Flat code of 32 and of 64 bits, flat data; none of them accessed.
const GDT: [u64; 4] = [0, 0x00cf_9a00_0000_ffff, 0x00af_9a00_0000_ffff, 0x00cf_9200_0000_ffff];

fn computer() -> Computer {
    let mut computer = Computer::new(0x10_0000);
    computer.cpuid = |leaf| [leaf, 0, 0, 0];
    computer.put(BASE, &CODE_16);
    computer.put(BASE + 0x100, &CODE_32);
    // An empty IDT; the GDT; where to go on.
    computer.put(BASE + 0x210, &[0; 6]);
    computer.put(BASE + 0x218, &[0x1f, 0, 0x40, 0x82, 0, 0]);
    computer.put(BASE + 0x220, &[0x00, 0x81, 0, 0, 0x08, 0]);
    for (number, descriptor) in GDT.into_iter().enumerate() {
        computer.put(BASE + 0x240 + number * 8, &descriptor.to_le_bytes());
    }
    computer
}

#[test]
fn a_started_processor_is_let_go_once_it_is_in_protected_mode() {
    let (mut computer, mut state) = (computer(), State::started_at(PAGE));
    assert_eq!(run(&mut state, &mut computer, 1000), Ok(Outcome::Enterable));
    assert_eq!(computer.long(BASE + 0x200), 0xa5a5_a5a5, "it has said that it is there");
    assert_eq!((state.cr0 & 1, state.rip), (1, 0x39), "behind the MOV that sets CR0.PE");
    assert_eq!(state.gdtr, Table { base: 0x8240, limit: 0x1f });
    assert_eq!(state.idtr, Table { base: 0, limit: 0 });
    assert_eq!(state.efer, 1 << 8);
    assert_eq!(state.general[4], 0x1000);
}

#[test]
fn the_rest_of_its_way_is_known_too() {
    let (mut computer, mut state) = (computer(), State::started_at(PAGE));
    for _ in 0..1000 {
        if state.cr0 >> 31 != 0 {
            break;
        }
        assert_eq!(step(&mut state, &mut computer), Ok(None), "{state:x?}");
    }
    assert_eq!((state.cr0, state.cr3, state.cr4), (0x8000_0011, 0x9000, 0x20));
    assert_eq!(state.efer, 1 << 8 | 1 << 10, "LMA with PG");
    assert_eq!(state.rip, 0x812f);
    let cs = state.segments[SegmentName::Cs];
    assert_eq!((cs.selector, cs.base, cs.limit, cs.rights), (8, 0, u32::MAX, 0xc09b));
    for name in [SegmentName::Ss, SegmentName::Ds, SegmentName::Es, SegmentName::Fs, SegmentName::Gs] {
        let segment = state.segments[name];
        assert_eq!((segment.selector, segment.base, segment.rights), (0x18, 0, 0xc093), "{name:?}");
    }
    assert_eq!(computer.memory[BASE + 0x240 + 8 + 5], 0x9b, "marked as accessed");
    assert_eq!(computer.memory[BASE + 0x240 + 16 + 5], 0x9a, "not used yet");
    assert_eq!(state.general[4], 0x9000);
    assert_eq!(state.obstacle(), None);
}

#[test]
fn a_processor_that_does_not_suit_halts() {
    let (mut computer, mut state) = (computer(), State::started_at(PAGE));
    computer.cpuid = |_| [1, 0, 0, 0];
    assert_eq!(run(&mut state, &mut computer, 1000), Ok(Outcome::Halted));
    assert_eq!((state.rip, state.efer), (0x3f, 0));
    assert_eq!(run(&mut state, &mut computer, 1000), Ok(Outcome::Halted), "it halts again");
}

#[test]
fn a_refused_msr_and_no_vectors_are_a_shutdown() {
    let (mut computer, mut state) = (computer(), State::started_at(PAGE));
    state.idtr.limit = 0;
    // MOV ECX, another number than EFER's.
    assert_eq!(EFER.to_le_bytes(), CODE_16[0x53..0x57]);
    computer.put(BASE + 0x53, &0xdead_u32.to_le_bytes());
    assert_eq!(run(&mut state, &mut computer, 1000), Ok(Outcome::Shutdown));
    assert_eq!(state.rip, 0x57, "RDMSR");
}
