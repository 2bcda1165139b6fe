//! Devices as the machine sees them: their bytes move between frames and nobody's registers, and no frame may be
//! retired while one of their TLBs still names it.

use super::Machine;
use super::seams::Event;
use crate::{Violation, lock};
use addr::{PAGE_SIZE, Pfn, PfnRange};
use mmu::DeviceTlb;
use std::sync::{Arc, Weak};

impl Machine {
    /// Looks into this TLB, too, whenever a frame is retired.
    pub fn watch_device(&self, tlb: &Arc<DeviceTlb<Self>>) {
        lock(&self.devices).push(Arc::downgrade(tlb));
    }

    /// Records every device that still has a translation to one of these frames.
    pub(super) fn check_no_device_holds(&self, first: Pfn, frames: u64) {
        let frames = PfnRange::new(first, first.add(frames));
        let devices: Vec<_> = lock(&self.devices).iter().filter_map(Weak::upgrade).collect();
        for entry in devices.iter().flat_map(|tlb| tlb.entries()) {
            if frames.contains(entry.pfn) {
                self.report(Violation::FreedWhileInDevice { entry });
            }
        }
    }

    /// Just before a device's bytes move.
    pub(super) fn transfer(&self, frame: Pfn, offset: usize, len: usize) {
        assert!(offset + len <= PAGE_SIZE as usize, "{len} bytes at {offset:#x} of a frame");
        sync::switch_point();
        self.seams.pass(Event::Transfer(frame));
        if !sync::undisturbed(|| self.is_live_frame(frame)) {
            self.report(Violation::DeviceTouchedDead { frame });
        }
    }
}
