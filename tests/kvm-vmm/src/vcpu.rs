//! The virtual processor, as a multiboot-1 loader leaves one: 32-bit protected mode, flat segments, no paging.

use crate::kernel::Entry;
use abi::hypercall::{BY_PORT_SIGNATURE, CPUID_LEAF};
use anyhow::{Context, Result};
use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2, kvm_regs, kvm_segment};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};

/// CR0: protection enable, and what an i486 or later always has (extension type).
const PROTECTED: u64 = 0x11;
/// RFLAGS: the bit that is always set.
const FLAGS: u64 = 2;
/// Segment types (SDM 3, table 3-1): read and write; execute and read. Both accessed.
const DATA: u8 = 3;
const CODE: u8 = 11;

/// Creates it, at the kernel's entry. CPUID tells the guest how calls are made here.
pub(crate) fn create(kvm: &Kvm, vm: &VmFd, entry: &Entry) -> Result<VcpuFd> {
    let vcpu = vm.create_vcpu(0).context("KVM_CREATE_VCPU")?;
    let supported = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).context("KVM_GET_SUPPORTED_CPUID")?;
    let mut leaves = supported.as_slice().to_vec();
    let word = |at: usize| u32::from_le_bytes(std::array::from_fn(|byte| BY_PORT_SIGNATURE[at + byte]));
    leaves.push(kvm_cpuid_entry2 {
        function: CPUID_LEAF,
        eax: CPUID_LEAF,
        ebx: word(0),
        ecx: word(4),
        edx: word(8),
        ..Default::default()
    });
    let leaves = CpuId::from_entries(&leaves).ok().context("too many CPUID leaves")?;
    vcpu.set_cpuid2(&leaves).context("KVM_SET_CPUID2")?;
    let mut system = vcpu.get_sregs().context("KVM_GET_SREGS")?;
    system.cs = flat(8, CODE);
    let data = flat(16, DATA);
    (system.ds, system.es, system.fs, system.gs, system.ss) = (data, data, data, data, data);
    system.cr0 = PROTECTED;
    vcpu.set_sregs(&system).context("KVM_SET_SREGS")?;
    let registers =
        kvm_regs { rip: entry.rip, rax: entry.rax, rbx: entry.rbx, rflags: FLAGS, ..Default::default() };
    vcpu.set_regs(&registers).context("KVM_SET_REGS")?;
    Ok(vcpu)
}

/// 4 GiB, 32-bit, present.
fn flat(selector: u16, kind: u8) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector,
        type_: kind,
        present: 1,
        db: 1,
        s: 1,
        g: 1,
        ..Default::default()
    }
}
