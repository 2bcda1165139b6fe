//! A machine of RAM and a few ports.

use crate::{Access, Control, Fault, Machine, Refusal, State};
use addr::{Gpa, Gva};
use core::fmt;
use std::vec;
use std::vec::Vec;

/// Port of the debug console.
pub(super) const CONSOLE: u16 = 0xe9;
/// Port that ends a run.
pub(super) const EXIT: u16 = 0xf4;

/// Memory from 0 on, and what went to the ports.
pub(super) struct Computer {
    pub memory: Vec<u8>,
    pub console: Vec<u8>,
    pub ports: Vec<(u16, u8, u32)>,
    pub answer: u32,
    pub msrs: Vec<(u32, u64)>,
    pub wanted: bool,
    pub cpuid: fn(u32) -> [u32; 4],
    /// How often an exchange finds that another processor was faster.
    pub contended: u32,
}

/// An access that the machine does not have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Beyond(pub u64);

impl fmt::Display for Beyond {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "nothing at {:#x}", self.0)
    }
}

impl Computer {
    pub(super) fn new(bytes: usize) -> Self {
        Self {
            memory: vec![0; bytes],
            console: Vec::new(),
            ports: Vec::new(),
            answer: 0,
            msrs: Vec::new(),
            wanted: false,
            cpuid: |leaf| [leaf, 2, 3, 4],
            contended: 0,
        }
    }

    pub(super) fn put(&mut self, at: usize, bytes: &[u8]) {
        self.memory[at..at + bytes.len()].copy_from_slice(bytes);
    }

    pub(super) fn word(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.memory[at], self.memory[at + 1]])
    }

    pub(super) fn long(&self, at: usize) -> u32 {
        u32::from(self.word(at)) | u32::from(self.word(at + 2)) << 16
    }

    fn part(&mut self, gpa: Gpa, bytes: usize) -> Result<&mut [u8], Beyond> {
        assert!(bytes <= 15 && gpa.as_u64() % 4096 + bytes as u64 <= 4096, "an access across a page");
        let at = gpa.as_u64() as usize;
        self.memory.get_mut(at..at + bytes).ok_or(Beyond(gpa.as_u64()))
    }
}

impl Machine for Computer {
    type End = Beyond;

    /// Page tables of 32-bit paging; no more than the tests need.
    fn translate(&mut self, state: &State, linear: Gva, access: Access) -> Result<Gpa, Refusal<Beyond>> {
        let linear = linear.as_u64() as usize;
        let directory = self.long((state.cr3 & 0xffff_f000) as usize + (linear >> 22) * 4) as usize;
        let table = if directory & 1 == 0 { 0 } else { directory & !0xfff };
        let entry = if table == 0 { 0 } else { self.long(table + (linear >> 12 & 0x3ff) * 4) as usize };
        if entry & 1 == 0 {
            let code = if access == Access::Write { 2 } else { 0 };
            return Err(Refusal::Fault(Fault::Page { address: Gva::new(linear as u64), code }));
        }
        Ok(Gpa::new((entry & !0xfff | linear & 0xfff) as u64))
    }

    fn read(&mut self, gpa: Gpa, bytes: &mut [u8]) -> Result<(), Beyond> {
        bytes.copy_from_slice(self.part(gpa, bytes.len())?);
        Ok(())
    }

    fn write(&mut self, gpa: Gpa, bytes: &[u8]) -> Result<(), Beyond> {
        self.part(gpa, bytes.len())?.copy_from_slice(bytes);
        Ok(())
    }

    fn exchange(&mut self, gpa: Gpa, old: &[u8], new: &[u8]) -> Result<bool, Beyond> {
        if self.contended > 0 {
            self.contended -= 1;
            self.part(gpa, 1)?[0] ^= 0x10;
            return Ok(false);
        }
        let there = self.part(gpa, old.len())?;
        assert_eq!(there, old, "nobody else is here");
        there.copy_from_slice(new);
        Ok(true)
    }

    fn port_in(&mut self, _port: u16, _width: u8) -> Result<u32, Beyond> {
        Ok(self.answer)
    }

    fn port_out(&mut self, port: u16, width: u8, value: u32) -> Result<(), Beyond> {
        match port {
            CONSOLE => self.console.push(value as u8),
            EXIT => self.wanted = true,
            _ => self.ports.push((port, width, value)),
        }
        Ok(())
    }

    fn cpuid(&mut self, _state: &State, leaf: u32, _subleaf: u32) -> [u32; 4] {
        (self.cpuid)(leaf)
    }

    fn time(&mut self) -> u64 {
        0x1_0000_0002
    }

    fn read_msr(&mut self, state: &State, number: u32) -> Result<u64, Refusal<Beyond>> {
        let saved = self.msrs.iter().rev().find(|(known, _)| *known == number);
        match (number, saved) {
            (0xc000_0080, _) => Ok(state.efer),
            (_, Some((_, value))) => Ok(*value),
            _ => Err(Refusal::Fault(Fault::Protection(0))),
        }
    }

    fn write_msr(&mut self, state: &mut State, number: u32, value: u64) -> Result<(), Refusal<Beyond>> {
        match number {
            0xc000_0080 => state.efer = value,
            0xdead => return Err(Refusal::Fault(Fault::Protection(0))),
            _ => self.msrs.push((number, value)),
        }
        Ok(())
    }

    fn write_control(
        &mut self,
        state: &mut State,
        control: Control,
        value: u64,
    ) -> Result<(), Refusal<Beyond>> {
        state.set_control(control, value).map_err(Refusal::Fault)
    }

    fn forget(&mut self, _linear: Gva) {}

    fn is_wanted(&mut self) -> bool {
        self.wanted
    }
}
