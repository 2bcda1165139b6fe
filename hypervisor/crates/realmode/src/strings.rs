//! String instructions: one element a step, so that a long one does not hold Herald up.

use crate::alu::subtract;
use crate::cpu::{Break, Cpu, Step};
use crate::flags::{DF, STATUS, ZF, mask};
use crate::machine::{Access, Machine};
use crate::state::{RAX, RCX, RDI, RDX, RSI, SegmentName};
use iced_x86::{Mnemonic, OpKind};

/// What an instruction does with an element.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Move,
    Compare,
    Store,
    Load,
    Scan,
    In,
    Out,
}

fn kind(mnemonic: Mnemonic) -> Option<(Kind, u8)> {
    Some(match mnemonic {
        Mnemonic::Movsb => (Kind::Move, 1),
        Mnemonic::Movsw => (Kind::Move, 2),
        Mnemonic::Movsd => (Kind::Move, 4),
        Mnemonic::Cmpsb => (Kind::Compare, 1),
        Mnemonic::Cmpsw => (Kind::Compare, 2),
        Mnemonic::Cmpsd => (Kind::Compare, 4),
        Mnemonic::Stosb => (Kind::Store, 1),
        Mnemonic::Stosw => (Kind::Store, 2),
        Mnemonic::Stosd => (Kind::Store, 4),
        Mnemonic::Lodsb => (Kind::Load, 1),
        Mnemonic::Lodsw => (Kind::Load, 2),
        Mnemonic::Lodsd => (Kind::Load, 4),
        Mnemonic::Scasb => (Kind::Scan, 1),
        Mnemonic::Scasw => (Kind::Scan, 2),
        Mnemonic::Scasd => (Kind::Scan, 4),
        Mnemonic::Insb => (Kind::In, 1),
        Mnemonic::Insw => (Kind::In, 2),
        Mnemonic::Insd => (Kind::In, 4),
        Mnemonic::Outsb => (Kind::Out, 1),
        Mnemonic::Outsw => (Kind::Out, 2),
        Mnemonic::Outsd => (Kind::Out, 4),
        _ => return None,
    })
}

impl<M: Machine + ?Sized> Cpu<'_, M> {
    /// Whether it is one.
    pub(crate) fn string(&mut self) -> Step<bool, M> {
        let Some((kind, width)) = kind(self.instruction.mnemonic()) else { return Ok(false) };
        let address = self.string_address_width()?;
        let repeats = self.instruction.has_rep_prefix() || self.instruction.has_repne_prefix();
        if repeats && self.state.part(RCX, address) == 0 {
            return Ok(true);
        }
        self.element_of(kind, width, address)?;
        if repeats {
            self.repeat(kind, address);
        }
        Ok(true)
    }

    /// From the kind of an operand; an operand with the other name would be SSE's MOVSD.
    fn string_address_width(&self) -> Step<u8, M> {
        let widths =
            (0..self.instruction.op_count()).find_map(|operand| match self.instruction.op_kind(operand) {
                OpKind::MemorySegSI | OpKind::MemoryESDI => Some(2),
                OpKind::MemorySegESI | OpKind::MemoryESEDI => Some(4),
                _ => None,
            });
        widths.ok_or(Break::Unknown)
    }

    /// Goes back to the same instruction, if there is more to do.
    fn repeat(&mut self, kind: Kind, address: u8) {
        let left = self.state.part(RCX, address).wrapping_sub(1) & mask(address);
        self.state.set_part(RCX, address, left);
        let wanted = self.instruction.has_repe_prefix();
        let ends = matches!(kind, Kind::Compare | Kind::Scan) && self.flag(ZF) != wanted;
        if left != 0 && !ends {
            self.state.rip = self.start;
        }
    }

    fn element_of(&mut self, kind: Kind, width: u8, address: u8) -> Step<(), M> {
        let (source, target) = (self.state.part(RSI, address), self.state.part(RDI, address));
        let es = SegmentName::Es;
        match kind {
            Kind::Move => {
                let value = self.load(self.operand_segment()?, source, width)?;
                self.store(es, target, width, value)?;
            }
            Kind::Compare => {
                let left = self.load(self.operand_segment()?, source, width)?;
                let right = self.load(es, target, width)?;
                self.set_flags(STATUS, subtract(left, right, false, width).flags);
            }
            Kind::Store => self.store(es, target, width, self.state.part(RAX, width))?,
            Kind::Load => {
                let value = self.load(self.operand_segment()?, source, width)?;
                self.state.set_part(RAX, width, value);
            }
            Kind::Scan => {
                let right = self.load(es, target, width)?;
                self.set_flags(STATUS, subtract(self.state.part(RAX, width), right, false, width).flags);
            }
            Kind::In => {
                // Where it goes is looked at first: what a device has given cannot be put back.
                self.require_ports()?;
                let linear = self.linear(es, target, width, Access::Write)?;
                self.translate(linear, Access::Write)?;
                let value = self.machine.port_in(self.port(), width).map_err(Break::End)?;
                self.store_linear(linear, width, u64::from(value) & mask(width))?;
            }
            Kind::Out => {
                self.require_ports()?;
                let value = self.load(self.operand_segment()?, source, width)?;
                self.machine.port_out(self.port(), width, value as u32).map_err(Break::End)?;
            }
        }
        if matches!(kind, Kind::Move | Kind::Compare | Kind::Load | Kind::Out) {
            self.step_index(RSI, width, address);
        }
        if !matches!(kind, Kind::Load | Kind::Out) {
            self.step_index(RDI, width, address);
        }
        Ok(())
    }

    fn port(&self) -> u16 {
        self.state.part(RDX, 2) as u16
    }

    fn step_index(&mut self, register: usize, width: u8, address: u8) {
        let by = if self.flag(DF) { u64::from(width).wrapping_neg() } else { width.into() };
        self.state.set_part(register, address, self.state.part(register, address).wrapping_add(by));
    }
}
