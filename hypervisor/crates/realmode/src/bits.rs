//! Single bits: tests, searches, the order of bytes.

use crate::cpu::{Cpu, Step};
use crate::flags::{CF, STATUS, ZF, of_result, signed, when};
use crate::machine::Machine;
use iced_x86::{Mnemonic, OpKind};

impl<M: Machine + ?Sized> Cpu<'_, M> {
    /// Whether it is one.
    pub(crate) fn bit(&mut self) -> Step<bool, M> {
        match self.instruction.mnemonic() {
            Mnemonic::Bt => self.test_bit(None),
            Mnemonic::Bts => self.test_bit(Some(|value, bit| value | bit)),
            Mnemonic::Btr => self.test_bit(Some(|value, bit| value & !bit)),
            Mnemonic::Btc => self.test_bit(Some(|value, bit| value ^ bit)),
            Mnemonic::Bsf => self.search(u64::trailing_zeros),
            Mnemonic::Bsr => self.search(|value| 63 - value.leading_zeros()),
            Mnemonic::Bswap => self.swap_bytes(),
            _ => return Ok(false),
        }?;
        Ok(true)
    }

    /// A number in a register reaches beyond the operand in memory, to both sides.
    fn test_bit(&mut self, change: Option<fn(u64, u64) -> u64>) -> Step<(), M> {
        let width = self.width(0)?;
        let bits = i64::from(width) * 8;
        let number = signed(self.get(1)?, width);
        if self.is_memory(0) && self.instruction.op_kind(1) == OpKind::Register {
            let words = number.div_euclid(bits) as u64;
            let displacement = self.instruction.memory_displacement64();
            let moved = displacement.wrapping_add(words.wrapping_mul(width.into()));
            self.instruction.set_memory_displacement64(moved);
        }
        let value = self.get(0)?;
        let bit = 1 << number.rem_euclid(bits);
        if let Some(change) = change {
            self.set(0, change(value, bit))?;
        }
        self.set_flags(CF, when(CF, value & bit != 0));
        Ok(())
    }

    /// BSF and BSR of zero: the target stays, as Intel's processors have it.
    fn search(&mut self, find: fn(u64) -> u32) -> Step<(), M> {
        let width = self.width(0)?;
        let value = self.get(1)?;
        if value == 0 {
            self.set_flags(STATUS, ZF | of_result(0, width));
            return Ok(());
        }
        self.set(0, find(value).into())?;
        self.set_flags(STATUS, of_result(value, width) & !ZF);
        Ok(())
    }

    /// Of 16 bits: undefined, zero as on Intel's processors.
    fn swap_bytes(&mut self) -> Step<(), M> {
        let value = self.get(0)? as u32;
        let swapped = if self.width(0)? == 4 { value.swap_bytes() } else { 0 };
        self.set(0, swapped.into())
    }
}
