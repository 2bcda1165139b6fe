//! Disks: which ones there are, and which are Herald's to write to.
//!
//! Only a label in the first sector makes a disk Herald's (`abi::swapdisk`). All others are looked at once and then left
//! alone: they are somebody's data.

use super::dma::Dma;
use super::pci::{self, Ports, Root};
use super::virtio::{Block, SECTOR_BYTES, VirtioError};
use crate::physmem::PhysicalMemory;
use abi::swapdisk::{Label, LabelError};
use addr::{PAGE_SIZE, PageSize};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use mm::{FrameMemory, Host, OutOfFrames};
use virtio_drivers::transport::DeviceType;
use virtio_drivers::transport::pci::bus::DeviceFunction;
use virtio_drivers::transport::pci::virtio_device_type;
use zerocopy::{FromZeros, IntoBytes};

/// Seconds that a device has for an answer.
const PATIENCE_SECONDS: u64 = 5;

/// Why a disk is not used.
#[derive(Clone, PartialEq, Eq, Debug)]
enum DiskError {
    /// The device is no good.
    Virtio(VirtioError),
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
}

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Virtio(error) => error.fmt(f),
            Self::Size { sectors } => write!(f, "{sectors} sectors are no size of a disk"),
            Self::OutOfFrames(error) => error.fmt(f),
            Self::Label(error) => error.fmt(f),
            Self::ReadOnly => f.write_str("labelled as Herald's, but read-only"),
        }
    }
}

/// A disk that answers.
struct Disk {
    at: DeviceFunction,
    bytes: u64,
    block: Block,
}

impl fmt::Display for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "virtio-blk at {}, {} MiB", self.at, self.bytes >> 20)
    }
}

/// A disk that is Herald's to write to.
pub(crate) struct SwapDisk {
    disk: Disk,
    slots: u64,
}

impl fmt::Display for SwapDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, Herald's swap of {} slots", self.disk, self.slots)
    }
}

/// Finds the disks that are Herald's, and says of the others why they are not.
pub(crate) fn probe(memory: &Arc<PhysicalMemory>, tsc_hz: u64) -> Vec<SwapDisk> {
    Dma::use_memory(memory);
    let mut root = Root::new(Ports);
    let mut found = Vec::new();
    for (at, info) in pci::functions(&root) {
        if virtio_device_type(&info) != Some(DeviceType::Block) {
            continue;
        }
        match look_at(&mut root, at, memory, tsc_hz * PATIENCE_SECONDS) {
            Some(disk) => found.push(disk),
            None => pci::close(&mut root, at),
        }
    }
    found
}

fn look_at(root: &mut Root, at: DeviceFunction, memory: &PhysicalMemory, patience: u64) -> Option<SwapDisk> {
    let mut disk = match Disk::open(root, at, patience) {
        Ok(disk) => disk,
        Err(error) => {
            log::warn!("disk: virtio-blk at {at}: {error}: not used");
            return None;
        }
    };
    match disk.slots(memory) {
        Ok(slots) => return Some(SwapDisk { disk, slots }),
        Err(DiskError::Label(error @ LabelError::Magic(_))) => {
            log::info!("disk: {disk}, {error}: left alone");
        }
        Err(error) => log::warn!("disk: {disk}: {error}: not used"),
    }
    None
}

impl Disk {
    fn open(root: &mut Root, at: DeviceFunction, patience: u64) -> Result<Self, DiskError> {
        let block = Block::open(root, at, patience).map_err(DiskError::Virtio)?;
        let sectors = block.sectors();
        let bytes = sectors.checked_mul(SECTOR_BYTES).filter(|&bytes| bytes >= PAGE_SIZE);
        let bytes = bytes.ok_or(DiskError::Size { sectors })?;
        Ok(Self { at, bytes, block })
    }

    /// The slots that the label says are Herald's.
    fn slots(&mut self, memory: &PhysicalMemory) -> Result<u64, DiskError> {
        let frame = memory.allocate_zeroed(PageSize::Size4K).map_err(DiskError::OutOfFrames)?;
        // A page, not a sector: a disk may have blocks of 4 KiB.
        let read = self.block.read(0, frame);
        if matches!(read, Err(VirtioError::NoAnswer { .. })) {
            // It may still write to the frame.
            return read.map(|()| 0).map_err(DiskError::Virtio);
        }
        let mut label = Label::new_zeroed();
        memory.read_bytes(frame, 0, label.as_mut_bytes());
        if memory.frames().meta(frame).put() {
            memory.retire(frame, PageSize::Size4K);
        }
        read.map_err(DiskError::Virtio)?;
        let slots = label.check(self.bytes).map_err(DiskError::Label)?;
        if self.block.is_read_only() { Err(DiskError::ReadOnly) } else { Ok(slots) }
    }
}
