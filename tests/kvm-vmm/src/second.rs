//! A second virtual processor, on a processor of its own: the guest starts it, and it stays in the guest, so that flushes have to
//! reach it. The first has the first processor for itself.

use crate::vcpu;
use anyhow::{Context, Result};
use kvm_bindings::kvm_cpuid_entry2;
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use rustix::thread::{CpuSet, sched_setaffinity};

/// Its local APIC's id.
pub(crate) const ID: u64 = 1;

/// Gives the machine what starts it: local APICs. Before any virtual processor.
pub(crate) fn prepare(vm: &VmFd) -> Result<()> {
    vm.create_irq_chip().context("KVM_CREATE_IRQCHIP")
}

/// Creates it, and has it wait for the guest to start it.
pub(crate) fn create(kvm: &Kvm, vm: &VmFd, tell: impl FnOnce(&mut Vec<kvm_cpuid_entry2>)) -> Result<()> {
    let vcpu = vcpu::create(kvm, vm, ID, tell)?;
    stay_on(0)?;
    std::thread::spawn(move || run(vcpu));
    Ok(())
}

/// To the end of the program.
fn run(mut vcpu: VcpuFd) {
    if let Err(error) = stay_on(ID as usize) {
        eprintln!("kvm-vmm: {error:#}");
        return;
    }
    loop {
        match vcpu.run() {
            Ok(exit) => {
                eprintln!("kvm-vmm: the second virtual processor has left its guest: {exit:?}");
                return;
            }
            // It has been reset, and is to be started; or a signal came.
            Err(error) if [libc::EAGAIN, libc::EINTR].contains(&error.errno()) => {}
            Err(error) => {
                eprintln!("kvm-vmm: the second virtual processor: KVM_RUN: {error}");
                return;
            }
        }
    }
}

/// This thread is to run nowhere else.
fn stay_on(processor: usize) -> Result<()> {
    let mut only = CpuSet::new();
    only.set(processor);
    sched_setaffinity(None, &only).with_context(|| format!("a thread on processor {processor}"))
}
