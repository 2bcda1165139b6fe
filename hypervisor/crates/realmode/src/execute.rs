//! Which instruction it is. Each family says whether it knows it; whoever knows it has done it.

use crate::cpu::{Break, Cpu, Step};
use crate::flags::{CF, STATUS, signed};
use crate::machine::{Fault, Machine};
use crate::state::{RAX, RDX, SegmentName};
use iced_x86::{ConditionCode, Mnemonic, OpKind};

impl<M: Machine + ?Sized> Cpu<'_, M> {
    /// Executes what was decoded.
    pub(crate) fn execute(&mut self) -> Step<(), M> {
        let families = [
            Self::moves,
            Self::arithmetic,
            Self::flow,
            Self::stack,
            Self::shift,
            Self::string,
            Self::system,
            Self::bit,
            Self::multiply,
            Self::conversions,
            Self::decimal,
        ];
        for family in families {
            if family(self)? {
                return Ok(());
            }
        }
        Err(Break::Unknown)
    }

    fn moves(&mut self) -> Step<bool, M> {
        match self.instruction.mnemonic() {
            Mnemonic::Mov => self.move_any(),
            Mnemonic::Movzx => {
                let value = self.get(1)?;
                self.set(0, value)
            }
            Mnemonic::Movsx => {
                let value = signed(self.get(1)?, self.width(1)?);
                self.set(0, value as u64)
            }
            Mnemonic::Lea => {
                let offset = self.effective()?;
                self.set(0, offset)
            }
            Mnemonic::Xchg => self.exchange(),
            Mnemonic::Lds => self.load_pointer(SegmentName::Ds),
            Mnemonic::Les => self.load_pointer(SegmentName::Es),
            Mnemonic::Lss => self.load_pointer(SegmentName::Ss),
            Mnemonic::Lfs => self.load_pointer(SegmentName::Fs),
            Mnemonic::Lgs => self.load_pointer(SegmentName::Gs),
            Mnemonic::Nop
            | Mnemonic::Pause
            | Mnemonic::Lfence
            | Mnemonic::Mfence
            | Mnemonic::Sfence
            | Mnemonic::Prefetchnta
            | Mnemonic::Prefetcht0
            | Mnemonic::Endbr32 => Ok(()),
            Mnemonic::Ud2 => Err(Fault::InvalidOpcode.into()),
            _ => return self.conditional_moves(),
        }?;
        Ok(true)
    }

    fn conditional_moves(&mut self) -> Step<bool, M> {
        let branches = !matches!(self.instruction.op_kind(0), OpKind::Register | OpKind::Memory);
        if branches || self.instruction.condition_code() == ConditionCode::None {
            return Ok(false);
        }
        let holds = self.condition();
        match (self.instruction.op_count(), holds) {
            (1, _) => self.set(0, holds.into())?,
            // The source is read in any case, and a target of 32 bits loses what is above it.
            (2, _) => {
                let (new, old) = (self.get(1)?, self.get(0)?);
                self.set(0, if holds { new } else { old })?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn move_any(&mut self) -> Step<(), M> {
        if self.move_control()? {
            return Ok(());
        }
        if self.instruction.op_kind(0) == OpKind::Register
            && let Some(name) = SegmentName::of(self.instruction.op0_register())
        {
            let selector = self.get(1)? as u16;
            return self.load_segment(name, selector);
        }
        let value = self.get(1)?;
        self.set(0, value)
    }

    /// The memory operand first: it can fault, or be somebody else's meanwhile.
    fn exchange(&mut self) -> Step<(), M> {
        let (first, second) = (self.get(0)?, self.get(1)?);
        let (memory, register) = if self.is_memory(1) { (1, 0) } else { (0, 1) };
        let (to_memory, to_register) = if memory == 1 { (first, second) } else { (second, first) };
        self.set(memory, to_memory)?;
        self.set(register, to_register)
    }

    /// LDS and its like.
    fn load_pointer(&mut self, name: SegmentName) -> Step<(), M> {
        let width = self.width(0)?;
        let (offset, selector) = self.load_far(width)?;
        self.load_segment(name, selector)?;
        self.set(0, offset)
    }

    fn conversions(&mut self) -> Step<bool, M> {
        match self.instruction.mnemonic() {
            Mnemonic::Cbw => self.widen(1),
            Mnemonic::Cwde => self.widen(2),
            Mnemonic::Cwd => self.spread_sign(2),
            Mnemonic::Cdq => self.spread_sign(4),
            Mnemonic::Lahf => {
                let flags = self.state.rflags & 0xff;
                self.state.general[RAX] = self.state.general[RAX] & !0xff00 | flags << 8;
            }
            Mnemonic::Sahf => {
                let flags = self.state.part(RAX, 2) >> 8;
                self.set_flags(STATUS & 0xff, flags);
            }
            Mnemonic::Salc => self.state.set_part(RAX, 1, if self.flag(CF) { 0xff } else { 0 }),
            Mnemonic::Xlatb => self.look_up()?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn widen(&mut self, width: u8) {
        let value = signed(self.state.part(RAX, width), width);
        self.state.set_part(RAX, width * 2, value as u64);
    }

    fn spread_sign(&mut self, width: u8) {
        let sign = signed(self.state.part(RAX, width), width) >> 63;
        self.state.set_part(RDX, width, sign as u64);
    }

    /// XLAT: AL is an index, too.
    fn look_up(&mut self) -> Step<(), M> {
        let offset = self.effective()?;
        let value = self.load(self.operand_segment()?, offset, 1)?;
        self.state.set_part(RAX, 1, value);
        Ok(())
    }
}
