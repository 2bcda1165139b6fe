//! A second virtual processor, on a processor of its own: the guest starts it, and it stays in the guest, so that flushes have to
//! reach it. The first has the first processor for itself.

use crate::vcpu;
use anyhow::{Context, Result};
use kvm_bindings::kvm_cpuid_entry2;
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use rustix::thread::{CpuSet, sched_setaffinity};
use std::sync::mpsc::channel;

/// Its local APIC's id.
pub(crate) const ID: u64 = 1;

/// Gives the machine what starts it: local APICs. Before any virtual processor.
pub(crate) fn prepare(vm: &VmFd) -> Result<()> {
    vm.create_irq_chip().context("KVM_CREATE_IRQCHIP")
}

/// Creates it, and has it wait for the guest to start it. It is where it belongs before the first goes on, whose guest may leave no turn
/// to anybody.
pub(crate) fn create(kvm: &Kvm, vm: &VmFd, tell: impl FnOnce(&mut Vec<kvm_cpuid_entry2>)) -> Result<()> {
    let mut vcpu = vcpu::create(kvm, vm, ID, tell)?;
    let (came, comes) = channel();
    std::thread::spawn(move || {
        let place = stay_on(ID as usize);
        let is_there = place.is_ok();
        if came.send(place).is_ok() && is_there {
            run(&mut vcpu);
        }
    });
    comes.recv().context("the second thread")??;
    stay_on(0)
}

/// To the end of the program.
fn run(vcpu: &mut VcpuFd) {
    loop {
        match vcpu.run() {
            Ok(exit) => return eprintln!("kvm-vmm: the second virtual processor has left its guest: {exit:?}"),
            // It has been reset, and is to be started; or a signal came.
            Err(error) if [libc::EAGAIN, libc::EINTR].contains(&error.errno()) => {}
            Err(error) => return eprintln!("kvm-vmm: the second virtual processor: KVM_RUN: {error}"),
        }
    }
}

/// This thread is to run nowhere else.
fn stay_on(processor: usize) -> Result<()> {
    let mut only = CpuSet::new();
    only.set(processor);
    sched_setaffinity(None, &only).with_context(|| format!("a thread on processor {processor}"))
}
