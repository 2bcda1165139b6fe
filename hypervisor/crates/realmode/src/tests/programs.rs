//! What the comparison with another processor does not reach: faults, interrupts, ports, tables, bounds.

use super::computer::{Beyond, Computer};
use crate::run::step;
use crate::{Blocking, Outcome, Segment, SegmentName, State, Table, Trouble, interrupt, run};
use std::string::ToString;
use std::vec;

const CODE: usize = 0x8000;
/// Each vector's handler is at 0x700 and its number.
const HANDLERS: usize = 0x700;

/// Code at 0800:0000, a stack below 0x7000, a vector table.
fn begin(code: &[u8]) -> (Computer, State) {
    let mut computer = Computer::new(0x20_0000);
    computer.put(CODE, code);
    for vector in 0..256 {
        computer.put(vector * 4, &((HANDLERS + vector) as u16).to_le_bytes());
    }
    let mut state = State::started_at(8);
    state.general[4] = 0x7000;
    (computer, state)
}

fn steps(state: &mut State, computer: &mut Computer, count: u32) {
    assert_eq!(run(state, computer, count), Ok(Outcome::Spent), "{state:x?}");
}

/// That a fault has come, at the address of the instruction that caused it.
fn assert_fault(state: &State, computer: &Computer, vector: u64, rip: u16) {
    assert_eq!(state.rip, 0x700 + vector, "{state:x?}");
    assert_eq!(state.segments[SegmentName::Cs].base, 0);
    assert_eq!((computer.word(0x6ffa), computer.word(0x6ffc)), (rip, 0x800), "IP and CS on the stack");
    assert_eq!(state.general[4], 0x6ffa);
}

#[test]
fn beyond_the_limit_there_is_a_fault_and_nothing_else() {
    // NOP; MOV AX, [BX]
    let (mut computer, mut state) = begin(&[0x90, 0x8b, 0x07]);
    state.general[3] = 0xffff;
    steps(&mut state, &mut computer, 2);
    assert_fault(&state, &computer, 13, 1);
    // POP AX, behind the last byte of the stack: #SS, whose own push works again.
    let (mut computer, mut state) = begin(&[0x58]);
    state.general[4] = 0xffff;
    steps(&mut state, &mut computer, 1);
    assert_eq!((state.rip, state.general[4]), (0x70c, 0xfff9));
    // A jump to where the segment has ended.
    let (mut computer, mut state) = begin(&[0x66, 0xe9, 0, 0, 1, 0]);
    steps(&mut state, &mut computer, 1);
    assert_fault(&state, &computer, 13, 0);
}

#[test]
fn code_ends_with_its_segment() {
    let (mut computer, mut state) = begin(&[]);
    computer.put(CODE + 0xffff, &[0x90]);
    state.rip = 0xffff;
    steps(&mut state, &mut computer, 2);
    assert_fault(&state, &computer, 13, 0);
}

#[test]
fn a_segment_that_was_made_large_stays_large() {
    // LGDT; CR0.PE on; MOV DS, 8; CR0.PE off; MOV DS, 0x10; MOV AL, [EBX]
    let (mut computer, mut state) = begin(&[
        0x0f, 0x01, 0x16, 0x00, 0x01, 0x0f, 0x20, 0xc0, 0x0c, 1, 0x0f, 0x22, 0xc0, 0xbb, 8, 0, 0x8e, 0xdb,
        0x24, 0xfe, 0x0f, 0x22, 0xc0, 0xbb, 0x10, 0, 0x8e, 0xdb, 0x66, 0xbb, 0, 0, 0x10, 0, 0x67, 0x8a, 0x03,
    ]);
    state.segments[SegmentName::Ds].base = CODE as u64;
    computer.put(CODE + 0x100, &[0x0f, 0, 0, 0x90, 0, 0]);
    computer.put(0x9008, &0x00cf_9200_0000_ffff_u64.to_le_bytes());
    computer.put(0x10_0100, &[0x77]);
    for _ in 0..12 {
        assert_eq!(step(&mut state, &mut computer), Ok(None));
    }
    assert_eq!(state.gdtr, Table { base: 0x9000, limit: 15 });
    assert_eq!(state.general[0] & 0xff, 0x77);
    let ds = state.segments[SegmentName::Ds];
    assert_eq!(ds, Segment { selector: 0x10, base: 0x100, limit: u32::MAX, rights: 0xc093 });
}

#[test]
fn interrupts_go_through_the_table_and_come_back() {
    // STI; INT 0x40
    let (mut computer, mut state) = begin(&[0xfb, 0xcd, 0x40]);
    // IRET
    computer.put(0x740, &[0xcf]);
    steps(&mut state, &mut computer, 1);
    assert_eq!(state.blocking, Blocking::Sti);
    steps(&mut state, &mut computer, 1);
    assert_fault(&state, &computer, 0x40, 3);
    assert_eq!((computer.word(0x6ffe), state.rflags), (0x202, 2), "IF is off in the handler");
    assert_eq!(state.blocking, Blocking::None);
    steps(&mut state, &mut computer, 1);
    assert_eq!((state.rip, state.rflags, state.general[4]), (3, 0x202, 0x7000));
    // From outside.
    assert_eq!(interrupt(&mut state, &mut computer, 0x20, None), Ok(true));
    assert_fault(&state, &computer, 0x20, 3);
    state.idtr.limit = 0;
    assert_eq!(interrupt(&mut state, &mut computer, 0x20, None), Ok(false), "a triple fault");
}

#[test]
fn nmis_wait_for_an_iret() {
    // NOP; and a handler: NOP; IRET
    let (mut computer, mut state) = begin(&[0x90]);
    computer.put(0x702, &[0x90, 0xcf]);
    assert_eq!(interrupt(&mut state, &mut computer, 2, None), Ok(true));
    state.nmis_blocked = true;
    steps(&mut state, &mut computer, 1);
    assert!(state.nmis_blocked, "{state:x?}");
    steps(&mut state, &mut computer, 1);
    assert!(!state.nmis_blocked && state.rip == 0, "{state:x?}");
}

#[test]
fn exceptions_on_their_way_bring_their_error_codes() {
    let (mut computer, mut state) = begin(&[]);
    assert_eq!(interrupt(&mut state, &mut computer, 13, Some(0x50)), Ok(true));
    assert_eq!(state.general[4], 0x6ffa, "none in real mode");
    // Flat code, and an interrupt gate of 32 bits for #GP.
    computer.put(0x5008, &0x00cf_9b00_0000_ffff_u64.to_le_bytes());
    computer.put(0x4000 + 13 * 8, &0x0000_8e00_0008_0713_u64.to_le_bytes());
    (state.gdtr, state.idtr) = (Table { base: 0x5000, limit: 15 }, Table { base: 0x4000, limit: 0x7ff });
    state.cr0 |= 1;
    assert_eq!(interrupt(&mut state, &mut computer, 13, Some(0x50)), Ok(true));
    assert_eq!((state.rip, state.general[4]), (0x713, 0x6fea));
    assert_eq!(computer.long(0x6fea), 0x50);
}

#[test]
fn single_steps() {
    // PUSH 0x102; POPF; NOP
    let (mut computer, mut state) = begin(&[0x68, 0x02, 0x01, 0x9d, 0x90]);
    steps(&mut state, &mut computer, 2);
    assert_eq!(state.rip, 4, "TF holds from the next instruction on");
    steps(&mut state, &mut computer, 1);
    assert_fault(&state, &computer, 1, 5);
    assert_eq!(state.rflags & 0x100, 0);
}

#[test]
fn ports() {
    // IN AL, DX; IN EAX, 0x71; OUT 0x80, AL; OUT DX, AX; INSW; OUTSB
    let (mut computer, mut state) = begin(&[0xec, 0x66, 0xe5, 0x71, 0xe6, 0x80, 0xef, 0x6d, 0x6e]);
    computer.answer = 0x8765_4321;
    computer.put(0x500, &[0x5a]);
    (state.general[0], state.general[2]) = (0x1111_1111, 0x3f8);
    (state.general[6], state.general[7]) = (0x500, 0x600);
    steps(&mut state, &mut computer, 1);
    assert_eq!(state.general[0], 0x1111_1121);
    steps(&mut state, &mut computer, 5);
    assert_eq!(computer.ports, [(0x80, 1, 0x21), (0x3f8, 2, 0x4321), (0x3f8, 1, 0x5a)]);
    assert_eq!(computer.word(0x600), 0x4321);
    assert_eq!((state.general[6], state.general[7]), (0x501, 0x602));
}

#[test]
fn a_long_repetition_is_many_steps() {
    // REP STOSB; HLT
    let (mut computer, mut state) = begin(&[0xf3, 0xaa, 0xf4]);
    (state.general[0], state.general[1], state.general[7]) = (0xee, 0x1000, 0x9000);
    steps(&mut state, &mut computer, 0xfff);
    assert_eq!((state.general[1], state.rip), (1, 0));
    computer.wanted = true;
    assert_eq!(run(&mut state, &mut computer, 10), Ok(Outcome::Wanted));
    computer.wanted = false;
    assert_eq!(run(&mut state, &mut computer, 10), Ok(Outcome::Halted));
    assert_eq!((computer.memory[0x9000], computer.memory[0x9fff], computer.memory[0xa000]), (0xee, 0xee, 0));
    assert_eq!(state.rip, 3);
}

#[test]
fn what_is_not_known_ends_the_guest_and_says_so() {
    // NOP; FNINIT
    let (mut computer, mut state) = begin(&[0x90, 0xdb, 0xe3]);
    let trouble = run(&mut state, &mut computer, 10).unwrap_err();
    assert!(matches!(trouble, Trouble::Unknown { selector: 0x800, rip: 1, len: 2, .. }));
    assert_eq!(trouble.to_string(), "no emulation of the instruction at 0800:1, [db, e3]");
    assert_eq!(state.rip, 1);
    // MOV AL, [EBX], where there is nothing
    let (mut computer, mut state) = begin(&[0x67, 0x8a, 0x03]);
    (state.general[3], state.segments[SegmentName::Ds].limit) = (0x20_0000, u32::MAX);
    let before = state;
    assert_eq!(run(&mut state, &mut computer, 10), Err(Trouble::End(Beyond(0x20_0000))));
    assert_eq!(state, before);
}

#[test]
fn tables_and_status_word() {
    // LGDT with 16 bits; SGDT; LMSW AX; then LMSW cannot clear PE
    let (mut computer, mut state) = begin(&[
        0x0f, 0x01, 0x16, 0x00, 0x05, 0x0f, 0x01, 0x06, 0x10, 0x05, 0x0f, 0x01, 0xf0, 0x0f, 0x01, 0xf3,
    ]);
    computer.put(0x500, &[0x34, 0x12, 0xdd, 0xcc, 0xbb, 0xaa]);
    state.general[0] = 0x9;
    // RPL 1 of SS keeps the processor from taking over.
    state.segments[SegmentName::Ss].selector = 1;
    steps(&mut state, &mut computer, 2);
    assert_eq!(state.gdtr, Table { base: 0xbb_ccdd, limit: 0x1234 });
    assert_eq!(computer.memory[0x510..0x516], [0x34, 0x12, 0xdd, 0xcc, 0xbb, 0]);
    steps(&mut state, &mut computer, 1);
    assert_eq!(state.cr0, 0x19);
    steps(&mut state, &mut computer, 1);
    assert_eq!(state.cr0, 0x11);
}

#[test]
fn another_processor_may_be_faster() {
    // LOCK INC word [0x500]; XCHG [0x500], AL
    let (mut computer, mut state) = begin(&[0xf0, 0xff, 0x06, 0x00, 0x05, 0x86, 0x06, 0x00, 0x05]);
    computer.contended = 2;
    steps(&mut state, &mut computer, 2);
    assert_eq!((state.rip, computer.word(0x500)), (0, 0), "changed twice meanwhile, by nobody else's will");
    steps(&mut state, &mut computer, 1);
    assert_eq!((state.rip, computer.word(0x500)), (5, 1));
    (state.general[0], computer.contended) = (0x55, 1);
    steps(&mut state, &mut computer, 2);
    assert_eq!((state.general[0], computer.word(0x500)), (0x11, 0x55));
}

#[test]
fn bits_lie_on_both_sides_of_an_operand() {
    // BTS [BX], AX
    let (mut computer, mut state) = begin(&[0x0f, 0xab, 0x07]);
    (state.general[0], state.general[3]) = (0xffff, 0x500);
    steps(&mut state, &mut computer, 1);
    assert_eq!((computer.word(0x4fe), computer.word(0x500)), (0x8000, 0));
}

/// Protected mode, with a stack that keeps it from being entered.
fn protected(code: &[u8]) -> (Computer, State) {
    let (mut computer, mut state) = begin(code);
    state.cr0 |= 1;
    state.segments[SegmentName::Ss].selector = 1;
    state.gdtr = Table { base: 0x1000, limit: 0x3f };
    state.idtr = Table { base: 0x2000, limit: 0x7ff };
    let descriptors: [u64; 8] = [
        0,
        0x0000_9a00_0000_ffff,
        0x0000_9200_0000_ffff,
        0x0000_1200_0000_ffff,
        0x0000_9000_0000_ffff,
        0x0000_9800_0000_ffff,
        0x0000_8900_9000_0067,
        0x0000_9600_0000_0fff,
    ];
    for (number, descriptor) in descriptors.into_iter().enumerate() {
        computer.put(0x1000 + number * 8, &descriptor.to_le_bytes());
    }
    for vector in 0..32 {
        let offset = ((HANDLERS + vector) as u16).to_le_bytes();
        computer.put(0x2000 + vector * 8, &[offset[0], offset[1], 8, 0, 0, 0x86, 0, 0]);
    }
    (computer, state)
}

#[test]
fn segments_are_checked_in_protected_mode() {
    // MOV DS, AX
    let load = |selector: u64| {
        let (mut computer, mut state) = protected(&[0x8e, 0xd8]);
        state.general[0] = selector;
        assert_eq!(step(&mut state, &mut computer), Ok(None));
        (state.rip, computer.word(0x6ff8), state.segments[SegmentName::Ds])
    };
    let (rip, _, ds) = load(0x10);
    assert_eq!((rip, ds), (2, Segment { selector: 0x10, base: 0, limit: 0xffff, rights: 0x93 }));
    let (rip, _, ds) = load(3);
    assert_eq!((rip, ds.selector, ds.rights), (2, 3, Segment::UNUSABLE), "null");
    // The vector, and the error code on the stack.
    assert_eq!((load(0x18).0, load(0x18).1), (0x70b, 0x18), "not present");
    assert_eq!((load(0x28).0, load(0x28).1), (0x70d, 0x28), "code that cannot be read");
    assert_eq!((load(0x30).0, load(0x30).1), (0x70d, 0x30), "a TSS");
    assert_eq!((load(0x13).0, load(0x13).1), (0x70d, 0x10), "RPL above DPL");
    assert_eq!((load(0x40).0, load(0x40).1), (0x70d, 0x40), "beyond the table");
    assert_eq!((load(0x14).0, load(0x14).1), (0x70d, 0x14), "no LDT");
}

#[test]
fn rights_count_in_protected_mode() {
    // MOV DS, AX; MOV [BX], AL
    let store = |selector: u64, at: u64| {
        let (mut computer, mut state) = protected(&[0x8e, 0xd8, 0x88, 0x07]);
        (state.general[0], state.general[3]) = (selector, at);
        assert_eq!(step(&mut state, &mut computer), Ok(None));
        assert_eq!(step(&mut state, &mut computer), Ok(None));
        state.rip
    };
    assert_eq!(store(0x10, 0x500), 4);
    assert_eq!(store(0x20, 0x500), 0x70d, "read-only");
    assert_eq!(store(0x08, 0x500), 0x70d, "code");
    assert_eq!(store(0, 0x500), 0x70d, "null");
    assert_eq!(store(0x38, 0x1000), 4, "above the limit of what expands down");
    assert_eq!(store(0x38, 0xfff), 0x70d, "below it");
}

#[test]
fn a_task_register_becomes_busy() {
    // LTR AX
    let (mut computer, mut state) = protected(&[0x0f, 0x00, 0xd8]);
    state.general[0] = 0x30;
    steps(&mut state, &mut computer, 1);
    assert_eq!(state.tr, Segment { selector: 0x30, base: 0x9000, limit: 0x67, rights: 0x8b });
    assert_eq!(computer.memory[0x1035], 0x8b);
    // In real mode there is none.
    let (mut computer, mut state) = begin(&[0x0f, 0x00, 0xd8]);
    steps(&mut state, &mut computer, 1);
    assert_fault(&state, &computer, 6, 0);
}

#[test]
fn gates_of_other_kinds_end_the_guest() {
    let (mut computer, mut state) = protected(&[0x0f, 0x0b]);
    // A task gate for #UD.
    computer.put(0x2000 + 6 * 8 + 5, &[0x85]);
    let trouble = run(&mut state, &mut computer, 1);
    assert_eq!(trouble, Err(Trouble::Undeliverable { vector: 6, rip: 0 }));
}

/// With paging: the first nine pages where they are.
fn paged(code: &[u8]) -> (Computer, State) {
    let (mut computer, mut state) = protected(code);
    computer.put(0x3000, &0x4003_u32.to_le_bytes());
    for page in 0..9_u32 {
        computer.put(0x4000 + page as usize * 4, &(page << 12 | 3).to_le_bytes());
    }
    (state.cr0, state.cr3) = (state.cr0 | 1 << 31, 0x3000);
    (computer, state)
}

#[test]
fn a_page_that_no_byte_of_an_instruction_is_in_is_not_looked_at() {
    // NOP at the end of a page; behind it, the first two bytes of JMP.
    let (mut computer, mut state) = paged(&[]);
    computer.put(CODE + 0xffd, &[0x90, 0xe9, 0x00]);
    state.rip = 0xffd;
    steps(&mut state, &mut computer, 1);
    assert_eq!(state.rip, 0xffe);
    steps(&mut state, &mut computer, 1);
    assert_eq!((state.rip, state.cr2, computer.word(0x6ffa)), (0x70e, 0x9000, 0xffe));
}

#[test]
fn page_faults_and_accesses_across_pages() {
    // MOV EAX, [BX]; MOV [BX], EAX
    let (mut computer, mut state) = paged(&[0x66, 0x8b, 0x07, 0x66, 0x89, 0x07]);
    // 0xc000 lies at 0x5000, 0xd000 at 0x9000; 0xe000 nowhere.
    computer.put(0x4000 + 12 * 4, &0x5003_u32.to_le_bytes());
    computer.put(0x4000 + 13 * 4, &0x9003_u32.to_le_bytes());
    computer.put(0x5ffe, &[1, 2]);
    computer.put(0x9000, &[3, 4]);
    state.general[3] = 0xcffe;
    steps(&mut state, &mut computer, 1);
    assert_eq!(state.general[0], 0x0403_0201);
    state.general[3] = 0xdffe;
    let before = vec![computer.memory[0x9ffe], computer.memory[0x9fff]];
    steps(&mut state, &mut computer, 1);
    assert_eq!((state.rip, state.cr2, computer.word(0x6ff8)), (0x70e, 0xe000, 2));
    assert_eq!(before, computer.memory[0x9ffe..0xa000], "nothing was stored");
}

#[test]
fn a_fault_in_delivery_is_a_double_fault_and_then_a_shutdown() {
    // UD2, whose gate is not present: #NP, contributory after a benign one: it comes itself.
    let (mut computer, mut state) = protected(&[0x0f, 0x0b]);
    computer.put(0x2000 + 6 * 8 + 5, &[0x06]);
    steps(&mut state, &mut computer, 1);
    assert_eq!((state.rip, computer.word(0x6ff8)), (0x70b, 0x33));
    // #GP, whose gate is not present: #DF.
    let (mut computer, mut state) = protected(&[0x8e, 0xd8]);
    state.general[0] = 0x30;
    computer.put(0x2000 + 13 * 8 + 5, &[0x06]);
    steps(&mut state, &mut computer, 1);
    assert_eq!((state.rip, computer.word(0x6ff8)), (0x708, 0));
    // And no gate for that either.
    let (mut computer, mut state) = protected(&[0x8e, 0xd8]);
    state.general[0] = 0x30;
    state.idtr.limit = 7;
    assert_eq!(run(&mut state, &mut computer, 1), Ok(Outcome::Shutdown));
}
