//! Disks: which ones there are, and which are Herald's to write to.
//!
//! ```text
//!   label read ─► good? ─► first slot written and read back ─► swap
//!                  │ no: left alone
//! ```
//!
//! Only a label in the first sector makes a disk Herald's (`abi::swapdisk`). All others are looked at once and then left
//! alone: they are somebody's data. A disk that is Herald's shows that it keeps what it is given before anything
//! depends on that.

use super::ata::{self, Ata};
use super::dma::Dma;
use super::drive::{self, Access, Drive, DriveError, SECTOR_BYTES};
use super::pci::{self, Ports, Root};
use super::queue::Share;
use super::virtio::Block;
use crate::cpu::tsc;
use crate::physmem::PhysicalMemory;
use abi::swapdisk::{self, Label, LabelError};
use addr::{PAGE_SIZE, PageSize, Pfn};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use mm::{FrameMemory, Host, OutOfFrames};
use virtio_drivers::transport::DeviceType;
use virtio_drivers::transport::pci::virtio_device_type;
use zerocopy::{FromZeros, IntoBytes};

/// Seconds that a device has for an answer.
const PATIENCE_SECONDS: u64 = 5;

/// Why a disk is not used.
#[derive(Clone, PartialEq, Eq, Debug)]
enum DiskError {
    /// The device is no good.
    Drive(DriveError),
    /// Not even a page, or more bytes than 64 bits can count.
    Size {
        /// Sectors of 512 bytes.
        sectors: u64,
    },
    /// No frame to read into.
    OutOfFrames(OutOfFrames),
    /// It has no good label.
    Label(LabelError),
    /// It cannot be written to.
    ReadOnly,
    /// The first slot does not hold what was written to it.
    Forgets {
        /// What was written.
        stamp: u64,
        /// What came back.
        found: u64,
    },
}

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Drive(error) => error.fmt(f),
            Self::Size { sectors } => write!(f, "{sectors} sectors are no size of a disk"),
            Self::OutOfFrames(error) => error.fmt(f),
            Self::Label(error) => error.fmt(f),
            Self::ReadOnly => f.write_str("labelled as Herald's, but read-only"),
            Self::Forgets { stamp, found } => {
                write!(f, "{stamp:#x} was written to its first slot, and {found:#x} came back")
            }
        }
    }
}

/// A disk that answers.
struct Disk {
    name: String,
    bytes: u64,
    drive: Box<dyn Drive>,
    /// TSC ticks that it has for an answer.
    patience: u64,
}

impl fmt::Display for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {} MiB", self.name, self.bytes >> 20)
    }
}

/// A disk that is Herald's to write to.
pub(crate) struct SwapDisk {
    disk: Disk,
    slots: u64,
}

impl SwapDisk {
    /// Its slots.
    pub(crate) const fn slots(&self) -> u64 {
        self.slots
    }

    /// So many of its slots, for who serves them.
    pub(crate) fn into_share(self, slots: u64) -> Share {
        let Disk { drive, patience, .. } = self.disk;
        Share { name: "swap disk", drive, patience, first: swapdisk::slot_at(0) / PAGE_SIZE, blocks: slots }
    }
}

impl fmt::Display for SwapDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, Herald's swap of {} slots", self.disk, self.slots)
    }
}

/// A disk that is labelled as a snapshot's.
pub(crate) struct SnapshotDisk(Disk);

impl SnapshotDisk {
    /// All of it, for who serves it.
    pub(crate) fn into_share(self) -> Share {
        let Disk { drive, patience, bytes, .. } = self.0;
        Share { name: "snapshot disk", drive, patience, first: 0, blocks: bytes / PAGE_SIZE }
    }
}

impl fmt::Display for SnapshotDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, for a snapshot", self.0)
    }
}

/// The disks that are Herald's.
#[derive(Default)]
pub(crate) struct Disks {
    /// Where swap may live.
    pub(crate) swap: Vec<SwapDisk>,
    /// Where a snapshot is, or may go.
    pub(crate) snapshot: Option<SnapshotDisk>,
}

/// What a disk is.
enum Found {
    Swap(SwapDisk),
    Snapshot(SnapshotDisk),
}

impl Disks {
    fn count(&self) -> usize {
        self.swap.len() + usize::from(self.snapshot.is_some())
    }

    /// Whether it was one of Herald's.
    fn add(&mut self, found: Option<Found>) -> bool {
        match found {
            Some(Found::Swap(disk)) => self.swap.push(disk),
            Some(Found::Snapshot(disk)) => self.snapshot = Some(disk),
            None => return false,
        }
        true
    }
}

/// Finds the disks that are Herald's, and says of the others why they are not.
pub(crate) fn probe(memory: &Arc<PhysicalMemory>, tsc_hz: u64) -> Disks {
    Dma::use_memory(memory);
    let (mut root, patience) = (Root::new(Ports), tsc_hz * PATIENCE_SECONDS);
    let mut found = Disks::default();
    for (at, info) in pci::functions(&root) {
        if virtio_device_type(&info) == Some(DeviceType::Block) {
            let name = format!("virtio-blk at {at}");
            let drive = Block::open(&mut root, at, patience).map_err(DriveError::Virtio);
            if !found.add(look_at(name, drive.map(|drive| Box::new(drive) as _), memory, patience)) {
                pci::close(&mut root, at);
            }
        }
        let (places, others) = (ata::places(&mut root, at, &info), found.count());
        for &place in &places {
            let drive = Ata::open(&mut root, place, memory, patience).map_err(DriveError::Ata).transpose();
            let drive = drive.map(|drive| drive.map(|drive| Box::new(drive) as _));
            found.add(drive.and_then(|drive| look_at(place.to_string(), drive, memory, patience)));
        }
        if !places.is_empty() && found.count() == others {
            pci::close(&mut root, at);
        }
    }
    found
}

fn look_at(
    name: String,
    drive: Result<Box<dyn Drive>, DriveError>,
    memory: &PhysicalMemory,
    patience: u64,
) -> Option<Found> {
    let mut disk = match drive.map_err(DiskError::Drive).and_then(|drive| Disk::new(&name, drive, patience)) {
        Ok(disk) => disk,
        Err(error) => {
            log::warn!("disk: {name}: {error}: not used");
            return None;
        }
    };
    match disk.claim(memory) {
        Ok(Claim::Slots(slots)) => return Some(Found::Swap(SwapDisk { disk, slots })),
        Ok(Claim::Snapshot) => return Some(Found::Snapshot(SnapshotDisk(disk))),
        Err(DiskError::Label(error @ LabelError::Magic(_))) => {
            log::info!("disk: {disk}, {error}: left alone");
        }
        Err(error) => log::warn!("disk: {disk}, {error}: not used"),
    }
    None
}

/// What of a disk is Herald's.
enum Claim {
    /// So many slots of swap.
    Slots(u64),
    /// All of it, for a snapshot or as one.
    Snapshot,
}

impl Disk {
    fn new(name: &str, drive: Box<dyn Drive>, patience: u64) -> Result<Self, DiskError> {
        let sectors = drive.sectors();
        let bytes = sectors.checked_mul(SECTOR_BYTES).filter(|&bytes| bytes >= PAGE_SIZE);
        let bytes = bytes.ok_or(DiskError::Size { sectors })?;
        Ok(Self { name: name.to_string(), bytes, drive, patience })
    }

    /// What of the disk is Herald's, if it is and works.
    fn claim(&mut self, memory: &PhysicalMemory) -> Result<Claim, DiskError> {
        let frame = memory.allocate_zeroed(PageSize::Size4K).map_err(DiskError::OutOfFrames)?;
        let claimed = self.read_label(memory, frame);
        let claimed = claimed.and_then(|claim| match claim {
            Claim::Slots(_) => self.try_first_slot(memory, frame).map(|()| claim),
            Claim::Snapshot => Ok(claim),
        });
        // A device that has not answered may still write to the frame.
        if !matches!(claimed, Err(DiskError::Drive(DriveError::NoAnswer(_)))) {
            memory.free(frame);
        }
        claimed
    }

    /// What the label says is Herald's. A page is read, not a sector: a disk may have blocks of 4 KiB.
    fn read_label(&mut self, memory: &PhysicalMemory, frame: Pfn) -> Result<Claim, DiskError> {
        self.access(Access::Read(0), frame)?;
        let mut magic = [0; 8];
        memory.read_bytes(frame, 0, &mut magic);
        if snapshot::is_labelled(&magic) {
            return Ok(Claim::Snapshot);
        }
        let mut label = Label::new_zeroed();
        memory.read_bytes(frame, 0, label.as_mut_bytes());
        let slots = label.check(self.bytes).map_err(DiskError::Label)?;
        if self.drive.is_read_only() { Err(DiskError::ReadOnly) } else { Ok(Claim::Slots(slots)) }
    }

    /// Writes to the first slot, and reads it back. At start-up nothing is swapped out yet.
    fn try_first_slot(&mut self, memory: &PhysicalMemory, frame: Pfn) -> Result<(), DiskError> {
        let (sector, stamp) = (swapdisk::slot_at(0) / SECTOR_BYTES, tsc());
        memory.write_bytes(frame, 0, stamp.as_bytes());
        self.access(Access::Write(sector), frame)?;
        memory.zero(frame, PageSize::Size4K);
        self.access(Access::Read(sector), frame)?;
        let mut found = 0_u64;
        memory.read_bytes(frame, 0, found.as_mut_bytes());
        if found == stamp { Ok(()) } else { Err(DiskError::Forgets { stamp, found }) }
    }

    fn access(&mut self, access: Access, frame: Pfn) -> Result<(), DiskError> {
        drive::transfer(&mut *self.drive, access, frame, self.patience).map_err(DiskError::Drive)
    }
}
