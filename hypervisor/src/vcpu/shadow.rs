//! Registers of a virtual processor under a shadow: what its guest has written is here and in the VMCS' read shadows, and its
//! processor has what the shadow needs (`vmxdefs::registers`).
//!
//! ```text
//!   guest: MOV to CR0, CR3, CR4, WRMSR of EFER ─► exit ─► Registers ─► load_shadow: CR0, CR4, EFER, entry control of the VMCS
//!                                                                   └─► load_root, before the next entry: CR3 of the VMCS
//!   guest: CLTS, MOV to CR4 of what is passed  ─► the processor ─► guest_registers: brought together
//! ```

use super::Vcpu;
use super::initial::PAT;
use crate::plat::Vm;
use crate::vmx::{CR0_OWNED, CR4_OWNED, PAGE_FAULTS, VmcsError};
use addr::Pfn;
use mmu::{Drops, GuestPaging, Processor};
use raw_cpuid::CpuId;
use vmxdefs::controls::EntryControls;
use vmxdefs::field::{Field, Segment};
use vmxdefs::registers::{CR0_PASSED, CR4_KEPT, Circumstances, Registers};

/// Physical addresses where CPUID does not tell (SDM vol. 3A 4.1.4).
const PHYSICAL_BITS: u8 = 36;
/// The type of a busy 16-bit TSS (SDM vol. 3A table 3-2).
const BUSY_SHORT_TASK: u64 = 3;
const POINTERS: [Field; 4] = [Field::GuestPdpte0, Field::GuestPdpte1, Field::GuestPdpte2, Field::GuestPdpte3];

/// What a virtual processor under a shadow has besides.
pub(super) struct Shadowed {
    registers: Registers,
    /// CR3 of the VMCS is not that of its registers yet, and so much of what it had cached is to be dropped before it enters its guest.
    stale: Option<Drops>,
    /// IA32_PAT, as the guest has written it.
    pat: u64,
    physical_bits: u8,
    gigantic_pages: bool,
    /// The processor cannot have the state that it is in.
    pub(super) has_obstacle: bool,
}

impl Shadowed {
    /// # Errors
    /// [`VmcsError::HighRoot`].
    pub(super) fn new(pointers: Pfn) -> Result<Self, VmcsError> {
        // CR3 has 32 bits outside long mode.
        if pointers.base().as_u64() >> 32 != 0 {
            return Err(VmcsError::HighRoot(pointers));
        }
        Ok(Self {
            registers: Registers::default(),
            stale: Some(Drops::All),
            pat: PAT,
            physical_bits: physical_bits(),
            gigantic_pages: crate::cpu::has_gigantic_pages(),
            has_obstacle: false,
        })
    }
}

/// Bits of a physical address.
fn physical_bits() -> u8 {
    let sizes = CpuId::new().get_processor_capacity_feature_info();
    sizes.map_or(PHYSICAL_BITS, |sizes| sizes.physical_address_bits())
}

impl Vcpu {
    /// Whether it is under a shadow.
    pub(crate) fn is_shadowed(&self) -> bool {
        self.shadow.is_some()
    }

    /// Its number among its guest's shadows.
    pub(crate) fn processor(&self) -> Processor {
        Processor(self.id.0 as usize)
    }

    /// CR0, CR3, CR4 and EFER as the guest has them.
    pub(crate) fn guest_registers(&self) -> Registers {
        let read = |field| self.vmcs.read(field);
        let Some(shadow) = &self.shadow else {
            return Registers {
                cr0: read(Field::GuestCr0),
                cr3: read(Field::GuestCr3),
                cr4: read(Field::GuestCr4),
                efer: read(Field::GuestEfer),
                pdptes: POINTERS.map(read),
            };
        };
        let registers = shadow.registers;
        Registers {
            cr0: registers.cr0 & !CR0_PASSED | read(Field::GuestCr0) & CR0_PASSED,
            cr4: registers.cr4 & CR4_KEPT | read(Field::GuestCr4) & !CR4_KEPT,
            ..registers
        }
    }

    /// What its addresses are translated by.
    pub(crate) fn guest_paging(&self) -> GuestPaging {
        let Registers { cr0, cr3, cr4, efer, pdptes } = self.guest_registers();
        let (physical_bits, gigantic_pages) = match &self.shadow {
            Some(shadow) => (shadow.physical_bits, shadow.gigantic_pages),
            None => (PHYSICAL_BITS, false),
        };
        GuestPaging { cr0, cr3, cr4, efer, pdptes, physical_bits, gigantic_pages }
    }

    /// A field of the VMCS as the guest would have it under an EPT: what a copy of it goes on from, under whatever paging.
    pub(super) fn guest_field(&self, field: Field) -> u64 {
        if !self.is_shadowed() {
            return self.vmcs.read(field);
        }
        let registers = self.guest_registers();
        let pointer = POINTERS.iter().position(|pointer| *pointer == field);
        match field {
            Field::GuestCr0 => registers.cr0 | CR0_OWNED,
            Field::Cr0Shadow => registers.cr0,
            Field::GuestCr3 => registers.cr3,
            Field::GuestCr4 => registers.cr4 | CR4_OWNED,
            Field::Cr4Shadow => registers.cr4,
            Field::GuestEfer => registers.efer,
            Field::GuestPat => self.guest_pat(),
            Field::ExceptionBitmap => 0,
            field => pointer.map_or_else(|| self.vmcs.read(field), |number| registers.pdptes[number]),
        }
    }

    /// The registers that such fields tell of, as they were written to the VMCS. What Herald keeps is no bit of the guest's, unless the
    /// read shadow has it.
    pub(super) fn written_registers(&self) -> Registers {
        let read = |field| self.vmcs.read(field);
        Registers {
            cr0: read(Field::GuestCr0) & !CR0_OWNED | read(Field::Cr0Shadow) & CR0_OWNED,
            cr3: read(Field::GuestCr3),
            cr4: read(Field::GuestCr4) & !CR4_OWNED,
            efer: read(Field::GuestEfer),
            pdptes: POINTERS.map(read),
        }
    }

    /// IA32_PAT as the guest has it.
    pub(crate) fn guest_pat(&self) -> u64 {
        self.shadow.as_ref().map_or_else(|| self.vmcs.read(Field::GuestPat), |shadow| shadow.pat)
    }

    /// The guest writes IA32_PAT. A shadow maps memory by its first entry, and memory is write-back, as under an EPT, whatever the guest
    /// wants: else it would see what other caches have yet to write back.
    pub(crate) fn set_guest_pat(&mut self, value: u64) {
        match &mut self.shadow {
            Some(shadow) => shadow.pat = value,
            None => self.vmcs.write(Field::GuestPat, value),
        }
    }

    /// Takes the guest's IA32_PAT from the VMCS to where it is kept under a shadow.
    pub(super) fn keep_pat(&mut self) {
        if let Some(shadow) = &mut self.shadow {
            shadow.pat = self.vmcs.read(Field::GuestPat);
            self.vmcs.write(Field::GuestPat, PAT);
        }
    }

    /// Whether it runs 64-bit code. Outside long mode CS.L says nothing.
    pub(crate) fn runs_64_bit_code(&self) -> bool {
        self.guest_registers().is_long() && self.circumstances().long_code
    }

    /// What decides whether a write to one of these registers is legal.
    pub(crate) fn circumstances(&self) -> Circumstances {
        Circumstances {
            long_code: self.vmcs.read(Segment::Cs.fields()[3]) & 1 << 13 != 0,
            short_task: self.vmcs.read(Segment::Tr.fields()[3]) & 0xf == BUSY_SHORT_TASK,
            cr4: self.vmcs.capabilities().cr4,
            physical_bits: self.shadow.as_ref().map_or_else(physical_bits, |shadow| shadow.physical_bits),
        }
    }

    /// Gives the processor what it has to have where the guest has these registers, but for CR3, which `load_root` brings before the
    /// next entry. Under an EPT nothing happens.
    pub(crate) fn load_shadow(&mut self, registers: Registers) {
        let Some(shadow) = &mut self.shadow else { return };
        shadow.registers = registers;
        // What else there can be, only who loads segments knows: `look_for_obstacle`.
        shadow.has_obstacle |= !registers.is_protected();
        shadow.stale = Some(Drops::All);
        let capabilities = *self.vmcs.capabilities();
        let long = u64::from(EntryControls::IA32E_GUEST.bits());
        let entry = self.vmcs.read(Field::EntryControls) & !long;
        for (field, value) in [
            (Field::GuestCr0, registers.real_cr0(capabilities.cr0)),
            (Field::Cr0Shadow, registers.cr0),
            (Field::GuestCr4, registers.real_cr4(capabilities.cr4)),
            (Field::Cr4Shadow, registers.cr4),
            (Field::GuestEfer, registers.real_efer()),
            (Field::ExceptionBitmap, PAGE_FAULTS),
            (Field::EntryControls, if registers.is_long() { entry | long } else { entry }),
        ] {
            self.vmcs.write(field, value);
        }
    }

    /// MOV to CR3 under a shadow: nothing else changes.
    pub(crate) fn load_cr3(&mut self, registers: Registers, drops: Drops) {
        if let Some(shadow) = &mut self.shadow {
            (shadow.registers.cr3, shadow.registers.pdptes) = (registers.cr3, registers.pdptes);
        }
        self.drop_cached(drops);
    }

    /// It has dropped what it had cached. What two have dropped between two entries may be of two PCIDs.
    pub(crate) fn drop_cached(&mut self, drops: Drops) {
        if let Some(shadow) = &mut self.shadow {
            shadow.stale = Some(if shadow.stale.is_some() { Drops::All } else { drops });
        }
    }

    /// Drops what a processor would have dropped since its registers changed, and begins with the guest's tables of now. Before an
    /// entry, and before its shadow is used otherwise.
    pub(crate) fn load_root(&mut self, vm: &Vm) {
        let Some(drops) = self.shadow.as_mut().and_then(|shadow| shadow.stale.take()) else { return };
        if let Some(root) = vm.memory.mmu().load_root(self.processor(), &self.guest_paging(), drops) {
            self.vmcs.write(Field::GuestCr3, root.base().as_u64());
        }
    }
}
