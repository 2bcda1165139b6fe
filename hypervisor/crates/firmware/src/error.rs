//! Why a guest cannot be started, in sentences that carry the numbers.

use crate::image::Format;
use crate::problem::{ElfProblem, Placement};
use abi::status::Status;
use addr::Gpa;
use core::fmt;

/// What a size violated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Limit {
    /// Too small.
    AtLeast(u64),
    /// Too large.
    AtMost(u64),
    /// Not whole units.
    MultipleOf(u64),
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(bytes) => write!(f, "it must be at least {bytes} bytes"),
            Self::AtMost(bytes) => write!(f, "it must be at most {bytes} bytes"),
            Self::MultipleOf(bytes) => write!(f, "it must be a multiple of {bytes} bytes"),
        }
    }
}

/// Why guest memory could not be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WriteError {
    /// No RAM there.
    Hole(Gpa),
    /// The host has no frame for this address.
    OutOfMemory(Gpa),
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hole(gpa) => write!(f, "guest address {:#x} is not RAM", gpa.as_u64()),
            Self::OutOfMemory(gpa) => {
                write!(f, "the host has no memory left for guest address {:#x}", gpa.as_u64())
            }
        }
    }
}

/// Why a guest cannot be started.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// The guest's RAM has an impossible size.
    MemorySize {
        /// Bytes asked for.
        bytes: u64,
        /// What they violate.
        limit: Limit,
    },
    /// More processors than the tables can describe.
    Vcpus {
        /// Asked for.
        found: u32,
        /// Possible.
        most: u32,
    },
    /// The kernel is of no known format.
    UnknownImage {
        /// Bytes in the file.
        bytes: u64,
    },
    /// The kernel's file ends too early.
    Truncated {
        /// What it was taken for.
        format: Format,
        /// Bytes in the file.
        found: u64,
        /// Bytes that its header asks for.
        needed: u64,
    },
    /// The Linux boot protocol is too old.
    ProtocolVersion {
        /// Major in the high byte, minor in the low one.
        found: u16,
        /// The oldest that is supported.
        least: u16,
    },
    /// A Linux image that loads below 640 KiB (zImage).
    LoadedLow,
    /// The ELF headers make no sense.
    Elf(ElfProblem),
    /// Something does not fit where it should go.
    Placement(Placement),
    /// The multiboot header asks for features that are not there.
    MultibootFlags {
        /// The flags.
        flags: u32,
        /// Those that no answer exists for.
        unsupported: u32,
    },
    /// The addresses in the multiboot header contradict each other.
    MultibootAddresses {
        /// header_addr.
        header: u32,
        /// load_addr.
        load: u32,
        /// load_end_addr.
        load_end: u32,
        /// bss_end_addr.
        bss_end: u32,
    },
    /// The command line is too long.
    CommandLineTooLong {
        /// Its bytes.
        bytes: u64,
        /// Bytes that the kernel takes.
        most: u64,
    },
    /// Guest memory could not be written.
    Write(WriteError),
}

impl Error {
    /// The exit status that a run ends with.
    #[must_use]
    pub const fn status(&self) -> Status {
        match self {
            Self::Write(WriteError::OutOfMemory(_)) => Status::GuestDied,
            _ => Status::Usage,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::MemorySize { bytes, limit } => write!(f, "guest memory of {bytes} bytes: {limit}"),
            Self::Vcpus { found, most } => {
                write!(f, "{found} virtual CPUs: a guest has at least 1 and at most {most}")
            }
            Self::UnknownImage { bytes } => write!(
                f,
                "the kernel ({bytes} bytes) is not a Linux bzImage, a PVH ELF, a multiboot-1 image or an \
                 ELF64 executable"
            ),
            Self::Truncated { format, found, needed } => {
                write!(f, "the {format} kernel is truncated: {found} bytes found, {needed} needed")
            }
            Self::ProtocolVersion { found, least } => write!(
                f,
                "the kernel speaks Linux boot protocol {}.{:02}, at least {}.{:02} is needed",
                found >> 8,
                found & 0xff,
                least >> 8,
                least & 0xff
            ),
            Self::LoadedLow => write!(f, "the kernel is a zImage that loads below 640 KiB, not a bzImage"),
            Self::Elf(problem) => write!(f, "the kernel cannot be loaded: {problem}"),
            Self::MultibootFlags { flags, unsupported } => write!(
                f,
                "the multiboot header's flags {flags:#x} ask for unsupported features {unsupported:#x}"
            ),
            Self::MultibootAddresses { header, load, load_end, bss_end } => write!(
                f,
                "the multiboot header's addresses contradict each other: header {header:#x}, load {load:#x}, \
                 load end {load_end:#x}, bss end {bss_end:#x}"
            ),
            Self::CommandLineTooLong { bytes, most } => {
                write!(f, "the kernel command line has {bytes} bytes, the kernel takes {most}")
            }
            Self::Placement(placement) => placement.fmt(f),
            Self::Write(error) => write!(f, "the guest's memory cannot be filled: {error}"),
        }
    }
}
