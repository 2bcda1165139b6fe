//! Turning VMX on (SDM vol. 3C 24.7): CPUID, IA32_FEATURE_CONTROL, fixed CR bits, VMXON.

use super::instructions::{VmFail, vmxon};
use super::region::Region;
use crate::physmem::PhysicalMemory;
use abi::config::Inject;
use alloc::sync::Arc;
use core::fmt;
use mm::OutOfFrames;
use raw_cpuid::CpuId;
use vmxdefs::capability::{Capabilities, FEATURE_LOCKED, NoVmx, feature_control, number};
use x86::controlregs::{Cr0, Cr4, cr0, cr0_write, cr4, cr4_write};
use x86::msr::{rdmsr, wrmsr};

/// Why VMX is not on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum VmxError {
    /// The processor or its firmware has none.
    NoVmx(NoVmx),
    /// No frame for the VMXON region.
    OutOfFrames(OutOfFrames),
    /// VMXON failed.
    Vmxon(VmFail),
}

impl fmt::Display for VmxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoVmx(error) => error.fmt(f),
            Self::OutOfFrames(error) => error.fmt(f),
            Self::Vmxon(error) => write!(f, "VMXON failed: {error}"),
        }
    }
}

/// VMX root operation on this CPU. It lasts as long as Herald runs.
pub(crate) struct Vmx {
    /// What the processor offers.
    pub capabilities: Capabilities,
    _region: Region,
}

impl Vmx {
    /// Turns VMX on.
    ///
    /// # Errors
    /// [`VmxError`].
    pub(crate) fn start(memory: &Arc<PhysicalMemory>, inject: &Inject) -> Result<Self, VmxError> {
        enable(inject).map_err(VmxError::NoVmx)?;
        // SAFETY: VMX exists, so IA32_VMX_BASIC does; `Capabilities::read` asks for no MSR that does not exist.
        let capabilities = Capabilities::read(|msr| unsafe { rdmsr(msr) });
        // SAFETY: the fixed bits are those that VMXON demands (24.8); what Herald has set of PE, PG, WP, PAE
        // and the rest is among the allowed ones.
        unsafe {
            let fixed = capabilities.cr0.apply(cr0().bits() as u64);
            cr0_write(Cr0::from_bits_unchecked(fixed as usize));
            let wanted = cr4() | Cr4::CR4_ENABLE_VMX;
            let fixed = capabilities.cr4.apply(wanted.bits() as u64);
            cr4_write(Cr4::from_bits_unchecked(fixed as usize));
        }
        let mut region = Region::new(memory).map_err(VmxError::OutOfFrames)?;
        region.write(0, &capabilities.basic.revision().to_le_bytes());
        // SAFETY: a frame of our own with the revision in it, kept as long as VMX is on.
        unsafe { vmxon(region.address().as_u64()) }.map_err(VmxError::Vmxon)?;
        Ok(Self { capabilities, _region: region })
    }
}

fn enable(inject: &Inject) -> Result<(), NoVmx> {
    let there = CpuId::new().get_feature_info().is_some_and(|features| features.has_vmx());
    if !there || inject.no_vmx {
        return Err(NoVmx::NotThere);
    }
    let value = if inject.vmx_locked_off {
        FEATURE_LOCKED
    } else {
        // SAFETY: every processor with VMX has IA32_FEATURE_CONTROL.
        unsafe { rdmsr(number::FEATURE_CONTROL) }
    };
    if let Some(wanted) = feature_control(value)? {
        // SAFETY: the register is not locked.
        unsafe { wrmsr(number::FEATURE_CONTROL, wanted) };
    }
    Ok(())
}
