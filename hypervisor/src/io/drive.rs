//! What all drives have in common: requests of whole pages, one at a time.
//!
//! ```text
//!   begin ─► poll: not yet ─► poll: done
//!              └── too long ─► abandon: the device is not to touch memory ever again
//! ```

use super::ata::AtaError;
use super::virtio::VirtioError;
use crate::cpu::tsc;
use addr::Pfn;
use core::fmt;

/// Bytes of a sector.
pub(super) const SECTOR_BYTES: u64 = 512;

/// Pages between a disk and memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Access {
    /// From this sector on, into memory.
    Read(u64),
    /// From memory, to this sector on.
    Write(u64),
    /// No page: what was written stays, should the power go.
    Flush,
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(sector) => write!(f, "a read of sector {sector}"),
            Self::Write(sector) => write!(f, "a write of sector {sector}"),
            Self::Flush => f.write_str("a flush"),
        }
    }
}

/// Why a drive cannot be used, or has not done what it was asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum DriveError {
    /// A virtio device.
    Virtio(VirtioError),
    /// An ATA device.
    Ata(AtaError),
    /// A request that has no end.
    NoAnswer(Access),
}

impl fmt::Display for DriveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Virtio(error) => error.fmt(f),
            Self::Ata(error) => error.fmt(f),
            Self::NoAnswer(access) => write!(f, "no answer to {access}"),
        }
    }
}

/// A drive.
pub(crate) trait Drive: Send {
    /// Sectors of 512 bytes.
    fn sectors(&self) -> u64;

    /// Whether it cannot be written to.
    fn is_read_only(&self) -> bool;

    /// The line of its interrupts at the PICs, if it has one that Herald listens to.
    fn interrupt_line(&self) -> Option<u8>;

    /// Begins to move pages between the disk and frames that are nobody else's until it is done, at most
    /// `tiers::MOST_PAGES` of them; none for a flush.
    ///
    /// # Errors
    /// [`DriveError`]; nothing has begun.
    fn begin(&mut self, access: Access, frames: &[Pfn]) -> Result<(), DriveError>;

    /// Whether what was begun is done; `None`: not yet.
    fn poll(&mut self) -> Option<Result<(), DriveError>>;

    /// Gives up: the drive is cut off from memory.
    fn abandon(&mut self);
}

/// Moves a page, and waits for it, for TSC `patience`. At start-up, when nobody else has anything to do.
///
/// # Errors
/// [`DriveError`].
pub(super) fn transfer(
    drive: &mut dyn Drive,
    access: Access,
    frame: Pfn,
    patience: u64,
) -> Result<(), DriveError> {
    let start = tsc();
    drive.begin(access, &[frame])?;
    loop {
        if let Some(result) = drive.poll() {
            return result;
        }
        if tsc() - start > patience {
            drive.abandon();
            return Err(DriveError::NoAnswer(access));
        }
        core::hint::spin_loop();
    }
}
