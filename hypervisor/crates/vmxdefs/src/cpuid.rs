//! CPUID policy: what a guest sees of the host's processor, leaf by leaf, with the reason beside each row.
//!
//! A feature is passed on only where the mask names it. What is new in a processor is hidden until somebody
//! has thought about it.

use abi::hypercall;

/// The four registers of a CPUID answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Registers {
    /// EAX.
    pub eax: u32,
    /// EBX.
    pub ebx: u32,
    /// ECX.
    pub ecx: u32,
    /// EDX.
    pub edx: u32,
}

/// What the answer depends on beside the host's processor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Facts {
    /// APIC id of the virtual processor that asks.
    pub apic_id: u32,
    /// Virtual processors of the guest.
    pub vcpus: u32,
    /// CR4.OSXSAVE of the virtual processor.
    pub osxsave: bool,
    /// RDTSCP and RDPID work ("enable RDTSCP").
    pub rdtscp: bool,
    /// INVPCID works ("enable INVPCID").
    pub invpcid: bool,
}

const fn bits(list: &[u32]) -> u32 {
    let (mut mask, mut index) = (0, 0);
    while index < list.len() {
        mask |= 1 << list[index];
        index += 1;
    }
    mask
}

/// SSE3, PCLMULQDQ, SSSE3, FMA, CMPXCHG16B, PCID, SSE4.1, SSE4.2, MOVBE, POPCNT, AES, XSAVE, AVX, F16C, RDRAND.
/// Not: VMX (no nesting), MONITOR (MWAIT would stop the host's processor), performance and debug store.
const LEAF1_ECX: u32 = bits(&[0, 1, 9, 12, 13, 17, 19, 20, 22, 23, 25, 26, 28, 29, 30]);
/// x2APIC and TSC-deadline timer: the local APIC is Herald's, whatever the host has.
const LEAF1_ECX_X2APIC: u32 = bits(&[21, 24]);
/// A hypervisor is present: guests then look at 0x4000_0000.
const LEAF1_ECX_HYPERVISOR: u32 = bits(&[31]);
/// OSXSAVE mirrors CR4 (SDM vol. 2A CPUID).
const LEAF1_ECX_OSXSAVE: u32 = bits(&[27]);
/// FPU, VME, DE, PSE, TSC, MSR, PAE, CX8, APIC, SEP, PGE, CMOV, PAT, PSE36, CLFLUSH, MMX, FXSR, SSE, SSE2, SS.
/// Not: MCE, MCA (no banks), MTRR (EPT decides the memory type), serial number, thermal, debug store.
const LEAF1_EDX: u32 = bits(&[0, 1, 2, 3, 4, 5, 6, 8, 9, 11, 13, 15, 16, 17, 19, 23, 24, 25, 26, 27]);
/// Several logical processors in the package.
const LEAF1_EDX_HTT: u32 = bits(&[28]);
/// FSGSBASE, BMI1, AVX2, SMEP, BMI2, ERMS, RDSEED, ADX, SMAP, CLFLUSHOPT, CLWB. Not: TSC_ADJUST, AVX-512, PT,
/// and INVPCID only where VMX lets it work.
const LEAF7_EBX: u32 = bits(&[0, 3, 5, 7, 8, 9, 18, 19, 20, 23, 24]);
const LEAF7_EBX_INVPCID: u32 = bits(&[10]);
/// XSAVE state components: x87, SSE, AVX.
const XCR0: u32 = 0b111;
/// XSAVEOPT, XSAVEC, XGETBV(1). Not XSAVES: no supervisor state is switched.
const LEAF_D1_EAX: u32 = bits(&[0, 1, 2]);
/// Bytes of the XSAVE area with AVX, and without.
const XSAVE_BYTES: (u32, u32) = (832, 576);
/// LAHF, LZCNT, PREFETCHW.
const EXTENDED1_ECX: u32 = bits(&[0, 5, 8]);
/// SYSCALL, NX, 1 GiB pages, RDTSCP (where VMX lets it work), long mode.
const EXTENDED1_EDX: u32 = bits(&[11, 20, 26, 29]);
const EXTENDED1_EDX_RDTSCP: u32 = bits(&[27]);
/// The TSC runs at one rate: the guest's is the host's.
const EXTENDED7_EDX: u32 = bits(&[8]);
/// The APIC timer never stops: it is not the host's.
const LEAF6_EAX_ARAT: u32 = bits(&[2]);

/// KVM's block: Linux takes its clock from it and so needs no calibration.
pub const KVM_BASE: u32 = 0x4000_0000;
/// "KVMKVMKVM\0\0\0".
const KVM_SIGNATURE: [u8; 12] = *b"KVMKVMKVM\0\0\0";
/// CLOCKSOURCE (0), NOP_IO_DELAY (1), CLOCKSOURCE2 (3), CLOCKSOURCE_STABLE (24).
const KVM_FEATURES: u32 = bits(&[0, 1, 3, 24]);

/// Highest basic leaf: 0xd, XSAVE state.
const MAX_BASIC: u32 = 0xd;
/// Highest extended leaf: 0x8000_0008, address sizes.
const MAX_EXTENDED: u32 = 0x8000_0008;

/// The answer to a guest's CPUID; `host` executes the instruction (leaf, subleaf) on the processor.
pub fn answer(
    leaf: u32,
    subleaf: u32,
    facts: &Facts,
    mut host: impl FnMut(u32, u32) -> Registers,
) -> Registers {
    let own = host(leaf, subleaf);
    match leaf {
        0 => Registers { eax: own.eax.min(MAX_BASIC), ..own },
        1 => features(own, facts),
        // Cache descriptors and sizes: the host's, but nothing is shared between processors.
        2 => own,
        4 => Registers { eax: own.eax & 0x3fff, ..own },
        6 => Registers { eax: LEAF6_EAX_ARAT, ..Registers::default() },
        7 if subleaf == 0 => {
            let invpcid = if facts.invpcid { LEAF7_EBX_INVPCID } else { 0 };
            Registers { ebx: own.ebx & (LEAF7_EBX | invpcid), ..Registers::default() }
        }
        0xb => topology(subleaf, facts),
        0xd => xsave(subleaf, own),
        KVM_BASE => signature(hypercall::CPUID_LEAF, KVM_SIGNATURE),
        0x4000_0001 => Registers { eax: KVM_FEATURES, ..Registers::default() },
        hypercall::CPUID_LEAF => signature(hypercall::CPUID_LEAF, hypercall::SIGNATURE),
        0x8000_0000 => Registers { eax: own.eax.min(MAX_EXTENDED), ..own },
        0x8000_0001 => {
            let rdtscp = if facts.rdtscp { EXTENDED1_EDX_RDTSCP } else { 0 };
            let (ecx, edx) = (own.ecx & EXTENDED1_ECX, own.edx & (EXTENDED1_EDX | rdtscp));
            // SYSCALL reads 0 outside 64-bit mode on some processors; it is there all the same.
            Registers { ecx, edx: edx | bits(&[11]), ..Registers::default() }
        }
        // Brand string, cache sizes.
        0x8000_0002..=0x8000_0006 => own,
        0x8000_0007 => Registers { edx: own.edx & EXTENDED7_EDX, ..Registers::default() },
        0x8000_0008 => Registers { eax: own.eax & 0xffff, ..Registers::default() },
        // MONITOR (5), performance counters (0xa), TSC and bus frequencies (0x15, 0x16), and all unknown.
        _ => Registers::default(),
    }
}

fn features(own: Registers, facts: &Facts) -> Registers {
    let osxsave = if facts.osxsave { LEAF1_ECX_OSXSAVE } else { 0 };
    let several = facts.vcpus > 1;
    let threads = if several { facts.vcpus.min(255) << 16 } else { 1 << 16 };
    Registers {
        eax: own.eax,
        // APIC id, logical processors, CLFLUSH line size.
        ebx: (facts.apic_id & 0xff) << 24 | threads | own.ebx & 0xff00,
        ecx: own.ecx & LEAF1_ECX | LEAF1_ECX_X2APIC | LEAF1_ECX_HYPERVISOR | osxsave,
        edx: own.edx & LEAF1_EDX | if several { LEAF1_EDX_HTT } else { 0 },
    }
}

/// Leaf 0xb: one thread a core, all cores in one package.
fn topology(subleaf: u32, facts: &Facts) -> Registers {
    let (kind, shift, count) = match subleaf {
        0 => (1, 0, 1),
        1 => (2, facts.vcpus.next_power_of_two().trailing_zeros(), facts.vcpus),
        _ => (0, 0, 0),
    };
    Registers { eax: shift, ebx: count, ecx: subleaf & 0xff | kind << 8, edx: facts.apic_id }
}

fn xsave(subleaf: u32, own: Registers) -> Registers {
    match subleaf {
        0 => {
            let components = own.eax & XCR0;
            let most = if components & 0b100 != 0 { XSAVE_BYTES.0 } else { XSAVE_BYTES.1 };
            // EBX: bytes for the components in XCR0 now, which is the guest's own while it runs.
            Registers { eax: components, ebx: own.ebx.min(most), ecx: most, edx: 0 }
        }
        1 => Registers { eax: own.eax & LEAF_D1_EAX, ..Registers::default() },
        2 => own,
        _ => Registers::default(),
    }
}

fn signature(highest: u32, text: [u8; 12]) -> Registers {
    let word = |at: usize| u32::from_le_bytes([text[at], text[at + 1], text[at + 2], text[at + 3]]);
    Registers { eax: highest, ebx: word(0), ecx: word(4), edx: word(8) }
}

#[cfg(test)]
mod tests {
    use super::{Facts, KVM_BASE, Registers, answer};

    const FACTS: Facts = Facts { apic_id: 3, vcpus: 4, osxsave: true, rdtscp: false, invpcid: false };

    fn all_ones(_leaf: u32, _subleaf: u32) -> Registers {
        Registers { eax: u32::MAX, ebx: u32::MAX, ecx: u32::MAX, edx: u32::MAX }
    }

    #[test]
    fn vmx_and_monitor_are_hidden_and_the_apic_is_ours() {
        let one = answer(1, 0, &FACTS, all_ones);
        assert_eq!(one.ecx & (1 << 5 | 1 << 3), 0, "VMX, MONITOR");
        let nothing = answer(1, 0, &FACTS, |_, _| Registers::default());
        assert_eq!(nothing.ecx, 1 << 21 | 1 << 24 | 1 << 31 | 1 << 27);
        assert_eq!(nothing.ebx >> 24, 3);
    }

    #[test]
    fn what_vmx_does_not_enable_is_hidden() {
        assert_eq!(answer(7, 0, &FACTS, all_ones).ebx & 1 << 10, 0);
        assert_eq!(answer(0x8000_0001, 0, &FACTS, all_ones).edx & 1 << 27, 0);
        let facts = Facts { rdtscp: true, invpcid: true, ..FACTS };
        assert_ne!(answer(7, 0, &facts, all_ones).ebx & 1 << 10, 0);
        assert_ne!(answer(0x8000_0001, 0, &facts, all_ones).edx & 1 << 27, 0);
    }

    #[test]
    fn unknown_leaves_are_empty_and_maxima_bounded() {
        assert_eq!(answer(0xa, 0, &FACTS, all_ones), Registers::default());
        assert_eq!(answer(0x1f, 0, &FACTS, all_ones), Registers::default());
        assert_eq!(answer(0, 0, &FACTS, all_ones).eax, 0xd);
        assert_eq!(answer(KVM_BASE, 0, &FACTS, all_ones).ebx.to_le_bytes(), *b"KVMK");
    }

    #[test]
    fn topology_counts_cores() {
        assert_eq!(answer(0xb, 1, &FACTS, all_ones), Registers { eax: 2, ebx: 4, ecx: 0x201, edx: 3 });
        assert_eq!(answer(0xb, 2, &FACTS, all_ones).ecx, 2);
    }
}
