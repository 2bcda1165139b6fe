//! One instruction with one memory operand, performed against a device.
//!
//! | instructions | on the bus |
//! |---|---|
//! | MOV, MOVZX, MOVSX, MOVSXD | a read, or a write |
//! | ADD, SUB, AND, OR, XOR | a read, and a write where the operand is the destination |
//! | CMP, TEST | a read |
//! | XCHG | a read, then a write |
//! | STOS, LODS | one write, one read; REP repeats by executing the instruction again |

use crate::alu::{Op, compute, mask};
use addr::Gpa;
use core::fmt;
use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};

/// Numbers of the registers that string instructions imply.
const RAX: u8 = 0;
const RCX: u8 = 1;
const RSI: u8 = 6;
const RDI: u8 = 7;

/// The device side: `width` is 1, 2, 4 or 8 bytes.
pub trait Bus {
    /// A load.
    fn read(&mut self, gpa: Gpa, width: u8) -> u64;
    /// A store.
    fn write(&mut self, gpa: Gpa, width: u8, value: u64);
}

/// The guest's general registers, in the order of their encoding: 0 RAX, 1 RCX, 2 RDX, 3 RBX, 4 RSP, ...
pub trait Registers {
    /// The full 64 bits.
    fn get(&self, index: u8) -> u64;
    /// All 64 bits.
    fn set(&mut self, index: u8, value: u64);
    /// RFLAGS.
    fn rflags(&self) -> u64;
    /// Replaces RFLAGS.
    fn set_rflags(&mut self, rflags: u64);
}

/// The code segment's default size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CodeSize {
    /// Real mode, or CS.D clear.
    Bits16,
    /// CS.D set.
    Bits32,
    /// CS.L set in long mode.
    Bits64,
}

impl CodeSize {
    const fn bits(self) -> u32 {
        match self {
            Self::Bits16 => 16,
            Self::Bits32 => 32,
            Self::Bits64 => 64,
        }
    }
}

/// What is left to do after a success.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Done {
    /// Move RIP past the instruction: its length in bytes.
    Advance(u8),
    /// A repeated instruction has more to do: leave RIP where it is.
    Again,
}

/// Why an instruction was not emulated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EmulateError {
    /// The bytes are no instruction, or too few.
    Undecodable {
        /// Up to 15 bytes at RIP.
        bytes: [u8; 15],
        /// How many of them are there.
        len: u8,
    },
    /// An instruction that drivers do not use on devices.
    Unsupported {
        /// Up to 15 bytes at RIP.
        bytes: [u8; 15],
        /// How many of them are the instruction.
        len: u8,
    },
}

impl fmt::Display for EmulateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, bytes, len) = match self {
            Self::Undecodable { bytes, len } => ("no instruction starts with", bytes, *len),
            Self::Unsupported { bytes, len } => ("no emulation of the device access by", bytes, *len),
        };
        write!(f, "{what} {:02x?}", &bytes[..usize::from(len)])
    }
}

/// Performs the instruction at the start of `code`, whose memory operand is `gpa`.
///
/// # Errors
/// [`EmulateError`]; nothing has changed then.
pub fn emulate(
    code: &[u8],
    size: CodeSize,
    registers: &mut impl Registers,
    gpa: Gpa,
    bus: &mut impl Bus,
) -> Result<Done, EmulateError> {
    let instruction = Decoder::new(size.bits(), code, DecoderOptions::NONE).decode();
    if instruction.is_invalid() {
        let (bytes, len) = excerpt(code, 15);
        return Err(EmulateError::Undecodable { bytes, len });
    }
    let access = Access { instruction: &instruction, gpa };
    let done = match instruction.mnemonic() {
        Mnemonic::Mov | Mnemonic::Movzx => access.copy(registers, bus, Extend::Zero),
        Mnemonic::Movsx | Mnemonic::Movsxd => access.copy(registers, bus, Extend::Sign),
        Mnemonic::Add => access.arithmetic(registers, bus, Op::Add, Keep::Result),
        Mnemonic::Sub => access.arithmetic(registers, bus, Op::Sub, Keep::Result),
        Mnemonic::And => access.arithmetic(registers, bus, Op::And, Keep::Result),
        Mnemonic::Or => access.arithmetic(registers, bus, Op::Or, Keep::Result),
        Mnemonic::Xor => access.arithmetic(registers, bus, Op::Xor, Keep::Result),
        Mnemonic::Cmp => access.arithmetic(registers, bus, Op::Sub, Keep::FlagsOnly),
        Mnemonic::Test => access.arithmetic(registers, bus, Op::And, Keep::FlagsOnly),
        Mnemonic::Xchg => access.exchange(registers, bus),
        Mnemonic::Stosb | Mnemonic::Stosw | Mnemonic::Stosd | Mnemonic::Stosq => {
            access.string(registers, |access, registers, width| {
                bus.write(access.gpa, width, registers.get(RAX) & mask(width));
                RDI
            })
        }
        Mnemonic::Lodsb | Mnemonic::Lodsw | Mnemonic::Lodsd | Mnemonic::Lodsq => {
            access.string(registers, |access, registers, width| {
                write_part(RAX, width, bus.read(access.gpa, width), registers);
                RSI
            })
        }
        _ => None,
    };
    done.ok_or_else(|| {
        let (bytes, len) = excerpt(code, instruction.len());
        EmulateError::Unsupported { bytes, len }
    })
}

fn excerpt(code: &[u8], most: usize) -> ([u8; 15], u8) {
    let len = code.len().min(most).min(15);
    let mut bytes = [0; 15];
    bytes[..len].copy_from_slice(&code[..len]);
    (bytes, len as u8)
}

/// How a narrow value fills a wider register.
#[derive(Clone, Copy)]
enum Extend {
    Zero,
    Sign,
}

/// What arithmetic leaves behind.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keep {
    Result,
    FlagsOnly,
}

/// An instruction and the address of its memory operand. `None` from a method: a form it does not know.
struct Access<'a> {
    instruction: &'a Instruction,
    gpa: Gpa,
}

impl Access<'_> {
    /// Bytes of the memory operand; the decoder names a size also for forms that have none.
    fn width(&self) -> Option<u8> {
        let width = self.instruction.memory_size().size();
        let has_memory = (0..self.instruction.op_count()).any(|operand| self.is_memory(operand));
        (has_memory && matches!(width, 1 | 2 | 4 | 8)).then_some(width as u8)
    }

    fn done(&self) -> Done {
        Done::Advance(self.instruction.len() as u8)
    }

    fn is_memory(&self, operand: u32) -> bool {
        self.instruction.op_kind(operand) == OpKind::Memory
    }

    /// The value of a register or immediate operand.
    fn value(&self, operand: u32, registers: &impl Registers) -> Option<u64> {
        match self.instruction.op_kind(operand) {
            OpKind::Register => read_register(self.instruction.op_register(operand), registers),
            OpKind::Memory => None,
            _ => self.instruction.try_immediate(operand).ok(),
        }
    }

    fn copy(&self, registers: &mut impl Registers, bus: &mut impl Bus, extend: Extend) -> Option<Done> {
        let width = self.width()?;
        if self.is_memory(0) {
            let value = self.value(1, registers)?;
            bus.write(self.gpa, width, value & mask(width));
        } else {
            let target = self.general(0)?;
            let read = bus.read(self.gpa, width) & mask(width);
            let unused = 64 - u32::from(width) * 8;
            let value = match extend {
                Extend::Zero => read,
                Extend::Sign => (((read << unused) as i64) >> unused) as u64,
            };
            write_register(target, value, registers);
        }
        Some(self.done())
    }

    fn arithmetic(
        &self,
        registers: &mut impl Registers,
        bus: &mut impl Bus,
        op: Op,
        keep: Keep,
    ) -> Option<Done> {
        let width = self.width()?;
        let to_memory = self.is_memory(0);
        let other = self.value(u32::from(to_memory), registers)?;
        let read = bus.read(self.gpa, width) & mask(width);
        let (left, right) = if to_memory { (read, other) } else { (other, read) };
        let (result, rflags) = compute(op, left, right, width, registers.rflags());
        registers.set_rflags(rflags);
        match (keep, to_memory) {
            (Keep::FlagsOnly, _) => {}
            (Keep::Result, true) => bus.write(self.gpa, width, result),
            (Keep::Result, false) => write_register(self.general(0)?, result, registers),
        }
        Some(self.done())
    }

    fn exchange(&self, registers: &mut impl Registers, bus: &mut impl Bus) -> Option<Done> {
        let width = self.width()?;
        let operand = u32::from(self.is_memory(0));
        let register = self.general(operand)?;
        let new = read_register(register, registers)?;
        let old = bus.read(self.gpa, width);
        bus.write(self.gpa, width, new & mask(width));
        write_register(register, old & mask(width), registers);
        Some(self.done())
    }

    /// One element, moved by `element`, which names the register that points at it. That register and RCX move
    /// as the direction flag, the address size and REP say.
    fn string<R: Registers>(
        &self,
        registers: &mut R,
        element: impl FnOnce(&Self, &mut R, u8) -> u8,
    ) -> Option<Done> {
        const DIRECTION: u64 = 1 << 10;
        let width = self.instruction.memory_size().size() as u8;
        let address_mask = self.string_address_mask()?;
        let repeated = self.instruction.has_rep_prefix() || self.instruction.has_repne_prefix();
        let count = registers.get(RCX) & address_mask;
        if repeated && count == 0 {
            return Some(self.done());
        }
        let pointer = element(self, registers, width);
        let forward = registers.rflags() & DIRECTION == 0;
        let step = if forward { u64::from(width) } else { u64::from(width).wrapping_neg() };
        set_part(registers, pointer, registers.get(pointer).wrapping_add(step), address_mask);
        if !repeated {
            return Some(self.done());
        }
        set_part(registers, RCX, count - 1, address_mask);
        Some(if count == 1 { self.done() } else { Done::Again })
    }

    /// The part of RSI, RDI and RCX that the address size covers.
    fn string_address_mask(&self) -> Option<u64> {
        let kinds = [self.instruction.op0_kind(), self.instruction.op1_kind()];
        kinds.into_iter().find_map(|kind| match kind {
            OpKind::MemoryESDI | OpKind::MemorySegSI => Some(mask(2)),
            OpKind::MemoryESEDI | OpKind::MemorySegESI => Some(mask(4)),
            OpKind::MemoryESRDI | OpKind::MemorySegRSI => Some(u64::MAX),
            _ => None,
        })
    }

    /// The general register that is this operand.
    fn general(&self, operand: u32) -> Option<Register> {
        let register = self.instruction.op_register(operand);
        (self.instruction.op_kind(operand) == OpKind::Register && register.is_gpr()).then_some(register)
    }
}

/// Replaces the part of an address register that the address size covers; 32-bit writes clear the rest.
fn set_part(registers: &mut impl Registers, index: u8, value: u64, part: u64) {
    let kept = if part == mask(2) { registers.get(index) & !part } else { 0 };
    registers.set(index, kept | (value & part));
}

const fn is_high_byte(register: Register) -> bool {
    matches!(register, Register::AH | Register::CH | Register::DH | Register::BH)
}

fn read_register(register: Register, registers: &impl Registers) -> Option<u64> {
    if !register.is_gpr() {
        return None;
    }
    let full = registers.get(register.full_register().number() as u8);
    Some(if is_high_byte(register) { full >> 8 & 0xff } else { full & mask(register.size() as u8) })
}

/// Writes a general register as the processor does: 32-bit writes clear the upper half, narrower ones keep the
/// rest (SDM vol. 1 3.4.1.1).
fn write_register(register: Register, value: u64, registers: &mut impl Registers) {
    let index = register.full_register().number() as u8;
    if is_high_byte(register) {
        let old = registers.get(index);
        return registers.set(index, (old & !0xff00) | (value & 0xff) << 8);
    }
    write_part(index, register.size() as u8, value, registers);
}

/// Writes the low `width` bytes of a general register, by the same rule.
fn write_part(index: u8, width: u8, value: u64, registers: &mut impl Registers) {
    let kept = if width < 4 { registers.get(index) & !mask(width) } else { 0 };
    registers.set(index, kept | (value & mask(width)));
}
