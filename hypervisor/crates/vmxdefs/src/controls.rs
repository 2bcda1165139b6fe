//! Control fields and their negotiation (SDM vol. 3D appendix A.2 to A.5).
//!
//! A capability MSR holds two 32-bit masks: a bit set in the low half must be 1, a bit clear in the high half
//! must be 0. Where IA32_VMX_BASIC bit 55 is set, the TRUE_ MSRs tell which "must be 1" bits may be 0.

use bitflags::bitflags;
use core::fmt;

bitflags! {
    /// Pin-based controls (SDM vol. 3C table 25-5).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Pin: u32 {
        /// External interrupts of the host exit.
        const EXTERNAL_INTERRUPT = 1 << 0;
        /// NMIs exit.
        const NMI = 1 << 3;
        /// NMI blocking is the guest's own.
        const VIRTUAL_NMI = 1 << 5;
        /// The preemption timer counts down in the guest.
        const PREEMPTION_TIMER = 1 << 6;
    }

    /// Primary processor-based controls (SDM vol. 3C table 25-6).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Proc: u32 {
        /// Exit as soon as the guest can take an interrupt.
        const INTERRUPT_WINDOW = 1 << 2;
        /// RDTSC adds the TSC offset.
        const TSC_OFFSET = 1 << 3;
        /// HLT exits.
        const HLT = 1 << 7;
        /// INVLPG exits.
        const INVLPG = 1 << 9;
        /// MWAIT exits.
        const MWAIT = 1 << 10;
        /// RDPMC exits.
        const RDPMC = 1 << 11;
        /// RDTSC exits.
        const RDTSC = 1 << 12;
        /// MOV to CR3 exits.
        const CR3_LOAD = 1 << 15;
        /// MOV from CR3 exits.
        const CR3_STORE = 1 << 16;
        /// MOV to CR8 exits.
        const CR8_LOAD = 1 << 19;
        /// MOV from CR8 exits.
        const CR8_STORE = 1 << 20;
        /// TPR shadow.
        const TPR_SHADOW = 1 << 21;
        /// Exit as soon as the guest can take an NMI.
        const NMI_WINDOW = 1 << 22;
        /// All I/O instructions exit.
        const UNCONDITIONAL_IO = 1 << 24;
        /// I/O bitmaps decide.
        const IO_BITMAPS = 1 << 25;
        /// MSR bitmaps decide.
        const MSR_BITMAPS = 1 << 28;
        /// MONITOR exits.
        const MONITOR = 1 << 29;
        /// PAUSE exits.
        const PAUSE = 1 << 30;
        /// The secondary controls count.
        const SECONDARY = 1 << 31;
    }

    /// Secondary processor-based controls (SDM vol. 3C table 25-7).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Secondary: u32 {
        /// Extended page tables.
        const EPT = 1 << 1;
        /// RDTSCP works.
        const RDTSCP = 1 << 3;
        /// x2APIC MSRs that the MSR bitmaps pass are the virtual-APIC page's.
        const VIRTUAL_X2APIC = 1 << 4;
        /// Virtual-processor identifiers.
        const VPID = 1 << 5;
        /// WBINVD exits.
        const WBINVD = 1 << 6;
        /// Real mode and unpaged protected mode run as they are.
        const UNRESTRICTED = 1 << 7;
        /// All APIC registers are read from the virtual-APIC page.
        const APIC_REGISTERS = 1 << 8;
        /// The processor delivers interrupts from the virtual-APIC page.
        const VIRTUAL_INTERRUPTS = 1 << 9;
        /// PAUSE exits in a loop.
        const PAUSE_LOOP = 1 << 10;
        /// INVPCID works.
        const INVPCID = 1 << 12;
        /// The processor logs where it sets D in the EPT.
        const PAGE_MODIFICATION_LOG = 1 << 17;
        /// XSAVES and XRSTORS work.
        const XSAVES = 1 << 20;
    }

    /// VM-exit controls (SDM vol. 3C table 25-13).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct ExitControls: u32 {
        /// DR7 and IA32_DEBUGCTL are saved.
        const SAVE_DEBUG = 1 << 2;
        /// The host runs in 64-bit mode.
        const HOST_64 = 1 << 9;
        /// External interrupts are acknowledged at the exit.
        const ACKNOWLEDGE_INTERRUPT = 1 << 15;
        /// IA32_PAT is saved.
        const SAVE_PAT = 1 << 18;
        /// IA32_PAT is loaded.
        const LOAD_PAT = 1 << 19;
        /// IA32_EFER is saved.
        const SAVE_EFER = 1 << 20;
        /// IA32_EFER is loaded.
        const LOAD_EFER = 1 << 21;
        /// The preemption timer's value is saved.
        const SAVE_PREEMPTION_TIMER = 1 << 22;
    }

    /// VM-entry controls (SDM vol. 3C table 25-16).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct EntryControls: u32 {
        /// DR7 and IA32_DEBUGCTL are loaded.
        const LOAD_DEBUG = 1 << 2;
        /// The guest is in IA-32e mode.
        const IA32E_GUEST = 1 << 9;
        /// IA32_PAT is loaded.
        const LOAD_PAT = 1 << 14;
        /// IA32_EFER is loaded.
        const LOAD_EFER = 1 << 15;
    }
}

/// Which control field.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ControlKind {
    /// [`Pin`].
    Pin,
    /// [`Proc`].
    Proc,
    /// [`Secondary`].
    Secondary,
    /// [`ExitControls`].
    Exit,
    /// [`EntryControls`].
    Entry,
}

/// Controls that Herald needs and this processor does not offer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Missing {
    /// In which field.
    pub kind: ControlKind,
    /// The bits.
    pub bits: u32,
}

/// Writes the names of the flags in a set.
fn names<F: bitflags::Flags>(set: &F, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    set.iter_names().try_for_each(|(name, _)| write!(f, " {name}"))
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the processor does not offer the VMX {:?} controls", self.kind)?;
        match self.kind {
            ControlKind::Pin => names(&Pin::from_bits_retain(self.bits), f),
            ControlKind::Proc => names(&Proc::from_bits_retain(self.bits), f),
            ControlKind::Secondary => names(&Secondary::from_bits_retain(self.bits), f),
            ControlKind::Exit => names(&ExitControls::from_bits_retain(self.bits), f),
            ControlKind::Entry => names(&EntryControls::from_bits_retain(self.bits), f),
        }
    }
}

/// What a control field may hold, from its capability MSR.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Allowed {
    must_be_one: u32,
    may_be_one: u32,
}

impl Allowed {
    /// Takes a capability MSR apart.
    #[must_use]
    pub const fn from_msr(msr: u64) -> Self {
        Self { must_be_one: msr as u32, may_be_one: (msr >> 32) as u32 }
    }

    /// Whether all these bits may be 1.
    #[must_use]
    pub const fn offers(self, bits: u32) -> bool {
        bits & !self.may_be_one == 0
    }

    /// A legal value with all `required` bits, those `optional` ones that exist, and nothing else that need not
    /// be there.
    ///
    /// # Errors
    /// [`Missing`]: the required bits that do not exist.
    pub const fn negotiate(self, kind: ControlKind, required: u32, optional: u32) -> Result<u32, Missing> {
        let missing = required & !self.may_be_one;
        if missing != 0 {
            return Err(Missing { kind, bits: missing });
        }
        Ok(self.must_be_one | required | (optional & self.may_be_one))
    }
}

#[cfg(test)]
mod tests {
    use super::{Allowed, ControlKind, Proc, Secondary};
    use std::string::ToString;

    #[test]
    fn negotiation_takes_what_is_needed_and_what_is_offered() {
        let allowed = Allowed::from_msr(0xfff9_fffe_0401_e172);
        let value = allowed.negotiate(ControlKind::Proc, Proc::HLT.bits(), Proc::MSR_BITMAPS.bits() | 1);
        assert_eq!(value, Ok(0x0401_e172 | Proc::HLT.bits() | Proc::MSR_BITMAPS.bits()));
    }

    #[test]
    fn what_is_missing_is_named() {
        let allowed = Allowed::from_msr(u64::from(Secondary::EPT.bits()) << 32);
        let both = Secondary::EPT | Secondary::UNRESTRICTED;
        let missing = allowed.negotiate(ControlKind::Secondary, both.bits(), 0).expect_err("one is missing");
        assert_eq!(
            missing.to_string(),
            "the processor does not offer the VMX Secondary controls UNRESTRICTED"
        );
    }
}
