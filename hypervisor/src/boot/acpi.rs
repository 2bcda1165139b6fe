//! The host's ACPI tables: what `startup::acpi` makes of them, through the direct map.

use super::memory;
use crate::cpu::pages;
use crate::physmem::{PhysicalMemory, fixed_bytes};
use abi::handoff::HandOff;
use abi::memmap::MemoryMap;
use addr::{Hpa, HpaRange, PageSize};
use startup::acpi::{Machine, PhysicalBytes};

/// Memory that firmware has kept, mapped for reading where it is asked for; and the hand-off, where a loader may have put
/// a copy of the root pointer.
struct Firmware<'a> {
    memory: &'a PhysicalMemory,
    pages: MemoryMap,
    handoff: Option<HpaRange>,
}

impl PhysicalBytes for Firmware<'_> {
    fn bytes(&self, range: HpaRange) -> Option<&[u8]> {
        let in_handoff = self.handoff.is_some_and(|handoff| handoff.contains_span(&range));
        if !in_handoff && !self.pages.contains(&range) {
            return None;
        }
        for page in range.pages() {
            pages::map_readable(self.memory, self.memory.root(), page.align_down(PageSize::Size4K)).ok()?;
        }
        // SAFETY: mapped just now, and firmware's or the loader's: Herald neither allocates nor writes such a page.
        Some(unsafe { fixed_bytes(range.start(), range.len()) })
    }
}

/// Reads the tables that the hand-off leads to, and logs what is odd. Herald can do without. Not inlined: maps of memory
/// are large, and the stack is not.
#[inline(never)]
pub(super) fn read(memory: &PhysicalMemory, handoff: &HandOff, handoff_at: Hpa) -> Option<Machine> {
    if handoff.rsdp == 0 {
        log::debug!("ACPI: the loader knows no root pointer");
        return None;
    }
    let firmware = Firmware {
        memory,
        pages: memory::firmware_pages(handoff, handoff_at),
        handoff: HpaRange::sized(handoff_at, size_of::<HandOff>() as u64),
    };
    let machine = match Machine::read(&firmware, handoff.rsdp) {
        Ok(machine) => machine,
        Err(error) => {
            log::warn!("ACPI: {error}");
            return None;
        }
    };
    for problem in machine.problems.first() {
        log::warn!("ACPI: {problem}");
    }
    if machine.problems.more() > 0 {
        log::warn!("ACPI: {} more problems", machine.problems.more());
    }
    let count = machine.enabled_processors();
    log::info!("ACPI: {count} {}", if count == 1 { "processor" } else { "processors" });
    let Machine { processors, local_apic, io_apics, legacy, .. } = &machine;
    log::debug!(
        "ACPI: {} processors with those that may come, local APIC {local_apic:?}, {io_apics:x?}, {legacy:?}",
        processors.len()
    );
    Some(machine)
}
