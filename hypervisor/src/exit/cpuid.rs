//! CPUID: the policy is `vmxdefs::cpuid`'s; here the processor is asked.

use super::Flow;
use crate::plat::Vm;
use crate::vcpu::{Vcpu, register};
use core::arch::x86_64::__cpuid_count;
use snapshot::Features;
use vmxdefs::controls::Secondary;
use vmxdefs::cpuid::{Facts, Registers, answer};
use vmxdefs::field::Field;

const CR4_OSXSAVE: u64 = 1 << 18;

pub(super) fn handle(vcpu: &mut Vcpu, vm: &Vm) -> Flow {
    let leaf = vcpu.registers.general[register::RAX] as u32;
    let subleaf = vcpu.registers.general[register::RCX] as u32;
    let Registers { eax, ebx, ecx, edx } = answer_to(vcpu, vm, leaf, subleaf);
    for (number, value) in
        [(register::RAX, eax), (register::RBX, ebx), (register::RCX, ecx), (register::RDX, edx)]
    {
        vcpu.registers.general[number] = u64::from(value);
    }
    vcpu.skip_instruction();
    Flow::Resume
}

/// What a virtual processor sees.
pub(super) fn answer_to(vcpu: &Vcpu, vm: &Vm, leaf: u32, subleaf: u32) -> Registers {
    let controls = vcpu.vmcs.controls();
    let facts = Facts {
        apic_id: vcpu.id.0,
        vcpus: vm.vcpus(),
        osxsave: vcpu.vmcs.read(Field::GuestCr4) & CR4_OSXSAVE != 0,
        rdtscp: controls.has(Secondary::RDTSCP),
        invpcid: controls.has(Secondary::INVPCID),
    };
    answer(leaf, subleaf, &facts, host)
}

/// The features that guests see here, whatever virtual processor asks.
pub(crate) fn features(offers: impl Fn(Secondary) -> bool) -> Features {
    let facts = Facts {
        apic_id: 0,
        vcpus: 1,
        osxsave: false,
        rdtscp: offers(Secondary::RDTSCP),
        invpcid: offers(Secondary::INVPCID),
    };
    let ask = |leaf, subleaf| answer(leaf, subleaf, &facts, host);
    let (basic, extended) = (ask(1, 0), ask(0x8000_0001, 0));
    Features {
        leaf1: [basic.ecx, basic.edx],
        leaf7: ask(7, 0).ebx,
        xsave: [ask(0xd, 0).eax, ask(0xd, 1).eax],
        extended: [extended.ecx, extended.edx],
    }
}

fn host(leaf: u32, subleaf: u32) -> Registers {
    let own = __cpuid_count(leaf, subleaf);
    Registers { eax: own.eax, ebx: own.ebx, ecx: own.ecx, edx: own.edx }
}
