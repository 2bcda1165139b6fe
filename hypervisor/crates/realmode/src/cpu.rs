//! The processor while it executes one instruction.

use crate::machine::{Fault, Machine, Refusal};
use crate::state::State;
use addr::Gpa;
use iced_x86::Instruction;

/// Why an instruction did not come to its end.
pub(crate) enum Break<E> {
    /// It causes an exception.
    Fault(Fault),
    /// The guest ends.
    End(E),
    /// There is no emulation of it.
    Unknown,
    /// Another processor was faster: from the beginning.
    Retry,
}

impl<E> From<Fault> for Break<E> {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl<E> From<Refusal<E>> for Break<E> {
    fn from(refusal: Refusal<E>) -> Self {
        match refusal {
            Refusal::Fault(fault) => Self::Fault(fault),
            Refusal::End(end) => Self::End(end),
        }
    }
}

/// The outcome of a part of an instruction.
pub(crate) type Step<T, M> = Result<T, Break<<M as Machine>::End>>;

/// What a locked instruction has read, and where.
#[derive(Clone, Copy)]
pub(crate) struct Locked {
    pub gpa: Gpa,
    pub value: u64,
}

/// One instruction on its way. RIP is behind it already; whoever calls has a copy of the state before, should it break.
pub(crate) struct Cpu<'a, M: Machine + ?Sized> {
    pub state: &'a mut State,
    pub machine: &'a mut M,
    pub instruction: Instruction,
    /// Its own RIP.
    pub start: u64,
    pub locked: Option<Locked>,
}

impl<'a, M: Machine + ?Sized> Cpu<'a, M> {
    pub(crate) fn new(state: &'a mut State, machine: &'a mut M) -> Self {
        let start = state.rip;
        Self { state, machine, instruction: Instruction::default(), start, locked: None }
    }

    /// Goes on only if privilege level 0 has it.
    pub(crate) fn require_privilege(&self) -> Step<(), M> {
        if self.state.privilege() == 0 { Ok(()) } else { Err(Fault::Protection(0).into()) }
    }

    /// Something that only protected mode has.
    pub(crate) fn require_protection(&self) -> Step<(), M> {
        if self.state.is_protected() { Ok(()) } else { Err(Fault::InvalidOpcode.into()) }
    }
}
