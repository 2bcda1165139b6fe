//! What can be wrong with a device's capabilities, with the values that show it.

use super::{Kind, Structure};
use core::fmt;

/// Why a device's structures cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StructureError {
    /// The list of capabilities leads into the header, or between words.
    Next {
        /// Where to, in bytes of configuration space.
        offset: u8,
    },
    /// A capability that leaves configuration space.
    Long {
        /// Where it begins.
        offset: u8,
        /// Its bytes.
        len: u8,
    },
    /// The list has no end.
    Endless,
    /// There is no structure of this kind.
    Missing(Kind),
    /// No such BAR, or no length that such a structure could have.
    Odd(Structure),
    /// It does not lie in its BAR.
    Outside {
        /// As its capability says.
        structure: Structure,
        /// Host physical address in the BAR.
        bar_start: u64,
        /// Bytes of it.
        bar_bytes: u64,
    },
    /// A queue's notification register does not lie in the structure.
    Notify {
        /// As the common structure says of the queue.
        queue_offset: u16,
        /// Bytes that it counts in.
        multiplier: u32,
        /// Bytes of the structure.
        len: u32,
    },
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Common => "common configuration",
            Self::Notify => "notification",
            Self::Isr => "interrupt status",
            Self::Device => "device configuration",
        })
    }
}

impl fmt::Display for Structure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, bar, offset, len } = self;
        write!(f, "{kind} structure of {len} bytes at {offset:#x} of BAR {bar}")
    }
}

impl fmt::Display for StructureError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Next { offset } => write!(f, "PCI capabilities lead to {offset:#04x}, where none can be"),
            Self::Long { offset, len } => {
                write!(f, "a PCI capability of {len} bytes at {offset:#04x} leaves configuration space")
            }
            Self::Endless => f.write_str("no end to its PCI capabilities"),
            Self::Missing(kind) => write!(f, "no {kind} structure"),
            Self::Odd(structure) => write!(f, "an impossible {structure}"),
            Self::Outside { structure, bar_start, bar_bytes } => {
                write!(f, "a {structure}, which has {bar_bytes} bytes of memory at {bar_start:#x}")
            }
            Self::Notify { queue_offset, multiplier, len } => {
                write!(f, "notifications at {queue_offset} times {multiplier} of {len} bytes")
            }
        }
    }
}

impl core::error::Error for StructureError {}
