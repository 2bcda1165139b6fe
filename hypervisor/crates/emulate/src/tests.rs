//! Each form against a small bus, and each paging mode against a small memory.

use crate::{
    Bus, CodeSize, Done, EmulateError, GuestMemory, PagingMode, PagingState, Registers, WalkError, emulate,
    translate,
};
use addr::{Gpa, Gva};
use std::collections::BTreeMap;
use std::vec::Vec;

#[derive(Default)]
struct Cpu {
    general: [u64; 16],
    rflags: u64,
}

impl Registers for Cpu {
    fn get(&self, index: u8) -> u64 {
        self.general[usize::from(index)]
    }
    fn set(&mut self, index: u8, value: u64) {
        self.general[usize::from(index)] = value;
    }
    fn rflags(&self) -> u64 {
        self.rflags
    }
    fn set_rflags(&mut self, rflags: u64) {
        self.rflags = rflags;
    }
}

#[derive(Default)]
struct Device {
    answer: u64,
    writes: Vec<(u64, u8, u64)>,
}

impl Bus for Device {
    fn read(&mut self, _gpa: Gpa, _width: u8) -> u64 {
        self.answer
    }
    fn write(&mut self, gpa: Gpa, width: u8, value: u64) {
        self.writes.push((gpa.as_u64(), width, value));
    }
}

const GPA: Gpa = Gpa::new(0xfee0_0080);

fn run(code: &[u8], cpu: &mut Cpu, device: &mut Device) -> Result<Done, EmulateError> {
    emulate(code, CodeSize::Bits64, cpu, GPA, device)
}

#[test]
fn moves_to_a_device() {
    let (mut cpu, mut device) = (Cpu::default(), Device::default());
    cpu.general[9] = 0x1_2345_6789;
    // mov [rax+rcx*4+0x80], r9d
    let code = [0x44, 0x89, 0x8c, 0x88, 0x80, 0, 0, 0];
    assert_eq!(run(&code, &mut cpu, &mut device), Ok(Done::Advance(8)));
    // mov dword [rdi], -1
    assert_eq!(run(&[0xc7, 0x07, 0xff, 0xff, 0xff, 0xff], &mut cpu, &mut device), Ok(Done::Advance(6)));
    // mov [rdi], ah
    cpu.general[0] = 0xab00;
    assert_eq!(run(&[0x88, 0x27], &mut cpu, &mut device), Ok(Done::Advance(2)));
    let gpa = GPA.as_u64();
    assert_eq!(device.writes, [(gpa, 4, 0x2345_6789), (gpa, 4, 0xffff_ffff), (gpa, 1, 0xab)]);
}

#[test]
fn moves_from_a_device_fill_registers_as_the_cpu_does() {
    let mut device = Device { answer: 0xffff_ffff_8000_0080, ..Device::default() };
    let mut cpu = Cpu { general: [u64::MAX; 16], rflags: 2 };
    let mut load = |code: &[u8], cpu: &mut Cpu| {
        cpu.general[0] = 0x1111_1111_1111_1111;
        assert_eq!(run(code, cpu, &mut device), Ok(Done::Advance(code.len() as u8)));
        cpu.general[0]
    };
    assert_eq!(load(&[0x8b, 0x03], &mut cpu), 0x8000_0080, "mov eax, [rbx]");
    assert_eq!(load(&[0x66, 0x8b, 0x03], &mut cpu), 0x1111_1111_1111_0080, "mov ax, [rbx]");
    assert_eq!(load(&[0x8a, 0x03], &mut cpu), 0x1111_1111_1111_1180, "mov al, [rbx]");
    assert_eq!(load(&[0x0f, 0xb6, 0x03], &mut cpu), 0x80, "movzx eax, byte [rbx]");
    assert_eq!(load(&[0x48, 0x0f, 0xbe, 0x03], &mut cpu), 0xffff_ffff_ffff_ff80, "movsx rax, byte [rbx]");
    assert_eq!(load(&[0x48, 0x63, 0x03], &mut cpu), 0xffff_ffff_8000_0080, "movsxd rax, dword [rbx]");
    assert_eq!(load(&[0xa1, 0, 0, 0, 0, 0, 0, 0, 0], &mut cpu), 0x8000_0080, "mov eax, moffs");
}

#[test]
fn arithmetic_reads_modifies_and_writes() {
    let (mut cpu, mut device) = (Cpu::default(), Device { answer: 0xf0, ..Device::default() });
    // or dword [rbx], 0x0f
    assert_eq!(run(&[0x83, 0x0b, 0x0f], &mut cpu, &mut device), Ok(Done::Advance(3)));
    // test dword [rbx], 0x100
    assert_eq!(run(&[0xf7, 0x03, 0, 1, 0, 0], &mut cpu, &mut device), Ok(Done::Advance(6)));
    assert_ne!(cpu.rflags & 1 << 6, 0, "zero flag");
    cpu.general[0] = 0xf1;
    // cmp eax, [rbx]
    assert_eq!(run(&[0x3b, 0x03], &mut cpu, &mut device), Ok(Done::Advance(2)));
    assert_eq!(cpu.rflags & (1 << 6 | 1), 0, "neither equal nor below");
    // sub eax, [rbx]
    assert_eq!(run(&[0x2b, 0x03], &mut cpu, &mut device), Ok(Done::Advance(2)));
    assert_eq!(cpu.general[0], 1);
    assert_eq!(device.writes, [(GPA.as_u64(), 4, 0xff)]);
}

#[test]
fn exchange_and_store_string() {
    let (mut cpu, mut device) = (Cpu::default(), Device { answer: 7, ..Device::default() });
    cpu.general[0] = 9;
    // xchg [rbx], eax
    assert_eq!(run(&[0x87, 0x03], &mut cpu, &mut device), Ok(Done::Advance(2)));
    assert_eq!(cpu.general[0], 7);
    (cpu.general[1], cpu.general[7]) = (2, 0x1000);
    // rep stosd
    assert_eq!(run(&[0xf3, 0xab], &mut cpu, &mut device), Ok(Done::Again));
    assert_eq!(run(&[0xf3, 0xab], &mut cpu, &mut device), Ok(Done::Advance(2)));
    assert_eq!((cpu.general[1], cpu.general[7]), (0, 0x1008));
    assert_eq!(device.writes.len(), 3);
}

#[test]
fn string_loads_fill_the_accumulator_and_move_on() {
    let (mut cpu, mut device) =
        (Cpu::default(), Device { answer: 0x1122_3344_5566_7788, ..Device::default() });
    cpu.general[0] = u64::MAX;
    cpu.general[6] = 0x1000;
    // lodsb, lodsd
    assert_eq!(run(&[0xac], &mut cpu, &mut device), Ok(Done::Advance(1)));
    assert_eq!((cpu.general[0], cpu.general[6]), (u64::MAX << 8 | 0x88, 0x1001));
    assert_eq!(run(&[0xad], &mut cpu, &mut device), Ok(Done::Advance(1)));
    assert_eq!((cpu.general[0], cpu.general[6]), (0x5566_7788, 0x1005));
    // rep lodsw, backwards
    (cpu.general[1], cpu.rflags) = (2, 1 << 10);
    assert_eq!(run(&[0x66, 0xf3, 0xad], &mut cpu, &mut device), Ok(Done::Again));
    assert_eq!(run(&[0x66, 0xf3, 0xad], &mut cpu, &mut device), Ok(Done::Advance(3)));
    assert_eq!((cpu.general[1], cpu.general[6]), (0, 0x1001));
}

#[test]
fn what_is_not_known_is_refused() {
    let (mut cpu, mut device) = (Cpu::default(), Device::default());
    assert!(matches!(run(&[0x0f], &mut cpu, &mut device), Err(EmulateError::Undecodable { len: 1, .. })));
    // fld dword [rbx]
    assert!(matches!(
        run(&[0xd9, 0x03], &mut cpu, &mut device),
        Err(EmulateError::Unsupported { len: 2, .. })
    ));
    // mov eax, ebx: no memory operand
    assert!(run(&[0x89, 0xd8], &mut cpu, &mut device).is_err());
    assert!(run(&[], &mut cpu, &mut device).is_err());
    assert!(device.writes.is_empty());
}

#[derive(Default)]
struct Memory(BTreeMap<u64, u64>);

impl GuestMemory for Memory {
    fn read(&self, gpa: Gpa, bytes: &mut [u8]) -> bool {
        if gpa.as_u64() >= 0x10_0000 {
            return false;
        }
        let word = self.0.get(&gpa.as_u64()).copied().unwrap_or(0).to_le_bytes();
        bytes.copy_from_slice(&word[..bytes.len()]);
        true
    }
}

fn long_mode(cr3: u64) -> PagingState {
    PagingState { cr0: 1 << 31, cr3, cr4: 1 << 5, efer: 1 << 10 }
}

#[test]
fn four_levels() {
    let memory = Memory(BTreeMap::from([
        (0x1000 + 511 * 8, 0x2003),
        (0x2000 + 510 * 8, 0x3003),
        (0x3000, 0x20_0083),
        (0x3008, 0x4003),
        (0x4008, 0x7003),
    ]));
    let state = long_mode(0x1000);
    let base = 0xffff_ffff_8000_0000;
    assert_eq!(translate(&memory, &state, Gva::new(base + 0x12345)), Ok(Gpa::new(0x21_2345)));
    assert_eq!(translate(&memory, &state, Gva::new(base + 0x20_1678)), Ok(Gpa::new(0x7678)));
    let missing = translate(&memory, &state, Gva::new(base + 0x20_0000));
    assert!(matches!(missing, Err(WalkError::NotPresent { entry, .. }) if entry == Gpa::new(0x4000)));
    assert!(matches!(translate(&memory, &long_mode(0x20_0000), Gva::new(0)), Err(WalkError::NotRam { .. })));
}

#[test]
fn older_modes() {
    let memory = Memory(BTreeMap::from([
        (0x1000, 0x2003),
        (0x1004, 0x40_0083),
        (0x2004, 0x5003),
        (0x8000, 0x9003),
        (0x9000, 0xa003),
        (0xa008, 0xb003),
    ]));
    let bits32 = PagingState { cr0: 1 << 31, cr3: 0x1000, cr4: 1 << 4, efer: 0 };
    assert_eq!(bits32.mode(), PagingMode::Bits32);
    assert_eq!(translate(&memory, &bits32, Gva::new(0x1abc)), Ok(Gpa::new(0x5abc)));
    assert_eq!(translate(&memory, &bits32, Gva::new(0x41_2345)), Ok(Gpa::new(0x41_2345)));
    let pae = PagingState { cr0: 1 << 31, cr3: 0x8000, cr4: 1 << 5, efer: 0 };
    assert_eq!(pae.mode(), PagingMode::Pae);
    assert_eq!(translate(&memory, &pae, Gva::new(0x1abc)), Ok(Gpa::new(0xbabc)));
    assert_eq!(translate(&memory, &PagingState::default(), Gva::new(0x1234)), Ok(Gpa::new(0x1234)));
}
