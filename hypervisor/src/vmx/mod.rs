//! VMX on this CPU: instructions, start-up, the VMCS, entry and exit. It knows neither `mmu` nor a guest's
//! devices: `exit` mediates.

mod enter;
mod host_state;
mod instructions;
mod kept;
mod region;
mod residence;
mod startup;
mod virtual_apic;
mod vmcs;
mod vpid;
mod write_log;

pub(crate) use enter::GuestRegisters;
pub(crate) use residence::Residence;
pub(crate) use startup::Vmx;
pub(crate) use virtual_apic::VirtualApic;
pub(crate) use vmcs::{
    CR0_OWNED, CR4_OWNED, EntryError, PAGE_FAULTS, Translation, Vmcs, VmcsConfig, VmcsError,
};
