//! The stack: as wide as SS says, in elements of the operand size.

use crate::cpu::{Break, Cpu, Step};
use crate::flags::{AC, DF, ID, IF, IOPL, NT, ONE, RF, STATUS, TF, VM, mask};
use crate::machine::{Fault, Machine};
use crate::state::{RBP, RSP, SegmentName};
use iced_x86::{Code, Mnemonic, OpKind};

impl<M: Machine + ?Sized> Cpu<'_, M> {
    /// Whether it is one.
    pub(crate) fn stack(&mut self) -> Step<bool, M> {
        match self.instruction.mnemonic() {
            Mnemonic::Push => self.push_operand(),
            Mnemonic::Pop => self.pop_operand(),
            Mnemonic::Pusha => self.push_all(2),
            Mnemonic::Pushad => self.push_all(4),
            Mnemonic::Popa => self.pop_all(2),
            Mnemonic::Popad => self.pop_all(4),
            Mnemonic::Pushf => self.push_flags(2),
            Mnemonic::Pushfd => self.push_flags(4),
            Mnemonic::Popf => self.pop_flags(2),
            Mnemonic::Popfd => self.pop_flags(4),
            Mnemonic::Enter => self.enter_frame(),
            Mnemonic::Leave => self.leave_frame(),
            _ => return Ok(false),
        }?;
        Ok(true)
    }

    /// Bytes of the stack pointer that are used.
    pub(crate) fn stack_width(&self) -> u8 {
        if self.state.segments[SegmentName::Ss].is_big() { 4 } else { 2 }
    }

    /// Bytes of an element: pushes say it by themselves.
    fn element(&self) -> u8 {
        self.instruction.stack_pointer_increment().unsigned_abs() as u8
    }

    pub(crate) fn push(&mut self, value: u64, width: u8) -> Step<(), M> {
        let pointer = self.stack_width();
        let top = self.state.part(RSP, pointer).wrapping_sub(width.into()) & mask(pointer);
        self.store(SegmentName::Ss, top, width, value & mask(width))?;
        self.set_stack_pointer(top);
        Ok(())
    }

    pub(crate) fn pop(&mut self, width: u8) -> Step<u64, M> {
        let top = self.state.part(RSP, self.stack_width());
        let value = self.load(SegmentName::Ss, top, width)?;
        self.drop_bytes(width.into());
        Ok(value)
    }

    /// Moves the stack pointer up.
    pub(crate) fn drop_bytes(&mut self, bytes: u64) {
        self.set_stack_pointer(self.state.part(RSP, self.stack_width()).wrapping_add(bytes));
    }

    /// The part of ESP that is no pointer stays.
    fn set_stack_pointer(&mut self, value: u64) {
        let all = mask(self.stack_width());
        self.state.general[RSP] = self.state.general[RSP] & !all | value & all;
    }

    fn push_operand(&mut self) -> Step<(), M> {
        let value = self.get(0)?;
        self.push(value, self.element())
    }

    /// An address with ESP in it counts from the stack pointer after the element (SDM vol. 2B POP).
    fn pop_operand(&mut self) -> Step<(), M> {
        let width = self.element();
        let value = self.pop(width)?;
        match SegmentName::of(self.instruction.op0_register()) {
            Some(name) if self.instruction.op_kind(0) == OpKind::Register => {
                self.load_segment(name, value as u16)
            }
            _ => self.set(0, value),
        }
    }

    fn push_all(&mut self, width: u8) -> Step<(), M> {
        let old = self.state.general;
        old[..8].iter().try_for_each(|value| self.push(*value, width))
    }

    fn pop_all(&mut self, width: u8) -> Step<(), M> {
        for number in (0..8).rev() {
            let value = self.pop(width)?;
            if number != RSP {
                self.state.set_part(number, width, value);
            }
        }
        Ok(())
    }

    fn push_flags(&mut self, width: u8) -> Step<(), M> {
        self.push(self.state.rflags & !(RF | VM), width)
    }

    fn pop_flags(&mut self, width: u8) -> Step<(), M> {
        let value = self.pop(width)?;
        self.load_flags(value, width);
        Ok(())
    }

    /// Replaces the flags that the privilege level may change; VM stays.
    pub(crate) fn load_flags(&mut self, value: u64, width: u8) {
        let mut may = STATUS | TF | DF | NT;
        if width == 4 {
            may |= AC | ID | RF;
        }
        if self.may_change_interrupts() {
            may |= IF;
        }
        if self.state.privilege() == 0 {
            may |= IOPL;
        }
        self.set_flags(may, value);
        self.state.rflags = self.state.rflags & !RF | ONE;
    }

    /// By IOPL, which real mode ignores.
    pub(crate) fn may_change_interrupts(&self) -> bool {
        let iopl = (self.state.rflags & IOPL) >> 12;
        !self.state.is_protected() || u64::from(self.state.privilege()) <= iopl
    }

    /// ENTER without nested frames: nobody's compiler makes those.
    fn enter_frame(&mut self) -> Step<(), M> {
        let width = match self.instruction.code() {
            Code::Enterw_imm16_imm8 => 2,
            Code::Enterd_imm16_imm8 => 4,
            _ => return Err(Break::Unknown),
        };
        if self.instruction.immediate8_2nd() != 0 {
            return Err(Break::Unknown);
        }
        self.push(self.state.general[RBP], width)?;
        self.state.set_part(RBP, width, self.state.general[RSP]);
        self.drop_bytes(u64::from(self.instruction.immediate16()).wrapping_neg());
        let top = self.state.part(RSP, self.stack_width());
        self.linear(SegmentName::Ss, top, 1, crate::machine::Access::Write)?;
        Ok(())
    }

    fn leave_frame(&mut self) -> Step<(), M> {
        let width = match self.instruction.code() {
            Code::Leavew => 2,
            Code::Leaved => 4,
            _ => return Err(Break::Unknown),
        };
        self.set_stack_pointer(self.state.general[RBP]);
        let value = self.pop(width)?;
        self.state.set_part(RBP, width, value);
        Ok(())
    }

    /// A transfer inside the code segment.
    pub(crate) fn jump_to(&mut self, target: u64) -> Step<(), M> {
        if target > u64::from(self.state.segments[SegmentName::Cs].limit) {
            return Err(Fault::Protection(0).into());
        }
        self.state.rip = target;
        Ok(())
    }
}
