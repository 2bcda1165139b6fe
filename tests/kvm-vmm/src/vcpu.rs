//! The virtual processor, which begins as the kernel's boot protocol says.

use anyhow::{Context, Result};
use firmware::{Entry, Mode, Segment};
use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2, kvm_regs, kvm_segment};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};

/// CR0: protection, and what an i486 or later always has (extension type); paging. CR4: PAE. EFER: long mode, enabled and active.
const PROTECTED: u64 = 1 << 4 | 1;
const PAGING: u64 = 1 << 31;
const PAE: u64 = 1 << 5;
const LONG_MODE: u64 = 1 << 10 | 1 << 8;
/// RFLAGS: the bit that is always set.
pub(crate) const FLAGS: u64 = 2;

/// Creates it, with this number; CPUID tells what KVM can do, and what `tell` adds.
pub(crate) fn create(
    kvm: &Kvm,
    vm: &VmFd,
    id: u64,
    tell: impl FnOnce(&mut Vec<kvm_cpuid_entry2>),
) -> Result<VcpuFd> {
    let vcpu = vm.create_vcpu(id).context("KVM_CREATE_VCPU")?;
    let supported = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).context("KVM_GET_SUPPORTED_CPUID")?;
    let mut leaves = supported.as_slice().to_vec();
    tell(&mut leaves);
    let leaves = CpuId::from_entries(&leaves).ok().context("too many CPUID leaves")?;
    vcpu.set_cpuid2(&leaves).context("KVM_SET_CPUID2")?;
    Ok(vcpu)
}

/// Has it begin there.
pub(crate) fn begin(vcpu: &VcpuFd, entry: &Entry) -> Result<()> {
    let mut system = vcpu.get_sregs().context("KVM_GET_SREGS")?;
    system.cr0 = PROTECTED;
    if let Mode::Long64 { cr3 } = entry.mode {
        (system.cr3, system.cr4, system.efer) = (cr3.as_u64(), PAE, LONG_MODE);
        system.cr0 |= PAGING;
    }
    (system.gdt.base, system.gdt.limit) = (entry.gdt.base.as_u64(), entry.gdt.limit);
    let data = segment(&entry.data);
    (system.cs, system.tr) = (segment(&entry.code), segment(&entry.task));
    (system.ds, system.es, system.fs, system.gs, system.ss) = (data, data, data, data, data);
    vcpu.set_sregs(&system).context("KVM_SET_SREGS")?;
    let &Entry { rip, rax, rbx, rsi, .. } = entry;
    vcpu.set_regs(&kvm_regs { rip, rax, rbx, rsi, rflags: FLAGS, ..Default::default() })
        .context("KVM_SET_REGS")
}

/// The rights, bit by bit (SDM vol. 3C table 25-2).
fn segment(segment: &Segment) -> kvm_segment {
    let bits = |at: u32, count: u32| (segment.rights >> at & ((1 << count) - 1)) as u8;
    kvm_segment {
        base: u64::from(segment.base),
        limit: segment.limit,
        selector: segment.selector,
        type_: bits(0, 4),
        s: bits(4, 1),
        dpl: bits(5, 2),
        present: bits(7, 1),
        avl: bits(12, 1),
        l: bits(13, 1),
        db: bits(14, 1),
        g: bits(15, 1),
        ..Default::default()
    }
}
