//! What can be wrong with firmware's tables, with the values that show it.

use super::{MAX_IO_APICS, MAX_PROCESSORS, MAX_TABLES};
use addr::HpaRange;
use alloc::vec::Vec;
use core::fmt;

/// Four bytes that tell tables apart (ACPI 6.5, table 5.5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Signature(pub [u8; 4]);

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.escape_ascii().fmt(f)
    }
}

/// What is wrong with a table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AcpiError {
    /// An address that no memory has.
    Address {
        /// What should be there.
        signature: Signature,
        /// The address.
        address: u64,
    },
    /// Not in memory that Herald can reach.
    Unmapped {
        /// What should be there.
        signature: Signature,
        /// Where.
        range: HpaRange,
    },
    /// No root pointer at the address that the loader gave.
    NoRootPointer {
        /// The address.
        address: u64,
        /// What is there instead of `RSD PTR `.
        found: [u8; 8],
    },
    /// The root pointer names no table.
    NoRoot {
        /// Its address.
        address: u64,
    },
    /// Another table than the root pointer says.
    NotRoot {
        /// Where.
        address: u64,
        /// What should be there.
        expected: Signature,
        /// What is there.
        found: Signature,
    },
    /// Shorter than its fixed part, or longer than any such table.
    Length {
        /// The table.
        signature: Signature,
        /// Where.
        address: u64,
        /// Its length in bytes.
        length: u32,
        /// The least that it can be.
        least: u32,
        /// The most.
        most: u32,
    },
    /// The bytes do not add up to 0.
    Checksum {
        /// The table.
        signature: Signature,
        /// Where.
        address: u64,
        /// Bytes summed.
        length: u32,
        /// What they add up to.
        sum: u8,
    },
    /// An entry of the MADT that is shorter than its kind, or longer than what is left: nothing behind it is read.
    Entry {
        /// Bytes from the start of the table.
        offset: usize,
        /// Its type.
        kind: u8,
        /// Its length in bytes.
        length: u8,
        /// Bytes of the table from its start on.
        left: usize,
    },
    /// More than [`MAX_TABLES`] tables: the rest is left out.
    Tables(usize),
    /// More than [`MAX_PROCESSORS`] processors: the rest is left out.
    Processors,
    /// More than [`MAX_IO_APICS`] I/O APICs: the rest is left out.
    IoApics,
}

impl fmt::Display for AcpiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address { signature, address } => write!(f, "{signature} at {address:#x}: no such memory"),
            Self::Unmapped { signature, range } => {
                write!(f, "{signature} at {range}: no memory that can be read")
            }
            Self::NoRootPointer { address, found } => {
                write!(f, "no root pointer at {address:#x}, but `{}`", found.escape_ascii())
            }
            Self::NoRoot { address } => write!(f, "the root pointer at {address:#x} names no table"),
            Self::NotRoot { address, expected, found } => {
                write!(f, "`{found}` at {address:#x} instead of {expected}")
            }
            Self::Length { signature, address, length, least, most } => {
                write!(f, "{signature} at {address:#x}: length {length}, not {least} to {most}")
            }
            Self::Checksum { signature, address, length, sum } => {
                write!(f, "{signature} at {address:#x}: its {length} bytes add up to {sum:#04x}, not 0")
            }
            Self::Entry { offset, kind, length, left } => write!(
                f,
                "MADT: the entry of type {kind} at offset {offset} has length {length}, {left} bytes are left"
            ),
            Self::Tables(count) => write!(f, "{count} tables, only {MAX_TABLES} are looked at"),
            Self::Processors => write!(f, "more than {MAX_PROCESSORS} processors, the rest is left out"),
            Self::IoApics => write!(f, "more than {MAX_IO_APICS} I/O APICs, the rest is left out"),
        }
    }
}

impl core::error::Error for AcpiError {}

/// Problems that did not keep the rest from being read: the first few, and how many there were.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Problems {
    first: Vec<AcpiError>,
    count: usize,
}

impl Problems {
    const KEPT: usize = 8;

    /// Notes a problem, unless it is the same as one of the first.
    pub(super) fn add(&mut self, problem: AcpiError) {
        if self.first.contains(&problem) {
            return;
        }
        self.count += 1;
        if self.first.len() < Self::KEPT {
            self.first.push(problem);
        }
    }

    /// The first few.
    #[must_use]
    pub fn first(&self) -> &[AcpiError] {
        &self.first
    }

    /// How many there were beyond those.
    #[must_use]
    pub fn more(&self) -> usize {
        self.count - self.first.len()
    }

    /// Whether there were none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}
