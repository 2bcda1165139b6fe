//! Operands by number: registers, memory, constants.

use crate::cpu::{Break, Cpu, Step};
use crate::flags::mask;
use crate::machine::Machine;
use crate::state::SegmentName;
use iced_x86::{Mnemonic, OpKind};

impl<M: Machine + ?Sized> Cpu<'_, M> {
    /// Bytes of an operand that is a register or memory.
    pub(crate) fn width(&self, operand: u32) -> Step<u8, M> {
        let width = match self.instruction.op_kind(operand) {
            OpKind::Register => self.instruction.op_register(operand).size(),
            OpKind::Memory => self.instruction.memory_size().size(),
            _ => 0,
        };
        if matches!(width, 1 | 2 | 4) { Ok(width as u8) } else { Err(Break::Unknown) }
    }

    pub(crate) fn is_memory(&self, operand: u32) -> bool {
        self.instruction.op_kind(operand) == OpKind::Memory
    }

    /// The value of an operand. Constants have the sign that the instruction gives them.
    pub(crate) fn get(&mut self, operand: u32) -> Step<u64, M> {
        match self.instruction.op_kind(operand) {
            OpKind::Register => {
                let register = self.instruction.op_register(operand);
                match SegmentName::of(register) {
                    Some(name) => Ok(u64::from(self.state.segments[name].selector)),
                    None => self.state.register(register).ok_or(Break::Unknown),
                }
            }
            OpKind::Memory => {
                let (offset, width) = (self.effective()?, self.width(operand)?);
                self.get_memory(operand, offset, width)
            }
            _ => self.instruction.try_immediate(operand).map_err(|_| Break::Unknown),
        }
    }

    fn get_memory(&mut self, operand: u32, offset: u64, width: u8) -> Step<u64, M> {
        let name = self.operand_segment()?;
        let locks = self.instruction.has_lock_prefix() && operand == 0
            || self.instruction.mnemonic() == Mnemonic::Xchg;
        if locks { self.load_locked(name, offset, width) } else { self.load(name, offset, width) }
    }

    /// Sets an operand: what is wider than it is cut off.
    pub(crate) fn set(&mut self, operand: u32, value: u64) -> Step<(), M> {
        match self.instruction.op_kind(operand) {
            OpKind::Register => {
                let register = self.instruction.op_register(operand);
                self.state.set_register(register, value).ok_or(Break::Unknown)
            }
            OpKind::Memory => {
                let width = self.width(operand)?;
                let value = value & mask(width);
                if let Some(locked) = self.locked {
                    return self.store_locked(locked, width, value);
                }
                let offset = self.effective()?;
                self.store(self.operand_segment()?, offset, width, value)
            }
            _ => Err(Break::Unknown),
        }
    }
}
