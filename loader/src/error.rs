//! Why Herald could not be started.

use crate::modules::Name;
use abi::package::PackageError;
use addr::HpaRange;
use core::fmt;

/// Anything that ends the loader.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LoadError {
    /// The package's table is bad.
    Package(PackageError),
    /// The package has no entry of kind Herald.
    NoHerald,
    /// Firmware or the boot loader gave no memory map.
    NoMemoryMap,
    /// No free range for the package, or for Herald.
    NoRoom {
        /// Bytes wanted.
        bytes: u64,
    },
    /// The package is longer than LBA28 reaches.
    TooLong {
        /// Bytes of the package.
        bytes: u64,
    },
    /// The disk reported an error.
    Disk {
        /// First sector of the command.
        lba: u32,
        /// The status register.
        status: u8,
        /// The error register.
        error: u8,
    },
    /// The disk did not answer.
    DiskTimeOut {
        /// First sector of the command.
        lba: u32,
        /// The status register.
        status: u8,
    },
    /// `hvm_start_info` has another magic number.
    StartInfo {
        /// What is there.
        magic: u32,
        /// Where.
        address: u32,
    },
    /// `hvm_start_info` of a version without a memory map.
    StartInfoVersion(u32),
    /// Not just one PVH module.
    Modules(u32),
    /// No multiboot2 information.
    BootInformation {
        /// Where it should be.
        address: u32,
        /// Bytes that it claims to have.
        total: u32,
    },
    /// A multiboot2 tag that cannot be right.
    Tag {
        /// Its type.
        kind: u32,
        /// Its size.
        size: u32,
    },
    /// More modules than a package holds.
    ManyModules {
        /// How many that is.
        most: usize,
    },
    /// A module without a name.
    Nameless(HpaRange),
    /// Two modules of the same name.
    SameName(Name),
    /// A range that the start information names is not below 4 GiB.
    OutOfReach {
        /// First byte.
        start: u64,
        /// Bytes.
        len: u64,
    },
    /// Herald's file is no ELF file of this machine.
    Elf,
    /// A segment of Herald's that cannot be loaded.
    Segment {
        /// Its physical address.
        physical: u64,
        /// Its virtual address.
        address: u64,
        /// Bytes in memory.
        len: u64,
    },
    /// Herald is not linked for a 2 MiB boundary.
    Unaligned(HpaRange),
    /// Herald's entry point lies in no segment.
    EntryPoint(u64),
}

impl From<PackageError> for LoadError {
    fn from(error: PackageError) -> Self {
        Self::Package(error)
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Package(error) => error.fmt(f),
            Self::NoHerald => f.write_str("the boot package holds no Herald"),
            Self::NoMemoryMap => f.write_str("neither firmware nor the boot loader gives a memory map"),
            Self::NoRoom { bytes } => write!(f, "no room for {bytes} bytes in one piece below 4 GiB"),
            Self::TooLong { bytes } => write!(f, "a boot package of {bytes} bytes is beyond LBA28"),
            Self::Disk { lba, status, error } => {
                write!(f, "boot disk: cannot read sector {lba}: status {status:#04x}, error {error:#04x}")
            }
            Self::DiskTimeOut { lba, status } => {
                write!(f, "boot disk: no answer for sector {lba}: status {status:#04x}")
            }
            Self::StartInfo { magic, address } => {
                write!(f, "no PVH start information at {address:#x}: magic {magic:#010x}")
            }
            Self::StartInfoVersion(version) => {
                write!(f, "PVH start information of version {version} has no memory map")
            }
            Self::Modules(count) => {
                write!(f, "{count} PVH modules; the boot package must be the only one (-initrd)")
            }
            Self::BootInformation { address, total } => {
                write!(f, "no multiboot2 information at {address:#x}: {total} bytes, it says")
            }
            Self::Tag { kind, size } => {
                write!(f, "multiboot2 information has a tag of type {kind} and {size} bytes, which is wrong")
            }
            Self::ManyModules { most } => write!(f, "more than {most} modules"),
            Self::Nameless(range) => {
                write!(f, "the module at {range} has no name (write it behind the file: module2 FILE NAME)")
            }
            Self::SameName(name) => write!(f, "two modules have the name {name}"),
            Self::OutOfReach { start, len } => {
                write!(f, "{len} bytes at {start:#x} are not below 4 GiB")
            }
            Self::Elf => f.write_str("Herald's image is no ELF file for x86-64"),
            Self::Segment { physical, address, len } => write!(
                f,
                "Herald's image has a segment of {len} bytes at {physical:#x} for {address:#x}, which is wrong"
            ),
            Self::Unaligned(range) => write!(f, "Herald's image is linked for {range}, no 2 MiB boundary"),
            Self::EntryPoint(entry) => write!(f, "Herald's entry point {entry:#x} is outside its image"),
        }
    }
}
