//! A virtual processor that no CPU of this kind can have, as the interpreter sees it (`docs/realmode.md`).
//!
//! ```text
//!   start-up IPI, MOV to CR0 that clears PE, a copy of one in such a state ─► has_obstacle ─► exit::interpret, instead of an entry
//!        VMCS, registers ──to_interpret──► State ──interpreted──► VMCS, registers; an obstacle still?
//! ```
//!
//! Between two turns of the interpreter all of it is where it is for an entry: whoever copies or prints it knows of nothing else.

use super::{Vcpu, register};
use realmode::{Blocking, SegmentName, State, Table};
use vmxdefs::field::{Field, Segment};
use vmxdefs::registers::Registers;

/// Interruptibility: blocking by STI, by MOV SS, by NMI (SDM vol. 3C table 25-3).
const BLOCKED_BY_STI: u64 = 1 << 0;
const BLOCKED_BY_MOV_SS: u64 = 1 << 1;
const BLOCKED_BY_NMI: u64 = 1 << 3;
/// RFLAGS.TF, and BS of pending debug exceptions.
const TRAP_FLAG: u64 = 1 << 8;
const SINGLE_STEP: u64 = 1 << 14;

/// In the interpreter's order.
const SEGMENTS: [Segment; SegmentName::ALL.len()] =
    [Segment::Es, Segment::Cs, Segment::Ss, Segment::Ds, Segment::Fs, Segment::Gs];

/// MSRs that the VMCS holds, of those that a guest has without exits: SYSENTER_CS, _ESP, _EIP.
const SYSENTER: [(u32, Field); 3] =
    [(0x174, Field::GuestSysenterCs), (0x175, Field::GuestSysenterEsp), (0x176, Field::GuestSysenterEip)];

impl Vcpu {
    /// Whether it is in a state that this CPU cannot have.
    pub(crate) fn has_obstacle(&self) -> bool {
        self.shadow.as_ref().is_some_and(|shadow| shadow.has_obstacle)
    }

    /// Looks whether it is in such a state. Under an EPT there is none.
    pub(crate) fn look_for_obstacle(&mut self) {
        let found = self.is_shadowed() && self.to_interpret().obstacle().is_some();
        if let Some(shadow) = &mut self.shadow {
            shadow.has_obstacle = found;
        }
    }

    /// All that the interpreter works on.
    pub(crate) fn to_interpret(&self) -> State {
        let read = |field| self.vmcs.read(field);
        let segment = |name: Segment| {
            let [selector, base, limit, rights] = name.fields().map(read);
            realmode::Segment { selector: selector as u16, base, limit: limit as u32, rights: rights as u32 }
        };
        let table = |base, limit| Table { base: read(base), limit: read(limit) as u16 };
        let Registers { cr0, cr3, cr4, efer, .. } = self.guest_registers();
        let blocking = read(Field::GuestInterruptibility);
        let mut general = self.registers.general;
        general[register::RSP] = read(Field::GuestRsp);
        State {
            general,
            rip: read(Field::GuestRip),
            rflags: read(Field::GuestRflags),
            cr0,
            cr2: self.registers.cr2,
            cr3,
            cr4,
            efer,
            segments: SEGMENTS.map(segment),
            ldtr: segment(Segment::Ldtr),
            tr: segment(Segment::Tr),
            gdtr: table(Field::GuestGdtrBase, Field::GuestGdtrLimit),
            idtr: table(Field::GuestIdtrBase, Field::GuestIdtrLimit),
            blocking: match (blocking & BLOCKED_BY_MOV_SS, blocking & BLOCKED_BY_STI) {
                (0, 0) => Blocking::None,
                (0, _) => Blocking::Sti,
                _ => Blocking::MovSs,
            },
            nmis_blocked: blocking & BLOCKED_BY_NMI != 0,
        }
    }

    /// Takes it back from the interpreter. What is in control registers and EFER, [`crate::exit`] has seen to.
    pub(crate) fn interpreted(&mut self, state: &State) {
        (self.registers.general, self.registers.cr2) = (state.general, state.cr2);
        let kept = self.vmcs.read(Field::GuestInterruptibility)
            & !(BLOCKED_BY_STI | BLOCKED_BY_MOV_SS | BLOCKED_BY_NMI);
        let briefly = match state.blocking {
            Blocking::None => 0,
            Blocking::Sti => BLOCKED_BY_STI,
            Blocking::MovSs => BLOCKED_BY_MOV_SS,
        };
        let blocked = if state.nmis_blocked { BLOCKED_BY_NMI } else { 0 };
        // A trap that waits for the end of the blocking (SDM vol. 3C 26.3.1.5).
        let step = if briefly != 0 && state.rflags & TRAP_FLAG != 0 { SINGLE_STEP } else { 0 };
        let pending = self.vmcs.read(Field::GuestPendingDebug) & !SINGLE_STEP | step;
        for (field, value) in [
            (Field::GuestRsp, state.general[register::RSP]),
            (Field::GuestRip, state.rip),
            (Field::GuestRflags, state.rflags),
            (Field::GuestGdtrBase, state.gdtr.base),
            (Field::GuestGdtrLimit, state.gdtr.limit.into()),
            (Field::GuestIdtrBase, state.idtr.base),
            (Field::GuestIdtrLimit, state.idtr.limit.into()),
            (Field::GuestInterruptibility, kept | briefly | blocked),
            (Field::GuestPendingDebug, pending),
        ] {
            self.vmcs.write(field, value);
        }
        let system = [(Segment::Ldtr, &state.ldtr), (Segment::Tr, &state.tr)];
        for (name, segment) in SEGMENTS.into_iter().zip(&state.segments).chain(system) {
            let values = [segment.selector.into(), segment.base, segment.limit.into(), segment.rights.into()];
            name.fields().into_iter().zip(values).for_each(|(field, value)| self.vmcs.write(field, value));
        }
    }

    /// An MSR that the guest has the processor's of: what is in it.
    pub(crate) fn passed_msr(&mut self, msr: u32) -> Option<u64> {
        if let Some((_, field)) = SYSENTER.iter().find(|(number, _)| *number == msr) {
            return Some(self.vmcs.read(*field));
        }
        let mut value = None;
        self.with_msr(msr, |held| value = Some(*held));
        value
    }

    /// The same, written; `false`: it is another one, or the processor would refuse the value.
    #[must_use]
    pub(crate) fn set_passed_msr(&mut self, msr: u32, value: u64) -> bool {
        if !vmxdefs::msr::is_legal(msr, value) {
            return false;
        }
        if let Some((_, field)) = SYSENTER.iter().find(|(number, _)| *number == msr) {
            self.vmcs.write(*field, value);
            return true;
        }
        self.with_msr(msr, |held| *held = value)
    }

    /// Works on an MSR that is switched, while the CPU does not have it; whether it is one of them.
    fn with_msr(&mut self, msr: u32, work: impl FnOnce(&mut u64)) -> bool {
        self.leave_cpu();
        let found = {
            let mut extended = self.place.extended.borrow_mut();
            extended
                .msrs
                .iter_mut()
                .find(|(number, _)| *number == msr)
                .map(|(_, value)| work(value))
                .is_some()
        };
        self.take_cpu();
        found
    }
}
