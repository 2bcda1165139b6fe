//! Jumps, calls, returns, loops; near ones, and far ones on the same privilege level.

use crate::cpu::{Break, Cpu, Step};
use crate::flags::{CF, IF, NT, OF, PF, SF, TF, VM, ZF, mask};
use crate::machine::{Fault, Machine};
use crate::state::{Blocking, RCX, SegmentName};
use iced_x86::{Code, ConditionCode, Mnemonic, OpKind};

impl<M: Machine + ?Sized> Cpu<'_, M> {
    /// Whether it is one.
    pub(crate) fn flow(&mut self) -> Step<bool, M> {
        match self.instruction.mnemonic() {
            Mnemonic::Jmp => self.jump(),
            Mnemonic::Call => self.call(),
            Mnemonic::Ret => self.near_return(),
            Mnemonic::Retf => self.far_return(),
            Mnemonic::Iret => self.interrupt_return(2),
            Mnemonic::Iretd => self.interrupt_return(4),
            Mnemonic::Loop => self.count_down(|_| true),
            Mnemonic::Loope => self.count_down(|cpu| cpu.flag(ZF)),
            Mnemonic::Loopne => self.count_down(|cpu| !cpu.flag(ZF)),
            Mnemonic::Jcxz => self.branch_if(self.state.part(RCX, 2) == 0),
            Mnemonic::Jecxz => self.branch_if(self.state.part(RCX, 4) == 0),
            Mnemonic::Int => self.software_interrupt(self.instruction.immediate8()),
            Mnemonic::Int3 => self.software_interrupt(3),
            Mnemonic::Into if self.flag(OF) => self.software_interrupt(4),
            Mnemonic::Into => Ok(()),
            _ if self.instruction.is_jcc_short_or_near() => self.branch_if(self.condition()),
            _ => return Ok(false),
        }?;
        Ok(true)
    }

    /// What Jcc, SETcc and CMOVcc ask for.
    pub(crate) fn condition(&self) -> bool {
        let less = self.flag(SF) != self.flag(OF);
        match self.instruction.condition_code() {
            ConditionCode::None => false,
            ConditionCode::o => self.flag(OF),
            ConditionCode::no => !self.flag(OF),
            ConditionCode::b => self.flag(CF),
            ConditionCode::ae => !self.flag(CF),
            ConditionCode::e => self.flag(ZF),
            ConditionCode::ne => !self.flag(ZF),
            ConditionCode::be => self.flag(CF) || self.flag(ZF),
            ConditionCode::a => !self.flag(CF) && !self.flag(ZF),
            ConditionCode::s => self.flag(SF),
            ConditionCode::ns => !self.flag(SF),
            ConditionCode::p => self.flag(PF),
            ConditionCode::np => !self.flag(PF),
            ConditionCode::l => less,
            ConditionCode::ge => !less,
            ConditionCode::le => less || self.flag(ZF),
            ConditionCode::g => !less && !self.flag(ZF),
        }
    }

    fn branch_if(&mut self, taken: bool) -> Step<(), M> {
        if taken { self.jump_to(self.instruction.near_branch_target()) } else { Ok(()) }
    }

    /// LOOP and its like: as wide as the address size.
    fn count_down(&mut self, goes_on: impl Fn(&Self) -> bool) -> Step<(), M> {
        let width = match self.instruction.code() {
            Code::Loop_rel8_16_CX
            | Code::Loop_rel8_32_CX
            | Code::Loope_rel8_16_CX
            | Code::Loope_rel8_32_CX
            | Code::Loopne_rel8_16_CX
            | Code::Loopne_rel8_32_CX => 2,
            _ => 4,
        };
        let left = self.state.part(RCX, width).wrapping_sub(1) & mask(width);
        self.state.set_part(RCX, width, left);
        self.branch_if(left != 0 && goes_on(self))
    }

    fn jump(&mut self) -> Step<(), M> {
        match self.instruction.op_kind(0) {
            OpKind::NearBranch16 | OpKind::NearBranch32 => self.branch_if(true),
            OpKind::FarBranch16 | OpKind::FarBranch32 => {
                let (selector, target) = self.far_target();
                self.load_code(selector, target)
            }
            _ => match self.far_pointer()? {
                Some((selector, target, _)) => self.load_code(selector, target),
                None => {
                    let target = self.get(0)?;
                    self.jump_to(target)
                }
            },
        }
    }

    fn call(&mut self) -> Step<(), M> {
        let (selector, target, width) = match self.instruction.op_kind(0) {
            OpKind::NearBranch16 => return self.near_call(self.instruction.near_branch_target(), 2),
            OpKind::NearBranch32 => return self.near_call(self.instruction.near_branch_target(), 4),
            OpKind::FarBranch16 => (self.far_target().0, self.far_target().1, 2),
            OpKind::FarBranch32 => (self.far_target().0, self.far_target().1, 4),
            _ => match self.far_pointer()? {
                Some(far) => far,
                None => {
                    let (target, width) = (self.get(0)?, self.width(0)?);
                    return self.near_call(target, width);
                }
            },
        };
        let (old, back) = (self.state.segments[SegmentName::Cs].selector, self.state.rip);
        self.push(old.into(), width)?;
        self.push(back, width)?;
        self.load_code(selector, target)
    }

    fn near_call(&mut self, target: u64, width: u8) -> Step<(), M> {
        self.push(self.state.rip, width)?;
        self.jump_to(target)
    }

    /// A far address in the instruction.
    fn far_target(&self) -> (u16, u64) {
        let offset = match self.instruction.op_kind(0) {
            OpKind::FarBranch16 => self.instruction.far_branch16().into(),
            _ => self.instruction.far_branch32().into(),
        };
        (self.instruction.far_branch_selector(), offset)
    }

    /// A far address in memory, if the instruction has one: selector, offset, bytes of the offset.
    fn far_pointer(&mut self) -> Step<Option<(u16, u64, u8)>, M> {
        let width = match self.instruction.code() {
            Code::Jmp_m1616 | Code::Call_m1616 => 2,
            Code::Jmp_m1632 | Code::Call_m1632 => 4,
            _ => return Ok(None),
        };
        let (offset, selector) = self.load_far(width)?;
        Ok(Some((selector, offset, width)))
    }

    /// An offset of `width` bytes from the memory operand, and the selector behind it.
    pub(crate) fn load_far(&mut self, width: u8) -> Step<(u64, u16), M> {
        let (name, at) = (self.operand_segment()?, self.effective()?);
        let offset = self.load(name, at, width)?;
        let behind = at.wrapping_add(width.into()) & mask(self.address_width());
        Ok((offset, self.load(name, behind, 2)? as u16))
    }

    fn near_return(&mut self) -> Step<(), M> {
        let width = match self.instruction.code() {
            Code::Retnw | Code::Retnw_imm16 => 2,
            _ => 4,
        };
        let target = self.pop(width)?;
        self.drop_argument_bytes();
        self.jump_to(target)
    }

    fn drop_argument_bytes(&mut self) {
        if self.instruction.op_count() != 0 {
            self.drop_bytes(self.instruction.immediate16().into());
        }
    }

    fn far_return(&mut self) -> Step<(), M> {
        let width = match self.instruction.code() {
            Code::Retfw | Code::Retfw_imm16 => 2,
            _ => 4,
        };
        let target = self.pop(width)?;
        let selector = self.pop(width)? as u16;
        self.require_same_privilege(selector)?;
        self.load_code(selector, target)?;
        self.drop_argument_bytes();
        Ok(())
    }

    /// A return to an outer level is the processor's to do: the state can be entered there.
    fn require_same_privilege(&self, selector: u16) -> Step<(), M> {
        let outer = self.state.is_protected() && selector & 3 > u16::from(self.state.privilege());
        if outer { Err(Break::Unknown) } else { Ok(()) }
    }

    /// IRET. Nested tasks and virtual-8086 mode are unknown.
    fn interrupt_return(&mut self, width: u8) -> Step<(), M> {
        if self.state.is_protected() && (self.flag(NT) || self.state.is_long()) {
            return Err(Break::Unknown);
        }
        let target = self.pop(width)?;
        let selector = self.pop(width)? as u16;
        let flags = self.pop(width)?;
        if self.state.is_protected() && width == 4 && flags & VM != 0 {
            return Err(Break::Unknown);
        }
        self.require_same_privilege(selector)?;
        self.load_code(selector, target)?;
        self.load_flags(flags, width);
        self.state.nmis_blocked = false;
        Ok(())
    }

    /// INT n: in real mode through the vector table.
    fn software_interrupt(&mut self, vector: u8) -> Step<(), M> {
        if self.state.is_protected() {
            return self.through_gate(vector, None, true);
        }
        self.through_vector(vector)
    }

    /// Real mode: FLAGS, CS, IP on the stack, and on to where the table says (SDM vol. 3A 20.1.4).
    pub(crate) fn through_vector(&mut self, vector: u8) -> Step<(), M> {
        let at = u64::from(vector) * 4;
        if at + 3 > self.state.idtr.limit.into() {
            return Err(Fault::Protection(0).into());
        }
        let entry = self.load_linear(self.state.idtr.base.wrapping_add(at), 4)?;
        self.push(self.state.rflags, 2)?;
        self.push(self.state.segments[SegmentName::Cs].selector.into(), 2)?;
        self.push(self.state.rip, 2)?;
        self.state.rflags &= !(IF | TF);
        self.state.blocking = Blocking::None;
        self.load_code((entry >> 16) as u16, entry & 0xffff)
    }
}
