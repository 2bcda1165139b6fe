//! Shifts and rotations. Where the architecture leaves a flag undefined, it is what one more step of the same would have
//! made of it.

use crate::alu::Result;
use crate::cpu::{Cpu, Step};
use crate::flags::{AF, CF, OF, STATUS, mask, of_result, sign, signed, when};
use crate::machine::Machine;
use iced_x86::Mnemonic;

/// Shifts count modulo 32.
const COUNT: u64 = 31;

impl<M: Machine + ?Sized> Cpu<'_, M> {
    /// Whether it is one.
    pub(crate) fn shift(&mut self) -> Step<bool, M> {
        match self.instruction.mnemonic() {
            Mnemonic::Shl | Mnemonic::Sal => {
                self.by_count(STATUS, |value, count, width, _| left(value, count, width))
            }
            Mnemonic::Shr => self.by_count(STATUS, |value, count, width, _| right(value, count, width)),
            Mnemonic::Sar => {
                self.by_count(STATUS, |value, count, width, _| right_signed(value, count, width))
            }
            Mnemonic::Rol => {
                self.by_count(CF | OF, |value, count, width, _| rotate_left(value, count, width))
            }
            Mnemonic::Ror => {
                self.by_count(CF | OF, |value, count, width, _| rotate_right(value, count, width))
            }
            Mnemonic::Rcl => self.by_count(CF | OF, rotate_left_through),
            Mnemonic::Rcr => self.by_count(CF | OF, rotate_right_through),
            Mnemonic::Shld => self.double(
                |first, second, width| {
                    let bits = u32::from(width) * 8;
                    u128::from(first) << bits | u128::from(second)
                },
                Direction::Left,
            ),
            Mnemonic::Shrd => self.double(
                |first, second, width| {
                    let bits = u32::from(width) * 8;
                    u128::from(second) << bits | u128::from(first)
                },
                Direction::Right,
            ),
            _ => return Ok(false),
        }?;
        Ok(true)
    }

    /// A count of zero changes nothing, no flag either.
    fn by_count(&mut self, which: u64, compute: fn(u64, u32, u8, bool) -> Result) -> Step<(), M> {
        let width = self.width(0)?;
        let value = self.get(0)?;
        let count = (self.get(1)? & COUNT) as u32;
        if count == 0 {
            // Written back all the same: a page that cannot be written faults.
            return self.set(0, value);
        }
        let result = compute(value, count, width, self.flag(CF));
        self.set(0, result.value)?;
        self.set_flags(which, result.flags);
        Ok(())
    }

    fn double(&mut self, join: fn(u64, u64, u8) -> u128, direction: Direction) -> Step<(), M> {
        let width = self.width(0)?;
        let (first, second) = (self.get(0)?, self.get(1)? & mask(width));
        let count = (self.get(2)? & COUNT) as u32;
        if count == 0 {
            return Ok(());
        }
        // More than 16 of 16 bits: undefined, and here what comes after the second operand is the first again.
        let bits = u32::from(width) * 8;
        let count = if count > bits { count - bits } else { count };
        let both = join(first, second, width);
        let (value, carry) = match direction {
            Direction::Left => ((both << count >> bits) as u64, both >> (2 * bits - count) & 1 != 0),
            Direction::Right => ((both >> count) as u64, both >> (count - 1) & 1 != 0),
        };
        let value = value & mask(width);
        let overflow = (value ^ first) & sign(width) != 0;
        self.set(0, value)?;
        self.set_flags(STATUS, of_result(value, width) | when(CF, carry) | when(OF, overflow));
        Ok(())
    }
}

#[derive(Clone, Copy)]
enum Direction {
    Left,
    Right,
}

fn top(value: u64, width: u8) -> bool {
    value & sign(width) != 0
}

fn left(value: u64, count: u32, width: u8) -> Result {
    let wide = u128::from(value) << count;
    let carry = wide >> (u32::from(width) * 8) & 1 != 0;
    let value = wide as u64 & mask(width);
    let flags = of_result(value, width) | when(CF, carry) | when(OF, top(value, width) != carry);
    Result { value, flags }
}

fn right(value: u64, count: u32, width: u8) -> Result {
    let carry = value >> (count - 1) & 1 != 0;
    let shifted = value >> count;
    let overflow = top(value >> (count - 1), width);
    Result { value: shifted, flags: of_result(shifted, width) | when(CF, carry) | when(OF, overflow) }
}

fn right_signed(value: u64, count: u32, width: u8) -> Result {
    let wide = signed(value, width);
    let carry = wide >> (count - 1) & 1 != 0;
    let value = (wide >> count) as u64 & mask(width);
    Result { value, flags: (of_result(value, width) | when(CF, carry)) & !AF }
}

fn rotate_left(value: u64, count: u32, width: u8) -> Result {
    let bits = u32::from(width) * 8;
    let count = count % bits;
    let value = if count == 0 { value } else { (value << count | value >> (bits - count)) & mask(width) };
    let carry = value & 1 != 0;
    Result { value, flags: when(CF, carry) | when(OF, top(value, width) != carry) }
}

fn rotate_right(value: u64, count: u32, width: u8) -> Result {
    let bits = u32::from(width) * 8;
    let count = count % bits;
    let value = if count == 0 { value } else { (value >> count | value << (bits - count)) & mask(width) };
    let (carry, second) = (top(value, width), value & sign(width) >> 1 != 0);
    Result { value, flags: when(CF, carry) | when(OF, carry != second) }
}

/// Rotations through carry are of 9, 17 or 33 bits; a whole turn keeps even the flags.
fn rotate_left_through(value: u64, count: u32, width: u8, carry: bool) -> Result {
    let bits = u32::from(width) * 8 + 1;
    let count = count % bits;
    let wide = u64::from(carry) << (bits - 1) | value;
    let turned = if count == 0 { wide } else { (wide << count | wide >> (bits - count)) & ((1 << bits) - 1) };
    let (value, carry) = (turned & mask(width), turned >> (bits - 1) & 1 != 0);
    Result { value, flags: when(CF, carry) | when(OF, top(value, width) != carry) }
}

fn rotate_right_through(value: u64, count: u32, width: u8, carry: bool) -> Result {
    let bits = u32::from(width) * 8 + 1;
    let count = count % bits;
    let wide = u64::from(carry) << (bits - 1) | value;
    let turned = if count == 0 { wide } else { (wide >> count | wide << (bits - count)) & ((1 << bits) - 1) };
    let (value, carry) = (turned & mask(width), turned >> (bits - 1) & 1 != 0);
    let overflow = top(value, width) != (value & sign(width) >> 1 != 0);
    Result { value, flags: when(CF, carry) | when(OF, overflow) }
}
