//! The page-modification log of a virtual processor (SDM vol. 3C 29.3.6): where the processor has set D in the EPT.
//!
//! ```text
//!   entry   0 ........ index | index + 1 ........ 511
//!           free             | logged, the newest first        index wraps to 0xffff: full, the next one exits
//! ```

use super::region::Region;
use crate::physmem::PhysicalMemory;
use addr::{Gpa, Hpa};
use alloc::sync::Arc;
use mm::OutOfFrames;

/// The last entry: where an empty log begins.
pub(super) const LAST: u64 = 511;

/// The log.
pub(super) struct WriteLog(Region);

impl WriteLog {
    pub(super) fn new(memory: &Arc<PhysicalMemory>) -> Result<Self, OutOfFrames> {
        Region::new(memory).map(Self)
    }

    pub(super) fn address(&self) -> Hpa {
        self.0.address()
    }

    /// What was logged, where the processor would write the next entry at `index`. The guest does not run.
    pub(super) fn entries(&self, index: u64) -> impl Iterator<Item = Gpa> {
        let first = if index > LAST { 0 } else { index + 1 };
        (first..=LAST).map(|place| {
            let mut bytes = [0; 8];
            self.0.read(place as usize * 8, &mut bytes);
            Gpa::new(u64::from_le_bytes(bytes))
        })
    }
}
