//! MSR policy: what happens when a guest reads or writes one, with the reason beside each row. An MSR without a
//! row does not exist: #GP, as on a processor that lacks it.

/// How an access is treated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Policy {
    /// The processor does it, without an exit.
    Pass,
    /// Reads are the processor's, writes exit and are ignored.
    ReadOnly,
    /// Reads this value; writes are ignored.
    Constant(u64),
    /// The local APIC model: base, x2APIC registers, TSC deadline.
    Apic,
    /// KVM's system-time area: where the guest wants its clock.
    KvmSystemTime,
    /// KVM's wall clock.
    KvmWallClock,
}

/// MSRs that a guest has without exits and that the VMCS does not hold: whoever runs another guest switches them.
/// STAR, LSTAR, CSTAR, FMASK, KERNEL_GS_BASE; and TSC_AUX, which only processors with RDTSCP have.
pub const SWITCHED: [u32; 5] = [0xc000_0081, 0xc000_0082, 0xc000_0083, 0xc000_0084, 0xc000_0102];
/// See [`SWITCHED`].
pub const TSC_AUX: u32 = 0xc000_0103;

/// Whether a processor takes this value for one of [`SWITCHED`] or [`TSC_AUX`]; another one is #GP for who loads it (SDM
/// vol. 2D WRMSR, vol. 4 table 2-2): LSTAR, CSTAR and KERNEL_GS_BASE hold addresses of 48 bits, FMASK and TSC_AUX 32 bits.
#[must_use]
pub const fn is_legal(msr: u32, value: u64) -> bool {
    match msr {
        0x175 | 0x176 | 0xc000_0082 | 0xc000_0083 | 0xc000_0100..=0xc000_0102 => {
            (value << 16).cast_signed() >> 16 == value.cast_signed()
        }
        0xc000_0084 | TSC_AUX => value >> 32 == 0,
        _ => true,
    }
}

struct Row {
    first: u32,
    last: u32,
    policy: Policy,
}

const fn one(msr: u32, policy: Policy) -> Row {
    Row { first: msr, last: msr, policy }
}

const TABLE: [Row; 23] = [
    // TSC: the guest's is the host's; a guest that sets it would set everybody's.
    one(0x10, Policy::ReadOnly),
    // KVM wall clock and system time, old numbers.
    one(0x11, Policy::KvmWallClock),
    one(0x12, Policy::KvmSystemTime),
    // IA32_PLATFORM_ID: read by microcode drivers.
    one(0x17, Policy::Constant(0)),
    // IA32_APIC_BASE.
    one(0x1b, Policy::Apic),
    // IA32_FEATURE_CONTROL: locked, no VMX.
    one(0x3a, Policy::Constant(1)),
    // IA32_BIOS_SIGN_ID: microcode revision; Linux writes 0 before it reads.
    one(0x8b, Policy::Constant(0)),
    // MSR_PLATFORM_INFO: no ratio known.
    one(0xce, Policy::Constant(0)),
    // MSR_MISC_FEATURES_ENABLES: no CPUID faulting.
    one(0x140, Policy::Constant(0)),
    // SYSENTER_CS, _ESP, _EIP: in the VMCS, switched by the processor.
    Row { first: 0x174, last: 0x176, policy: Policy::Pass },
    // IA32_MCG_CAP, _STATUS: no machine-check banks.
    Row { first: 0x179, last: 0x17a, policy: Policy::Constant(0) },
    // IA32_MISC_ENABLE: fast strings.
    one(0x1a0, Policy::Constant(1)),
    // IA32_DEBUGCTL: no branch tracing.
    one(0x1d9, Policy::Constant(0)),
    // IA32_PAT: in the VMCS. Under a shadow it exits.
    one(PAT, Policy::Pass),
    // IA32_TSC_DEADLINE.
    one(0x6e0, Policy::Apic),
    // x2APIC registers.
    Row { first: 0x800, last: 0x8ff, policy: Policy::Apic },
    // KVM wall clock and system time.
    one(0x4b56_4d00, Policy::KvmWallClock),
    one(0x4b56_4d01, Policy::KvmSystemTime),
    // EFER: in the VMCS; the processor keeps the entry control in step with LMA. Under a shadow it exits.
    one(EFER, Policy::Pass),
    // STAR, LSTAR, CSTAR, FMASK: Herald never executes SYSCALL, so the guest's stay loaded while it has the CPU.
    Row { first: 0xc000_0081, last: 0xc000_0084, policy: Policy::Pass },
    // FS_BASE, GS_BASE: in the VMCS.
    Row { first: 0xc000_0100, last: 0xc000_0101, policy: Policy::Pass },
    // KERNEL_GS_BASE: Herald never executes SWAPGS.
    one(0xc000_0102, Policy::Pass),
    // TSC_AUX: Herald never executes RDTSCP.
    one(0xc000_0103, Policy::Pass),
];

/// The policy for an MSR; `None`: it does not exist.
#[must_use]
pub fn policy(msr: u32) -> Option<Policy> {
    TABLE.iter().find(|row| (row.first..=row.last).contains(&msr)).map(|row| row.policy)
}

/// Bytes of the MSR bitmaps (SDM vol. 3C 25.6.9).
pub const BITMAP_BYTES: usize = 4096;
const LOW: u32 = 0x2000;
const HIGH_BASE: u32 = 0xc000_0000;
const WRITES: usize = 2048;
const HIGH: usize = 1024;

/// Fills the MSR bitmaps: everything exits but what the table passes.
pub fn fill_bitmap(bitmap: &mut [u8; BITMAP_BYTES]) {
    bitmap.fill(0xff);
    for row in &TABLE {
        for msr in row.first..=row.last {
            let Some((byte, bit)) = bitmap_place(msr) else { continue };
            match row.policy {
                Policy::Pass => {
                    bitmap[byte] &= !bit;
                    bitmap[byte + WRITES] &= !bit;
                }
                Policy::ReadOnly => bitmap[byte] &= !bit,
                Policy::Constant(_) | Policy::Apic | Policy::KvmSystemTime | Policy::KvmWallClock => {}
            }
        }
    }
}

/// x2APIC MSRs that a processor with a virtual-APIC page reads without an exit: TPR, PPR, ISR, IRR.
const VIRTUAL_READS: [core::ops::RangeInclusive<u32>; 4] =
    [0x808..=0x808, 0x80a..=0x80a, 0x810..=0x817, 0x820..=0x827];
/// The same for writes: TPR, EOI, self IPI.
const VIRTUAL_WRITES: [u32; 3] = [0x808, 0x80b, 0x83f];

/// Passes the x2APIC registers that the processor keeps in a virtual-APIC page. Only with that page in use: else they are
/// the host's own.
pub fn pass_virtual_apic(bitmap: &mut [u8; BITMAP_BYTES]) {
    let reads = VIRTUAL_READS.into_iter().flatten().map(|msr| (msr, 0));
    for (msr, half) in reads.chain(VIRTUAL_WRITES.map(|msr| (msr, WRITES))) {
        if let Some((byte, bit)) = bitmap_place(msr) {
            bitmap[byte + half] &= !bit;
        }
    }
}

/// IA32_EFER.
pub const EFER: u32 = 0xc000_0080;

/// IA32_PAT.
pub const PAT: u32 = 0x277;

/// Whether a processor takes this for IA32_PAT: eight memory types (SDM vol. 3A table 12-10).
#[must_use]
pub fn is_legal_pat(value: u64) -> bool {
    value.to_le_bytes().iter().all(|kind| matches!(kind, 0 | 1 | 4..=7))
}

/// Has accesses to IA32_EFER and IA32_PAT exit, where the guest does not have the processor's.
pub fn keep_translation(bitmap: &mut [u8; BITMAP_BYTES]) {
    for (byte, bit) in [EFER, PAT].into_iter().filter_map(bitmap_place) {
        bitmap[byte] |= bit;
        bitmap[byte + WRITES] |= bit;
    }
}

/// Byte and bit of an MSR in the read half.
const fn bitmap_place(msr: u32) -> Option<(usize, u8)> {
    let (offset, base) = if msr < LOW {
        (msr, 0)
    } else if msr >= HIGH_BASE && msr < HIGH_BASE + LOW {
        (msr - HIGH_BASE, HIGH)
    } else {
        return None;
    };
    Some((base + (offset / 8) as usize, 1 << (offset % 8)))
}

#[cfg(test)]
mod tests {
    use super::{
        BITMAP_BYTES, EFER, PAT, Policy, TSC_AUX, fill_bitmap, is_legal, is_legal_pat, keep_translation,
        pass_virtual_apic, policy,
    };
    use std::vec::Vec;

    fn exits(bitmap: &[u8; BITMAP_BYTES], msr: u32, write: bool) -> bool {
        let high = if msr >= 0xc000_0000 { 1024 } else { 0 };
        let at = high + (msr as usize & 0x1fff) / 8 + if write { 2048 } else { 0 };
        bitmap[at] >> (msr % 8) & 1 != 0
    }

    #[test]
    fn what_a_processor_would_refuse_is_known() {
        for (msr, value, legal) in [
            (0xc000_0081, u64::MAX, true),
            (0xc000_0082, 0xffff_ffff_8000_0000, true),
            (0xc000_0082, 0x0000_8000_0000_0000, false),
            (0xc000_0102, 0xffff_7fff_ffff_ffff, false),
            (0xc000_0102, 0x0000_7fff_ffff_ffff, true),
            (0xc000_0084, 1 << 32, false),
            (TSC_AUX, u64::from(u32::MAX), true),
            (TSC_AUX, 1 << 32, false),
        ] {
            assert_eq!(is_legal(msr, value), legal, "{msr:#x} {value:#x}");
        }
    }

    #[test]
    fn a_virtual_apic_passes_what_the_processor_does() {
        let mut bitmap = [0; BITMAP_BYTES];
        fill_bitmap(&mut bitmap);
        assert!((0x800..=0x8ff).all(|msr| exits(&bitmap, msr, false) && exits(&bitmap, msr, true)));
        pass_virtual_apic(&mut bitmap);
        let passing =
            |write| (0x800..=0x8ff).filter(|msr| !exits(&bitmap, *msr, write)).collect::<Vec<u32>>();
        assert_eq!(passing(true), [0x808, 0x80b, 0x83f]);
        assert_eq!(passing(false).len(), 18);
        assert!(exits(&bitmap, 0x830, true), "an IPI is Herald's to send");
        assert!(exits(&bitmap, 0x839, false), "the count is a model's");
    }

    #[test]
    fn only_what_passes_is_clear() {
        let mut bitmap = [0; BITMAP_BYTES];
        fill_bitmap(&mut bitmap);
        let exits = |msr, write| exits(&bitmap, msr, write);
        assert!(!exits(0xc000_0100, false) && !exits(0xc000_0100, true), "FS_BASE passes");
        assert!(!exits(0x10, false) && exits(0x10, true), "the TSC can be read, not written");
        assert!(exits(0x1b, false) && exits(0x830, true), "the APIC is a model");
        assert!(exits(0x481, false), "VMX capabilities are hidden");
    }

    #[test]
    fn what_decides_over_translations_can_be_kept() {
        let mut bitmap = [0; BITMAP_BYTES];
        fill_bitmap(&mut bitmap);
        let all = |bitmap: &[u8; BITMAP_BYTES], wanted| {
            [EFER, PAT]
                .iter()
                .all(|&msr| [false, true].iter().all(|&write| exits(bitmap, msr, write) == wanted))
        };
        assert!(all(&bitmap, false));
        keep_translation(&mut bitmap);
        assert!(all(&bitmap, true));
    }

    #[test]
    fn memory_types_that_there_are() {
        assert!(is_legal_pat(0x0007_0406_0007_0406) && is_legal_pat(0x0001_0405_0607_0100));
        assert!(!is_legal_pat(2) && !is_legal_pat(3 << 56) && !is_legal_pat(8));
    }

    #[test]
    fn unknown_msrs_do_not_exist() {
        assert_eq!(policy(0x480), None);
        assert_eq!(policy(0x8ff), Some(Policy::Apic));
        assert_eq!(policy(0xc000_0082), Some(Policy::Pass));
    }
}
