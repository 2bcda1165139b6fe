//! What a multiboot-1 loader leaves in memory (Multiboot Specification 0.6.96, 3.3): EAX holds a magic
//! number, EBX the address of an information block whose flags say which of its fields are there.

use addr::{Gpa, GpaRange};
use core::ffi::CStr;

/// EAX at entry.
pub const LOADER_MAGIC: u32 = 0x2bad_b002;

const FLAG_COMMAND_LINE: u32 = 1 << 2;
const FLAG_MODULES: u32 = 1 << 3;
const FLAG_MEMORY_MAP: u32 = 1 << 6;
/// Bytes of the block up to the last field used here.
const BLOCK_BYTES: u64 = 52;
/// Memory map: RAM that is free to use.
const AVAILABLE: u32 = 1;

/// The information block, where the loader put it.
#[derive(Clone, Copy)]
pub struct Info {
    block: Gpa,
}

/// Why the loader's word was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InfoError {
    /// EAX was not [`LOADER_MAGIC`].
    Magic(u32),
    /// The flags miss one that the tests need.
    Flags(u32),
}

impl core::fmt::Display for InfoError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match *self {
            Self::Magic(found) => write!(f, "no multiboot loader: EAX was {found:#x}"),
            Self::Flags(found) => {
                write!(f, "the loader gave no command line or memory map: flags {found:#x}")
            }
        }
    }
}

/// Reads a little-endian number that may be unaligned.
fn read<T: Copy>(at: Gpa) -> T {
    // SAFETY: RAM is identity-mapped, and `Info` reads only where the loader's block and its fields point, and only
    // numbers, which any bits are.
    unsafe { core::ptr::with_exposed_provenance::<T>(at.as_u64() as usize).read_unaligned() }
}

impl Info {
    /// Takes the block that `block` points to.
    ///
    /// # Errors
    /// If there was no multiboot loader, or it left out something that the tests need.
    ///
    /// # Safety
    /// `magic` and `block` are EAX and EBX at entry, and the block is still as the loader left it.
    pub unsafe fn new(magic: u32, block: u32) -> Result<Self, InfoError> {
        if magic != LOADER_MAGIC {
            return Err(InfoError::Magic(magic));
        }
        let info = Self { block: Gpa::new(block.into()) };
        let needed = FLAG_COMMAND_LINE | FLAG_MEMORY_MAP;
        if info.flags() & needed != needed {
            return Err(InfoError::Flags(info.flags()));
        }
        Ok(info)
    }

    fn field(&self, offset: u64) -> u32 {
        read(self.block.add(offset))
    }

    fn flags(&self) -> u32 {
        self.field(0)
    }

    /// The command line; empty if it is not UTF-8.
    #[must_use]
    pub fn command_line(&self) -> &'static str {
        let text = core::ptr::with_exposed_provenance(self.field(16) as usize);
        // SAFETY: the loader's string ends in NUL, and `end` keeps the allocator off it.
        unsafe { CStr::from_ptr(text) }.to_str().unwrap_or("")
    }

    /// The first module, if there is one.
    #[must_use]
    pub fn module(&self) -> Option<GpaRange> {
        if self.flags() & FLAG_MODULES == 0 || self.field(20) == 0 {
            return None;
        }
        let entry = Gpa::new(self.field(24).into());
        let start = Gpa::new(read::<u32>(entry).into());
        GpaRange::try_new(start, Gpa::new(read::<u32>(entry.add(4)).into()))
    }

    /// The ranges of RAM, in the loader's order.
    pub fn ram(&self) -> impl Iterator<Item = GpaRange> + use<> {
        let mut next = Gpa::new(self.field(48).into());
        let end = next.add(self.field(44).into());
        core::iter::from_fn(move || {
            let at = (next < end).then_some(next)?;
            // The size of an entry does not count its own four bytes.
            next = at.add(u64::from(read::<u32>(at)) + 4);
            Some((read::<u32>(at.add(20)), read::<u64>(at.add(4)), read::<u64>(at.add(12))))
        })
        .filter(|&(kind, _, _)| kind == AVAILABLE)
        .filter_map(|(_, start, len)| GpaRange::sized(Gpa::try_new(start)?, len))
    }

    /// The end of all that the loader put into memory above `image_end`.
    #[must_use]
    pub fn end(&self, image_end: Gpa) -> Gpa {
        let text = Gpa::new(self.field(16).into()).add(self.command_line().len() as u64 + 1);
        let map = Gpa::new(self.field(48).into()).add(self.field(44).into());
        let module = self.module().map_or(Gpa::ZERO, |module| module.end());
        let module_entry = Gpa::new(self.field(24).into()).add(16);
        let ends = [self.block.add(BLOCK_BYTES), text, map, module, module_entry];
        ends.into_iter().fold(image_end, Gpa::max)
    }
}
