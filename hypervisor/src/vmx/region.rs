//! A 4 KiB frame that the processor uses by physical address: VMXON region, VMCS, MSR bitmaps.

use crate::physmem::PhysicalMemory;
use addr::{Hpa, PageSize, Pfn};
use alloc::sync::Arc;
use mm::{FrameMemory, Host, OutOfFrames};

/// An owned, zeroed frame.
pub(super) struct Region {
    memory: Arc<PhysicalMemory>,
    frame: Pfn,
}

impl Region {
    pub(super) fn new(memory: &Arc<PhysicalMemory>) -> Result<Self, OutOfFrames> {
        let frame = memory.allocate_zeroed(PageSize::Size4K)?;
        Ok(Self { memory: Arc::clone(memory), frame })
    }

    pub(super) fn address(&self) -> Hpa {
        self.frame.base()
    }

    /// Writes at the start of the frame; only before the processor is given the address.
    pub(super) fn write(&mut self, bytes: &[u8]) {
        self.memory.write_bytes(self.frame, 0, bytes);
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        self.memory.free(self.frame);
    }
}
