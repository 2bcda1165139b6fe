//! What an instruction does, calculated with numbers that are wider than any operand (SDM vol. 1 3.4.3.1 and 3.4.1.1,
//! vol. 2).

use super::Cpu;
use super::form::{Form, Kind, Operation, Shape, Width};
use emulate::Done;

const CARRY: u64 = 1 << 0;
const PARITY: u64 = 1 << 2;
const ADJUST: u64 = 1 << 4;
const ZERO: u64 = 1 << 6;
const SIGN: u64 = 1 << 7;
const DIRECTION: u64 = 1 << 10;
const OVERFLOW: u64 = 1 << 11;
const STATUS: u64 = CARRY | PARITY | ADJUST | ZERO | SIGN | OVERFLOW;

/// Registers and bus after the instruction.
pub(crate) struct Outcome {
    pub(crate) cpu: Cpu,
    pub(crate) store: Option<(u8, u64)>,
    pub(crate) loads: bool,
    again: bool,
}

impl Outcome {
    pub(crate) fn done(&self, len: usize) -> Done {
        if self.again { Done::Again } else { Done::Advance(len as u8) }
    }
}

impl Width {
    fn bits(self) -> u32 {
        8 * self as u32
    }

    /// The value without its sign, and with it.
    fn unsigned(self, value: u64) -> i128 {
        i128::from(value) & ((1 << self.bits()) - 1)
    }

    fn signed(self, value: u64) -> i128 {
        let value = self.unsigned(value);
        if value >> (self.bits() - 1) == 0 { value } else { value - (1 << self.bits()) }
    }
}

/// Performs it on a device that answers `answer`.
pub(crate) fn perform(form: &Form, cpu: Cpu, answer: u64) -> Outcome {
    let width = form.width;
    let mut outcome = Outcome { cpu, store: None, loads: true, again: false };
    let memory = width.unsigned(answer) as u64;
    let register = outcome.cpu.read(form);
    match form.kind {
        Kind::Arithmetic(operation, shape) => arithmetic(form, operation, shape, memory, &mut outcome),
        Kind::Test { immediate } => {
            let other = if immediate { form.immediate_value() as u64 } else { register };
            flags(Operation::And, memory, other, width, &mut outcome.cpu);
        }
        Kind::Move(Shape::ToRegister) => outcome.cpu.write(form, memory),
        Kind::Move(shape) => {
            let value = if shape == Shape::ToMemory { register } else { form.immediate_value() as u64 };
            (outcome.loads, outcome.store) = (false, stored(width, value));
        }
        Kind::Extend { signed, from } => {
            let value = if signed { from.signed(answer) } else { from.unsigned(answer) };
            outcome.cpu.write(form, value as u64);
        }
        Kind::Exchange => {
            outcome.store = stored(width, register);
            outcome.cpu.write(form, memory);
        }
        Kind::StoreString { repeated } => string(form, repeated, 7, answer, &mut outcome),
        Kind::LoadString { repeated } => string(form, repeated, 6, answer, &mut outcome),
    }
    outcome
}

fn stored(width: Width, value: u64) -> Option<(u8, u64)> {
    Some((width as u8, width.unsigned(value) as u64))
}

fn arithmetic(form: &Form, operation: Operation, shape: Shape, memory: u64, outcome: &mut Outcome) {
    let register = outcome.cpu.read(form);
    let (left, right) = match shape {
        Shape::ToMemory => (memory, register),
        Shape::ToRegister => (register, memory),
        Shape::Immediate | Shape::ShortImmediate => (memory, form.immediate_value() as u64),
    };
    let result = flags(operation, left, right, form.width, &mut outcome.cpu);
    match (operation, shape) {
        (Operation::Compare, _) => {}
        (_, Shape::ToRegister) => outcome.cpu.write(form, result),
        _ => outcome.store = stored(form.width, result),
    }
}

/// The result, and the status flags for it.
fn flags(operation: Operation, left: u64, right: u64, width: Width, cpu: &mut Cpu) -> u64 {
    let (plain, signed) =
        ((width.unsigned(left), width.unsigned(right)), (width.signed(left), width.signed(right)));
    let nibbles = (plain.0 & 15, plain.1 & 15);
    let (exact, with_sign, adjust) = match operation {
        Operation::Add => (plain.0 + plain.1, signed.0 + signed.1, nibbles.0 + nibbles.1 > 15),
        Operation::Subtract | Operation::Compare => {
            (plain.0 - plain.1, signed.0 - signed.1, nibbles.0 < nibbles.1)
        }
        Operation::And => (plain.0 & plain.1, 0, false),
        Operation::Or => (plain.0 | plain.1, 0, false),
        Operation::Xor => (plain.0 ^ plain.1, 0, false),
    };
    let result = width.unsigned(exact as u64) as u64;
    let half = 1i128 << (width.bits() - 1);
    let set = [
        (CARRY, exact != i128::from(result)),
        (PARITY, (result & 0xff).count_ones() & 1 == 0),
        (ADJUST, adjust),
        (ZERO, result == 0),
        (SIGN, width.signed(result) < 0),
        (OVERFLOW, with_sign < -half || with_sign >= half),
    ];
    cpu.rflags &= !STATUS;
    cpu.rflags |= set.iter().filter(|(_, set)| *set).fold(0, |flags, (flag, _)| flags | flag);
    result
}

/// One element; the pointer is RDI or RSI.
fn string(form: &Form, repeated: bool, pointer: usize, answer: u64, outcome: &mut Outcome) {
    let address = form.address_width();
    let count = address.unsigned(outcome.cpu.general[1]);
    outcome.loads = false;
    if repeated && count == 0 {
        return;
    }
    let step = form.width as i128;
    let step = if outcome.cpu.rflags & DIRECTION == 0 { step } else { -step };
    let moved = i128::from(outcome.cpu.general[pointer]) + step;
    if pointer == 7 {
        outcome.store = stored(form.width, outcome.cpu.general[0]);
    } else {
        outcome.loads = true;
        outcome.cpu.write_general(0, form.width, answer);
    }
    outcome.cpu.write_general(pointer, address, moved as u64);
    if repeated {
        outcome.cpu.write_general(1, address, (count - 1) as u64);
        outcome.again = count != 1;
    }
}

impl Cpu {
    /// AH, CH, DH or BH.
    fn high_byte(form: &Form) -> Option<usize> {
        let number = usize::from(form.register);
        (form.width == Width::Byte && !form.has_rex() && (4..8).contains(&number)).then(|| number - 4)
    }

    fn read(&self, form: &Form) -> u64 {
        match Self::high_byte(form) {
            Some(number) => self.general[number] >> 8 & 0xff,
            None => form.width.unsigned(self.general[usize::from(form.register)]) as u64,
        }
    }

    fn write(&mut self, form: &Form, value: u64) {
        match Self::high_byte(form) {
            Some(number) => {
                let mut bytes = self.general[number].to_le_bytes();
                bytes[1] = value as u8;
                self.general[number] = u64::from_le_bytes(bytes);
            }
            None => self.write_general(form.register.into(), form.width, value),
        }
    }

    /// Narrow writes keep the rest of the register, 32-bit ones clear it.
    fn write_general(&mut self, number: usize, width: Width, value: u64) {
        let mut bytes = self.general[number].to_le_bytes();
        let len = width as usize;
        bytes[..len].copy_from_slice(&value.to_le_bytes()[..len]);
        if width == Width::Double {
            bytes[4..].fill(0);
        }
        self.general[number] = u64::from_le_bytes(bytes);
    }
}
