//! Where a VM exit lands: the host-state area, filled from what this CPU has loaded (SDM vol. 3C 25.5).

use super::enter::exit_point;
use super::kept::Extent;
use vmxdefs::field::Field;
use x86::controlregs::{cr0, cr3, cr4};
use x86::dtables::{DescriptorTablePointer, sgdt, sidt};
use x86::msr::{IA32_EFER, IA32_PAT, rdmsr};
use x86::segmentation::{cs, ds, es, fs, gs, ss};
use x86::task::tr;

/// Host-state fields and values. RSP is written at each entry, CR3 whenever the address space changes.
pub(super) fn fields(extent: Extent) -> impl Iterator<Item = (Field, u64)> {
    let (mut gdtr, mut idtr) = (DescriptorTablePointer::<u64>::default(), DescriptorTablePointer::default());
    // SAFETY: both store into the variables that they are given.
    unsafe {
        sgdt(&mut gdtr);
        sidt::<u64>(&mut idtr);
    }
    // Selectors with RPL and TI clear, as the checks want them (27.2.3).
    let selector = |bits: u16| u64::from(bits & 0xf8);
    // SAFETY: reads of registers that every processor with VMX has.
    let (cr0, cr3, cr4, pat, efer, fs_base, gs_base, tr) = unsafe {
        (cr0(), cr3(), cr4(), rdmsr(IA32_PAT), rdmsr(IA32_EFER), rdmsr(FS_BASE), rdmsr(GS_BASE), tr())
    };
    let exit_point = exit_point as *const () as u64;
    [
        (Field::HostCr0, cr0.bits() as u64),
        (Field::HostCr3, cr3),
        (Field::HostCr4, cr4.bits() as u64),
        (Field::HostCsSelector, selector(cs().bits())),
        (Field::HostSsSelector, selector(ss().bits())),
        (Field::HostDsSelector, selector(ds().bits())),
        (Field::HostEsSelector, selector(es().bits())),
        (Field::HostFsSelector, selector(fs().bits())),
        (Field::HostGsSelector, selector(gs().bits())),
        (Field::HostTrSelector, selector(tr.bits())),
        (Field::HostFsBase, fs_base),
        (Field::HostGsBase, gs_base),
        (Field::HostTrBase, task_base(gdtr.base as u64, tr.bits())),
        (Field::HostGdtrBase, gdtr.base as u64),
        (Field::HostIdtrBase, idtr.base as u64),
        (Field::HostSysenterCs, 0),
        (Field::HostSysenterEsp, 0),
        (Field::HostSysenterEip, 0),
        (Field::HostPat, pat),
        (Field::HostEfer, efer),
        (Field::HostRip, exit_point),
    ]
    .into_iter()
    .filter(move |(field, _)| extent.has(*field))
}

const FS_BASE: u32 = 0xc000_0100;
const GS_BASE: u32 = 0xc000_0101;

/// The base in a 16-byte TSS descriptor (SDM vol. 3A figure 8-4).
fn task_base(gdt: u64, selector: u16) -> u64 {
    let descriptor = (gdt + u64::from(selector & !7)) as *const u64;
    // SAFETY: TR was loaded from this entry of the GDT in use, and a TSS descriptor has two words.
    let (low, high) = unsafe { (descriptor.read(), descriptor.add(1).read()) };
    (low >> 16 & 0xff_ffff) | (low >> 56) << 24 | (high & 0xffff_ffff) << 32
}
