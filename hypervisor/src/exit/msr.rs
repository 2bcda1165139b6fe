//! RDMSR and WRMSR: the policy is `vmxdefs::msr`'s.

use super::{Flow, misc, shadow};
use crate::plat::Vm;
use crate::vcpu::{Vcpu, register};
use abi::kvmclock::{ENABLE, TimeInfo, WallClock};
use addr::Gpa;
use devices::GeneralProtection;
use vmxdefs::event::Event;
use vmxdefs::msr::{Policy, policy};
use zerocopy::IntoBytes;

/// The first of the x2APIC registers.
const X2APIC: u32 = 0x800;

fn number(vcpu: &Vcpu) -> u32 {
    vcpu.registers.general[register::RCX] as u32
}

pub(super) fn read(vcpu: &mut Vcpu, vm: &Vm) -> Flow {
    let msr = number(vcpu);
    match value(vcpu, vm, msr) {
        Ok(value) => {
            vcpu.set_edx_eax(value);
            misc::skip(vcpu)
        }
        Err(GeneralProtection) => refuse(vcpu, msr, "RDMSR"),
    }
}

pub(super) fn write(vcpu: &mut Vcpu, vm: &Vm) -> Flow {
    let (msr, value) = (number(vcpu), vcpu.edx_eax());
    match set(vcpu, vm, msr, value) {
        Ok(flow) => {
            vcpu.skip_instruction();
            flow
        }
        Err(GeneralProtection) => refuse(vcpu, msr, "WRMSR"),
    }
}

/// What the guest reads of an MSR that it does not have the processor's of.
pub(super) fn value(vcpu: &Vcpu, vm: &Vm, msr: u32) -> Result<u64, GeneralProtection> {
    if let Some(value) = shadow::msr(vcpu, msr) {
        return Ok(value);
    }
    match policy(msr) {
        Some(Policy::Constant(value)) => Ok(value),
        Some(Policy::Apic) => vm.with_board(vcpu.id, |board| board.msr_read(vcpu.id, msr, vm.clock.now())),
        Some(Policy::KvmSystemTime | Policy::KvmWallClock) => Ok(0),
        // Without an exit, if the bitmap has them.
        Some(Policy::Pass | Policy::ReadOnly) | None => Err(GeneralProtection),
    }
}

/// The guest writes such an MSR.
pub(super) fn set(vcpu: &mut Vcpu, vm: &Vm, msr: u32, value: u64) -> Result<Flow, GeneralProtection> {
    if let Some(done) = shadow::set_msr(vcpu, msr, value) {
        return done.map(|()| Flow::Resume);
    }
    match policy(msr) {
        Some(Policy::Constant(_) | Policy::ReadOnly) => Ok(Flow::Resume),
        Some(Policy::Apic) => vm
            .with_board(vcpu.id, |board| board.msr_write(vcpu.id, msr, value, vm.clock.now()))
            .map(|effect| vm.apply(vcpu.id, effect)),
        Some(Policy::KvmSystemTime) if value & ENABLE == 0 => Ok(Flow::Resume),
        Some(Policy::KvmSystemTime) => {
            publish(vm, value & !ENABLE, TimeInfo::new(vm.clock.tsc_hz).as_bytes())
        }
        Some(Policy::KvmWallClock) => {
            let clock = WallClock {
                version: 2.into(),
                seconds: (vm.clock.boot_seconds as u32).into(),
                nanoseconds: 0.into(),
            };
            publish(vm, value, clock.as_bytes())
        }
        Some(Policy::Pass) | None => Err(GeneralProtection),
    }
}

/// The guest has ended an interrupt that a device has to know of; the processor has done the rest.
pub(super) fn end_of_interrupt(vcpu: &Vcpu, vm: &Vm, vector: u8) -> Flow {
    vm.with_board(vcpu.id, |board| board.end_of_interrupt(vcpu.id, vector));
    Flow::Resume
}

/// The guest has written a register of its virtual-APIC page: an interrupt to itself by a vector that there is not, which
/// the model notes as an error.
pub(super) fn apic_written(vcpu: &Vcpu, vm: &Vm, register: u8) -> Flow {
    let msr = X2APIC + u32::from(register);
    let value = u64::from(vcpu.virtual_apic_register(register));
    // What the processor has accepted is no fault any more.
    let _ = vm.with_board(vcpu.id, |board| board.msr_write(vcpu.id, msr, value, vm.clock.now()));
    Flow::Resume
}

/// Writes a clock where the guest wants it.
fn publish(vm: &Vm, address: u64, bytes: &[u8]) -> Result<Flow, GeneralProtection> {
    let gpa = Gpa::try_new(address).ok_or(GeneralProtection)?;
    vm.memory.write(gpa, bytes).map(|()| Flow::Resume).map_err(|error| {
        log::debug!("guest: {error}");
        GeneralProtection
    })
}

fn refuse(vcpu: &mut Vcpu, msr: u32, what: &str) -> Flow {
    log::debug!("guest: {what} of {msr:#x}, which it does not have");
    misc::refuse(vcpu, Event::GENERAL_PROTECTION)
}
