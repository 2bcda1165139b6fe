//! INVPCID of a guest under a shadow; under an EPT it is the processor's. Rules are `vmxdefs::invpcid`'s.

use super::{Flow, misc, shadow};
use crate::plat::Vm;
use crate::vcpu::Vcpu;
use mmu::Drops;
use vmxdefs::event::Event;
use vmxdefs::field::Field;
use vmxdefs::invpcid::{DESCRIPTOR_BYTES, Invalidation, Operands, SegmentRules};

pub(super) fn handle(vcpu: &mut Vcpu, vm: &Vm, operands: &Operands) -> Flow {
    match perform(vcpu, vm, operands) {
        Ok(()) => misc::skip(vcpu),
        Err(flow) => flow,
    }
}

/// # Errors
/// What comes instead.
fn perform(vcpu: &mut Vcpu, vm: &Vm, operands: &Operands) -> Result<(), Flow> {
    // Virtual-8086 mode has level 3, and does not have it either.
    if vcpu.privilege_level() != 0 {
        return Err(misc::refuse(vcpu, Event::GENERAL_PROTECTION));
    }
    let [_, base, limit, rights] = operands.segment.fields().map(|field: Field| vcpu.vmcs.read(field));
    let long_code = vcpu.runs_64_bit_code();
    let offset = operands.offset(|number| vcpu.general(number));
    let linear = operands.linear(offset, &SegmentRules { long_code, base, limit, rights });
    let linear = linear.map_err(|event| misc::refuse(vcpu, event))?;
    let mut descriptor = [0; DESCRIPTOR_BYTES];
    shadow::read(vcpu, vm, linear, &mut descriptor)?;
    let kind = vcpu.general(operands.kind) & if long_code { u64::MAX } else { 0xffff_ffff };
    let registers = vcpu.guest_registers();
    let invalidation = Invalidation::decode(kind, descriptor, registers.has_pcids())
        .map_err(|_| misc::refuse(vcpu, Event::GENERAL_PROTECTION))?;
    let (mmu, processor) = (vm.memory.mmu(), vcpu.processor());
    match invalidation {
        Invalidation::Address { pcid, linear } if pcid == registers.pcid() => {
            mmu.invalidate_linear(processor, linear);
        }
        Invalidation::Address { pcid, linear } => mmu.invalidate_pcid(processor, pcid, Some(linear)),
        Invalidation::Pcid(pcid) if pcid == registers.pcid() => vcpu.drop_cached(Drops::Pcid),
        Invalidation::Pcid(pcid) => mmu.invalidate_pcid(processor, pcid, None),
        Invalidation::All => vcpu.drop_cached(Drops::All),
    }
    Ok(())
}
