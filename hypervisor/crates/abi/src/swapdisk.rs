//! The label of a disk that is Herald's to write to, because its swap lives there.
//!
//! ```text
//!  0             Label, one sector of 512 bytes
//!  4096·(n + 1)  slot n, one page
//! ```
//!
//! Whoever gives Herald a disk labels it; Herald never writes to a disk without a good label. What lies between the
//! label and the first slot is nobody's. All numbers are little-endian.

use crate::crc::crc32;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// First bytes of a disk that is Herald's.
pub const MAGIC: [u8; 8] = *b"HERALDSW";
/// Layout version; raised with every change of this file.
pub const VERSION: u32 = 1;
/// Bytes of a slot.
pub const SLOT_BYTES: u64 = 4096;

/// The first sector of a disk.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Label {
    /// [`MAGIC`].
    pub magic: [u8; 8],
    /// [`VERSION`].
    pub version: U32,
    /// CRC-32 of the whole sector with this field zero.
    pub checksum: U32,
    /// Slots, at least one.
    pub slots: U64,
    /// Zero.
    pub reserved: [u8; 488],
}

const _: () = assert!(size_of::<Label>() == 512);

/// Why a disk is not taken for Herald's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LabelError {
    /// Not [`MAGIC`]: the disk is somebody else's.
    Magic([u8; 8]),
    /// Not [`VERSION`].
    Version(u32),
    /// The stored checksum is not that of the bytes.
    Checksum {
        /// As stored.
        stored: u32,
        /// As computed.
        computed: u32,
    },
    /// No slots, or more than the disk has room for.
    Slots {
        /// As the label says.
        slots: u64,
        /// Room on the disk.
        room: u64,
    },
}

impl core::fmt::Display for LabelError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match *self {
            Self::Magic(magic) => write!(f, "not labelled as Herald's (starts with {magic:02x?})"),
            Self::Version(version) => {
                write!(f, "Herald's label of version {version}, this build reads {VERSION}")
            }
            Self::Checksum { stored, computed } => {
                write!(f, "Herald's label corrupt: checksum {computed:#010x}, label says {stored:#010x}")
            }
            Self::Slots { slots, room } => {
                write!(f, "Herald's label of {slots} slots, the disk has room for {room}")
            }
        }
    }
}

/// Slots that fit on a disk of this many bytes, behind the label.
#[must_use]
pub const fn room(disk_bytes: u64) -> u64 {
    (disk_bytes / SLOT_BYTES).saturating_sub(1)
}

/// Bytes from the start of the disk to a slot.
#[must_use]
pub const fn slot_at(slot: u64) -> u64 {
    (slot + 1) * SLOT_BYTES
}

impl Label {
    /// The label of a disk with this many slots.
    #[must_use]
    pub fn new(slots: u64) -> Self {
        let label = Self {
            magic: MAGIC,
            version: VERSION.into(),
            checksum: U32::ZERO,
            slots: slots.into(),
            reserved: [0; 488],
        };
        Self { checksum: label.computed_checksum().into(), ..label }
    }

    /// The checksum that belongs into the label.
    #[must_use]
    pub fn computed_checksum(&self) -> u32 {
        crc32(Self { checksum: U32::ZERO, ..*self }.as_bytes())
    }

    /// The slots of a disk of `disk_bytes` bytes that starts with this sector.
    ///
    /// # Errors
    /// Anything that [`LabelError`] names.
    pub fn check(&self, disk_bytes: u64) -> Result<u64, LabelError> {
        if self.magic != MAGIC {
            return Err(LabelError::Magic(self.magic));
        }
        if self.version.get() != VERSION {
            return Err(LabelError::Version(self.version.get()));
        }
        let (stored, computed) = (self.checksum.get(), self.computed_checksum());
        if stored != computed {
            return Err(LabelError::Checksum { stored, computed });
        }
        let (slots, room) = (self.slots.get(), room(disk_bytes));
        if slots == 0 || slots > room {
            return Err(LabelError::Slots { slots, room });
        }
        Ok(slots)
    }
}
