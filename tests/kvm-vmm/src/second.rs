//! A second virtual processor, on a processor of its own: the guest starts it, and it stays in the guest, so that flushes have to
//! reach it. The first has the first processor for itself. Of local APICs, of which KVM makes none here, they have the start-up message.

use crate::vcpu::{self, FLAGS};
use anyhow::{Context, Result};
use kvm_bindings::{kvm_cpuid_entry2, kvm_regs};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use rustix::thread::{CpuSet, sched_setaffinity};
use std::sync::mpsc::{Receiver, Sender, channel};

const ID: u64 = 1;
/// Interrupt command register, low half: delivery mode, and that of a start-up message, which names a page (SDM vol. 3A 11.6.1).
const COMMAND: u64 = 0xfee0_0300;
const MODE: u32 = 7 << 8;
const START_UP: u32 = 6 << 8;

/// Starts it.
pub(crate) struct Second(Sender<u8>);

impl Second {
    /// Creates it, before the first, and has it wait to be started. The caller's thread is the first's from here on.
    pub(crate) fn create(
        kvm: &Kvm,
        vm: &VmFd,
        tell: impl FnOnce(&mut Vec<kvm_cpuid_entry2>),
    ) -> Result<Self> {
        // Where it is created KVM has its state: elsewhere KVM would have to fetch it from there.
        stay_on(ID as usize)?;
        let mut vcpu = vcpu::create(kvm, vm, ID, tell)?;
        let (starts, started) = channel();
        std::thread::spawn(move || {
            if let Err(error) = run(&mut vcpu, &started) {
                eprintln!("kvm-vmm: the second virtual processor: {error:#}");
            }
        });
        stay_on(0)?;
        Ok(Self(starts))
    }

    /// The first has written this to a register of its local APIC.
    pub(crate) fn apic_written(&self, address: u64, data: &[u8]) -> Result<()> {
        let Ok(command) = <[u8; 4]>::try_from(data).map(u32::from_le_bytes) else { return Ok(()) };
        if address == COMMAND && command & MODE == START_UP {
            self.0.send(command as u8).context("the second virtual processor has ended")?;
        }
        Ok(())
    }
}

/// From its start, in real mode, to the end of the program.
fn run(vcpu: &mut VcpuFd, started: &Receiver<u8>) -> Result<()> {
    let page = started.recv()?;
    let mut system = vcpu.get_sregs().context("KVM_GET_SREGS")?;
    (system.cs.selector, system.cs.base) = (u16::from(page) << 8, u64::from(page) << 12);
    vcpu.set_sregs(&system).context("KVM_SET_SREGS")?;
    vcpu.set_regs(&kvm_regs { rflags: FLAGS, ..Default::default() }).context("KVM_SET_REGS")?;
    loop {
        match vcpu.run().context("KVM_RUN")? {
            VcpuExit::MmioRead(_, data) => data.fill(0),
            VcpuExit::MmioWrite(..) | VcpuExit::Intr => {}
            other => anyhow::bail!("it has left its guest: {other:?}"),
        }
    }
}

/// This thread, and those that it starts, are to run nowhere else.
fn stay_on(processor: usize) -> Result<()> {
    let mut only = CpuSet::new();
    only.set(processor);
    sched_setaffinity(None, &only).with_context(|| format!("a thread on processor {processor}"))
}
