//! Instructions as their manual writes them (SDM vol. 2, 2.1): prefixes, opcode, ModRM with [BX], [EDI] or [RDI] as
//! memory operand, immediate.

use arbitrary::{Arbitrary, Unstructured};
use emulate::CodeSize;

/// What is done.
#[derive(Arbitrary, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Arithmetic(Operation, Shape),
    Test { immediate: bool },
    Move(Shape),
    Extend { signed: bool, from: Width },
    Exchange,
    StoreString { repeated: bool },
    LoadString { repeated: bool },
}

/// With the number that both opcodes and ModRM have for it.
#[derive(Arbitrary, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Operation {
    Add = 0,
    Or = 1,
    And = 4,
    Subtract = 5,
    Xor = 6,
    Compare = 7,
}

/// Where the operands are.
#[derive(Arbitrary, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Shape {
    ToMemory,
    ToRegister,
    Immediate,
    /// One byte, extended.
    ShortImmediate,
}

/// Bytes of an operand.
#[derive(Arbitrary, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Width {
    Byte = 1,
    Word = 2,
    Double = 4,
    Quad = 8,
}

/// The default sizes of the code segment.
#[derive(Arbitrary, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mode {
    Bits16,
    Bits32,
    Bits64,
}

/// One instruction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Form {
    pub(crate) mode: Mode,
    pub(crate) kind: Kind,
    pub(crate) width: Width,
    /// 0 to 15.
    pub(crate) register: u8,
    pub(crate) immediate: i32,
    /// A REX prefix also where none is needed.
    pub(crate) rex: bool,
    /// The other address size.
    pub(crate) other_address: bool,
}

impl<'a> Arbitrary<'a> for Form {
    fn arbitrary(u: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        Ok(Self {
            mode: u.arbitrary()?,
            kind: u.arbitrary()?,
            width: u.arbitrary()?,
            register: u.int_in_range(0..=15)?,
            immediate: u.arbitrary()?,
            rex: u.arbitrary()?,
            other_address: u.arbitrary()?,
        })
    }
}

impl Form {
    pub(crate) const fn size(&self) -> CodeSize {
        match self.mode {
            Mode::Bits16 => CodeSize::Bits16,
            Mode::Bits32 => CodeSize::Bits32,
            Mode::Bits64 => CodeSize::Bits64,
        }
    }

    /// Bytes of an address.
    pub(crate) fn address_width(&self) -> Width {
        match (self.mode, self.other_address) {
            (Mode::Bits16, true) | (Mode::Bits32, false) | (Mode::Bits64, true) => Width::Double,
            (Mode::Bits16, false) | (Mode::Bits32, true) => Width::Word,
            (Mode::Bits64, false) => Width::Quad,
        }
    }

    /// Whether the instruction has a REX prefix.
    pub(crate) fn has_rex(&self) -> bool {
        self.mode == Mode::Bits64 && (self.rex || self.width == Width::Quad || self.register >= 8)
    }

    /// The bytes; nothing where the mode has no such instruction.
    pub(crate) fn encode(&self) -> Option<Vec<u8>> {
        let long = self.mode == Mode::Bits64;
        if !long && (self.width == Width::Quad || self.register >= 8) {
            return None;
        }
        let mut code = Vec::new();
        if matches!(self.kind, Kind::StoreString { repeated: true } | Kind::LoadString { repeated: true }) {
            code.push(0xf3);
        }
        if self.other_address {
            code.push(0x67);
        }
        let narrow = self.mode == Mode::Bits16;
        if self.width == Width::Word && !narrow || self.width == Width::Double && narrow {
            code.push(0x66);
        }
        if self.has_rex() {
            code.push(0x40 | u8::from(self.width == Width::Quad) << 3 | (self.register >> 3) << 2);
        }
        self.push_operation(&mut code)?;
        Some(code)
    }

    fn push_operation(&self, code: &mut Vec<u8>) -> Option<()> {
        // The lowest bit of most opcodes: not a byte.
        let wide = u8::from(self.width != Width::Byte);
        let register = (self.register & 7) << 3;
        let mut put = |opcode: &[u8], middle: u8| {
            code.extend_from_slice(opcode);
            code.push(middle | 7);
        };
        match self.kind {
            Kind::Arithmetic(operation, Shape::ToMemory) => put(&[(operation as u8) << 3 | wide], register),
            Kind::Arithmetic(operation, Shape::ToRegister) => {
                put(&[(operation as u8) << 3 | 2 | wide], register);
            }
            Kind::Arithmetic(operation, Shape::Immediate) => put(&[0x80 | wide], (operation as u8) << 3),
            Kind::Arithmetic(operation, Shape::ShortImmediate) => {
                (wide != 0).then_some(())?;
                put(&[0x83], (operation as u8) << 3);
            }
            Kind::Test { immediate: false } => put(&[0x84 | wide], register),
            Kind::Test { immediate: true } => put(&[0xf6 | wide], 0),
            Kind::Move(Shape::ToMemory) => put(&[0x88 | wide], register),
            Kind::Move(Shape::ToRegister) => put(&[0x8a | wide], register),
            Kind::Move(Shape::Immediate) => put(&[0xc6 | wide], 0),
            Kind::Extend { from: Width::Double, signed: true } => {
                (self.mode == Mode::Bits64 && self.width >= Width::Double).then_some(())?;
                put(&[0x63], register);
            }
            Kind::Extend { from: from @ (Width::Byte | Width::Word), signed } => {
                (wide != 0).then_some(())?;
                put(&[0x0f, 0xb6 | u8::from(signed) << 3 | u8::from(from == Width::Word)], register);
            }
            Kind::Exchange => put(&[0x86 | wide], register),
            Kind::StoreString { .. } => code.push(0xaa | wide),
            Kind::LoadString { .. } => code.push(0xac | wide),
            Kind::Move(Shape::ShortImmediate) | Kind::Extend { .. } => return None,
        }
        let bytes = self.immediate.to_le_bytes();
        code.extend_from_slice(&bytes[..self.immediate_len()]);
        Some(())
    }

    fn immediate_len(&self) -> usize {
        match self.kind {
            Kind::Arithmetic(_, Shape::ShortImmediate) => 1,
            Kind::Arithmetic(_, Shape::Immediate)
            | Kind::Move(Shape::Immediate)
            | Kind::Test { immediate: true } => (self.width as usize).min(4),
            _ => 0,
        }
    }

    /// The immediate as the instruction takes it: extended with its sign.
    pub(crate) fn immediate_value(&self) -> i128 {
        match self.immediate_len() {
            1 => (self.immediate as i8).into(),
            2 => (self.immediate as i16).into(),
            _ => self.immediate.into(),
        }
    }
}
