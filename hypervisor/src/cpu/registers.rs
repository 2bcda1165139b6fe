//! Registers of devices, mapped where Herald has room for them: what firmware puts into a base address register may lie
//! anywhere in physical memory, also beyond what a window at a fixed distance would reach.
//!
//! Ranges are handed out one behind the other and stay mapped. No flush is needed: a processor does not keep that a
//! page is not present (SDM vol. 3A 4.10.4.3).

use super::pages::{is_in_direct_map, map_registers};
use crate::layout;
use crate::physmem::PhysicalMemory;
use addr::{HpaRange, Hva, PAGE_SIZE, PageSize};
use core::fmt;
use paging::OutOfTables;
use raw_cpuid::CpuId;
use spin::Mutex;

/// Bytes of the window that are in use.
static USED: Mutex<u64> = Mutex::new(0);

/// Why registers cannot be mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum MapError {
    /// They lie beyond what the processor can address.
    Unreachable {
        /// Where they are.
        range: HpaRange,
        /// Bits of the processor's physical addresses.
        bits: u8,
    },
    /// There is memory, or what firmware keeps there.
    Memory(HpaRange),
    /// The window is full.
    NoRoom(HpaRange),
    /// Tables ran out.
    Tables(OutOfTables),
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable { range, bits } => {
                write!(f, "registers at {range}, physical addresses have {bits} bits")
            }
            Self::Memory(range) => write!(f, "registers at {range}, where there is memory"),
            Self::NoRoom(range) => write!(f, "no room to map registers at {range}"),
            Self::Tables(error) => error.fmt(f),
        }
    }
}

/// Maps a range of registers, not cached.
///
/// # Errors
/// [`MapError`].
pub(crate) fn map(memory: &PhysicalMemory, range: HpaRange) -> Result<Hva, MapError> {
    let bits = physical_bits();
    if range.end().as_u64() > 1 << bits {
        return Err(MapError::Unreachable { range, bits });
    }
    if range.pages().any(|page| is_in_direct_map(memory, memory.root(), page)) {
        return Err(MapError::Memory(range));
    }
    let offset = range.start().offset_in(PageSize::Size4K);
    let bytes = (offset + range.len()).next_multiple_of(PAGE_SIZE);
    let mut used = USED.lock();
    if bytes > layout::REGISTERS_BYTES - *used {
        return Err(MapError::NoRoom(range));
    }
    let start = layout::REGISTERS.add(*used);
    *used += bytes;
    for (index, page) in range.pages().enumerate() {
        let at = start.add(index as u64 * PAGE_SIZE);
        map_registers(memory, memory.root(), at, page).map_err(MapError::Tables)?;
    }
    Ok(start.add(offset))
}

/// Bits of the processor's physical addresses: at least 36, where CPUID does not say (SDM vol. 3A 4.1.4).
fn physical_bits() -> u8 {
    CpuId::new()
        .get_processor_capacity_feature_info()
        .map_or(36, |capacity| capacity.physical_address_bits())
        .min(52)
}
