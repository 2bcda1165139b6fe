//! Decimal arithmetic, which old firmware uses to print numbers.

use crate::cpu::{Cpu, Step};
use crate::flags::{AF, CF, STATUS, of_result, when};
use crate::machine::{Fault, Machine};
use crate::state::RAX;
use iced_x86::Mnemonic;

impl<M: Machine + ?Sized> Cpu<'_, M> {
    /// Whether it is one.
    pub(crate) fn decimal(&mut self) -> Step<bool, M> {
        match self.instruction.mnemonic() {
            Mnemonic::Daa => self.adjust_packed(u8::wrapping_add, 0),
            Mnemonic::Das => self.adjust_packed(u8::wrapping_sub, 6),
            Mnemonic::Aaa => self.adjust_digit(u16::wrapping_add),
            Mnemonic::Aas => self.adjust_digit(u16::wrapping_sub),
            Mnemonic::Aam => self.split_digits()?,
            Mnemonic::Aad => self.join_digits()?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// DAA and DAS. The first step of DAS borrows from what is below 6.
    fn adjust_packed(&mut self, adjust: fn(u8, u8) -> u8, borrows_below: u8) {
        let old = self.state.part(RAX, 1) as u8;
        let low = old & 0xf > 9 || self.flag(AF);
        let high = old > 0x99 || self.flag(CF);
        let by = if low { 6 } else { 0 } + if high { 0x60 } else { 0 };
        let new = adjust(old, by);
        let borrows = low && old < borrows_below;
        self.state.set_part(RAX, 1, new.into());
        self.set_flags(STATUS, of_result(new.into(), 1) | when(AF, low) | when(CF, high || borrows));
    }

    /// AAA and AAS.
    fn adjust_digit(&mut self, adjust: fn(u16, u16) -> u16) {
        let old = self.state.part(RAX, 2) as u16;
        let carries = old & 0xf > 9 || self.flag(AF);
        let new = if carries { adjust(old, 0x106) } else { old };
        self.state.set_part(RAX, 2, u64::from(new & 0xff0f));
        self.set_flags(STATUS, of_result(u64::from(new & 0xf), 1) | when(AF | CF, carries));
    }

    fn split_digits(&mut self) -> Step<(), M> {
        let base = self.get(0)? & 0xff;
        let value = self.state.part(RAX, 1);
        let high = value.checked_div(base).ok_or(Fault::Divide)?;
        let low = value % base;
        self.state.set_part(RAX, 2, high << 8 | low);
        self.set_flags(STATUS, of_result(low, 1));
        Ok(())
    }

    fn join_digits(&mut self) -> Step<(), M> {
        let base = self.get(0)? & 0xff;
        let value = self.state.part(RAX, 2);
        let joined = ((value & 0xff) + (value >> 8) * base) & 0xff;
        self.state.set_part(RAX, 2, joined);
        self.set_flags(STATUS, of_result(joined, 1));
        Ok(())
    }
}
