//! Where a virtio device behind PCI has its registers: what its capabilities say (virtio 1.2, 4.1.4).
//!
//! ```text
//!   0x34 ─► capability ─► capability ─► ... ─► 0        a list in configuration space (PCI 3.0, 6.7)
//!             │ vendor's own: kind, BAR, offset, length
//!             ▼
//!           structure ─ inside its BAR? ─► physical addresses
//! ```
//!
//! A device is not trusted: its list may run in circles, and a structure may lie anywhere. What is accepted here is safe
//! to map, and to be read by a driver that believes its device.

mod error;
#[cfg(test)]
mod tests;

use addr::{Hpa, HpaRange};

pub use error::StructureError;

/// Words of a function's configuration space, without what only PCI Express has.
pub const WORDS: usize = 64;
/// Bit of the word with status and command: there is a list of capabilities (PCI 3.0, 6.2.3).
const HAS_CAPABILITIES: u32 = 1 << 20;
/// Word with the command and the status, at byte 0x04.
const STATUS: usize = 1;
/// Word with the start of the list, at byte 0x34.
const FIRST: usize = 13;
/// Where the header ends, and capabilities may begin.
const HEADER_BYTES: u8 = 64;
/// Capabilities that there is room for: four bytes at least for each.
const MOST_CAPABILITIES: usize = WORDS - HEADER_BYTES as usize / 4;
/// Identifies a capability of a vendor's own (PCI 3.0, appendix H).
const VENDORS_OWN: u8 = 0x09;
/// BARs of a device.
const BARS: u8 = 6;
/// Most bytes of a structure: notification registers of 1024 queues, a page for each.
const LONGEST: u32 = 4 << 20;

/// What a structure is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Status, features, queues (4.1.4.3).
    Common,
    /// Where the driver says that a queue has something new (4.1.4.4).
    Notify,
    /// Interrupt status (4.1.4.5).
    Isr,
    /// What only this type of device has (4.1.4.6).
    Device,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Common, Self::Notify, Self::Isr, Self::Device];

    /// As capabilities encode it.
    const fn number(self) -> u8 {
        self as u8 + 1
    }

    /// Bytes of a capability of this kind.
    const fn capability_bytes(self) -> u8 {
        match self {
            Self::Notify => 20,
            _ => 16,
        }
    }

    /// Bytes that the structure has at least: up to the used ring's address, a queue's number, one byte, a block
    /// device's capacity (5.2.4).
    const fn least(self) -> u32 {
        match self {
            Self::Common => 56,
            Self::Notify => 2,
            Self::Isr => 1,
            Self::Device => 8,
        }
    }
}

/// One structure, as its capability says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Structure {
    /// What it is for.
    pub kind: Kind,
    /// The BAR that it lies in, below 6.
    pub bar: u8,
    /// Bytes from the start of what the BAR names.
    pub offset: u32,
    /// Bytes.
    pub len: u32,
}

impl Structure {
    /// Where it lies, if its BAR names `bar_bytes` bytes of memory from physical `bar_start` on. A BAR at 0 is one that
    /// firmware has given no address.
    ///
    /// # Errors
    /// [`StructureError::Outside`].
    pub fn place(&self, bar_start: u64, bar_bytes: u64) -> Result<HpaRange, StructureError> {
        let (offset, len) = (u64::from(self.offset), u64::from(self.len));
        let is_inside = bar_start != 0 && offset + len <= bar_bytes;
        let first = bar_start.checked_add(offset).filter(|_| is_inside).and_then(Hpa::try_new);
        let range = first.and_then(|first| HpaRange::sized(first, len));
        range.ok_or(StructureError::Outside { structure: *self, bar_start, bar_bytes })
    }
}

/// The structures of a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Structures {
    /// In the order of [`Kind`].
    pub all: [Structure; 4],
    /// Bytes between the notification registers of queues that follow each other.
    pub notify_multiplier: u32,
}

impl Structures {
    /// Reads the capabilities in a function's configuration space: of each kind the first, which is the one that the
    /// device prefers (4.1.4.1).
    ///
    /// # Errors
    /// [`StructureError`].
    pub fn find(configuration: &[u32; WORDS]) -> Result<Self, StructureError> {
        let mut found = [None; 4];
        let mut next = first_capability(configuration);
        for _ in 0..MOST_CAPABILITIES {
            if next == 0 {
                return Self::complete(configuration, found);
            }
            if next < HEADER_BYTES || !next.is_multiple_of(4) {
                return Err(StructureError::Next { offset: next });
            }
            let at = usize::from(next) / 4;
            let [id, after, len, number] = configuration[at].to_le_bytes();
            if id == VENDORS_OWN {
                let kind = Kind::ALL
                    .into_iter()
                    .find(|kind| kind.number() == number && len >= kind.capability_bytes());
                if usize::from(next) + usize::from(len) > WORDS * 4 {
                    return Err(StructureError::Long { offset: next, len });
                }
                if let Some(kind) = kind {
                    found[kind as usize].get_or_insert(at);
                }
            }
            next = after;
        }
        Err(StructureError::Endless)
    }

    /// Reads the capabilities at these words, if there is one of each kind.
    fn complete(configuration: &[u32; WORDS], found: [Option<usize>; 4]) -> Result<Self, StructureError> {
        let mut words = [0; 4];
        for kind in Kind::ALL {
            words[kind as usize] = found[kind as usize].ok_or(StructureError::Missing(kind))?;
        }
        let all = Kind::ALL.map(|kind| {
            let at = words[kind as usize];
            let [bar, ..] = configuration[at + 1].to_le_bytes();
            Structure { kind, bar, offset: configuration[at + 2], len: configuration[at + 3] }
        });
        let is_odd = |it: &&Structure| {
            it.bar >= BARS
                || it.len < it.kind.least()
                || it.len > LONGEST
                || it.offset.checked_add(it.len).is_none()
        };
        match all.iter().find(is_odd) {
            Some(odd) => Err(StructureError::Odd(*odd)),
            None => Ok(Self { all, notify_multiplier: configuration[words[Kind::Notify as usize] + 4] }),
        }
    }

    /// Checks that the notification register of a queue lies inside its structure; `queue_offset` is what the common
    /// structure says of the queue (4.1.4.4).
    ///
    /// # Errors
    /// [`StructureError::Notify`].
    pub fn check_notify(&self, queue_offset: u16) -> Result<(), StructureError> {
        let (multiplier, len) = (self.notify_multiplier, self.all[Kind::Notify as usize].len);
        let at = u64::from(queue_offset) * u64::from(multiplier);
        if at + u64::from(Kind::Notify.least()) <= u64::from(len) {
            return Ok(());
        }
        Err(StructureError::Notify { queue_offset, multiplier, len })
    }
}

/// Offset of the first capability; 0 where there is none. Its two lowest bits are no part of it (PCI 3.0, 6.7).
const fn first_capability(configuration: &[u32; WORDS]) -> u8 {
    if configuration[STATUS] & HAS_CAPABILITIES == 0 { 0 } else { configuration[FIRST] as u8 & !3 }
}
