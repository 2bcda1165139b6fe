//! VMCALL: Herald's own calls (`abi::hypercall`).

use super::{Flow, misc};
use crate::cpu::tsc;
use crate::plat::{Asker, CloneError, HostOperationError, SnapshotError, Vm};
use crate::vcpu::{Vcpu, register};
use abi::hypercall::{
    BUSY, CLONE, DENIED, DISCARD, FAILED, HOST_OPERATION, HostOperation, INVALID, MARK_INIT, PROTECT,
    SNAPSHOT, STORM, UNKNOWN,
};
use addr::{Gpa, GpaRange};
use core::fmt;
use devices::VcpuId;
use vmxdefs::field::Field;

pub(super) fn handle(vcpu: &mut Vcpu, vm: &Vm) -> Flow {
    let number = vcpu.registers.general[register::RAX];
    let first = vcpu.registers.general[register::RBX];
    let len = vcpu.registers.general[register::RCX];
    let privileged = vcpu.privilege_level() == 0;
    let result = match number {
        MARK_INIT => {
            vcpu.ticks.mark_init(vm.started(), tsc());
            0
        }
        DISCARD | PROTECT | HOST_OPERATION | STORM | CLONE | SNAPSHOT if !privileged => DENIED,
        DISCARD => on_memory(first, |gpa| vm.discard(vcpu.id, gpa, len)),
        PROTECT => on_memory(first, |gpa| vm.protect(vcpu.id, gpa, len)),
        HOST_OPERATION => {
            let operation = vcpu.registers.general[register::RDX];
            match (HostOperation::from_u64(operation), vm.may_ask()) {
                (Some(HostOperation::Exits), true) => vcpu.counters.exits.total,
                (Some(HostOperation::Flushes), true) => vcpu.counters.invept + vcpu.counters.invvpid,
                _ => host_operation(vcpu.id, vm, operation, first, len),
            }
        }
        STORM => storm(vm, first, len),
        CLONE => {
            return copy(vcpu, |asker| vm.clone_guest(Some(asker)).map(|_| ()).map_err(NoCopy::Clone), vm);
        }
        SNAPSHOT => return copy(vcpu, |asker| vm.snapshot(Some(asker)).map_err(NoCopy::Snapshot), vm),
        _ => UNKNOWN,
    };
    vcpu.registers.general[register::RAX] = result;
    misc::skip(vcpu)
}

fn host_operation(vcpu: VcpuId, vm: &Vm, operation: u64, first: u64, len: u64) -> u64 {
    let (Some(operation), Some(gpa)) = (HostOperation::from_u64(operation), Gpa::try_new(first)) else {
        return INVALID;
    };
    match vm.host_operation(vcpu, operation, gpa, len) {
        Some(Ok(count)) => count,
        Some(Err(HostOperationError::NotRam(_))) => INVALID,
        Some(Err(error)) => {
            log::debug!("host operation {operation:?}: {error}");
            FAILED
        }
        None => UNKNOWN,
    }
}

/// Why there is no copy of the guest.
enum NoCopy {
    Clone(CloneError),
    Snapshot(SnapshotError),
}

impl fmt::Display for NoCopy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Clone(error) => write!(f, "no clone: {error}"),
            Self::Snapshot(error) => write!(f, "no snapshot: {error}"),
        }
    }
}

/// The copy begins behind the call, where the guest goes on. While another pause lasts nothing happens, and the instruction
/// is executed once more.
fn copy(vcpu: &mut Vcpu, make: impl FnOnce(Asker) -> Result<(), NoCopy>, vm: &Vm) -> Flow {
    let call = [Field::GuestRip, Field::GuestInterruptibility].map(|field| (field, vcpu.vmcs.read(field)));
    vcpu.skip_instruction();
    let state = vcpu.state();
    let result = make(Asker { vcpu: vcpu.id, state });
    vcpu.take_cpu();
    vcpu.registers.general[register::RAX] = match result {
        Ok(()) => 0,
        Err(
            NoCopy::Clone(CloneError::Paused) | NoCopy::Snapshot(SnapshotError::Copy(CloneError::Paused)),
        ) => {
            call.into_iter().for_each(|(field, value)| vcpu.vmcs.write(field, value));
            return Flow::Resume;
        }
        Err(error) => {
            log::debug!("{}: {error}", vm.name());
            if matches!(error, NoCopy::Snapshot(SnapshotError::UnderWay)) { BUSY } else { FAILED }
        }
    };
    Flow::Resume
}

fn storm(vm: &Vm, first: u64, len: u64) -> u64 {
    if len != 0 {
        let range = Gpa::try_new(first).and_then(|gpa| GpaRange::sized(gpa, len));
        let Some(range) = range.filter(|range| vm.memory.has_pages(*range)) else { return INVALID };
        vm.storm.give_away(range);
    }
    vm.storm.done()
}

fn on_memory<E>(first: u64, operation: impl FnOnce(Gpa) -> Result<(), E>) -> u64 {
    match Gpa::try_new(first).map(operation) {
        Some(Ok(())) => 0,
        Some(Err(_)) | None => INVALID,
    }
}
