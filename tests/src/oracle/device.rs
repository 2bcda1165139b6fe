//! The coherence rule for device TLBs, decided a second time: from raw primary entries.

use super::walk::Tables;
use crate::Violation;
use crate::machine::Machine;
use mm::Host;
use mmu::DeviceTlb;

/// Checks every entry; returns how many there are.
pub(super) fn check(
    machine: &Machine,
    tlb: &DeviceTlb<Machine>,
    primary: &Tables,
) -> Result<usize, Violation> {
    let entries = tlb.entries();
    for &entry in &entries {
        let page = entry.page.as_u64();
        let found = primary.find(page).filter(|(_, leaf)| leaf.present);
        let mapped = found.map(|(start, leaf)| leaf.frame_at(start, page));
        let Some((_, leaf)) = found.filter(|_| mapped == Some(entry.pfn)) else {
            return Err(Violation::DeviceDiffers { entry, primary: mapped });
        };
        if entry.writable && !leaf.raw.write {
            return Err(Violation::DeviceWritable { entry });
        }
        // Dirty is noted at the head of the primary page.
        if entry.writable && !machine.frames().meta(leaf.raw.pfn).is_dirty() {
            return Err(Violation::DeviceClean { entry });
        }
    }
    Ok(entries.len())
}
