//! What operating systems and firmware do beside computing: tables, control registers, MSRs, ports, the flags of interrupts.

use crate::control::Control;
use crate::cpu::{Break, Cpu, Step};
use crate::flags::{CF, DF, IF, mask};
use crate::machine::{Access, Fault, Machine};
use crate::state::{Blocking, CR0_PE, RAX, RBX, RCX, RDX, Table};
use addr::Gva;
use iced_x86::{Code, Mnemonic, OpKind, Register};

/// CR0.TS.
const CR0_TS: u64 = 1 << 3;
/// The part of CR0 that LMSW sets.
const STATUS_WORD: u64 = 0xf;

impl<M: Machine + ?Sized> Cpu<'_, M> {
    /// Whether it is one.
    pub(crate) fn system(&mut self) -> Step<bool, M> {
        match self.instruction.mnemonic() {
            Mnemonic::Lgdt => self.load_table().map(|table| self.state.gdtr = table),
            Mnemonic::Lidt => self.load_table().map(|table| self.state.idtr = table),
            Mnemonic::Sgdt => self.store_table(self.state.gdtr),
            Mnemonic::Sidt => self.store_table(self.state.idtr),
            Mnemonic::Lldt => self.load_system_segment(Self::load_local_table),
            Mnemonic::Ltr => self.load_system_segment(Self::load_task),
            Mnemonic::Sldt => self.store_selector(self.state.ldtr.selector),
            Mnemonic::Str => self.store_selector(self.state.tr.selector),
            Mnemonic::Smsw => self.set(0, self.state.cr0),
            Mnemonic::Lmsw => self.load_status_word(),
            Mnemonic::Clts => self.write_control(Control::Cr0, self.state.cr0 & !CR0_TS),
            Mnemonic::Invlpg => self.forget_page(),
            Mnemonic::Wbinvd | Mnemonic::Invd => self.require_privilege(),
            Mnemonic::Cpuid => {
                let (leaf, subleaf) = (self.state.part(RAX, 4) as u32, self.state.part(RCX, 4) as u32);
                let answer = self.machine.cpuid(self.state, leaf, subleaf);
                for (register, value) in [RAX, RBX, RCX, RDX].into_iter().zip(answer) {
                    self.state.set_part(register, 4, value.into());
                }
                Ok(())
            }
            Mnemonic::Rdtsc => {
                let time = self.machine.time();
                self.set_edx_eax(time);
                Ok(())
            }
            Mnemonic::Rdmsr => self.read_msr(),
            Mnemonic::Wrmsr => self.write_msr(),
            _ => return self.flags_and_ports(),
        }?;
        Ok(true)
    }

    fn flags_and_ports(&mut self) -> Step<bool, M> {
        match self.instruction.mnemonic() {
            Mnemonic::In => self.port_in(),
            Mnemonic::Out => self.port_out(),
            Mnemonic::Cli => self.switch_interrupts(false),
            Mnemonic::Sti => self.switch_interrupts(true),
            Mnemonic::Cld => self.change_flags(|flags| flags & !DF),
            Mnemonic::Std => self.change_flags(|flags| flags | DF),
            Mnemonic::Clc => self.change_flags(|flags| flags & !CF),
            Mnemonic::Stc => self.change_flags(|flags| flags | CF),
            Mnemonic::Cmc => self.change_flags(|flags| flags ^ CF),
            _ => return Ok(false),
        }?;
        Ok(true)
    }

    fn change_flags(&mut self, change: impl Fn(u64) -> u64) -> Step<(), M> {
        self.state.rflags = change(self.state.rflags);
        Ok(())
    }

    /// STI lets one more instruction go before an interrupt.
    fn switch_interrupts(&mut self, on: bool) -> Step<(), M> {
        if !self.may_change_interrupts() {
            return Err(Fault::Protection(0).into());
        }
        if on && !self.flag(IF) {
            self.state.blocking = Blocking::Sti;
        }
        self.change_flags(|flags| if on { flags | IF } else { flags & !IF })
    }

    /// MOV to or from a control register, if it is that.
    pub(crate) fn move_control(&mut self) -> Step<bool, M> {
        let (target, source) = (self.instruction.op0_register(), self.instruction.op1_register());
        if self.instruction.op_kind(1) != OpKind::Register || !(target.is_cr() || source.is_cr()) {
            return Ok(false);
        }
        self.require_privilege()?;
        if target.is_cr() {
            let control = match target {
                Register::CR0 => Control::Cr0,
                Register::CR2 => Control::Cr2,
                Register::CR3 => Control::Cr3,
                Register::CR4 => Control::Cr4,
                _ => return Err(Fault::InvalidOpcode.into()),
            };
            let value = self.get(1)?;
            self.write_control(control, value)?;
        } else {
            let value = match source {
                Register::CR0 => self.state.cr0,
                Register::CR2 => self.state.cr2,
                Register::CR3 => self.state.cr3,
                Register::CR4 => self.state.cr4,
                _ => return Err(Fault::InvalidOpcode.into()),
            };
            self.set(0, value)?;
        }
        Ok(true)
    }

    fn write_control(&mut self, control: Control, value: u64) -> Step<(), M> {
        self.require_privilege()?;
        Ok(self.machine.write_control(self.state, control, value)?)
    }

    /// LMSW can set PE, and not clear it.
    fn load_status_word(&mut self) -> Step<(), M> {
        self.require_privilege()?;
        let word = self.get(0)? & STATUS_WORD | self.state.cr0 & CR0_PE;
        self.write_control(Control::Cr0, self.state.cr0 & !STATUS_WORD | word)
    }

    fn forget_page(&mut self) -> Step<(), M> {
        self.require_privilege()?;
        let name = self.operand_segment()?;
        let offset = self.effective()?;
        let linear = self.state.segments[name].base.wrapping_add(offset) & mask(4);
        self.machine.forget(Gva::new(linear));
        Ok(())
    }

    /// LGDT and LIDT: with 16 bits, 24 of the base.
    fn load_table(&mut self) -> Step<Table, M> {
        self.require_privilege()?;
        let base_bits = match self.instruction.code() {
            Code::Lgdt_m1632_16 | Code::Lidt_m1632_16 => 0xff_ffff,
            Code::Lgdt_m1632 | Code::Lidt_m1632 => 0xffff_ffff,
            _ => return Err(Break::Unknown),
        };
        let (name, at) = (self.operand_segment()?, self.effective()?);
        let limit = self.load(name, at, 2)? as u16;
        let base = self.load(name, at.wrapping_add(2) & mask(self.address_width()), 4)? & base_bits;
        Ok(Table { base, limit })
    }

    fn store_table(&mut self, table: Table) -> Step<(), M> {
        let (name, at) = (self.operand_segment()?, self.effective()?);
        let behind = at.wrapping_add(2) & mask(self.address_width());
        self.linear(name, behind, 4, Access::Write)?;
        self.store(name, at, 2, table.limit.into())?;
        self.store(name, behind, 4, table.base & mask(4))
    }

    fn load_system_segment(&mut self, load: impl Fn(&mut Self, u16) -> Step<(), M>) -> Step<(), M> {
        self.require_protection()?;
        self.require_privilege()?;
        let selector = self.get(0)? as u16;
        load(self, selector)
    }

    fn store_selector(&mut self, selector: u16) -> Step<(), M> {
        self.require_protection()?;
        self.set(0, selector.into())
    }

    fn set_edx_eax(&mut self, value: u64) {
        self.state.set_part(RAX, 4, value);
        self.state.set_part(RDX, 4, value >> 32);
    }

    fn read_msr(&mut self) -> Step<(), M> {
        self.require_privilege()?;
        let value = self.machine.read_msr(self.state, self.state.part(RCX, 4) as u32)?;
        self.set_edx_eax(value);
        Ok(())
    }

    fn write_msr(&mut self) -> Step<(), M> {
        self.require_privilege()?;
        let value = self.state.part(RDX, 4) << 32 | self.state.part(RAX, 4);
        let number = self.state.part(RCX, 4) as u32;
        Ok(self.machine.write_msr(self.state, number, value)?)
    }

    /// Below IOPL the TSS would decide: unknown.
    pub(crate) fn require_ports(&self) -> Step<(), M> {
        if self.may_change_interrupts() { Ok(()) } else { Err(Break::Unknown) }
    }

    fn port_in(&mut self) -> Step<(), M> {
        self.require_ports()?;
        let width = self.width(0)?;
        let port = self.get(1)? as u16;
        let value = self.machine.port_in(port, width).map_err(Break::End)?;
        self.set(0, value.into())
    }

    fn port_out(&mut self) -> Step<(), M> {
        self.require_ports()?;
        let width = self.width(1)?;
        let (port, value) = (self.get(0)? as u16, self.get(1)? as u32);
        self.machine.port_out(port, width, value).map_err(Break::End)
    }
}
