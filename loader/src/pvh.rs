//! A PVH start: everything is in `hvm_start_info` (Xen's public/arch-x86/hvm/start_info.h).

use crate::error::LoadError;
use crate::findings::{Findings, Images, Memory, bytes, reachable, take};
use abi::handoff::{HandOff, Loader, Region};
use zerocopy::{FromBytes, Immutable, KnownLayout};

const MAGIC: u32 = 0x336e_c578;

/// `hvm_start_info`, version 1.
#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct StartInfo {
    magic: u32,
    version: u32,
    _flags: u32,
    modules: u32,
    module_list: u64,
    _command_line: u64,
    rsdp: u64,
    memory_map: u64,
    memory_map_entries: u32,
    _reserved: u32,
}

/// `hvm_modlist_entry`.
#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Module {
    address: u64,
    len: u64,
    _command_line: u64,
    _reserved: u64,
}

/// `hvm_memmap_table_entry` is a [`Region`].
const MAP_ENTRY_BYTES: u64 = size_of::<Region>() as u64;

/// Takes the package and the memory map from the start information at physical `address`.
///
/// # Errors
/// Another magic number, an old version, not just one module, or something that is not in `memory`.
pub fn find(memory: &Memory<'_>, address: u32) -> Result<Findings, LoadError> {
    let info: StartInfo = read(memory, u64::from(address))?;
    if info.magic != MAGIC {
        return Err(LoadError::StartInfo { magic: info.magic, address });
    }
    if info.version < 1 {
        return Err(LoadError::StartInfoVersion(info.version));
    }
    if info.modules != 1 {
        return Err(LoadError::Modules(info.modules));
    }
    let module: Module = read(memory, info.module_list)?;
    let out_of_reach = LoadError::OutOfReach { start: module.address, len: module.len };
    let package = reachable(module.address, module.len).ok_or(out_of_reach)?;
    let mut handoff = HandOff::new(Loader::Pvh);
    handoff.rsdp = info.rsdp;
    let map = bytes(memory, info.memory_map, u64::from(info.memory_map_entries) * MAP_ENTRY_BYTES)?;
    for entry in map.chunks_exact(MAP_ENTRY_BYTES as usize) {
        let Some((region, _)) = take::<Region>(entry) else { break };
        if !handoff.push_region(Region { reserved: 0, ..region }) {
            break;
        }
    }
    Ok(Findings { handoff, images: Images::Package(package) })
}

fn read<T: FromBytes + KnownLayout + Immutable>(memory: &Memory<'_>, address: u64) -> Result<T, LoadError> {
    let len = size_of::<T>() as u64;
    let found = take(bytes(memory, address, len)?);
    found.map(|(value, _)| value).ok_or(LoadError::OutOfReach { start: address, len })
}

#[cfg(test)]
mod tests {
    use super::find;
    use crate::{Images, LoadError};
    use addr::HpaRange;
    use alloc::vec::Vec;

    /// Start information at 0x1000, a module list at 0x2000, a map of one entry at 0x3000.
    fn memory() -> Vec<u8> {
        let mut bytes = alloc::vec![0; 0x4000];
        let mut put = |at: usize, value: u64, len: usize| {
            bytes[at..at + len].copy_from_slice(&value.to_le_bytes()[..len]);
        };
        put(0x1000, 0x336e_c578, 4);
        put(0x1004, 1, 4);
        put(0x100c, 1, 4);
        put(0x1010, 0x2000, 8);
        put(0x1020, 0xf_0000, 8);
        put(0x1028, 0x3000, 8);
        put(0x1030, 1, 4);
        put(0x2000, 0x50_0000, 8);
        put(0x2008, 0x1_0000, 8);
        put(0x3000, 0x10_0000, 8);
        put(0x3008, 0x70_0000, 8);
        put(0x3010, 1, 4);
        bytes
    }

    fn found(bytes: &[u8]) -> Result<crate::Findings, LoadError> {
        let at = |range: HpaRange| bytes.get(range.start().as_u64() as usize..range.end().as_u64() as usize);
        find(&at, 0x1000)
    }

    #[test]
    fn qemu_s_start_information() {
        let found = found(&memory()).expect("good");
        let Images::Package(package) = found.images else { panic!("one module is a package") };
        assert_eq!((package.start().as_u64(), package.len()), (0x50_0000, 0x1_0000));
        assert_eq!(found.handoff.rsdp, 0xf_0000);
        assert_eq!(found.handoff.regions()[0].len, 0x70_0000);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let changed = |at: usize, value: u8| {
            let mut bytes = memory();
            bytes[at] = value;
            found(&bytes).expect_err("refused")
        };
        assert_eq!(changed(0x1000, 0), LoadError::StartInfo { magic: 0x336e_c500, address: 0x1000 });
        assert_eq!(changed(0x1004, 0), LoadError::StartInfoVersion(0));
        assert_eq!(changed(0x100c, 2), LoadError::Modules(2));
        assert_eq!(changed(0x1012, 1), LoadError::OutOfReach { start: 0x1_2000, len: 32 });
        assert_eq!(changed(0x1033, 255), LoadError::OutOfReach { start: 0x3000, len: 0xff00_0001 * 24 });
    }
}
