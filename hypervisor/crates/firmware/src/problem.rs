//! Two families of errors with details of their own: damaged ELF files, and what does not fit.

use crate::ram::Ram;
use addr::GpaRange;
use core::fmt;

/// What is wrong with an ELF image.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ElfProblem {
    /// Headers or tables that cannot be read: the file is damaged or cut short.
    Headers {
        /// Bytes in the file.
        bytes: u64,
    },
    /// Not for x86.
    Machine(u16),
    /// Neither executable nor position-independent executable.
    Type(u16),
    /// Nothing to load.
    NoSegments,
    /// More bytes in the file than in memory.
    SegmentSize {
        /// p_paddr.
        start: u64,
        /// p_filesz.
        file: u64,
        /// p_memsz.
        memory: u64,
    },
    /// A segment lies over another one.
    Overlap {
        /// p_paddr.
        start: u64,
        /// p_memsz.
        memory: u64,
    },
    /// The PVH note's entry point is neither 4 nor 8 bytes.
    NoteSize(u64),
}

impl fmt::Display for ElfProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Headers { bytes } => {
                write!(f, "its ELF headers are damaged or cut short (the file has {bytes} bytes)")
            }
            Self::Machine(machine) => write!(f, "it is an ELF for machine {machine}, not for x86"),
            Self::Type(kind) => write!(f, "it is an ELF of type {kind}, not an executable"),
            Self::NoSegments => write!(f, "it is an ELF without a segment to load"),
            Self::SegmentSize { start, file, memory } => write!(
                f,
                "its ELF segment at {start:#x} has {file} bytes in the file but only {memory} in memory"
            ),
            Self::Overlap { start, memory } => {
                write!(f, "its ELF segment of {memory} bytes at {start:#x} lies over another one")
            }
            Self::NoteSize(bytes) => write!(f, "its PVH note holds {bytes} bytes, 4 or 8 are allowed"),
        }
    }
}

/// What does not fit where it should go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Placement {
    /// No place in RAM for the Linux kernel.
    KernelTooLarge {
        /// Bytes that it needs while it unpacks itself.
        bytes: u64,
        /// Where it wants to be.
        preferred: u64,
        /// Alignment that it needs elsewhere; `None` where it cannot move.
        align: Option<u64>,
        /// The guest's RAM.
        ram: Ram,
    },
    /// A part of the kernel lies outside RAM.
    OutsideRam {
        /// First guest-physical address.
        start: u64,
        /// Bytes.
        len: u64,
        /// The guest's RAM.
        ram: Ram,
    },
    /// A part of the kernel lies where firmware's data is.
    Reserved {
        /// First guest-physical address.
        start: u64,
        /// Bytes.
        len: u64,
        /// What is there.
        reserved: GpaRange,
    },
    /// The entry point is outside the loaded image.
    EntryPoint {
        /// Its address.
        entry: u64,
        /// What was loaded.
        image: GpaRange,
    },
    /// The initial RAM disk does not fit.
    InitrdTooLarge {
        /// Its bytes.
        bytes: u64,
        /// Where it may lie.
        room: GpaRange,
    },
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::KernelTooLarge { bytes, preferred, align: Some(align), ram } => write!(
                f,
                "the kernel needs {bytes} bytes at {preferred:#x} or another multiple of {align:#x}, \
                 the guest has {ram}"
            ),
            Self::KernelTooLarge { bytes, preferred, align: None, ram } => {
                write!(f, "the kernel needs {bytes} bytes at {preferred:#x}, the guest has {ram}")
            }
            Self::OutsideRam { start, len, ram } => {
                write!(f, "a part of the kernel ({len} bytes at {start:#x}) lies outside guest memory: {ram}")
            }
            Self::Reserved { start, len, reserved } => write!(
                f,
                "a part of the kernel ({len} bytes at {start:#x}) lies over firmware data at {:#x}..{:#x}",
                reserved.start().as_u64(),
                reserved.end().as_u64()
            ),
            Self::EntryPoint { entry, image } => write!(
                f,
                "the kernel's entry point {entry:#x} is outside its image at {:#x}..{:#x}",
                image.start().as_u64(),
                image.end().as_u64()
            ),
            Self::InitrdTooLarge { bytes, room } => write!(
                f,
                "the initial RAM disk has {bytes} bytes, guest memory has room for {} ({:#x}..{:#x})",
                room.len(),
                room.start().as_u64(),
                room.end().as_u64()
            ),
        }
    }
}
