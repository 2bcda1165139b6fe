//! The coherence rule for a device TLB. Run it where no operation is under way.

use super::{Cache, DeviceEntry, DeviceTlb};
use crate::oracle::Incoherence;
use addr::PAGE_SHIFT;
use mm::Host;

impl<H: Host> DeviceTlb<H> {
    /// Checks every entry; returns how many there are.
    ///
    /// # Errors
    /// The first [`Incoherence`].
    pub fn check_coherence(&self) -> Result<u64, Incoherence> {
        let locked = self.locked.lock();
        let mut checked = 0;
        for entry in locked.cache.iter().flat_map(Cache::iter) {
            self.check_entry(*entry)?;
            checked += 1;
        }
        Ok(checked)
    }

    fn check_entry(&self, entry: DeviceEntry) -> Result<(), Incoherence> {
        let DeviceEntry { page, pfn, writable, used: _ } = entry;
        let primary = self.space.lookup(page);
        let coherent = primary.filter(|primary| {
            let offset = page.offset_in(primary.size) >> PAGE_SHIFT;
            primary.pfn.add(offset) == pfn && (primary.writable || !writable)
        });
        let Some(mapping) = coherent else {
            return Err(Incoherence::DeviceDiffers { entry, primary });
        };
        if !self.host.frames().is_used(pfn) {
            return Err(Incoherence::DeviceFreeFrame { entry });
        }
        if writable && !mapping.dirty {
            return Err(Incoherence::DeviceWritableClean { entry });
        }
        Ok(())
    }
}
