//! The capability MSRs, taken apart (SDM vol. 3D appendix A). Values come from the caller, as read.

use crate::controls::Allowed;
use bitflags::bitflags;
use core::fmt;

/// MSR numbers.
pub mod number {
    /// IA32_FEATURE_CONTROL.
    pub const FEATURE_CONTROL: u32 = 0x3a;
    /// IA32_VMX_BASIC.
    pub const BASIC: u32 = 0x480;
    /// IA32_VMX_PINBASED_CTLS; the other control MSRs of its kind follow: PROC, EXIT, ENTRY.
    pub const PIN: u32 = 0x481;
    /// IA32_VMX_PROCBASED_CTLS.
    pub const PROC: u32 = 0x482;
    /// IA32_VMX_EXIT_CTLS.
    pub const EXIT: u32 = 0x483;
    /// IA32_VMX_ENTRY_CTLS.
    pub const ENTRY: u32 = 0x484;
    /// IA32_VMX_MISC.
    pub const MISC: u32 = 0x485;
    /// IA32_VMX_CR0_FIXED0; FIXED1 follows.
    pub const CR0_FIXED0: u32 = 0x486;
    /// IA32_VMX_CR0_FIXED1.
    pub const CR0_FIXED1: u32 = 0x487;
    /// IA32_VMX_CR4_FIXED0; FIXED1 follows.
    pub const CR4_FIXED0: u32 = 0x488;
    /// IA32_VMX_CR4_FIXED1.
    pub const CR4_FIXED1: u32 = 0x489;
    /// IA32_VMX_PROCBASED_CTLS2.
    pub const SECONDARY: u32 = 0x48b;
    /// IA32_VMX_EPT_VPID_CAP.
    pub const EPT_VPID: u32 = 0x48c;
    /// IA32_VMX_TRUE_PINBASED_CTLS; the TRUE_ MSRs are the plain ones plus [`TRUE_OFFSET`].
    pub const TRUE_PIN: u32 = 0x48d;
    /// From a plain control MSR to its TRUE_ one.
    pub const TRUE_OFFSET: u32 = TRUE_PIN - PIN;
}

/// IA32_FEATURE_CONTROL: locked.
pub const FEATURE_LOCKED: u64 = 1 << 0;
/// IA32_FEATURE_CONTROL: VMXON outside SMX allowed.
pub const FEATURE_VMX: u64 = 1 << 2;

bitflags! {
    /// IA32_VMX_EPT_VPID_CAP (appendix A.10): the bits that Herald looks at.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct EptVpid: u64 {
        /// A walk of four levels.
        const WALK_4 = 1 << 6;
        /// Write-back tables.
        const WRITE_BACK = 1 << 14;
        /// 2 MiB leaves.
        const PAGES_2M = 1 << 16;
        /// 1 GiB leaves.
        const PAGES_1G = 1 << 17;
        /// INVEPT.
        const INVEPT = 1 << 20;
        /// A and D bits.
        const ACCESSED_DIRTY = 1 << 21;
        /// INVEPT of one EPT pointer.
        const INVEPT_SINGLE = 1 << 25;
        /// INVEPT of all.
        const INVEPT_ALL = 1 << 26;
        /// INVVPID.
        const INVVPID = 1 << 32;
        /// INVVPID of one VPID.
        const INVVPID_SINGLE = 1 << 41;
        /// INVVPID of all.
        const INVVPID_ALL = 1 << 42;
    }
}

/// IA32_VMX_BASIC (appendix A.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Basic(u64);

impl Basic {
    /// Takes the MSR.
    #[must_use]
    pub const fn from_msr(msr: u64) -> Self {
        Self(msr)
    }

    /// VMCS revision identifier: bits 30:0.
    #[must_use]
    pub const fn revision(self) -> u32 {
        self.0 as u32 & 0x7fff_ffff
    }

    /// Bytes of a VMCS region: bits 44:32, at most 4096.
    #[must_use]
    pub const fn region_bytes(self) -> u32 {
        (self.0 >> 32) as u32 & 0x1fff
    }

    /// Memory type of VMCS access: bits 53:50; 6 is write-back.
    #[must_use]
    pub const fn memory_type(self) -> u8 {
        (self.0 >> 50) as u8 & 0xf
    }

    /// Whether the TRUE_ control MSRs exist: bit 55.
    #[must_use]
    pub const fn has_true_controls(self) -> bool {
        self.0 >> 55 & 1 != 0
    }
}

/// IA32_VMX_MISC (appendix A.6).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Misc(u64);

impl Misc {
    /// Takes the MSR.
    #[must_use]
    pub const fn from_msr(msr: u64) -> Self {
        Self(msr)
    }

    /// The preemption timer counts down once in 2^this TSC ticks: bits 4:0.
    #[must_use]
    pub const fn preemption_timer_shift(self) -> u32 {
        (self.0 & 0x1f) as u32
    }
}

/// The bits of CR0 or CR4 that VMX operation fixes (appendix A.7, A.8).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Fixed {
    /// Bits that must be 1.
    pub ones: u64,
    /// Bits that may be 1.
    pub allowed: u64,
}

impl Fixed {
    /// The nearest legal value.
    #[must_use]
    pub const fn apply(self, value: u64) -> u64 {
        (value | self.ones) & self.allowed
    }
}

/// Everything that the capability MSRs say.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Capabilities {
    /// IA32_VMX_BASIC.
    pub basic: Basic,
    /// IA32_VMX_MISC.
    pub misc: Misc,
    /// Pin-based controls.
    pub pin: Allowed,
    /// Primary processor-based controls.
    pub proc: Allowed,
    /// Secondary ones; nothing where they do not exist.
    pub secondary: Allowed,
    /// VM-exit controls.
    pub exit: Allowed,
    /// VM-entry controls.
    pub entry: Allowed,
    /// IA32_VMX_EPT_VPID_CAP; empty where neither exists.
    pub ept_vpid: EptVpid,
    /// CR0.
    pub cr0: Fixed,
    /// CR4.
    pub cr4: Fixed,
}

impl Capabilities {
    /// Of EPTs, what guests need.
    pub const EPT: EptVpid =
        EptVpid::WALK_4.union(EptVpid::WRITE_BACK).union(EptVpid::INVEPT).union(EptVpid::INVEPT_SINGLE);

    /// Whether guests can have EPTs, and with them real mode as it is.
    #[must_use]
    pub const fn has_ept(&self) -> bool {
        use crate::controls::Secondary;
        let controls = Secondary::EPT.union(Secondary::UNRESTRICTED);
        self.secondary.offers(controls.bits()) && self.ept_vpid.contains(Self::EPT)
    }

    /// Reads what exists: an MSR is asked for only where another has said that it is there.
    pub fn read(mut rdmsr: impl FnMut(u32) -> u64) -> Self {
        use crate::controls::{Proc, Secondary};
        let basic = Basic::from_msr(rdmsr(number::BASIC));
        let offset = if basic.has_true_controls() { number::TRUE_OFFSET } else { 0 };
        let mut control = |msr: u32| Allowed::from_msr(rdmsr(msr + offset));
        let (pin, proc) = (control(number::PIN), control(number::PROC));
        let (exit, entry) = (control(number::EXIT), control(number::ENTRY));
        let secondary = match proc.offers(Proc::SECONDARY.bits()) {
            true => Allowed::from_msr(rdmsr(number::SECONDARY)),
            false => Allowed::default(),
        };
        let tagged = [Secondary::EPT, Secondary::VPID].iter().any(|bit| secondary.offers(bit.bits()));
        let ept_vpid =
            if tagged { EptVpid::from_bits_retain(rdmsr(number::EPT_VPID)) } else { EptVpid::empty() };
        let misc = Misc::from_msr(rdmsr(number::MISC));
        let cr0 = Fixed { ones: rdmsr(number::CR0_FIXED0), allowed: rdmsr(number::CR0_FIXED1) };
        let cr4 = Fixed { ones: rdmsr(number::CR4_FIXED0), allowed: rdmsr(number::CR4_FIXED1) };
        Self { basic, misc, pin, proc, secondary, exit, entry, ept_vpid, cr0, cr4 }
    }
}

/// Why VMX cannot be used at all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoVmx {
    /// CPUID.1:ECX.VMX reads 0.
    NotThere,
    /// IA32_FEATURE_CONTROL is locked without VMX.
    LockedOff(u64),
}

impl fmt::Display for NoVmx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotThere => f.write_str(
                "this processor has no VMX (CPUID.1:ECX bit 5 reads 0); under QEMU, KVM with nesting is needed",
            ),
            Self::LockedOff(value) => write!(
                f,
                "firmware has locked VMX off (IA32_FEATURE_CONTROL reads {value:#x}); switch it on in the set-up"
            ),
        }
    }
}

/// What IA32_FEATURE_CONTROL has to become before VMXON: `None` where it is right already.
///
/// # Errors
/// [`NoVmx::LockedOff`].
pub const fn feature_control(value: u64) -> Result<Option<u64>, NoVmx> {
    match (value & FEATURE_LOCKED != 0, value & FEATURE_VMX != 0) {
        (true, true) => Ok(None),
        (true, false) => Err(NoVmx::LockedOff(value)),
        // Unlocked, also unlocked and zero as some nested machines have it: set and lock.
        (false, _) => Ok(Some(value | FEATURE_LOCKED | FEATURE_VMX)),
    }
}

#[cfg(test)]
mod tests {
    use super::{Capabilities, EptVpid, Fixed, NoVmx, feature_control, number};
    use crate::controls::{Allowed, Secondary};

    #[test]
    fn feature_control_in_all_its_states() {
        assert_eq!(feature_control(5), Ok(None));
        assert_eq!(feature_control(0), Ok(Some(5)));
        assert_eq!(feature_control(1), Err(NoVmx::LockedOff(1)));
    }

    #[test]
    fn absent_msrs_are_never_read() {
        let capabilities = Capabilities::read(|msr| match msr {
            number::BASIC => 0x00d8_1000_0000_0001 & !(1 << 55),
            number::PROC => 0x0000_ffff_0000_0000,
            number::SECONDARY | number::EPT_VPID => panic!("MSR {msr:#x} does not exist here"),
            msr if msr >= number::TRUE_PIN => panic!("MSR {msr:#x} does not exist here"),
            _ => 0,
        });
        assert_eq!(capabilities.ept_vpid, EptVpid::empty());
        assert_eq!(capabilities.basic.revision(), 1);
        assert_eq!(capabilities.basic.region_bytes(), 4096);
    }

    #[test]
    fn an_ept_is_one_with_real_mode_and_flushes() {
        let with = |controls: Secondary, ept_vpid| Capabilities {
            secondary: Allowed::from_msr(u64::from(controls.bits()) << 32),
            ept_vpid,
            ..Capabilities::default()
        };
        let both = Secondary::EPT | Secondary::UNRESTRICTED;
        assert!(with(both | Secondary::VPID, Capabilities::EPT | EptVpid::PAGES_2M).has_ept());
        assert!(!Capabilities::default().has_ept());
        assert!(!with(Secondary::EPT, Capabilities::EPT).has_ept());
        assert!(!with(both, Capabilities::EPT - EptVpid::INVEPT_SINGLE).has_ept());
    }

    #[test]
    fn fixed_bits() {
        let fixed = Fixed { ones: 0x8000_0021, allowed: 0xffff_ffff };
        assert_eq!(fixed.apply(0x10), 0x8000_0031);
    }
}
