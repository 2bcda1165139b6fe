//! A 4 KiB frame that the processor uses by physical address: VMXON region, VMCS, MSR bitmaps, virtual-APIC page.

use crate::physmem::PhysicalMemory;
use addr::{Hpa, Pfn};
use alloc::sync::Arc;
use mm::{FrameMemory, OutOfFrames};

/// An owned, zeroed frame.
pub(super) struct Region {
    memory: Arc<PhysicalMemory>,
    frame: Pfn,
}

impl Region {
    pub(super) fn new(memory: &Arc<PhysicalMemory>) -> Result<Self, OutOfFrames> {
        let frame = memory.allocate_own()?;
        Ok(Self { memory: Arc::clone(memory), frame })
    }

    pub(super) fn address(&self) -> Hpa {
        self.frame.base()
    }

    /// Writes at an offset; only while the processor does not use the frame.
    pub(super) fn write(&mut self, offset: usize, bytes: &[u8]) {
        self.memory.write_bytes(self.frame, offset, bytes);
    }

    /// Reads at an offset.
    pub(super) fn read(&self, offset: usize, bytes: &mut [u8]) {
        self.memory.read_bytes(self.frame, offset, bytes);
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        self.memory.free(self.frame);
    }
}
