//! What surrounds the processor: the seam to whoever has the guest's memory and devices.

use crate::control::Control;
use crate::state::State;
use addr::{Gpa, Gva};

/// What an access through the guest's page tables does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// A load.
    Read,
    /// A store.
    Write,
    /// An instruction.
    Fetch,
}

/// An exception that an instruction causes, with its error code (SDM vol. 3A 6.15).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// #DE.
    Divide,
    /// #DB after an instruction that was executed with RFLAGS.TF.
    SingleStep,
    /// #UD.
    InvalidOpcode,
    /// #DF.
    Double,
    /// #TS.
    InvalidTss(u16),
    /// #NP.
    NotPresent(u16),
    /// #SS.
    Stack(u16),
    /// #GP.
    Protection(u16),
    /// #PF.
    Page {
        /// What goes into CR2.
        address: Gva,
        /// The error code.
        code: u16,
    },
}

impl Fault {
    pub(crate) const fn vector(self) -> u8 {
        match self {
            Self::Divide => 0,
            Self::SingleStep => 1,
            Self::InvalidOpcode => 6,
            Self::Double => 8,
            Self::InvalidTss(_) => 10,
            Self::NotPresent(_) => 11,
            Self::Stack(_) => 12,
            Self::Protection(_) => 13,
            Self::Page { .. } => 14,
        }
    }

    pub(crate) const fn error_code(self) -> Option<u16> {
        match self {
            Self::Divide | Self::SingleStep | Self::InvalidOpcode => None,
            Self::Double => Some(0),
            Self::InvalidTss(code)
            | Self::NotPresent(code)
            | Self::Stack(code)
            | Self::Protection(code)
            | Self::Page { code, .. } => Some(code),
        }
    }
}

/// Why something was not done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal<E> {
    /// The guest gets an exception.
    Fault(Fault),
    /// The guest does not go on.
    End(E),
}

/// The rest of the machine. Accesses to memory never cross a page, and have 1 to 8 bytes; fetches have up to 15.
pub trait Machine {
    /// How a guest ends.
    type End;

    /// Translates a linear address by the guest's tables, rights checked as for privilege level 0, A and D set as the
    /// processor does. Asked only while CR0.PG is 1.
    ///
    /// # Errors
    /// A page fault, or the guest's end.
    fn translate(&mut self, state: &State, linear: Gva, access: Access) -> Result<Gpa, Refusal<Self::End>>;

    /// Loads from RAM or a device.
    ///
    /// # Errors
    /// The guest's end.
    fn read(&mut self, gpa: Gpa, bytes: &mut [u8]) -> Result<(), Self::End>;

    /// Stores to RAM or a device.
    ///
    /// # Errors
    /// The guest's end.
    fn write(&mut self, gpa: Gpa, bytes: &[u8]) -> Result<(), Self::End>;

    /// Stores to RAM or a device if `old` is there still, in one go as other processors see it; whether it was. For
    /// instructions with LOCK, and XCHG.
    ///
    /// # Errors
    /// The guest's end.
    fn exchange(&mut self, gpa: Gpa, old: &[u8], new: &[u8]) -> Result<bool, Self::End>;

    /// IN, of `width` bytes.
    ///
    /// # Errors
    /// The guest's end.
    fn port_in(&mut self, port: u16, width: u8) -> Result<u32, Self::End>;

    /// OUT, of `width` bytes.
    ///
    /// # Errors
    /// The guest's end.
    fn port_out(&mut self, port: u16, width: u8, value: u32) -> Result<(), Self::End>;

    /// CPUID: EAX, EBX, ECX, EDX.
    fn cpuid(&mut self, state: &State, leaf: u32, subleaf: u32) -> [u32; 4];

    /// The time-stamp counter.
    fn time(&mut self) -> u64;

    /// RDMSR.
    ///
    /// # Errors
    /// #GP, or the guest's end.
    fn read_msr(&mut self, state: &State, number: u32) -> Result<u64, Refusal<Self::End>>;

    /// WRMSR. `state` has those that are part of it.
    ///
    /// # Errors
    /// #GP, or the guest's end.
    fn write_msr(&mut self, state: &mut State, number: u32, value: u64) -> Result<(), Refusal<Self::End>>;

    /// MOV to a control register, LMSW, CLTS. Which values a guest may set is the machine's policy; what the
    /// architecture says of them is [`State::set_control`].
    ///
    /// # Errors
    /// #GP, or the guest's end.
    fn write_control(
        &mut self,
        state: &mut State,
        control: Control,
        value: u64,
    ) -> Result<(), Refusal<Self::End>>;

    /// INVLPG.
    fn forget(&mut self, linear: Gva);

    /// Whether the run should end before the next instruction.
    fn is_wanted(&mut self) -> bool;
}
