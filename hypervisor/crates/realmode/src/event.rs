//! Exceptions and interrupts: through the vector table in real mode, through a gate of the same privilege level in
//! protected mode (SDM vol. 3A 6.12). A fault on the way makes a double fault, a fault on its way a shutdown (6.15).

use crate::cpu::{Break, Cpu, Step};
use crate::flags::{IF, NT, RF, TF, VM};
use crate::machine::{Fault, Machine};
use crate::state::{Blocking, Segment, SegmentName};

/// How a delivery ended.
pub(crate) enum Delivered<E> {
    /// The next instruction is the handler's.
    Handler,
    /// A triple fault.
    Shutdown,
    /// There is no emulation of this gate.
    Unknown,
    /// The guest ends.
    End(E),
}

/// The kinds of table 6-5.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Benign,
    Contributory,
    PageFault,
}

fn class(fault: Fault) -> Class {
    match fault {
        Fault::Page { .. } => Class::PageFault,
        Fault::Divide
        | Fault::InvalidTss(_)
        | Fault::NotPresent(_)
        | Fault::Stack(_)
        | Fault::Protection(_) => Class::Contributory,
        Fault::SingleStep | Fault::InvalidOpcode | Fault::Double => Class::Benign,
    }
}

/// What comes of a fault while another one is delivered; `None`: a shutdown.
fn combine(first: Fault, second: Fault) -> Option<Fault> {
    match (first, class(first), class(second)) {
        (Fault::Double, _, _) => None,
        (_, Class::Contributory, Class::Contributory)
        | (_, Class::PageFault, Class::Contributory | Class::PageFault) => Some(Fault::Double),
        _ => Some(second),
    }
}

impl<M: Machine + ?Sized> Cpu<'_, M> {
    /// Delivers an exception.
    pub(crate) fn raise(&mut self, fault: Fault) -> Delivered<M::End> {
        let mut fault = fault;
        loop {
            if let Fault::Page { address, .. } = fault {
                self.state.cr2 = address.as_u64();
            }
            let again = match self.deliver(fault.vector(), fault.error_code()) {
                Ok(()) => return Delivered::Handler,
                Err(Break::End(end)) => return Delivered::End(end),
                Err(Break::Unknown | Break::Retry) => return Delivered::Unknown,
                Err(Break::Fault(again)) => again,
            };
            match combine(fault, again) {
                Some(next) => fault = next,
                None => return Delivered::Shutdown,
            }
        }
    }

    /// Delivers an interrupt; it may become an exception.
    pub(crate) fn interrupt(&mut self, vector: u8, error_code: Option<u16>) -> Delivered<M::End> {
        match self.deliver(vector, error_code) {
            Ok(()) => Delivered::Handler,
            Err(Break::End(end)) => Delivered::End(end),
            Err(Break::Unknown | Break::Retry) => Delivered::Unknown,
            Err(Break::Fault(fault)) => self.raise(fault),
        }
    }

    /// All of it, or nothing.
    fn deliver(&mut self, vector: u8, error_code: Option<u16>) -> Step<(), M> {
        let before = *self.state;
        let done = if self.state.is_protected() {
            self.through_gate(vector, error_code, false)
        } else {
            self.through_vector(vector)
        };
        if done.is_err() {
            *self.state = before;
        }
        done
    }

    /// Protected mode: an interrupt or trap gate.
    pub(crate) fn through_gate(
        &mut self,
        vector: u8,
        error_code: Option<u16>,
        software: bool,
    ) -> Step<(), M> {
        if self.state.is_long() {
            return Err(Break::Unknown);
        }
        let named = (u16::from(vector) * 8) | 2 | u16::from(!software);
        let at = u64::from(vector) * 8;
        if at + 7 > self.state.idtr.limit.into() {
            return Err(Fault::Protection(named).into());
        }
        let gate = self.load_linear(self.state.idtr.base.wrapping_add(at), 8)?;
        let rights = (gate >> 40) as u32 & 0xff;
        let (width, masks) = match rights & 0x1f {
            6 => (2, true),
            7 => (2, false),
            14 => (4, true),
            15 => (4, false),
            5 => return Err(Break::Unknown),
            _ => return Err(Fault::Protection(named).into()),
        };
        if software && ((rights >> 5 & 3) as u8) < self.state.privilege() {
            return Err(Fault::Protection(named).into());
        }
        if rights & Segment::PRESENT == 0 {
            return Err(Fault::NotPresent(named).into());
        }
        let high = if width == 4 { gate >> 32 & 0xffff_0000 } else { 0 };
        let (selector, target) = ((gate >> 16) as u16, high | gate & 0xffff);
        let old = self.state.segments[SegmentName::Cs].selector;
        let (flags, back) = (self.state.rflags, self.state.rip);
        self.push(flags, width)?;
        self.push(old.into(), width)?;
        self.push(back, width)?;
        if let Some(code) = error_code {
            self.push(code.into(), width)?;
        }
        self.load_code(selector & !3, target)?;
        let cleared = TF | NT | RF | VM | if masks { IF } else { 0 };
        self.state.rflags &= !cleared;
        self.state.blocking = Blocking::None;
        Ok(())
    }
}
