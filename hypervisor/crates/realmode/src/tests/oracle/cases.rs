//! Random instructions of each class, with registers that suit them, and the flags that the architecture defines after
//! them. Every number comes from the seed: the same cases each time.

use crate::flags::{AF, CF, DF, OF, PF, SF, STATUS, ZF};
use std::vec::Vec;

/// Where operands in memory lie, in the data segment.
pub(super) const WINDOW: u32 = 0x9000;

/// Instructions between a prologue and an epilogue.
pub(super) struct Case {
    pub code: Vec<u8>,
    /// By number; that of ESP is not used.
    pub registers: [u32; 8],
    pub flags: u32,
    /// Flags that are compared.
    pub defined: u32,
}

/// xorshift64*.
pub(super) struct Random(pub u64);

impl Random {
    pub(super) fn next(&mut self) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32
    }

    fn below(&mut self, end: u32) -> u32 {
        self.next() % end
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u32) as usize]
    }

    /// Small, large, at the edges of signs.
    fn value(&mut self) -> u32 {
        match self.below(5) {
            0 => self.pick(&[
                0,
                1,
                0x7f,
                0x80,
                0xff,
                0x7fff,
                0x8000,
                0xffff,
                0x7fff_ffff,
                0x8000_0000,
                u32::MAX,
            ]),
            1 => self.below(256),
            2 => self.below(0x1_0000),
            _ => self.next(),
        }
    }
}

/// A case on its way.
struct Builder<'a> {
    random: &'a mut Random,
    code: Vec<u8>,
    registers: [u32; 8],
    flags: u32,
    defined: u64,
    /// The operand size is 32 bits.
    wide: bool,
    /// The code's own size is 32 bits.
    big: bool,
}

/// The next case for code of 16 bits, or of 32.
pub(super) fn case(random: &mut Random, big: bool) -> Case {
    let mut registers = [0; 8];
    registers.fill_with(|| random.value());
    let flags = random.next() & STATUS as u32 | 2;
    let wide = random.below(2) == 0;
    let mut builder = Builder { random, code: Vec::new(), registers, flags, defined: STATUS | DF, wide, big };
    builder.build();
    let Builder { code, registers, flags, defined, .. } = builder;
    Case { code, registers, flags, defined: defined as u32 }
}

impl Builder<'_> {
    fn build(&mut self) {
        match self.random.below(16) {
            0..=2 => self.arithmetic(),
            3 => self.unary(),
            4 | 5 => self.shift(),
            6 => self.double_shift(),
            7 => self.multiply(),
            8 => self.bits(),
            9 | 10 => self.moves(),
            11 => self.string(),
            12 => self.stack(),
            13 => self.flow(),
            14 => self.decimal(),
            _ => self.system(),
        }
    }

    fn byte(&mut self, byte: u32) {
        self.code.push(byte as u8);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.code.extend(bytes);
    }

    fn immediate(&mut self, width: u32) {
        let value = self.random.value().to_le_bytes();
        self.code.extend(&value[..width as usize]);
    }

    /// The prefix that the operand size needs.
    fn size_prefix(&mut self) {
        if self.wide != self.big {
            self.byte(0x66);
        }
    }

    fn width(&self) -> u32 {
        if self.wide { 4 } else { 2 }
    }

    /// A general register other than ESP.
    fn register(&mut self) -> u32 {
        self.random.pick(&[0, 1, 2, 3, 5, 6, 7])
    }

    /// Prefixes, opcode, ModRM with what follows it: an operand of `bits` 8 or more, and `middle`, a register or a part of
    /// the opcode.
    fn modrm(&mut self, byte_sized: bool, opcode: &[u8], middle: u32) {
        let in_memory = self.random.below(3) == 0;
        if in_memory {
            self.memory(byte_sized, opcode, middle);
        } else {
            if !byte_sized {
                self.size_prefix();
            }
            let other = if byte_sized { self.random.below(8) } else { self.register() };
            self.bytes(opcode);
            self.byte(0xc0 | middle << 3 | other);
        }
    }

    fn memory(&mut self, byte_sized: bool, opcode: &[u8], middle: u32) {
        let wide_address = self.random.below(3) == 0;
        for register in &mut self.registers {
            *register = self.random.below(8);
        }
        if self.random.below(3) == 0 {
            let prefix = self.random.pick(&[0x26, 0x36, 0x64, 0x65]);
            self.byte(prefix);
        }
        if wide_address != self.big {
            self.byte(0x67);
        }
        if !byte_sized {
            self.size_prefix();
        }
        self.bytes(opcode);
        if wide_address { self.memory_32(middle) } else { self.memory_16(middle) }
    }

    fn memory_16(&mut self, middle: u32) {
        (self.registers[3], self.registers[5]) = (WINDOW + 0x10, WINDOW + 8);
        let (form, base) = (self.random.below(3), self.random.below(8));
        self.byte(form << 6 | middle << 3 | base);
        match (form, base) {
            (0, 6) => self.bytes(&[0x12, 0x90]),
            (1, _) => {
                let displacement = self.random.below(16).wrapping_sub(4);
                self.byte(displacement);
            }
            (2, 4 | 5) => self.bytes(&[0x10, 0x90]),
            (2, _) => self.bytes(&[0xfe, 0xff]),
            _ => {}
        }
    }

    fn memory_32(&mut self, middle: u32) {
        let base = self.register();
        let form = self.random.below(3);
        self.registers[base as usize] = WINDOW + 0x10;
        if self.random.below(2) == 0 {
            self.byte(form << 6 | middle << 3 | base);
            if form == 0 && base == 5 {
                return self.bytes(&[0x14, 0x90, 0, 0]);
            }
        } else {
            let (index, scale) = (self.register(), self.random.below(4));
            let (index, scale) = if index == base { (4, 0) } else { (index, scale) };
            if index != 4 {
                self.registers[index as usize] = self.random.below(4);
            }
            self.byte(form << 6 | middle << 3 | 4);
            self.byte(scale << 6 | index << 3 | base);
            if form == 0 && base == 5 {
                return self.bytes(&[0x14, 0x90, 0, 0]);
            }
        }
        match form {
            1 => self.byte(0xfc),
            2 => self.bytes(&[6, 0, 0, 0]),
            _ => {}
        }
    }

    /// The lowest bit of an opcode: bytes, or the operand size.
    fn sized(&mut self, opcode: u8, middle: Option<u32>) -> bool {
        let byte_sized = self.random.below(3) == 0;
        let middle = match middle {
            Some(middle) => middle,
            None if byte_sized => self.random.below(8),
            None => self.register(),
        };
        self.modrm(byte_sized, &[opcode | u8::from(!byte_sized)], middle);
        byte_sized
    }

    fn arithmetic(&mut self) {
        let operation = self.random.below(8);
        if matches!(operation, 1 | 4 | 6) {
            self.defined &= !AF;
        }
        match self.random.below(5) {
            0 => {
                let direction = self.random.below(2) << 1;
                self.sized((operation << 3 | direction) as u8, None);
            }
            1 => {
                self.size_prefix();
                self.byte(operation << 3 | 5);
                self.immediate(self.width());
            }
            2 => {
                let byte_sized = self.sized(0x80, Some(operation));
                self.immediate(if byte_sized { 1 } else { self.width() });
            }
            3 => {
                self.modrm(false, &[0x83], operation);
                self.immediate(1);
            }
            _ => self.tests(),
        }
    }

    fn tests(&mut self) {
        self.defined = STATUS & !AF;
        match self.random.below(3) {
            0 => {
                self.sized(0x84, None);
            }
            1 => {
                let byte_sized = self.sized(0xf6, Some(0));
                self.immediate(if byte_sized { 1 } else { self.width() });
            }
            _ => {
                self.byte(0xa8);
                self.immediate(1);
            }
        }
    }

    fn unary(&mut self) {
        match self.random.below(4) {
            0 => {
                let which = self.random.below(2);
                self.sized(0xfe, Some(which));
            }
            1 => {
                let (which, register) = (self.random.below(2), self.register());
                self.size_prefix();
                self.byte(0x40 | which << 3 | register);
            }
            2 => {
                let which = 2 + self.random.below(2);
                self.sized(0xf6, Some(which));
            }
            _ => self.exchanges(),
        }
    }

    fn exchanges(&mut self) {
        match self.random.below(3) {
            0 => {
                self.sized(0x86, None);
            }
            _ => {
                let (which, middle) = (self.random.pick(&[0xb1, 0xc1]), self.register());
                self.modrm(false, &[0x0f, which], middle);
            }
        }
    }

    fn shift(&mut self) {
        let operation = self.random.below(8);
        self.defined &= if operation < 4 { !0 } else { !AF };
        match self.random.below(3) {
            0 => {
                self.sized(0xd0, Some(operation));
            }
            1 => {
                self.defined &= !OF;
                let byte_sized = self.sized(0xc0, Some(operation));
                let bits = if byte_sized { 8 } else { self.width() * 8 };
                let count = self.random.below(bits);
                self.byte(count);
            }
            _ => {
                self.defined &= !(OF | CF);
                self.sized(0xd2, Some(operation));
            }
        }
    }

    fn double_shift(&mut self) {
        self.defined &= !(OF | AF);
        let middle = self.register();
        let opcode = self.random.pick(&[0xa4, 0xa5, 0xac, 0xad]);
        self.modrm(false, &[0x0f, opcode], middle);
        let count = self.random.below(16);
        if opcode & 1 == 0 {
            self.byte(count);
        } else if self.code.len() > 1 && !self.uses_count() {
            self.registers[1] = count;
        } else {
            self.registers[1] &= !0x10;
        }
    }

    /// Whether ECX is a part of an address.
    fn uses_count(&self) -> bool {
        self.registers[1] >= WINDOW
    }

    fn multiply(&mut self) {
        self.defined = CF | OF;
        match self.random.below(4) {
            0 => {
                let middle = self.register();
                self.modrm(false, &[0x0f, 0xaf], middle);
            }
            1 => {
                let middle = self.register();
                self.modrm(false, &[0x69], middle);
                self.immediate(self.width());
            }
            2 => {
                let which = 4 + self.random.below(2);
                self.sized(0xf6, Some(which));
            }
            _ => {
                self.defined = 0;
                let which = 6 + self.random.below(2);
                self.sized(0xf6, Some(which));
                if self.random.below(2) == 0 {
                    self.registers[2] &= 0xff;
                }
            }
        }
    }

    fn bits(&mut self) {
        self.defined = CF | ZF | DF;
        let middle = self.register();
        match self.random.below(4) {
            0 => {
                let opcode = self.random.pick(&[0xa3, 0xab, 0xb3, 0xbb]);
                self.modrm(false, &[0x0f, opcode], middle);
            }
            1 => {
                let which = 4 + self.random.below(4);
                self.modrm(false, &[0x0f, 0xba], which);
                self.immediate(1);
            }
            2 => {
                self.defined = ZF;
                let opcode = self.random.pick(&[0xbc, 0xbd]);
                self.modrm(false, &[0x0f, opcode], middle);
            }
            _ => {
                self.wide = true;
                self.size_prefix();
                self.bytes(&[0x0f]);
                self.byte(0xc8 | middle);
            }
        }
    }

    fn moves(&mut self) {
        let middle = self.register();
        match self.random.below(8) {
            0 => {
                let direction = self.random.below(2) << 1;
                self.sized(0x88 | direction as u8, None);
            }
            1 => {
                let byte_sized = self.sized(0xc6, Some(0));
                self.immediate(if byte_sized { 1 } else { self.width() });
            }
            2 => {
                let opcode = self.random.pick(&[0xb6, 0xbe]);
                self.size_prefix();
                let from = self.random.below(8);
                self.bytes(&[0x0f, opcode]);
                self.byte(0xc0 | middle << 3 | from);
            }
            3 => {
                let opcode = self.random.pick(&[0xb7, 0xbf]);
                self.wide = true;
                self.modrm(false, &[0x0f, opcode], middle);
            }
            4 => self.memory(false, &[0x8d], middle),
            5 => {
                let condition = self.random.below(16) as u8;
                self.modrm(false, &[0x0f, 0x40 | condition], middle);
            }
            6 => {
                let condition = self.random.below(16) as u8;
                self.modrm(true, &[0x0f, 0x90 | condition], 0);
            }
            _ => self.moves_of_the_accumulator(),
        }
    }

    fn moves_of_the_accumulator(&mut self) {
        match self.random.below(5) {
            0 => {
                let opcode = self.random.pick(&[0xa1, 0xa3]);
                self.size_prefix();
                self.bytes(&[opcode, 0x20, 0x90]);
                if self.big {
                    self.bytes(&[0, 0]);
                }
            }
            1 => {
                let opcode = self.random.pick(&[0x98, 0x99]);
                self.size_prefix();
                self.bytes(&[opcode]);
            }
            2 => {
                let opcode = self.random.pick(&[0x9e, 0x9f, 0xd6]);
                self.bytes(&[opcode]);
            }
            3 => {
                self.registers[3] = WINDOW;
                self.registers[0] &= 0x3f;
                self.bytes(&[0xd7]);
            }
            _ => {
                let register = self.register();
                self.size_prefix();
                self.byte(0x90 | register);
            }
        }
    }

    fn string(&mut self) {
        self.registers[1] = self.random.below(7);
        self.registers[6] = WINDOW + 0x10 + self.random.below(8);
        self.registers[7] = WINDOW + 0x20 + self.random.below(8);
        if self.random.below(2) == 0 {
            self.flags |= DF as u32;
        }
        let repetition = self.random.below(3);
        if repetition != 0 {
            self.byte(0xf1 + repetition);
        }
        self.size_prefix();
        let opcode = self.random.pick(&[0xa4, 0xa5, 0xa6, 0xa7, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf]);
        if opcode >= 0xae && self.random.below(2) == 0 {
            self.registers[0] = 0;
        }
        self.bytes(&[opcode]);
    }

    fn stack(&mut self) {
        let (from, to) = (self.register(), self.register());
        match self.random.below(7) {
            0 => {
                self.size_prefix();
                self.byte(0x50 | from);
                self.size_prefix();
                self.byte(0x58 | to);
            }
            1 => {
                self.size_prefix();
                self.byte(0x6a);
                self.immediate(1);
                self.size_prefix();
                self.byte(0x58 | to);
            }
            2 => {
                self.size_prefix();
                self.byte(0x60);
                self.byte(0x40 | from);
                self.size_prefix();
                self.byte(0x61);
            }
            3 => {
                // PUSHF, POP, with what is undefined in between cleared by hand.
                self.size_prefix();
                self.byte(0x9c);
                self.size_prefix();
                self.byte(0x58 | to);
            }
            4 => {
                // Of 16 bits on a stack of 32, it keeps half of a pointer.
                self.wide |= self.big;
                self.size_prefix();
                self.bytes(&[0xc8, 0x20, 0, 0]);
                self.size_prefix();
                self.byte(0xc9);
            }
            5 => {
                self.memory(false, &[0xff], 6);
                self.size_prefix();
                self.byte(0x58 | to);
            }
            _ => {
                self.size_prefix();
                self.byte(0x50 | from);
                self.memory(false, &[0x8f], 0);
            }
        }
    }

    fn flow(&mut self) {
        let register = self.register();
        match self.random.below(6) {
            0 | 1 => {
                let condition = self.random.below(16);
                self.byte(0x70 | condition);
                self.byte(1);
                self.byte(0x40 | register);
            }
            2 => {
                // LOOP and its like over an instruction that counts.
                self.registers[1] = 1 + self.random.below(9);
                let opcode = self.random.pick(&[0xe0, 0xe1, 0xe2]);
                self.bytes(&[0x40, opcode, 0xfd]);
            }
            3 => {
                self.registers[1] &= self.random.pick(&[0, 0xffff_0000, u32::MAX]);
                self.bytes(&[0xe3, 1, 0x42]);
            }
            4 if self.big => self.bytes(&[0xe8, 1, 0, 0, 0, 0x40, 0x58]),
            4 => self.bytes(&[0xe8, 1, 0, 0x40, 0x58]),
            _ if self.big => self.bytes(&[0xeb, 1, 0xc3, 0xe8, 0xfa, 0xff, 0xff, 0xff]),
            _ => self.bytes(&[0xeb, 1, 0xc3, 0xe8, 0xfc, 0xff]),
        }
    }

    fn decimal(&mut self) {
        match self.random.below(4) {
            0 => {
                self.defined &= !OF;
                let opcode = self.random.pick(&[0x27, 0x2f]);
                self.bytes(&[opcode]);
            }
            1 => {
                self.defined &= !(OF | SF | ZF | PF);
                let opcode = self.random.pick(&[0x37, 0x3f]);
                self.bytes(&[opcode]);
            }
            _ => {
                self.defined &= !(OF | AF | CF);
                let (opcode, base) = (self.random.pick(&[0xd4, 0xd5]), self.random.pick(&[10, 16, 7, 0]));
                if opcode == 0xd5 || base != 0 {
                    self.bytes(&[opcode, base]);
                }
            }
        }
    }

    fn system(&mut self) {
        match self.random.below(5) {
            // Flags.
            0 => {
                let opcode = self.random.pick(&[0xf8, 0xf9, 0xf5, 0xfc, 0xfd]);
                self.bytes(&[opcode]);
            }
            // SMSW AX.
            1 => self.bytes(&[0x0f, 0x01, 0xe0]),
            // MOV CR2, EBX; MOV ECX, CR2.
            2 => self.bytes(&[0x0f, 0x22, 0xd3, 0x0f, 0x20, 0xd1]),
            // UD2.
            3 => self.bytes(&[0x0f, 0x0b]),
            // INT 0x40, whose handler returns.
            _ => self.bytes(&[0xcd, 0x40]),
        }
    }
}
