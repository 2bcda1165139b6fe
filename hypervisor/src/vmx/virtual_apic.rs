//! The virtual-APIC page of a virtual processor, and the controls that let the processor use it (SDM vol. 3C chapter 30).

use super::region::Region;
use crate::physmem::PhysicalMemory;
use addr::Hpa;
use alloc::boxed::Box;
use alloc::sync::Arc;
use mm::OutOfFrames;
use vmxdefs::capability::Capabilities;
use vmxdefs::controls::{Proc, Secondary};
use vmxdefs::msr::{BITMAP_BYTES, pass_virtual_apic};

/// Primary controls that the page needs, and those that would take CR8 away from it.
pub(super) const PROC_ON: Proc = Proc::TPR_SHADOW;
pub(super) const PROC_OFF: Proc = Proc::CR8_LOAD.union(Proc::CR8_STORE);
/// Secondary controls that the page needs.
pub(super) const SECONDARY_ON: Secondary =
    Secondary::VIRTUAL_X2APIC.union(Secondary::APIC_REGISTERS).union(Secondary::VIRTUAL_INTERRUPTS);

/// The page, and the MSR bitmaps that go with it.
pub(crate) struct VirtualApic {
    page: Region,
    msr_bitmap: Region,
    pub(super) on: bool,
}

impl VirtualApic {
    /// Whether the processor has such a thing, and all of it.
    pub(crate) fn is_offered(capabilities: &Capabilities) -> bool {
        capabilities.proc.offers(PROC_ON.bits()) && capabilities.secondary.offers(SECONDARY_ON.bits())
    }

    /// One that is off, where these MSR bitmaps are in force else; `None` where the processor has no such thing, or only in parts.
    pub(super) fn new(
        capabilities: &Capabilities,
        memory: &Arc<PhysicalMemory>,
        bitmap: &[u8; BITMAP_BYTES],
    ) -> Result<Option<Self>, OutOfFrames> {
        if !Self::is_offered(capabilities) {
            return Ok(None);
        }
        let mut bitmap = Box::new(*bitmap);
        pass_virtual_apic(&mut bitmap);
        let mut msr_bitmap = Region::new(memory)?;
        msr_bitmap.write(0, &*bitmap);
        Ok(Some(Self { page: Region::new(memory)?, msr_bitmap, on: false }))
    }

    pub(super) fn page(&self) -> Hpa {
        self.page.address()
    }

    pub(super) fn msr_bitmap(&self) -> Hpa {
        self.msr_bitmap.address()
    }

    /// The low 32 bits of a register, by number. The guest does not run.
    #[must_use]
    pub(crate) fn register(&self, number: u8) -> u32 {
        let mut bytes = [0; 4];
        self.page.read(usize::from(number) << 4, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    /// Sets them. The guest does not run.
    pub(crate) fn set_register(&mut self, number: u8, value: u32) {
        self.page.write(usize::from(number) << 4, &value.to_le_bytes());
    }
}
