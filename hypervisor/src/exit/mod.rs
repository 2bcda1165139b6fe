//! VM exits: each reason has its handler, and nothing else decides.

mod cpuid;
mod cr;
mod ept;
mod hypercall;
mod interpret;
mod invpcid;
mod io;
mod misc;
mod msr;
mod shadow;

use crate::plat::{End, Vm};
use crate::vcpu::{RunError, Vcpu};
use vmxdefs::event::Event;
use vmxdefs::exit::{EptViolation, Exit};
use vmxdefs::field::Field;

pub(crate) use cpuid::features;
pub(crate) use interpret::interpret;

/// What comes after an exit.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Flow {
    /// Enter the guest again.
    Resume,
    /// The same; memory was brought, and the virtual processor is as at its last entry, but for the blocking of NMIs that an IRET had
    /// ended.
    Again,
    /// The same, but serve the balloon first.
    Serve,
    /// The guest has ended.
    End(End),
}

/// Handles the exit of the current VMCS: memory first, which most are for.
///
/// # Errors
/// [`RunError`]: a failure of Herald's.
#[inline(always)]
pub(crate) fn handle(vcpu: &mut Vcpu, vm: &Vm) -> Result<Flow, RunError> {
    vcpu.counters.exits.total += 1;
    let reason = vcpu.vmcs.read(Field::ExitReason) as u32;
    if reason == EptViolation::REASON {
        let violation = EptViolation::decode(|field| vcpu.vmcs.read(field));
        return ept::handle(vcpu, vm, violation);
    }
    let exit = Exit::decode(reason, |field| vcpu.vmcs.read(field));
    handle_other(vcpu, vm, exit)
}

#[inline(never)]
fn handle_other(vcpu: &mut Vcpu, vm: &Vm, exit: Exit) -> Result<Flow, RunError> {
    count(vcpu, exit);
    Ok(match exit {
        Exit::ExternalInterrupt => misc::host_interrupt(vm),
        Exit::PreemptionTimer => misc::timer(vm),
        Exit::InterruptWindow | Exit::NmiWindow => misc::window(vcpu, vm),
        Exit::Cpuid => cpuid::handle(vcpu, vm),
        Exit::Hlt => misc::halt(vcpu, vm),
        Exit::Vmcall => hypercall::handle(vcpu, vm),
        Exit::ControlRegister(access) => cr::handle(vcpu, vm, access),
        Exit::Io(access) => io::handle(vcpu, vm, access),
        Exit::Rdmsr => msr::read(vcpu, vm),
        Exit::Wrmsr => msr::write(vcpu, vm),
        Exit::EptViolation(violation) => ept::handle(vcpu, vm, violation)?,
        Exit::Exception(event @ Event { error_code: Some(code), .. }) if event.is_page_fault() => {
            shadow::page_fault(vcpu, vm, code)
        }
        Exit::Invlpg(linear) => shadow::invalidate(vcpu, vm, linear),
        Exit::Invpcid(operands) => invpcid::handle(vcpu, vm, &operands),
        Exit::Xsetbv => misc::xsetbv(vcpu),
        Exit::CacheFlush => misc::skip(vcpu),
        // It was emptied when the guest was left.
        Exit::LogFull => Flow::Resume,
        Exit::Pause => misc::pause(vcpu),
        Exit::VirtualEoi(vector) => msr::end_of_interrupt(vcpu, vm, vector),
        Exit::ApicWrite { register } => msr::apic_written(vcpu, vm, register),
        Exit::TripleFault => misc::triple_fault(vcpu),
        Exit::TaskSwitch => Flow::End(End::TaskSwitch),
        // Not offered by CPUID, or not there without nesting.
        Exit::VmxInstruction | Exit::MonitorMwait | Exit::Getsec => misc::refuse(vcpu, Event::INVALID_OPCODE),
        Exit::Rdpmc => misc::refuse(vcpu, Event::GENERAL_PROTECTION),
        Exit::EntryFailed(failure) => {
            vcpu.explain_failed_entry();
            return Err(RunError::Failed(failure));
        }
        Exit::Exception(_)
        | Exit::Init
        | Exit::StartUp(_)
        | Exit::DebugRegister
        | Exit::EptMisconfiguration(_)
        | Exit::Unknown(_) => {
            vcpu.log_registers();
            return Err(RunError::Unexpected(exit));
        }
    })
}

fn count(vcpu: &mut Vcpu, exit: Exit) {
    let exits = &mut vcpu.counters.exits;
    let counter = match exit {
        Exit::ExternalInterrupt => &mut exits.interrupt,
        Exit::InterruptWindow | Exit::NmiWindow => &mut exits.window,
        Exit::Cpuid => &mut exits.cpuid,
        Exit::Hlt => &mut exits.hlt,
        Exit::Vmcall => &mut exits.hypercall,
        Exit::ControlRegister(_) => &mut exits.control_register,
        Exit::Io(_) => &mut exits.io,
        Exit::Rdmsr => &mut exits.rdmsr,
        Exit::Wrmsr => &mut exits.wrmsr,
        Exit::PreemptionTimer => &mut exits.preemption_timer,
        // Told apart, and counted, where the slot is looked up.
        Exit::EptViolation(_) | Exit::Exception(_) => return,
        Exit::Invlpg(_) | Exit::Invpcid(_) => &mut exits.invlpg,
        _ => &mut exits.other,
    };
    *counter += 1;
}
