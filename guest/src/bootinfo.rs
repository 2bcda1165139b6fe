//! What a loader leaves in memory, by either protocol. Multiboot-1 (Multiboot Specification 0.6.96, 3.3): EAX holds a magic
//! number, EBX the address of an information block whose flags say which of its fields are there. Linux' 64-bit entry
//! (Documentation/arch/x86/boot.rst): RSI is the address of boot_params; the boot code passes on the magic of their header.

use addr::{Gpa, GpaRange};
use core::ffi::CStr;

/// EAX at a multiboot loader's entry.
pub const MULTIBOOT_MAGIC: u32 = 0x2bad_b002;
/// "HdrS".
pub const LINUX_MAGIC: u32 = 0x5372_6448;

/// Types of both memory maps: RAM that is free to use.
const AVAILABLE: u32 = 1;

/// The information, where the loader put it.
#[derive(Clone, Copy)]
pub struct Info {
    at: Gpa,
    protocol: Protocol,
}

/// How the guest was entered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    /// In 32-bit mode, by multiboot.
    Multiboot,
    /// In 64-bit mode, by Linux' protocol.
    Linux64,
}

impl core::fmt::Display for Protocol {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Multiboot => "multiboot",
            Self::Linux64 => "64-bit",
        })
    }
}

/// Why the loader's word was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InfoError {
    /// Not the magic number of one of the protocols.
    Magic(u32),
    /// The flags miss one that the tests need.
    Flags(u32),
}

impl core::fmt::Display for InfoError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match *self {
            Self::Magic(found) => write!(f, "no loader that is known: the magic number was {found:#x}"),
            Self::Flags(found) => {
                write!(f, "the loader gave no command line or memory map: flags {found:#x}")
            }
        }
    }
}

/// Fields of multiboot's information block.
mod block {
    pub(super) const FLAGS: u64 = 0;
    pub(super) const COMMAND_LINE: u64 = 16;
    pub(super) const MODULES: u64 = 20;
    pub(super) const MODULE_LIST: u64 = 24;
    pub(super) const MAP_BYTES: u64 = 44;
    pub(super) const MAP: u64 = 48;
    /// Up to the last field used here.
    pub(super) const BYTES: u64 = 52;
    pub(super) const HAS_COMMAND_LINE: u32 = 1 << 2;
    pub(super) const HAS_MODULES: u32 = 1 << 3;
    pub(super) const HAS_MAP: u32 = 1 << 6;
}

/// Fields of boot_params.
mod params {
    pub(super) const MAP_LINES: u64 = 0x1e8;
    pub(super) const INITRD: u64 = 0x218;
    pub(super) const INITRD_BYTES: u64 = 0x21c;
    pub(super) const COMMAND_LINE: u64 = 0x228;
    pub(super) const MAP: u64 = 0x2d0;
    pub(super) const LINE_BYTES: u64 = 20;
    pub(super) const BYTES: u64 = 4096;
}

/// Reads a little-endian number that may be unaligned.
fn read<T: Copy>(at: Gpa) -> T {
    // SAFETY: RAM is identity-mapped, and `Info` reads only where the loader's information and its fields point, and only
    // numbers, which any bits are.
    unsafe { core::ptr::with_exposed_provenance::<T>(at.as_u64() as usize).read_unaligned() }
}

impl Info {
    /// Takes the information that `address` points to.
    ///
    /// # Errors
    /// If there was no such loader, or it left out something that the tests need.
    ///
    /// # Safety
    /// The arguments are what the boot code found in the registers, and the information is still as the loader left it.
    pub unsafe fn new(magic: u32, address: u32) -> Result<Self, InfoError> {
        let protocol = match magic {
            MULTIBOOT_MAGIC => Protocol::Multiboot,
            LINUX_MAGIC => Protocol::Linux64,
            other => return Err(InfoError::Magic(other)),
        };
        let info = Self { at: Gpa::new(address.into()), protocol };
        let needed = block::HAS_COMMAND_LINE | block::HAS_MAP;
        if protocol == Protocol::Multiboot && info.field(block::FLAGS) & needed != needed {
            return Err(InfoError::Flags(info.field(block::FLAGS)));
        }
        Ok(info)
    }

    /// How the guest was entered.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    fn field(&self, offset: u64) -> u32 {
        read(self.at.add(offset))
    }

    /// The command line; empty if it is not UTF-8.
    #[must_use]
    pub fn command_line(&self) -> &'static str {
        // SAFETY: the loader's string ends in NUL, and `end` keeps the allocator off it.
        unsafe { CStr::from_ptr(core::ptr::with_exposed_provenance(self.text().as_u64() as usize)) }
            .to_str()
            .unwrap_or("")
    }

    fn text(&self) -> Gpa {
        let offset = match self.protocol {
            Protocol::Multiboot => block::COMMAND_LINE,
            Protocol::Linux64 => params::COMMAND_LINE,
        };
        Gpa::new(self.field(offset).into())
    }

    /// The first module, or the initial RAM disk, if there is one.
    #[must_use]
    pub fn module(&self) -> Option<GpaRange> {
        let (start, end) = match self.protocol {
            Protocol::Multiboot => {
                let has_modules = self.field(block::FLAGS) & block::HAS_MODULES != 0;
                if !has_modules || self.field(block::MODULES) == 0 {
                    return None;
                }
                let entry = Gpa::new(self.field(block::MODULE_LIST).into());
                (u64::from(read::<u32>(entry)), u64::from(read::<u32>(entry.add(4))))
            }
            Protocol::Linux64 => {
                let start = u64::from(self.field(params::INITRD));
                (start, start + u64::from(self.field(params::INITRD_BYTES)))
            }
        };
        let module = GpaRange::try_new(Gpa::new(start), Gpa::new(end));
        module.filter(|module| self.protocol == Protocol::Multiboot || !module.is_empty())
    }

    /// The ranges of RAM, in the loader's order.
    pub fn ram(&self) -> impl Iterator<Item = GpaRange> + use<> {
        let (mut next, end) = self.map();
        let protocol = self.protocol;
        core::iter::from_fn(move || {
            let line = (next < end).then_some(next)?;
            // The size of multiboot's entry comes first, and does not count its own four bytes.
            let at = match protocol {
                Protocol::Multiboot => line.add(4),
                Protocol::Linux64 => line,
            };
            next = match protocol {
                Protocol::Multiboot => at.add(u64::from(read::<u32>(line))),
                Protocol::Linux64 => at.add(params::LINE_BYTES),
            };
            Some((read::<u32>(at.add(16)), read::<u64>(at), read::<u64>(at.add(8))))
        })
        .filter(|&(kind, _, _)| kind == AVAILABLE)
        .filter_map(|(_, start, len)| GpaRange::sized(Gpa::try_new(start)?, len))
    }

    /// Where the memory map begins and ends.
    fn map(&self) -> (Gpa, Gpa) {
        match self.protocol {
            Protocol::Multiboot => {
                let start = Gpa::new(self.field(block::MAP).into());
                (start, start.add(self.field(block::MAP_BYTES).into()))
            }
            Protocol::Linux64 => {
                let start = self.at.add(params::MAP);
                let lines: u8 = read(self.at.add(params::MAP_LINES));
                (start, start.add(u64::from(lines) * params::LINE_BYTES))
            }
        }
    }

    /// The end of all that the loader put into memory above `image_end`. An initial RAM disk lies at the end of RAM: for
    /// whoever has one there is no memory behind.
    #[must_use]
    pub fn end(&self, image_end: Gpa) -> Gpa {
        let text = self.text().add(self.command_line().len() as u64 + 1);
        let module = self.module().map_or(Gpa::ZERO, |module| module.end());
        let own = match self.protocol {
            Protocol::Multiboot => {
                let module_entry = Gpa::new(self.field(block::MODULE_LIST).into()).add(16);
                self.at.add(block::BYTES).max(module_entry)
            }
            Protocol::Linux64 => self.at.add(params::BYTES),
        };
        [own, text, self.map().1, module].into_iter().fold(image_end, Gpa::max)
    }
}
