//! From a PVH loader: everything is in `hvm_start_info` (Xen's public/arch-x86/hvm/start_info.h).
//!
//! ```text
//!    0 magic 0x336ec578    4 version      8 flags          12 number of modules
//!   16 module list        24 command line 32 RSDP
//!   40 memory map         48 its entries  52 reserved                            (version 1)
//!   a module: 0 address, 8 size, ...   32 bytes      a map entry: 0 start, 8 size, 16 type   24 bytes
//! ```

use crate::Found;
use crate::error::LoadError;
use crate::memory::{MAPPED_END, bytes_at};
use abi::handoff::{HandOff, Loader, Region};
use addr::{Hpa, HpaRange};
use core::arch::global_asm;

global_asm!(include_str!("entry.s"), loader_pvh = const Loader::Pvh as u32, options(att_syntax));

const MAGIC: u32 = 0x336e_c578;
const START_INFO_BYTES: u64 = 56;
const MODULE_BYTES: u64 = 32;
const MAP_ENTRY_BYTES: u64 = 24;

/// Takes the package and the memory map from the start information at physical `address`.
pub(crate) fn find(address: u32) -> Result<Found, LoadError> {
    let info = mapped(u64::from(address), START_INFO_BYTES)?;
    let (magic, version, modules) = (word(info, 0), word(info, 4), word(info, 12));
    if magic != MAGIC {
        return Err(LoadError::StartInfo { magic, address });
    }
    if version < 1 {
        return Err(LoadError::StartInfoVersion(version));
    }
    if modules != 1 {
        return Err(LoadError::Modules(modules));
    }
    let module = mapped(long(info, 16), MODULE_BYTES)?;
    let package = reachable(long(module, 0), long(module, 8))?;
    let mut handoff = HandOff::new(Loader::Pvh);
    handoff.rsdp = long(info, 32);
    let entries = u64::from(word(info, 48));
    for entry in mapped(long(info, 40), entries * MAP_ENTRY_BYTES)?.chunks_exact(MAP_ENTRY_BYTES as usize) {
        let region =
            Region { start: long(entry, 0), len: long(entry, 8), kind: word(entry, 16), reserved: 0 };
        if !handoff.push_region(region) {
            break;
        }
    }
    Ok(Found { handoff, package })
}

fn reachable(start: u64, len: u64) -> Result<HpaRange, LoadError> {
    let range = Hpa::try_new(start).and_then(|start| HpaRange::sized(start, len));
    range
        .filter(|range| range.end() <= MAPPED_END && range.start() != Hpa::ZERO)
        .ok_or(LoadError::OutOfReach { start, len })
}

fn mapped(start: u64, len: u64) -> Result<&'static [u8], LoadError> {
    // SAFETY: the start information and what it points at. Whoever wrote it runs no more, and the loader fills memory
    // only after it has copied all this into the hand-off.
    reachable(start, len).map(|range| unsafe { bytes_at(range) })
}

/// The 32-bit word at byte `at`.
fn word(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

/// The 64-bit word at byte `at`.
fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from(word(bytes, at)) | u64::from(word(bytes, at + 4)) << 32
}
