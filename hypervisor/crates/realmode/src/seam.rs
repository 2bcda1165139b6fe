//! The machine as the interpreter has it: whatever it is, the code is the same, and there once. How it ends a guest is put aside
//! meanwhile.

use crate::control::Control;
use crate::machine::{Access, Machine, Refusal};
use crate::run::Trouble;
use crate::state::State;
use addr::{Gpa, Gva};

/// Some machine.
pub(crate) type Any<'a> = dyn Machine<End = ()> + 'a;

/// A machine of one kind.
pub(crate) struct Seam<'a, M: Machine> {
    machine: &'a mut M,
    end: Option<M::End>,
}

impl<'a, M: Machine> Seam<'a, M> {
    pub(crate) const fn new(machine: &'a mut M) -> Self {
        Self { machine, end: None }
    }

    /// The trouble that the interpreter had, with what was put aside.
    pub(crate) fn trouble(self, trouble: Trouble<()>) -> Trouble<M::End> {
        match (trouble.ended(), self.end) {
            (Ok(()), Some(end)) => Trouble::End(end),
            (Ok(()), None) => unreachable!("the machine alone ends a guest"),
            (Err(trouble), _) => trouble.widen(),
        }
    }

    fn aside<T>(&mut self, result: Result<T, M::End>) -> Result<T, ()> {
        result.map_err(|end| self.end = Some(end))
    }

    fn refused<T>(&mut self, result: Result<T, Refusal<M::End>>) -> Result<T, Refusal<()>> {
        result.map_err(|refusal| match refusal {
            Refusal::Fault(fault) => Refusal::Fault(fault),
            Refusal::End(end) => {
                self.end = Some(end);
                Refusal::End(())
            }
        })
    }
}

impl<M: Machine> Machine for Seam<'_, M> {
    type End = ();

    fn translate(&mut self, state: &State, linear: Gva, access: Access) -> Result<Gpa, Refusal<()>> {
        let result = self.machine.translate(state, linear, access);
        self.refused(result)
    }

    fn read(&mut self, gpa: Gpa, bytes: &mut [u8]) -> Result<(), ()> {
        let result = self.machine.read(gpa, bytes);
        self.aside(result)
    }

    fn write(&mut self, gpa: Gpa, bytes: &[u8]) -> Result<(), ()> {
        let result = self.machine.write(gpa, bytes);
        self.aside(result)
    }

    fn exchange(&mut self, gpa: Gpa, old: &[u8], new: &[u8]) -> Result<bool, ()> {
        let result = self.machine.exchange(gpa, old, new);
        self.aside(result)
    }

    fn port_in(&mut self, port: u16, width: u8) -> Result<u32, ()> {
        let result = self.machine.port_in(port, width);
        self.aside(result)
    }

    fn port_out(&mut self, port: u16, width: u8, value: u32) -> Result<(), ()> {
        let result = self.machine.port_out(port, width, value);
        self.aside(result)
    }

    fn cpuid(&mut self, state: &State, leaf: u32, subleaf: u32) -> [u32; 4] {
        self.machine.cpuid(state, leaf, subleaf)
    }

    fn time(&mut self) -> u64 {
        self.machine.time()
    }

    fn read_msr(&mut self, state: &State, number: u32) -> Result<u64, Refusal<()>> {
        let result = self.machine.read_msr(state, number);
        self.refused(result)
    }

    fn write_msr(&mut self, state: &mut State, number: u32, value: u64) -> Result<(), Refusal<()>> {
        let result = self.machine.write_msr(state, number, value);
        self.refused(result)
    }

    fn write_control(&mut self, state: &mut State, control: Control, value: u64) -> Result<(), Refusal<()>> {
        let result = self.machine.write_control(state, control, value);
        self.refused(result)
    }

    fn forget(&mut self, linear: Gva) {
        self.machine.forget(linear);
    }

    fn is_wanted(&mut self) -> bool {
        self.machine.is_wanted()
    }
}
