//! The loop: look whether the processor can go on by itself, fetch, decode, execute, deliver what it causes.

use crate::cpu::{Break, Cpu, Step};
use crate::event::Delivered;
use crate::flags::{RF, TF};
use crate::machine::{Access, Fault, Machine};
use crate::seam::{Any, Seam};
use crate::state::{Blocking, Segment, SegmentName, State};
use core::convert::Infallible;
use core::fmt;
use iced_x86::{Decoder, DecoderError, DecoderOptions, Mnemonic};

/// Longest instruction, in bytes.
const LONGEST: usize = 15;
const PAGE: u64 = 4096;

/// Why a run ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// A processor without "unrestricted guest" can go on.
    Enterable,
    /// All steps were made.
    Spent,
    /// [`Machine::is_wanted`].
    Wanted,
    /// HLT. RIP is behind it.
    Halted,
    /// A triple fault.
    Shutdown,
}

/// A guest that cannot go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trouble<E> {
    /// The machine has ended it.
    End(E),
    /// An instruction, or a form of one, that is not emulated.
    Unknown {
        /// Selector of the code segment.
        selector: u16,
        /// Its RIP.
        rip: u64,
        /// What it starts with.
        bytes: [u8; LONGEST],
        /// How many of them there are.
        len: u8,
    },
    /// An exception or interrupt in a mode in which none is delivered here.
    Undeliverable {
        /// Its number.
        vector: u8,
        /// RIP of what caused it, or would come next.
        rip: u64,
    },
}

impl<E> Trouble<E> {
    /// What the machine has ended it with.
    ///
    /// # Errors
    /// What is not emulated.
    pub fn ended(self) -> Result<E, Trouble<Infallible>> {
        match self {
            Self::End(end) => Ok(end),
            Self::Unknown { selector, rip, bytes, len } => {
                Err(Trouble::Unknown { selector, rip, bytes, len })
            }
            Self::Undeliverable { vector, rip } => Err(Trouble::Undeliverable { vector, rip }),
        }
    }
}

impl<E: fmt::Display> fmt::Display for Trouble<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::End(end) => end.fmt(f),
            Self::Unknown { selector, rip, bytes, len } => {
                let bytes = &bytes[..usize::from(*len)];
                write!(f, "no emulation of the instruction at {selector:04x}:{rip:x}, {bytes:02x?}")
            }
            Self::Undeliverable { vector, rip } => {
                write!(f, "no emulation of the delivery of vector {vector} at {rip:#x}")
            }
        }
    }
}

impl Trouble<Infallible> {
    /// The same among others.
    pub(crate) const fn widen<E>(self) -> Trouble<E> {
        match self {
            Self::End(never) => match never {},
            Self::Unknown { selector, rip, bytes, len } => Trouble::Unknown { selector, rip, bytes, len },
            Self::Undeliverable { vector, rip } => Trouble::Undeliverable { vector, rip },
        }
    }
}

/// Executes up to `steps` instructions, or repetitions of one, as long as the processor itself could not.
///
/// # Errors
/// [`Trouble`]; the state is that before the instruction.
pub fn run<M: Machine>(state: &mut State, machine: &mut M, steps: u32) -> Result<Outcome, Trouble<M::End>> {
    let mut seam = Seam::new(machine);
    run_on(state, &mut seam, steps).map_err(|trouble| seam.trouble(trouble))
}

fn run_on(state: &mut State, machine: &mut Any<'_>, steps: u32) -> Result<Outcome, Trouble<()>> {
    for _ in 0..steps {
        if state.obstacle().is_none() {
            return Ok(Outcome::Enterable);
        }
        if machine.is_wanted() {
            return Ok(Outcome::Wanted);
        }
        if let Some(outcome) = step(state, machine)? {
            return Ok(outcome);
        }
    }
    Ok(if state.obstacle().is_none() { Outcome::Enterable } else { Outcome::Spent })
}

/// Delivers an interrupt from outside, an NMI, or an exception that was on its way, before the next instruction. Whether the
/// guest accepts one is the caller's to know. `false`: a triple fault.
///
/// # Errors
/// [`Trouble`]; the state is as before.
pub fn interrupt<M: Machine>(
    state: &mut State,
    machine: &mut M,
    vector: u8,
    error_code: Option<u16>,
) -> Result<bool, Trouble<M::End>> {
    let mut seam = Seam::new(machine);
    interrupt_on(state, &mut seam, vector, error_code).map_err(|trouble| seam.trouble(trouble))
}

fn interrupt_on(
    state: &mut State,
    machine: &mut Any<'_>,
    vector: u8,
    error_code: Option<u16>,
) -> Result<bool, Trouble<()>> {
    let before = *state;
    let trouble = match Cpu::new(state, machine).interrupt(vector, error_code) {
        Delivered::Handler => return Ok(true),
        Delivered::Shutdown => return Ok(false),
        Delivered::Unknown => Trouble::Undeliverable { vector, rip: before.rip },
        Delivered::End(end) => Trouble::End(end),
    };
    *state = before;
    Err(trouble)
}

/// One instruction, or an exception in its place.
pub(crate) fn step<M: Machine + ?Sized>(
    state: &mut State,
    machine: &mut M,
) -> Result<Option<Outcome>, Trouble<M::End>> {
    let before = *state;
    state.blocking = Blocking::None;
    let mut cpu = Cpu::new(state, machine);
    let mut code = Code::default();
    let fault = match cpu.instruction(&mut code) {
        Ok(true) => return Ok(Some(Outcome::Halted)),
        Ok(false) if before.rflags & TF == 0 || cpu.state.blocking == Blocking::MovSs => return Ok(None),
        Ok(false) => Fault::SingleStep,
        Err(Break::Fault(fault)) => {
            *cpu.state = before;
            fault
        }
        Err(Break::Retry) => {
            *state = before;
            return Ok(None);
        }
        Err(Break::End(end)) => {
            *state = before;
            return Err(Trouble::End(end));
        }
        Err(Break::Unknown) => {
            *state = before;
            let selector = state.segments[SegmentName::Cs].selector;
            return Err(Trouble::Unknown {
                selector,
                rip: state.rip,
                bytes: code.bytes,
                len: code.len as u8,
            });
        }
    };
    let trouble = match cpu.raise(fault) {
        Delivered::Handler => return Ok(None),
        Delivered::Shutdown => return Ok(Some(Outcome::Shutdown)),
        Delivered::Unknown => Trouble::Undeliverable { vector: fault.vector(), rip: before.rip },
        Delivered::End(end) => Trouble::End(end),
    };
    *state = before;
    Err(trouble)
}

/// The bytes at RIP.
#[derive(Default)]
struct Code {
    bytes: [u8; LONGEST],
    len: usize,
}

impl<M: Machine + ?Sized> Cpu<'_, M> {
    /// Fetches, decodes and executes; whether it was HLT.
    fn instruction(&mut self, code: &mut Code) -> Step<bool, M> {
        self.decode(code)?;
        code.len = self.instruction.len();
        self.state.rip = self.instruction.next_ip() & 0xffff_ffff;
        self.state.rflags &= !RF;
        if self.instruction.mnemonic() == Mnemonic::Hlt {
            self.require_privilege()?;
            return Ok(true);
        }
        self.execute()?;
        Ok(false)
    }

    /// The next page is looked at only if the instruction goes on there.
    fn decode(&mut self, code: &mut Code) -> Step<(), M> {
        let segment = self.state.segments[SegmentName::Cs];
        if self.state.is_long() && segment.rights & Segment::LONG != 0 {
            return Err(Break::Unknown);
        }
        let linear = segment.base.wrapping_add(self.start) & 0xffff_ffff;
        let inside = u64::from(segment.limit).checked_sub(self.start).ok_or(Fault::Protection(0))?;
        let most = LONGEST.min(usize::try_from(inside + 1).unwrap_or(LONGEST));
        let first = most.min((PAGE - linear % PAGE) as usize);
        self.read_linear(linear, &mut code.bytes[..first], Access::Fetch)?;
        code.len = first;
        let mut error = self.decode_bytes(code, segment);
        if error == DecoderError::NoMoreBytes && first < most {
            let next = linear.wrapping_add(first as u64) & 0xffff_ffff;
            self.read_linear(next, &mut code.bytes[first..most], Access::Fetch)?;
            code.len = most;
            error = self.decode_bytes(code, segment);
        }
        match error {
            DecoderError::None => Ok(()),
            // Beyond the limit, or longer than any instruction.
            DecoderError::NoMoreBytes => Err(Fault::Protection(0).into()),
            // What this decoder does not know a processor may.
            _ => Err(Break::Unknown),
        }
    }

    fn decode_bytes(&mut self, code: &Code, segment: Segment) -> DecoderError {
        let bits = if segment.is_big() { 32 } else { 16 };
        let mut decoder = Decoder::with_ip(bits, &code.bytes[..code.len], self.start, DecoderOptions::NONE);
        decoder.decode_out(&mut self.instruction);
        decoder.last_error()
    }
}
