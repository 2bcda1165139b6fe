//! VMCS field encodings (SDM vol. 3D appendix B). Bits 14:13 of an encoding are its width, bits 11:10 its kind.

macro_rules! fields {
    ($($(#[$doc:meta])* $name:ident = $value:literal),* $(,)?) => {
        /// A field of the VMCS.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u32)]
        pub enum Field {
            $($(#[$doc])* $name = $value,)*
        }
    };
}

fields! {
    /// Virtual-processor identifier.
    Vpid = 0x0000,
    /// Guest ES selector; the others follow at steps of two.
    GuestEsSelector = 0x0800,
    /// Guest CS selector.
    GuestCsSelector = 0x0802,
    /// Guest SS selector.
    GuestSsSelector = 0x0804,
    /// Guest DS selector.
    GuestDsSelector = 0x0806,
    /// Guest FS selector.
    GuestFsSelector = 0x0808,
    /// Guest GS selector.
    GuestGsSelector = 0x080a,
    /// Guest LDTR selector.
    GuestLdtrSelector = 0x080c,
    /// Guest TR selector.
    GuestTrSelector = 0x080e,
    /// Guest interrupt status.
    GuestInterruptStatus = 0x0810,
    /// Place of the next entry of the page-modification log.
    PmlIndex = 0x0812,
    /// Host ES selector.
    HostEsSelector = 0x0c00,
    /// Host CS selector.
    HostCsSelector = 0x0c02,
    /// Host SS selector.
    HostSsSelector = 0x0c04,
    /// Host DS selector.
    HostDsSelector = 0x0c06,
    /// Host FS selector.
    HostFsSelector = 0x0c08,
    /// Host GS selector.
    HostGsSelector = 0x0c0a,
    /// Host TR selector.
    HostTrSelector = 0x0c0c,
    /// Physical address of I/O bitmap A.
    IoBitmapA = 0x2000,
    /// Physical address of I/O bitmap B.
    IoBitmapB = 0x2002,
    /// Physical address of the MSR bitmaps.
    MsrBitmap = 0x2004,
    /// Physical address of the page-modification log.
    PmlAddress = 0x200e,
    /// TSC offset.
    TscOffset = 0x2010,
    /// Physical address of the virtual-APIC page.
    VirtualApic = 0x2012,
    /// EPT pointer.
    EptPointer = 0x201a,
    /// EOI-exit bitmap 0; the others follow at steps of two.
    EoiExits0 = 0x201c,
    /// EOI-exit bitmap 1.
    EoiExits1 = 0x201e,
    /// EOI-exit bitmap 2.
    EoiExits2 = 0x2020,
    /// EOI-exit bitmap 3.
    EoiExits3 = 0x2022,
    /// XSS-exiting bitmap.
    XssExitingBitmap = 0x202c,
    /// Guest-physical address of an EPT violation.
    GuestPhysicalAddress = 0x2400,
    /// VMCS link pointer.
    VmcsLinkPointer = 0x2800,
    /// Guest IA32_DEBUGCTL.
    GuestDebugctl = 0x2802,
    /// Guest IA32_PAT.
    GuestPat = 0x2804,
    /// Guest IA32_EFER.
    GuestEfer = 0x2806,
    /// Guest PDPTE 0; the others follow at steps of two.
    GuestPdpte0 = 0x280a,
    /// Guest PDPTE 1.
    GuestPdpte1 = 0x280c,
    /// Guest PDPTE 2.
    GuestPdpte2 = 0x280e,
    /// Guest PDPTE 3.
    GuestPdpte3 = 0x2810,
    /// Host IA32_PAT.
    HostPat = 0x2c00,
    /// Host IA32_EFER.
    HostEfer = 0x2c02,
    /// Pin-based controls.
    PinControls = 0x4000,
    /// Primary processor-based controls.
    ProcControls = 0x4002,
    /// Exception bitmap.
    ExceptionBitmap = 0x4004,
    /// Page-fault error-code mask.
    PageFaultMask = 0x4006,
    /// Page-fault error-code match.
    PageFaultMatch = 0x4008,
    /// CR3-target count.
    Cr3TargetCount = 0x400a,
    /// VM-exit controls.
    ExitControls = 0x400c,
    /// VM-exit MSR-store count.
    ExitMsrStoreCount = 0x400e,
    /// VM-exit MSR-load count.
    ExitMsrLoadCount = 0x4010,
    /// VM-entry controls.
    EntryControls = 0x4012,
    /// VM-entry MSR-load count.
    EntryMsrLoadCount = 0x4014,
    /// VM-entry interruption information.
    EntryInterruption = 0x4016,
    /// VM-entry exception error code.
    EntryErrorCode = 0x4018,
    /// VM-entry instruction length.
    EntryInstructionLength = 0x401a,
    /// TPR threshold.
    TprThreshold = 0x401c,
    /// Secondary processor-based controls.
    SecondaryControls = 0x401e,
    /// PLE_Gap.
    PleGap = 0x4020,
    /// PLE_Window.
    PleWindow = 0x4022,
    /// VM-instruction error.
    InstructionError = 0x4400,
    /// Exit reason.
    ExitReason = 0x4402,
    /// VM-exit interruption information.
    ExitInterruption = 0x4404,
    /// VM-exit interruption error code.
    ExitErrorCode = 0x4406,
    /// IDT-vectoring information.
    IdtVectoring = 0x4408,
    /// IDT-vectoring error code.
    IdtVectoringErrorCode = 0x440a,
    /// VM-exit instruction length.
    ExitInstructionLength = 0x440c,
    /// VM-exit instruction information.
    ExitInstructionInformation = 0x440e,
    /// Guest ES limit.
    GuestEsLimit = 0x4800,
    /// Guest CS limit.
    GuestCsLimit = 0x4802,
    /// Guest SS limit.
    GuestSsLimit = 0x4804,
    /// Guest DS limit.
    GuestDsLimit = 0x4806,
    /// Guest FS limit.
    GuestFsLimit = 0x4808,
    /// Guest GS limit.
    GuestGsLimit = 0x480a,
    /// Guest LDTR limit.
    GuestLdtrLimit = 0x480c,
    /// Guest TR limit.
    GuestTrLimit = 0x480e,
    /// Guest GDTR limit.
    GuestGdtrLimit = 0x4810,
    /// Guest IDTR limit.
    GuestIdtrLimit = 0x4812,
    /// Guest ES access rights.
    GuestEsRights = 0x4814,
    /// Guest CS access rights.
    GuestCsRights = 0x4816,
    /// Guest SS access rights.
    GuestSsRights = 0x4818,
    /// Guest DS access rights.
    GuestDsRights = 0x481a,
    /// Guest FS access rights.
    GuestFsRights = 0x481c,
    /// Guest GS access rights.
    GuestGsRights = 0x481e,
    /// Guest LDTR access rights.
    GuestLdtrRights = 0x4820,
    /// Guest TR access rights.
    GuestTrRights = 0x4822,
    /// Guest interruptibility state.
    GuestInterruptibility = 0x4824,
    /// Guest activity state.
    GuestActivity = 0x4826,
    /// Guest IA32_SYSENTER_CS.
    GuestSysenterCs = 0x482a,
    /// VMX-preemption timer value.
    PreemptionTimer = 0x482e,
    /// Host IA32_SYSENTER_CS.
    HostSysenterCs = 0x4c00,
    /// CR0 guest/host mask.
    Cr0Mask = 0x6000,
    /// CR4 guest/host mask.
    Cr4Mask = 0x6002,
    /// CR0 read shadow.
    Cr0Shadow = 0x6004,
    /// CR4 read shadow.
    Cr4Shadow = 0x6006,
    /// Exit qualification.
    ExitQualification = 0x6400,
    /// Guest-linear address.
    GuestLinearAddress = 0x640a,
    /// Guest CR0.
    GuestCr0 = 0x6800,
    /// Guest CR3.
    GuestCr3 = 0x6802,
    /// Guest CR4.
    GuestCr4 = 0x6804,
    /// Guest ES base.
    GuestEsBase = 0x6806,
    /// Guest CS base.
    GuestCsBase = 0x6808,
    /// Guest SS base.
    GuestSsBase = 0x680a,
    /// Guest DS base.
    GuestDsBase = 0x680c,
    /// Guest FS base.
    GuestFsBase = 0x680e,
    /// Guest GS base.
    GuestGsBase = 0x6810,
    /// Guest LDTR base.
    GuestLdtrBase = 0x6812,
    /// Guest TR base.
    GuestTrBase = 0x6814,
    /// Guest GDTR base.
    GuestGdtrBase = 0x6816,
    /// Guest IDTR base.
    GuestIdtrBase = 0x6818,
    /// Guest DR7.
    GuestDr7 = 0x681a,
    /// Guest RSP.
    GuestRsp = 0x681c,
    /// Guest RIP.
    GuestRip = 0x681e,
    /// Guest RFLAGS.
    GuestRflags = 0x6820,
    /// Guest pending debug exceptions.
    GuestPendingDebug = 0x6822,
    /// Guest IA32_SYSENTER_ESP.
    GuestSysenterEsp = 0x6824,
    /// Guest IA32_SYSENTER_EIP.
    GuestSysenterEip = 0x6826,
    /// Host CR0.
    HostCr0 = 0x6c00,
    /// Host CR3.
    HostCr3 = 0x6c02,
    /// Host CR4.
    HostCr4 = 0x6c04,
    /// Host FS base.
    HostFsBase = 0x6c06,
    /// Host GS base.
    HostGsBase = 0x6c08,
    /// Host TR base.
    HostTrBase = 0x6c0a,
    /// Host GDTR base.
    HostGdtrBase = 0x6c0c,
    /// Host IDTR base.
    HostIdtrBase = 0x6c0e,
    /// Host IA32_SYSENTER_ESP.
    HostSysenterEsp = 0x6c10,
    /// Host IA32_SYSENTER_EIP.
    HostSysenterEip = 0x6c12,
    /// Host RSP.
    HostRsp = 0x6c14,
    /// Host RIP.
    HostRip = 0x6c16,
}

/// What a virtual processor is made of, as far as it is in the VMCS: state that the guest can change, and what was chosen for
/// the next entry. Segments besides ([`Segment::fields`]); all the rest depends on where it runs.
pub const VIRTUAL_PROCESSOR: [Field; 31] = {
    use Field as F;
    [
        F::GuestCr0,
        F::Cr0Shadow,
        F::GuestCr3,
        F::GuestCr4,
        F::Cr4Shadow,
        F::GuestEfer,
        F::GuestPat,
        F::GuestDebugctl,
        F::GuestDr7,
        F::GuestPdpte0,
        F::GuestPdpte1,
        F::GuestPdpte2,
        F::GuestPdpte3,
        F::GuestGdtrBase,
        F::GuestGdtrLimit,
        F::GuestIdtrBase,
        F::GuestIdtrLimit,
        F::GuestSysenterCs,
        F::GuestSysenterEsp,
        F::GuestSysenterEip,
        F::GuestRsp,
        F::GuestRip,
        F::GuestRflags,
        F::GuestActivity,
        F::GuestInterruptibility,
        F::GuestPendingDebug,
        F::EntryControls,
        F::EntryInterruption,
        F::EntryErrorCode,
        F::EntryInstructionLength,
        F::ExceptionBitmap,
    ]
};

/// How many bits a field has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Width {
    /// 16.
    Bits16,
    /// 64.
    Bits64,
    /// 32.
    Bits32,
    /// As wide as a general register: 64.
    Natural,
}

impl Field {
    /// The encoding.
    #[must_use]
    pub const fn encoding(self) -> u32 {
        self as u32
    }

    /// Its width, as the encoding says.
    #[must_use]
    pub const fn width(self) -> Width {
        match self as u32 >> 13 & 3 {
            0 => Width::Bits16,
            1 => Width::Bits64,
            2 => Width::Bits32,
            _ => Width::Natural,
        }
    }

    /// Whether VMWRITE may always write it: kind 1 (bits 11:10) is read-only information.
    #[must_use]
    pub const fn is_writable(self) -> bool {
        self as u32 >> 10 & 3 != 1
    }
}

/// A segment register of the guest: its four fields.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Segment {
    /// ES.
    Es,
    /// CS.
    Cs,
    /// SS.
    Ss,
    /// DS.
    Ds,
    /// FS.
    Fs,
    /// GS.
    Gs,
    /// LDTR.
    Ldtr,
    /// TR.
    Tr,
}

impl Segment {
    /// All of them, in the order of their encodings.
    pub const ALL: [Self; 8] =
        [Self::Es, Self::Cs, Self::Ss, Self::Ds, Self::Fs, Self::Gs, Self::Ldtr, Self::Tr];

    /// Selector, base, limit and access-rights fields.
    #[must_use]
    pub const fn fields(self) -> [Field; 4] {
        use Field as F;
        match self {
            Self::Es => [F::GuestEsSelector, F::GuestEsBase, F::GuestEsLimit, F::GuestEsRights],
            Self::Cs => [F::GuestCsSelector, F::GuestCsBase, F::GuestCsLimit, F::GuestCsRights],
            Self::Ss => [F::GuestSsSelector, F::GuestSsBase, F::GuestSsLimit, F::GuestSsRights],
            Self::Ds => [F::GuestDsSelector, F::GuestDsBase, F::GuestDsLimit, F::GuestDsRights],
            Self::Fs => [F::GuestFsSelector, F::GuestFsBase, F::GuestFsLimit, F::GuestFsRights],
            Self::Gs => [F::GuestGsSelector, F::GuestGsBase, F::GuestGsLimit, F::GuestGsRights],
            Self::Ldtr => [F::GuestLdtrSelector, F::GuestLdtrBase, F::GuestLdtrLimit, F::GuestLdtrRights],
            Self::Tr => [F::GuestTrSelector, F::GuestTrBase, F::GuestTrLimit, F::GuestTrRights],
        }
    }
}

const _: () = {
    assert!(matches!(Field::Vpid.width(), Width::Bits16));
    assert!(matches!(Field::EptPointer.width(), Width::Bits64));
    assert!(matches!(Field::ExitReason.width(), Width::Bits32));
    assert!(matches!(Field::HostRip.width(), Width::Natural));
    assert!(!Field::ExitReason.is_writable() && Field::GuestRip.is_writable());
};
