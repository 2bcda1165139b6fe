//! Two-operand arithmetic with its flags (SDM vol. 1 3.4.3.1).

use crate::cpu::{Cpu, Step};
use crate::flags::{AF, CF, OF, STATUS, ZF, mask, of_result, sign, when};
use crate::machine::Machine;
use crate::state::RAX;
use iced_x86::Mnemonic;

/// A result, and the status flags with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Result {
    pub value: u64,
    pub flags: u64,
}

/// `left + right + carry` on `width` bytes.
pub(crate) const fn add(left: u64, right: u64, carry: bool, width: u8) -> Result {
    let (left, right) = (left & mask(width), right & mask(width));
    let sum = left as u128 + right as u128 + carry as u128;
    let value = sum as u64 & mask(width);
    let flags = of_result(value, width)
        | when(CF, sum > mask(width) as u128)
        | when(OF, (left ^ value) & (right ^ value) & sign(width) != 0)
        | (left ^ right ^ value) & AF;
    Result { value, flags }
}

/// `left - right - borrow` on `width` bytes.
pub(crate) const fn subtract(left: u64, right: u64, borrow: bool, width: u8) -> Result {
    let (left, right) = (left & mask(width), right & mask(width));
    let value = left.wrapping_sub(right).wrapping_sub(borrow as u64) & mask(width);
    let flags = of_result(value, width)
        | when(CF, (left as u128) < right as u128 + borrow as u128)
        | when(OF, (left ^ right) & (left ^ value) & sign(width) != 0)
        | (left ^ right ^ value) & AF;
    Result { value, flags }
}

const fn logical(value: u64, width: u8) -> Result {
    Result { value: value & mask(width), flags: of_result(value, width) }
}

impl<M: Machine + ?Sized> Cpu<'_, M> {
    /// Replaces those status flags that `which` has.
    pub(crate) fn set_flags(&mut self, which: u64, flags: u64) {
        self.state.rflags = self.state.rflags & !which | flags & which;
    }

    pub(crate) fn flag(&self, flag: u64) -> bool {
        self.state.rflags & flag != 0
    }

    /// ADD, SUB and their like; whether it is one.
    pub(crate) fn arithmetic(&mut self) -> Step<bool, M> {
        match self.instruction.mnemonic() {
            Mnemonic::Add => self.binary(|left, right, _, width| add(left, right, false, width)),
            Mnemonic::Adc => self.binary(add),
            Mnemonic::Sub => self.binary(|left, right, _, width| subtract(left, right, false, width)),
            Mnemonic::Sbb => self.binary(subtract),
            Mnemonic::And => self.binary(|left, right, _, width| logical(left & right, width)),
            Mnemonic::Or => self.binary(|left, right, _, width| logical(left | right, width)),
            Mnemonic::Xor => self.binary(|left, right, _, width| logical(left ^ right, width)),
            Mnemonic::Cmp => self.compare(|left, right, width| subtract(left, right, false, width)),
            Mnemonic::Test => self.compare(|left, right, width| logical(left & right, width)),
            Mnemonic::Inc => self.unary(STATUS & !CF, |value, width| add(value, 1, false, width)),
            Mnemonic::Dec => self.unary(STATUS & !CF, |value, width| subtract(value, 1, false, width)),
            Mnemonic::Neg => self.unary(STATUS, |value, width| subtract(0, value, false, width)),
            Mnemonic::Not => self.unary(0, |value, width| logical(!value, width)),
            Mnemonic::Xadd => self.exchange_and_add(),
            Mnemonic::Cmpxchg => self.compare_and_exchange(),
            _ => return Ok(false),
        }?;
        Ok(true)
    }

    fn binary(&mut self, compute: impl Fn(u64, u64, bool, u8) -> Result) -> Step<(), M> {
        let width = self.width(0)?;
        let (left, right) = (self.get(0)?, self.get(1)?);
        let result = compute(left, right, self.flag(CF), width);
        self.set(0, result.value)?;
        self.set_flags(STATUS, result.flags);
        Ok(())
    }

    fn compare(&mut self, compute: impl Fn(u64, u64, u8) -> Result) -> Step<(), M> {
        let width = self.width(0)?;
        let (left, right) = (self.get(0)?, self.get(1)?);
        self.set_flags(STATUS, compute(left, right, width).flags);
        Ok(())
    }

    fn unary(&mut self, which: u64, compute: impl Fn(u64, u8) -> Result) -> Step<(), M> {
        let width = self.width(0)?;
        let result = compute(self.get(0)?, width);
        self.set(0, result.value)?;
        self.set_flags(which, result.flags);
        Ok(())
    }

    fn exchange_and_add(&mut self) -> Step<(), M> {
        let width = self.width(0)?;
        let (left, right) = (self.get(0)?, self.get(1)?);
        let result = add(left, right, false, width);
        if self.is_memory(0) {
            self.set(0, result.value)?;
            self.set(1, left)?;
        } else {
            self.set(1, left)?;
            self.set(0, result.value)?;
        }
        self.set_flags(STATUS, result.flags);
        Ok(())
    }

    /// CMPXCHG stores in any case: what was there, if it is not what RAX has.
    fn compare_and_exchange(&mut self) -> Step<(), M> {
        let width = self.width(0)?;
        let there = self.get(0)?;
        let result = subtract(self.state.part(RAX, width), there, false, width);
        if result.flags & ZF != 0 {
            let new = self.get(1)?;
            self.set(0, new)?;
        } else {
            if self.is_memory(0) {
                self.set(0, there)?;
            }
            self.state.set_part(RAX, width, there);
        }
        self.set_flags(STATUS, result.flags);
        Ok(())
    }
}
