//! Multiplication and division.

use crate::cpu::{Cpu, Step};
use crate::flags::{CF, OF, STATUS, mask, of_result, signed, when};
use crate::machine::{Fault, Machine};
use crate::state::{RAX, RDX};
use iced_x86::Mnemonic;

impl<M: Machine + ?Sized> Cpu<'_, M> {
    /// Whether it is one.
    pub(crate) fn multiply(&mut self) -> Step<bool, M> {
        match self.instruction.mnemonic() {
            Mnemonic::Mul => self.multiply_unsigned(),
            Mnemonic::Imul => self.multiply_signed(),
            Mnemonic::Div => self.divide_unsigned(),
            Mnemonic::Idiv => self.divide_signed(),
            _ => return Ok(false),
        }?;
        Ok(true)
    }

    /// AX, or DX:AX, or EDX:EAX.
    fn wide_accumulator(&self, width: u8) -> u64 {
        if width == 1 {
            return self.state.part(RAX, 2);
        }
        self.state.part(RDX, width) << (width * 8) | self.state.part(RAX, width)
    }

    fn set_wide_accumulator(&mut self, width: u8, value: u64) {
        if width == 1 {
            return self.state.set_part(RAX, 2, value);
        }
        self.state.set_part(RAX, width, value);
        self.state.set_part(RDX, width, value >> (width * 8));
    }

    /// The other status flags are undefined: here, those of the lower half.
    fn set_product_flags(&mut self, low: u64, width: u8, overflows: bool) {
        self.set_flags(STATUS, of_result(low, width) | when(CF | OF, overflows));
    }

    fn multiply_unsigned(&mut self) -> Step<(), M> {
        let width = self.width(0)?;
        let product = self.state.part(RAX, width) * self.get(0)?;
        self.set_wide_accumulator(width, product);
        self.set_product_flags(product, width, product > mask(width));
        Ok(())
    }

    fn multiply_signed(&mut self) -> Step<(), M> {
        let width = self.width(0)?;
        let (left, right) = match self.instruction.op_count() {
            1 => (self.state.part(RAX, width), self.get(0)?),
            2 => (self.get(0)?, self.get(1)?),
            _ => (self.get(1)?, self.get(2)?),
        };
        let product = signed(left, width) * signed(right, width);
        if self.instruction.op_count() == 1 {
            self.set_wide_accumulator(width, product as u64);
        } else {
            self.set(0, product as u64)?;
        }
        self.set_product_flags(product as u64, width, product != signed(product as u64, width));
        Ok(())
    }

    /// The flags are undefined: they stay.
    fn divide_unsigned(&mut self) -> Step<(), M> {
        let width = self.width(0)?;
        let (dividend, divisor) = (self.wide_accumulator(width), self.get(0)?);
        let quotient = dividend.checked_div(divisor).ok_or(Fault::Divide)?;
        if quotient > mask(width) {
            return Err(Fault::Divide.into());
        }
        self.set_quotient(width, quotient, dividend % divisor);
        Ok(())
    }

    fn divide_signed(&mut self) -> Step<(), M> {
        let width = self.width(0)?;
        let dividend = signed(self.wide_accumulator(width), width * 2);
        let divisor = signed(self.get(0)?, width);
        let quotient = dividend.checked_div(divisor).ok_or(Fault::Divide)?;
        if quotient != signed(quotient as u64, width) {
            return Err(Fault::Divide.into());
        }
        self.set_quotient(width, quotient as u64, (dividend % divisor) as u64);
        Ok(())
    }

    fn set_quotient(&mut self, width: u8, quotient: u64, remainder: u64) {
        if width == 1 {
            return self.state.set_part(RAX, 2, (remainder & 0xff) << 8 | quotient & 0xff);
        }
        self.state.set_part(RAX, width, quotient);
        self.state.set_part(RDX, width, remainder);
    }
}
