//! The VMCS of one virtual processor: its controls, negotiated; its fields; entry.

use super::enter::{GuestRegisters, enter_guest};
use super::instructions::{VmFail, invept_single, vmread, vmread_present, vmwrite};
use super::kept::{Extent, Kept};
use super::region::Region;
use super::residence::Residence;
use super::startup::Vmx;
use super::virtual_apic::{PROC_OFF, PROC_ON, SECONDARY_ON, VirtualApic};
use super::vpid::{MOST_VPIDS, Vpid};
use super::write_log::{self, WriteLog};
use crate::physmem::PhysicalMemory;
use addr::{Gpa, Pfn};
use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::sync::Arc;
use core::fmt;
use mm::OutOfFrames;
use vmxdefs::capability::{Capabilities, EptVpid};
use vmxdefs::controls::{ControlKind, EntryControls, ExitControls, Missing, Pin, Proc, Secondary};
use vmxdefs::field::Field;
use vmxdefs::instruction_error;
use vmxdefs::msr::{BITMAP_BYTES, fill_bitmap, keep_translation};
use vmxdefs::registers::{CR0_PASSED, CR4_KEPT};

/// CR0 bits that Herald keeps: NE must stay 1 in VMX operation (SDM vol. 3C 24.8).
pub(crate) const CR0_OWNED: u64 = 1 << 5;
/// CR4 bits that Herald keeps: VMXE must stay 1, and the guest must not see it.
pub(crate) const CR4_OWNED: u64 = 1 << 13;

/// Of the exception bitmap: page faults exit.
pub(crate) const PAGE_FAULTS: u64 = 1 << 14;

/// What the VMCS of a virtual processor depends on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct VmcsConfig {
    /// How the guest's addresses are translated.
    pub translation: Translation,
    /// Let the processor deliver the interrupts of a local APIC, where it can.
    pub virtual_apic: bool,
    /// Let the guest exit when it spins, where the processor can tell: others may want the CPU.
    pub pause_exits: bool,
    /// What its TSC is ahead of the machine's, in two's complement; 0: it is the machine's.
    pub tsc_offset: i64,
    /// Break a rule for the guest state, for tests of the explanation.
    pub fail_entry: bool,
}

/// How a guest's addresses are translated.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Translation {
    /// By the guest's tables and an EPT.
    Ept {
        /// Its root.
        root: Pfn,
        /// Let the processor set A and D bits, where it can.
        accessed_dirty: bool,
    },
    /// By a shadow: without a VPID, so that each entry drops what was cached.
    Shadow,
}

/// Controls that go with it.
struct TranslationControls {
    proc: Proc,
    secondary: Secondary,
    optional: Secondary,
    /// IA32_PAT and IA32_EFER have to be switched.
    switches: bool,
}

impl Translation {
    /// Whether the processor sets A and D bits in an EPT.
    fn sets_dirty(&self, capabilities: &Capabilities) -> bool {
        match self {
            Self::Ept { accessed_dirty, .. } => {
                *accessed_dirty && capabilities.ept_vpid.contains(EptVpid::ACCESSED_DIRTY)
            }
            Self::Shadow => false,
        }
    }

    fn controls(&self, capabilities: &Capabilities) -> TranslationControls {
        if let Self::Shadow = self {
            let secondary = Secondary::empty();
            // INVPCID exits as INVLPG does (SDM vol. 3C 26.1.3).
            let optional = Secondary::RDTSCP | Secondary::INVPCID;
            return TranslationControls {
                proc: Proc::INVLPG | Proc::CR3_LOAD | Proc::CR3_STORE,
                secondary,
                optional,
                // `kept` does without.
                switches: false,
            };
        }
        let mut optional = Secondary::RDTSCP | Secondary::INVPCID;
        // A tag that cannot be flushed is worse than none.
        if capabilities.ept_vpid.contains(EptVpid::INVVPID | EptVpid::INVVPID_SINGLE) {
            optional |= Secondary::VPID;
        }
        // It logs where D is set: without D there is nothing to log, and the entry fails (SDM vol. 3C 27.2.1.1).
        if self.sets_dirty(capabilities) {
            optional |= Secondary::PAGE_MODIFICATION_LOG;
        }
        let secondary = Secondary::EPT | Secondary::UNRESTRICTED;
        TranslationControls { proc: Proc::empty(), secondary, optional, switches: true }
    }

    /// # Errors
    /// [`VmcsError::Ept`]: what the processor lacks.
    fn check(&self, capabilities: &Capabilities) -> Result<(), VmcsError> {
        let needed = match self {
            Self::Ept { .. } => Capabilities::EPT,
            Self::Shadow => EptVpid::empty(),
        };
        let missing = needed.difference(capabilities.ept_vpid);
        if missing.is_empty() { Ok(()) } else { Err(VmcsError::Ept(missing)) }
    }

    /// Fields whose values depend on it: what exits, and which bits of CR0 and CR4 the guest changes by itself.
    fn fields(&self) -> [(Field, u64); 3] {
        match self {
            Self::Ept { .. } => {
                [(Field::ExceptionBitmap, 0), (Field::Cr0Mask, CR0_OWNED), (Field::Cr4Mask, CR4_OWNED)]
            }
            Self::Shadow => [
                (Field::ExceptionBitmap, PAGE_FAULTS),
                (Field::Cr0Mask, !CR0_PASSED),
                (Field::Cr4Mask, CR4_KEPT),
            ],
        }
    }
}

/// Why there is no VMCS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum VmcsError {
    /// The processor lacks controls.
    Missing(Missing),
    /// The processor lacks EPT in the form that Herald uses.
    Ept(EptVpid),
    /// A shadow's pointers lie where a guest outside long mode cannot have them.
    HighRoot(Pfn),
    /// No frame.
    OutOfFrames(OutOfFrames),
    /// A VMX instruction failed.
    Instruction(VmFail),
    /// There are too many virtual processors to tell their translations apart.
    NoVpid,
}

impl VmcsError {
    /// Whether it is for want of something that others have.
    pub(crate) const fn is_short(&self) -> bool {
        matches!(self, Self::OutOfFrames(_) | Self::NoVpid)
    }
}

impl fmt::Display for VmcsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(missing) => {
                write!(f, "{missing}; without EPT or unrestricted guest there is --paging shadow")
            }
            Self::Ept(missing) => write!(f, "the processor's EPT lacks {missing:?}"),
            Self::HighRoot(frame) => write!(f, "a shadow's pointers lie in {frame}, above 4 GiB"),
            Self::OutOfFrames(error) => error.fmt(f),
            Self::Instruction(error) => write!(f, "setting up the VMCS failed: {error}"),
            Self::NoVpid => write!(f, "more than {MOST_VPIDS} virtual processors"),
        }
    }
}

impl From<Missing> for VmcsError {
    fn from(missing: Missing) -> Self {
        Self::Missing(missing)
    }
}

impl From<OutOfFrames> for VmcsError {
    fn from(error: OutOfFrames) -> Self {
        Self::OutOfFrames(error)
    }
}

impl From<VmFail> for VmcsError {
    fn from(error: VmFail) -> Self {
        Self::Instruction(error)
    }
}

/// VMLAUNCH or VMRESUME refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct EntryError(pub VmFail);

impl fmt::Display for EntryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            VmFail::Invalid => write!(f, "VM entry refused: {}", self.0),
            VmFail::Valid(number) => {
                write!(f, "VM entry refused: {} (error {number})", instruction_error::describe(number))
            }
        }
    }
}

/// PAUSEs that follow each other within so many ticks are one loop, which exits after so many (SDM vol. 3C 25.6.13; KVM's
/// figures).
const PLE_GAP: u64 = 128;
const PLE_WINDOW: u64 = 4096;

/// Which vectors' ends exit, from a virtual-APIC page, 64 each.
const EOI_EXITS: [Field; 4] = [Field::EoiExits0, Field::EoiExits1, Field::EoiExits2, Field::EoiExits3];

/// The controls as negotiated.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Controls {
    pin: u32,
    proc: u32,
    secondary: u32,
    exit: u32,
    entry: u32,
}

impl Controls {
    /// # Errors
    /// The first field in which something required is missing.
    fn negotiate(capabilities: &Capabilities, config: &VmcsConfig) -> Result<Self, Missing> {
        let pin = Pin::EXTERNAL_INTERRUPT | Pin::NMI;
        let pin_optional = Pin::PREEMPTION_TIMER | Pin::VIRTUAL_NMI;
        let offset = if config.tsc_offset == 0 { Proc::empty() } else { Proc::TSC_OFFSET };
        let translation = config.translation.controls(capabilities);
        let proc = offset
            | translation.proc
            | Proc::HLT
            | Proc::MWAIT
            | Proc::MONITOR
            | Proc::RDPMC
            | Proc::CR8_LOAD
            | Proc::CR8_STORE
            | Proc::UNCONDITIONAL_IO
            | Proc::MSR_BITMAPS;
        let (mut proc_optional, mut secondary_optional) = (Proc::SECONDARY, translation.optional);
        if config.pause_exits && capabilities.secondary.offers(Secondary::PAUSE_LOOP.bits()) {
            secondary_optional |= Secondary::PAUSE_LOOP;
        } else if config.pause_exits {
            // Each PAUSE, where the processor does not know a loop of them.
            proc_optional |= Proc::PAUSE;
        }
        let mut exit = ExitControls::HOST_64 | ExitControls::SAVE_DEBUG;
        let mut exit_optional = ExitControls::SAVE_PAT
            | ExitControls::LOAD_PAT
            | ExitControls::SAVE_EFER
            | ExitControls::LOAD_EFER;
        let mut entry = EntryControls::LOAD_DEBUG;
        let mut entry_optional = EntryControls::LOAD_PAT | EntryControls::LOAD_EFER;
        if translation.switches {
            exit |= core::mem::replace(&mut exit_optional, ExitControls::empty());
            entry |= core::mem::replace(&mut entry_optional, EntryControls::empty());
        }
        use ControlKind as K;
        Ok(Self {
            pin: capabilities.pin.negotiate(K::Pin, pin.bits(), pin_optional.bits())?,
            proc: capabilities.proc.negotiate(K::Proc, proc.bits(), proc_optional.bits())?,
            secondary: capabilities.secondary.negotiate(
                K::Secondary,
                translation.secondary.bits(),
                secondary_optional.bits(),
            )?,
            exit: capabilities.exit.negotiate(K::Exit, exit.bits(), exit_optional.bits())?,
            entry: capabilities.entry.negotiate(K::Entry, entry.bits(), entry_optional.bits())?,
        })
    }

    /// Whether a secondary control is on.
    #[must_use]
    pub(crate) fn has(&self, control: Secondary) -> bool {
        self.secondary & control.bits() != 0
    }

    /// Whether a pin-based control is on.
    #[must_use]
    pub(crate) fn has_pin(&self, control: Pin) -> bool {
        self.pin & control.bits() != 0
    }
}

/// A VMCS.
pub(crate) struct Vmcs {
    controls: Controls,
    capabilities: Capabilities,
    translation: Translation,
    sets_dirty: bool,
    /// Which CPU has it.
    residence: Rc<Residence>,
    /// Fields that the processor lacks.
    kept: Kept,
    _region: Region,
    msr_bitmap: Region,
    virtual_apic: Option<VirtualApic>,
    write_log: Option<WriteLog>,
}

impl Vmcs {
    /// A VMCS with controls and host state, loaded on this CPU; the guest state is the caller's to write.
    ///
    /// # Errors
    /// [`VmcsError`].
    pub(crate) fn new(
        vmx: &Vmx,
        memory: &Arc<PhysicalMemory>,
        config: &VmcsConfig,
    ) -> Result<Self, VmcsError> {
        let capabilities = vmx.capabilities;
        let controls = Controls::negotiate(&capabilities, config)?;
        config.translation.check(&capabilities)?;
        let vpid = Vpid::allocate().ok_or(VmcsError::NoVpid)?;
        let mut region = Region::new(memory)?;
        region.write(0, &capabilities.basic.revision().to_le_bytes());
        let mut bitmap = Box::new([0; BITMAP_BYTES]);
        fill_bitmap(&mut bitmap);
        if let Translation::Shadow = config.translation {
            keep_translation(&mut bitmap);
        }
        let mut msr_bitmap = Region::new(memory)?;
        msr_bitmap.write(0, &*bitmap);
        let virtual_apic = match config.virtual_apic {
            true => VirtualApic::new(&capabilities, memory, &bitmap)?,
            false => None,
        };
        let tag = controls.has(Secondary::VPID).then_some(vpid);
        let extent = Extent::of(&capabilities);
        let residence = Rc::new(Residence::new(region.address(), tag, extent)?);
        let has_log = controls.has(Secondary::PAGE_MODIFICATION_LOG);
        let write_log = has_log.then(|| WriteLog::new(memory)).transpose()?;
        let vmcs = Self {
            controls,
            capabilities,
            translation: config.translation,
            sets_dirty: config.translation.sets_dirty(&capabilities),
            residence,
            kept: Kept::new(extent),
            _region: region,
            msr_bitmap,
            virtual_apic,
            write_log,
        };
        vmcs.residence.load();
        vmcs.write_controls(config)?;
        Ok(vmcs)
    }

    fn write_controls(&self, config: &VmcsConfig) -> Result<(), VmFail> {
        let controls = &self.controls;
        let fields = [
            (Field::PinControls, u64::from(controls.pin)),
            (Field::ProcControls, u64::from(controls.proc)),
            (Field::ExitControls, u64::from(controls.exit)),
            (Field::EntryControls, u64::from(controls.entry)),
            (Field::PageFaultMask, 0),
            (Field::PageFaultMatch, 0),
            (Field::Cr3TargetCount, 0),
            (Field::ExitMsrStoreCount, 0),
            (Field::ExitMsrLoadCount, 0),
            (Field::EntryMsrLoadCount, 0),
            (Field::EntryInterruption, 0),
            (Field::MsrBitmap, self.msr_bitmap.address().as_u64()),
            (Field::VmcsLinkPointer, if config.fail_entry { 0 } else { u64::MAX }),
        ];
        for (field, value) in fields.into_iter().chain(self.translation.fields()) {
            self.try_write(field, value)?;
        }
        if let Some(pointer) = self.ept_pointer() {
            self.try_write(Field::EptPointer, pointer)?;
        }
        if controls.proc & Proc::SECONDARY.bits() != 0 {
            self.try_write(Field::SecondaryControls, u64::from(controls.secondary))?;
        }
        if controls.has(Secondary::PAUSE_LOOP) {
            self.try_write(Field::PleGap, PLE_GAP)?;
            self.try_write(Field::PleWindow, PLE_WINDOW)?;
        }
        if config.tsc_offset != 0 {
            self.try_write(Field::TscOffset, config.tsc_offset as u64)?;
        }
        if let Some(tag) = self.residence.tag() {
            self.try_write(Field::Vpid, u64::from(tag))?;
        }
        if let Some(log) = &self.write_log {
            self.try_write(Field::PmlAddress, log.address().as_u64())?;
            self.try_write(Field::PmlIndex, write_log::LAST)?;
        }
        if let Some(apic) = &self.virtual_apic {
            self.try_write(Field::VirtualApic, apic.page().as_u64())?;
            self.try_write(Field::TprThreshold, 0)?;
            EOI_EXITS.into_iter().try_for_each(|field| self.try_write(field, 0))?;
        }
        Ok(())
    }

    /// The EPT pointer, if there is an EPT: write-back, four levels, A/D as decided (SDM vol. 3C 25.6.11).
    fn ept_pointer(&self) -> Option<u64> {
        let Translation::Ept { root, .. } = self.translation else { return None };
        Some(root.base().as_u64() | u64::from(self.sets_dirty) << 6 | 3 << 3 | 6)
    }

    /// Drops what this processor has cached of the secondary tables; how many INVEPTs that takes. Of a shadow the entry drops all.
    pub(crate) fn drop_translations(&self) -> u64 {
        let Some(pointer) = self.ept_pointer() else { return 0 };
        if let Err(error) = invept_single(pointer) {
            panic!("INVEPT failed: {error}");
        }
        1
    }

    /// Which CPU has it.
    #[must_use]
    pub(crate) fn residence(&self) -> &Rc<Residence> {
        &self.residence
    }

    /// The controls in force.
    #[must_use]
    pub(crate) fn controls(&self) -> &Controls {
        &self.controls
    }

    /// What the processor offers.
    #[must_use]
    pub(crate) fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// Reads a field.
    #[inline]
    #[must_use]
    pub(crate) fn read(&self, field: Field) -> u64 {
        if let Some(kept) = self.kept.place(field) {
            return kept.get();
        }
        vmread_present(field.encoding())
    }

    /// Writes a field of the guest state or of the controls.
    pub(crate) fn write(&mut self, field: Field, value: u64) {
        if let Err(error) = self.try_write(field, value) {
            panic!("VMWRITE of {field:?} failed: {error}");
        }
    }

    /// Exit as soon as the guest can take an interrupt, or not.
    pub(crate) fn set_interrupt_window(&mut self, wanted: bool) {
        self.set_proc(Proc::INTERRUPT_WINDOW, wanted);
    }

    /// Whether an interrupt or an NMI waits until the guest can take it.
    #[must_use]
    pub(crate) fn awaits_window(&self) -> bool {
        self.controls.proc & (Proc::INTERRUPT_WINDOW | Proc::NMI_WINDOW).bits() != 0
    }

    /// Exit as soon as the guest can take an NMI, or not; without virtual NMIs there is no such exit.
    pub(crate) fn set_nmi_window(&mut self, wanted: bool) {
        if self.controls.has_pin(Pin::VIRTUAL_NMI) {
            self.set_proc(Proc::NMI_WINDOW, wanted);
        }
    }

    /// The virtual-APIC page, where the processor has such a thing.
    pub(crate) fn virtual_apic(&mut self) -> Option<&mut VirtualApic> {
        self.virtual_apic.as_mut()
    }

    /// The virtual-APIC page, while it is in use.
    pub(crate) fn active_virtual_apic(&self) -> Option<&VirtualApic> {
        self.virtual_apic.as_ref().filter(|apic| apic.on)
    }

    /// Sets which ends of interrupts of the virtual-APIC page exit.
    pub(crate) fn set_eoi_exits(&mut self, exits: [u64; 4]) {
        EOI_EXITS.into_iter().zip(exits).for_each(|(field, bits)| self.write(field, bits));
    }

    /// Lets the processor deliver interrupts from the virtual-APIC page, and the guest use it as its x2APIC; or not. Where
    /// there is no page, nothing happens.
    pub(crate) fn use_virtual_apic(&mut self, on: bool) {
        let Some(apic) = self.virtual_apic.as_mut().filter(|apic| apic.on != on) else { return };
        apic.on = on;
        let bitmap = if on { apic.msr_bitmap() } else { self.msr_bitmap.address() };
        let (set, clear) = if on { (PROC_ON, PROC_OFF) } else { (PROC_OFF, PROC_ON) };
        self.controls.proc = self.controls.proc & !clear.bits() | set.bits();
        self.controls.secondary ^= SECONDARY_ON.bits();
        self.write(Field::MsrBitmap, bitmap.as_u64());
        self.write(Field::ProcControls, u64::from(self.controls.proc));
        self.write(Field::SecondaryControls, u64::from(self.controls.secondary));
    }

    /// Hands out what the processor has logged since the last call: pages that the guest has written. Mostly nothing.
    pub(crate) fn drain_log(&mut self, note: impl FnOnce(&mut dyn Iterator<Item = Gpa>)) {
        let Some(log) = &self.write_log else { return };
        let index = self.read(Field::PmlIndex);
        if index != write_log::LAST {
            note(&mut log.entries(index));
            self.write(Field::PmlIndex, write_log::LAST);
        }
    }

    fn set_proc(&mut self, control: Proc, wanted: bool) {
        let proc =
            if wanted { self.controls.proc | control.bits() } else { self.controls.proc & !control.bits() };
        if proc != self.controls.proc {
            self.controls.proc = proc;
            self.write(Field::ProcControls, u64::from(proc));
        }
    }

    fn try_write(&self, field: Field, value: u64) -> Result<(), VmFail> {
        if let Some(kept) = self.kept.place(field) {
            kept.set(value);
            return Ok(());
        }
        // SAFETY: host state is `Residence`'s to write. Of the controls only the MSR bitmap, the virtual-APIC page, the log of
        // writes and the EPT pointer name memory, and only `write_controls` and `use_virtual_apic` set them: the first three are
        // frames of our own, the EPT root outlives the last entry (a virtual processor's thread keeps its guest); the bitmap that
        // passes x2APIC registers is in force only with the controls that virtualise them. Of guest state CR3 names memory where
        // there is no EPT: a root of the virtual processor's shadow, whose frames live as long as that one's guest, and which is none
        // but a root until another is loaded; `load_root` writes it before the next entry whenever registers are set, and the guest's
        // own moves to CR3 exit. Any other control and guest state is either refused at entry or concerns
        // the guest only.
        unsafe { vmwrite(field.encoding(), value) }
    }

    /// Enters the guest; returns after the next VM exit, with interrupts off.
    ///
    /// # Errors
    /// [`EntryError`] where the processor refused the controls or the host state.
    pub(crate) fn enter(&mut self, registers: &mut GuestRegisters) -> Result<(), EntryError> {
        self.kept.load();
        // SAFETY: this VMCS is current (`Residence::load`) and complete; its host state is this CPU's.
        let failed = unsafe { enter_guest(registers, u64::from(self.residence.is_launched())) };
        if failed != 0 {
            let error = match vmread(Field::InstructionError.encoding()) {
                Ok(number) => VmFail::Valid(number as u32),
                Err(error) => error,
            };
            return Err(EntryError(error));
        }
        self.residence.set_launched();
        Ok(())
    }
}

/// Who drops it is on the CPU that has it.
impl Drop for Vmcs {
    fn drop(&mut self) {
        self.residence.unload();
    }
}
