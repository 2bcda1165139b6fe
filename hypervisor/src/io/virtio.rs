//! A virtio block device behind PCI (virtio 1.2, 4.1 and 5.2), modern or transitional, by the crate `virtio-drivers`.
//!
//! ```text
//!   function ──► capabilities ──► structures in its BARs, mapped ──► reset ──► queue of 16 ──► reads, one at a time
//! ```
//!
//! The crate trusts capabilities that were read from a device; what it would fall over is refused before it sees it.
//! What a device was told of stays its own for ever, unless it has given it back.

use super::dma::Dma;
use super::pci::{self, Ports, Root};
use super::transport::Bounded;
use crate::cpu::registers::MapError;
use crate::cpu::tsc;
use crate::layout;
use addr::{Hpa, HpaRange, PAGE_SIZE, Pfn};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;
use core::mem::ManuallyDrop;
use virtio_drivers::Error;
use virtio_drivers::device::blk::{BlkReq, BlkResp, SECTOR_SIZE, VirtIOBlk};
use virtio_drivers::transport::Transport;
use virtio_drivers::transport::pci::bus::{
    CapabilityInfo, ConfigurationAccess, DeviceFunction, PCI_CAP_ID_VNDR, PciError,
};
use virtio_drivers::transport::pci::{
    PciTransport, VIRTIO_PCI_CAP_COMMON_CFG, VIRTIO_PCI_CAP_DEVICE_CFG, VIRTIO_PCI_CAP_NOTIFY_CFG,
    VirtioPciError,
};

/// The queue of requests (virtio 1.2, 5.2.2).
const QUEUE: u16 = 0;
/// What the crate makes of it.
const QUEUE_ENTRIES: u32 = 16;
/// Capabilities that configuration space has room for: 192 bytes behind the header, four at least for each.
const MOST_CAPABILITIES: usize = 48;
/// Bytes of a function's configuration space.
const CONFIGURATION: usize = 256;
/// Most bytes of a structure: notification registers of 1024 queues, a page for each.
const LONGEST_STRUCTURE: u32 = 4 << 20;

/// Why a device cannot be used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum VirtioError {
    /// The list of capabilities does not end, or leaves configuration space.
    Capabilities,
    /// A structure that does not lie in a BAR with an address.
    Structure {
        /// Number of the BAR.
        bar: u8,
        /// Bytes from its start.
        offset: u32,
        /// Bytes.
        len: u32,
    },
    /// Not a BAR at all.
    Pci(PciError),
    /// Registers cannot be mapped.
    Map(MapError),
    /// The transport cannot be set up.
    Transport(VirtioPciError),
    /// It does not take back its status when it is reset.
    Reset,
    /// It insists on a feature that the driver lacks.
    Features,
    /// Its queue is too short, or there is none.
    Queue(u32),
    /// The driver cannot be set up.
    Driver(Error),
    /// A read that has no end.
    NoAnswer {
        /// First sector.
        sector: u64,
    },
    /// A read that the device says has failed.
    Read {
        /// First sector.
        sector: u64,
        /// What it says.
        error: Error,
    },
    /// It has not given the last request back.
    Lost,
}

impl fmt::Display for VirtioError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Capabilities => f.write_str("no end to its PCI capabilities"),
            Self::Structure { bar, offset, len } => {
                write!(f, "a structure of {len} bytes at {offset:#x} of BAR {bar}, which is not there")
            }
            Self::Pci(error) => error.fmt(f),
            Self::Map(error) => error.fmt(f),
            Self::Transport(error) => error.fmt(f),
            Self::Reset => f.write_str("it cannot be reset"),
            Self::Features => f.write_str("it insists on features that Herald's driver lacks"),
            Self::Queue(entries) => write!(f, "a queue of {entries} entries, {QUEUE_ENTRIES} are needed"),
            Self::Driver(error) => error.fmt(f),
            Self::NoAnswer { sector } => write!(f, "no answer to a read of sector {sector}"),
            Self::Read { sector, error } => write!(f, "reading sector {sector} failed: {error}"),
            Self::Lost => f.write_str("it has never answered an earlier request"),
        }
    }
}

/// A block device.
pub(super) struct Block {
    /// Never dropped: the device has the queue's address.
    driver: ManuallyDrop<VirtIOBlk<Dma, Bounded>>,
    /// `None` once the device has kept it.
    request: Option<Box<Request>>,
    patience: u64,
}

/// What goes with the data, in memory that the device can be told of.
#[derive(Default)]
struct Request {
    header: BlkReq,
    response: BlkResp,
}

impl Block {
    /// Takes the device over from firmware. It has `patience` TSC ticks for each answer, now and later.
    ///
    /// # Errors
    /// [`VirtioError`]; the device may be a bus master still.
    pub(super) fn open(root: &mut Root, at: DeviceFunction, patience: u64) -> Result<Self, VirtioError> {
        pci::open(root, at);
        map_structures(root, at)?;
        let inner = PciTransport::new::<Dma, _>(root, at).map_err(VirtioError::Transport)?;
        let mut transport = Bounded::new(inner, patience);
        transport.reset().map_err(|_| VirtioError::Reset)?;
        let entries = transport.max_queue_size(QUEUE);
        if entries < QUEUE_ENTRIES {
            return Err(VirtioError::Queue(entries));
        }
        pci::let_use_memory(root, at);
        let mut driver = VirtIOBlk::new(transport).map_err(|error| match error {
            Error::Unsupported => VirtioError::Features,
            error => VirtioError::Driver(error),
        })?;
        driver.disable_interrupts();
        Ok(Self { driver: ManuallyDrop::new(driver), request: Some(Box::default()), patience })
    }

    /// Sectors of 512 bytes.
    pub(super) fn sectors(&self) -> u64 {
        self.driver.capacity()
    }

    /// Whether it cannot be written to.
    pub(super) fn is_read_only(&self) -> bool {
        self.driver.readonly()
    }

    /// Reads a page from `sector` on into a frame of the caller's. After [`VirtioError::NoAnswer`] the frame is the
    /// device's.
    ///
    /// # Errors
    /// [`VirtioError::NoAnswer`], [`VirtioError::Read`], [`VirtioError::Lost`].
    pub(super) fn read(&mut self, sector: u64, frame: Pfn) -> Result<(), VirtioError> {
        let mut request = self.request.take().ok_or(VirtioError::Lost)?;
        let failed = |error| VirtioError::Read { sector, error };
        let first = layout::direct(frame.base()).as_u64() as *mut u8;
        // SAFETY: a whole frame of the direct map, the caller's own, of which nobody else has a reference.
        let data = unsafe { core::slice::from_raw_parts_mut(first, PAGE_SIZE as usize) };
        let Request { header, response } = &mut *request;
        // SAFETY: header and response lie on the heap and are forgotten below if they do not come back, the frame is
        // the caller's to forget; nobody looks at them before.
        let token = unsafe { self.driver.read_blocks_nb(sector as usize, header, data, response) };
        let token = match token {
            Ok(token) => token,
            Err(error) => {
                self.request = Some(request);
                return Err(failed(error));
            }
        };
        let start = tsc();
        while self.driver.peek_used() != Some(token) {
            if tsc() - start > self.patience {
                core::mem::forget(request);
                return Err(VirtioError::NoAnswer { sector });
            }
            core::hint::spin_loop();
        }
        // SAFETY: the buffers that the token was given for.
        let result = unsafe { self.driver.complete_read_blocks(token, header, data, response) };
        self.request = Some(request);
        result.map_err(failed)
    }
}

/// Bytes of a sector.
pub(super) const SECTOR_BYTES: u64 = SECTOR_SIZE as u64;

/// Maps the structures that the crate uses: the first of each type (virtio 1.2, 4.1.4).
fn map_structures(root: &mut Root, at: DeviceFunction) -> Result<(), VirtioError> {
    let capabilities: Vec<CapabilityInfo> = root.capabilities(at).take(MOST_CAPABILITIES + 1).collect();
    if capabilities.len() > MOST_CAPABILITIES {
        return Err(VirtioError::Capabilities);
    }
    let ours = || capabilities.iter().filter(|capability| capability.id == PCI_CAP_ID_VNDR);
    if ours()
        .any(|capability| usize::from(capability.offset) + usize::from(len_of(capability)) > CONFIGURATION)
    {
        return Err(VirtioError::Capabilities);
    }
    for kind in VIRTIO_PCI_CAP_COMMON_CFG..=VIRTIO_PCI_CAP_DEVICE_CFG {
        let least = if kind == VIRTIO_PCI_CAP_NOTIFY_CFG { 20 } else { 16 };
        let is_wanted = |capability: &&CapabilityInfo| {
            (capability.private_header >> 8) as u8 == kind && len_of(capability) >= least
        };
        // Where one is missing, the crate says so.
        let Some(capability) = ours().find(is_wanted) else { continue };
        let word = |offset| Ports.read_word(at, capability.offset + offset);
        map_structure(root, at, word(4) as u8, word(8), word(12))?;
    }
    Ok(())
}

/// Bytes of a capability, which a vendor's own begins with (virtio 1.2, 4.1.4).
const fn len_of(capability: &CapabilityInfo) -> u8 {
    capability.private_header as u8
}

fn map_structure(
    root: &mut Root,
    at: DeviceFunction,
    bar: u8,
    offset: u32,
    len: u32,
) -> Result<(), VirtioError> {
    let nowhere = || VirtioError::Structure { bar, offset, len };
    if bar > 5 || len > LONGEST_STRUCTURE {
        return Err(nowhere());
    }
    let info = root.bar_info(at, bar).map_err(VirtioError::Pci)?;
    let (start, size) = info.and_then(|info| info.memory_address_size()).ok_or_else(nowhere)?;
    let inside = u64::from(offset) + u64::from(len) <= size && start != 0;
    let first = start.checked_add(offset.into()).filter(|_| inside).and_then(Hpa::try_new);
    let range = first.and_then(|first| HpaRange::sized(first, len.into())).ok_or_else(nowhere)?;
    Dma::map_registers(range).map_err(VirtioError::Map)
}
