//! What a multiboot-1 loader leaves a kernel (Multiboot Specification 0.6.96, 3.2, 3.3): its segments where they want to be,
//! and an information block with a command line and a memory map, below 640 KiB.

use crate::memory::Memory;
use anyhow::{Context, Result, ensure};
use elf::ElfBytes;
use elf::abi::PT_LOAD;
use elf::endian::LittleEndian;

const BLOCK: u64 = 0x7000;
const MAP: u64 = 0x7100;
const COMMAND_LINE: u64 = 0x8000;
/// The block has a command line, and a memory map.
const FLAGS: u32 = 1 << 2 | 1 << 6;
/// Where the block has the command line, and length and place of the map.
const COMMAND_LINE_AT: usize = 16;
const MAP_AT: usize = 44;
const BLOCK_BYTES: usize = 116;
/// Size of a map's entry, which does not count itself.
const ENTRY: u32 = 20;
const AVAILABLE: u32 = 1;
/// RAM that is no device's: below the first, from the second on.
const LOW_END: u64 = 640 << 10;
const HIGH: u64 = 1 << 20;

/// Where the kernel begins, and what it finds in its registers.
pub(crate) struct Entry {
    pub(crate) rip: u64,
    pub(crate) rax: u64,
    pub(crate) rbx: u64,
}

/// EAX at the entry.
const MAGIC: u64 = 0x2bad_b002;

pub(crate) fn load(file: &[u8], command_line: &str, memory: &mut Memory) -> Result<Entry> {
    let elf = ElfBytes::<LittleEndian>::minimal_parse(file).context("the kernel is no ELF file")?;
    for segment in elf.segments().context("the kernel has no segments")? {
        if segment.p_type == PT_LOAD {
            memory.write(segment.p_paddr, elf.segment_data(&segment).context("a segment")?)?;
        }
    }
    ensure!(memory.bytes() as u64 > HIGH, "{} bytes of RAM", memory.bytes());
    let map = [(0, LOW_END), (HIGH, memory.bytes() as u64 - HIGH)].map(entry).concat();
    let mut block = [0; BLOCK_BYTES];
    let mut put = |at: usize, value: u32| block[at..at + 4].copy_from_slice(&value.to_le_bytes());
    put(0, FLAGS);
    put(COMMAND_LINE_AT, COMMAND_LINE as u32);
    put(MAP_AT, map.len() as u32);
    put(MAP_AT + 4, MAP as u32);
    memory.write(BLOCK, &block)?;
    memory.write(MAP, &map)?;
    memory.write(COMMAND_LINE, &[command_line.as_bytes(), &[0]].concat())?;
    Ok(Entry { rip: elf.ehdr.e_entry, rax: MAGIC, rbx: BLOCK })
}

fn entry((start, len): (u64, u64)) -> Vec<u8> {
    let mut bytes = ENTRY.to_le_bytes().to_vec();
    bytes.extend(start.to_le_bytes());
    bytes.extend(len.to_le_bytes());
    bytes.extend(AVAILABLE.to_le_bytes());
    bytes
}
