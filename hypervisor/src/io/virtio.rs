//! A virtio block device behind PCI (virtio 1.2, 4.1 and 5.2), modern or transitional, by the crate `virtio-drivers`.
//!
//! ```text
//!   function ──► capabilities ──► structures in its BARs, mapped ──► reset ──► queue of 16 ──► requests, one at a time
//! ```
//!
//! The crate trusts what it reads from a device; what it would fall over is refused before it sees it
//! (`startup::virtio`). What a device was told of stays its own for ever, unless it has given it back.

use super::dma::Dma;
use super::drive::{Access, Drive, DriveError, SECTOR_BYTES};
use super::pci::{self, Root};
use super::transport::Bounded;
use crate::cpu::registers::MapError;
use crate::layout;
use addr::{Hva, PAGE_SIZE, Pfn};
use alloc::boxed::Box;
use core::fmt;
use core::mem::ManuallyDrop;
use startup::virtio::{Structure, StructureError, Structures};
use tiers::MOST_PAGES;
use virtio_drivers::Error;
use virtio_drivers::device::blk::{BlkReq, BlkResp, SECTOR_SIZE, VirtIOBlk};
use virtio_drivers::transport::Transport;
use virtio_drivers::transport::pci::bus::{DeviceFunction, PciError};
use virtio_drivers::transport::pci::{PciTransport, VirtioPciError};

/// The queue of requests (virtio 1.2, 5.2.2).
const QUEUE: u16 = 0;
/// What the crate makes of it.
const QUEUE_ENTRIES: u32 = 16;
/// In the common structure: what a queue's notification register is counted from (4.1.4.3, `queue_notify_off`).
const QUEUE_OFFSET: u64 = 0x1e;
/// In the common structure: what the device says of itself (4.1.4.3, `device_status`).
const STATUS_OFFSET: u64 = 0x14;
/// It has broken down for good (2.1, DEVICE_NEEDS_RESET).
const NEEDS_RESET: u8 = 1 << 6;

/// Why a device cannot be used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum VirtioError {
    /// Its capabilities are no good.
    Structure(StructureError),
    /// A structure in a BAR of I/O ports, or of none.
    NoMemory {
        /// Number of the BAR.
        bar: u8,
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
    /// A request that the device says has failed.
    Failed(Access, Error),
    /// It has not given the last request back.
    Lost,
}

impl fmt::Display for VirtioError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Structure(error) => error.fmt(f),
            Self::NoMemory { bar } => write!(f, "a structure in BAR {bar}, which names no memory"),
            Self::Pci(error) => error.fmt(f),
            Self::Map(error) => error.fmt(f),
            Self::Transport(error) => error.fmt(f),
            Self::Reset => f.write_str("it cannot be reset"),
            Self::Features => f.write_str("it insists on features that Herald's driver lacks"),
            Self::Queue(entries) => write!(f, "a queue of {entries} entries, {QUEUE_ENTRIES} are needed"),
            Self::Driver(error) => error.fmt(f),
            Self::Failed(access, error) => write!(f, "{access} failed: {error}"),
            Self::Lost => f.write_str("it has never answered an earlier request"),
        }
    }
}

const _: () = assert!(SECTOR_SIZE as u64 == SECTOR_BYTES);

/// A block device.
pub(super) struct Block {
    /// Never dropped: the device has the queue's address.
    driver: ManuallyDrop<VirtIOBlk<Dma, Bounded>>,
    /// `None` once the device has kept it.
    request: Option<Box<Request>>,
    under_way: Option<Transfer>,
    at: DeviceFunction,
    common: Hva,
}

/// What was asked for: page by page.
struct Transfer {
    access: Access,
    frames: heapless::Vec<Pfn, MOST_PAGES>,
    /// Pages that are done.
    done: usize,
    token: u16,
}

impl Transfer {
    /// Where the present page lies.
    fn page(&self) -> Access {
        let offset = self.done as u64 * (PAGE_SIZE / SECTOR_BYTES);
        match self.access {
            Access::Read(sector) => Access::Read(sector + offset),
            Access::Write(sector) => Access::Write(sector + offset),
            Access::Flush => Access::Flush,
        }
    }
}

/// What goes with the data, in memory that the device can be told of.
#[derive(Default)]
struct Request {
    header: BlkReq,
    response: BlkResp,
}

impl Block {
    /// Takes the device over from firmware. It has `patience` TSC ticks for each answer.
    ///
    /// # Errors
    /// [`VirtioError`]; the device may be a bus master still.
    pub(super) fn open(root: &mut Root, at: DeviceFunction, patience: u64) -> Result<Self, VirtioError> {
        pci::open(root, at);
        let structures = Structures::find(&pci::configuration(at)).map_err(VirtioError::Structure)?;
        let [common, others @ ..] = structures.all;
        let common = map_structure(root, at, common)?;
        for structure in others {
            map_structure(root, at, structure)?;
        }
        let inner = PciTransport::new::<Dma, _>(root, at).map_err(VirtioError::Transport)?;
        let mut transport = Bounded::new(inner, patience);
        transport.reset().map_err(|_| VirtioError::Reset)?;
        let entries = transport.max_queue_size(QUEUE);
        if entries < QUEUE_ENTRIES {
            return Err(VirtioError::Queue(entries));
        }
        structures.check_notify(queue_offset(common)).map_err(VirtioError::Structure)?;
        pci::let_use_memory(root, at);
        let mut driver = VirtIOBlk::new(transport).map_err(|error| match error {
            Error::Unsupported => VirtioError::Features,
            error => VirtioError::Driver(error),
        })?;
        driver.disable_interrupts();
        Ok(Self {
            driver: ManuallyDrop::new(driver),
            request: Some(Box::default()),
            under_way: None,
            at,
            common,
        })
    }

    /// Asks for the present page.
    fn ask(&mut self, transfer: &mut Transfer) -> Result<(), VirtioError> {
        let mut request = self.request.take().ok_or(VirtioError::Lost)?;
        let (access, data) = (transfer.page(), contents(transfer.frames[transfer.done]));
        // SAFETY: the request lies on the heap and is forgotten if it does not come back, the frame is the caller's to
        // forget; nobody looks at them before.
        let token = unsafe { self.submit(access, &mut request, data) };
        self.request = Some(request);
        transfer.token = token.map_err(|error| VirtioError::Failed(access, error))?;
        Ok(())
    }

    /// Takes the present page back, which is done.
    fn take(&mut self, transfer: &Transfer) -> Result<(), VirtioError> {
        let mut request = self.request.take().ok_or(VirtioError::Lost)?;
        let (access, data) = (transfer.page(), contents(transfer.frames[transfer.done]));
        // SAFETY: the buffers that the token was given for.
        let result = unsafe { self.complete(access, transfer.token, &mut request, data) };
        self.request = Some(request);
        result.map_err(|error| VirtioError::Failed(access, error))
    }

    /// Whether the device says so. Where it is a program beside this machine, the look also stops the machine's
    /// processor, so that the program gets a turn: below KVM in Bochs no tick ends the stay of a processor that has its
    /// interrupts off (`vcpu::run`), as this one has.
    fn has_broken_down(&self) -> bool {
        let register = self.common.add(STATUS_OFFSET).as_u64() as *const u8;
        // SAFETY: as for the queue's offset; reading the status has no effect either.
        let status = unsafe { register.read_volatile() };
        status & NEEDS_RESET != 0
    }

    /// Goes on to the next page; `None`: there is one.
    fn advance(&mut self, transfer: &mut Transfer) -> Option<Result<(), VirtioError>> {
        let taken = self.take(transfer);
        transfer.done += 1;
        if taken.is_err() || transfer.done == transfer.frames.len() {
            return Some(taken);
        }
        self.ask(transfer).err().map(Err)
    }

    /// # Safety
    /// Nobody looks at the buffers before the device has given them back.
    unsafe fn submit(
        &mut self,
        access: Access,
        Request { header, response }: &mut Request,
        data: &mut [u8],
    ) -> Result<u16, Error> {
        // SAFETY: the caller's promise.
        unsafe {
            match access {
                Access::Read(sector) => self.driver.read_blocks_nb(sector as usize, header, data, response),
                Access::Write(sector) => self.driver.write_blocks_nb(sector as usize, header, data, response),
                Access::Flush => Err(Error::Unsupported),
            }
        }
    }

    /// # Safety
    /// The access and the buffers that `submit` has given the token for, and the device has given back.
    unsafe fn complete(
        &mut self,
        access: Access,
        token: u16,
        Request { header, response }: &mut Request,
        data: &mut [u8],
    ) -> Result<(), Error> {
        // SAFETY: the caller's promise.
        unsafe {
            match access {
                Access::Read(_) => self.driver.complete_read_blocks(token, header, data, response),
                Access::Write(_) => self.driver.complete_write_blocks(token, header, data, response),
                Access::Flush => Ok(()),
            }
        }
    }
}

/// A frame's bytes, for as long as a device has it.
fn contents<'a>(frame: Pfn) -> &'a mut [u8] {
    let first = layout::direct(frame.base()).as_u64() as *mut u8;
    // SAFETY: a whole frame of the direct map, the caller's own (`Drive::begin`), of which nobody else has a reference.
    unsafe { core::slice::from_raw_parts_mut(first, PAGE_SIZE as usize) }
}

impl Drive for Block {
    fn sectors(&self) -> u64 {
        self.driver.capacity()
    }

    fn is_read_only(&self) -> bool {
        self.driver.readonly()
    }

    fn interrupt_line(&self) -> Option<u8> {
        None
    }

    fn begin(&mut self, access: Access, frames: &[Pfn]) -> Result<(), DriveError> {
        // The crate waits for a flush without end, so none is asked for: what is written is the host's (`docs/CAVEATS.md`).
        if access == Access::Flush {
            return Ok(());
        }
        let frames = frames.iter().copied().collect();
        let mut transfer = Transfer { access, frames, done: 0, token: 0 };
        self.ask(&mut transfer).map_err(DriveError::Virtio)?;
        self.under_way = Some(transfer);
        Ok(())
    }

    fn poll(&mut self) -> Option<Result<(), DriveError>> {
        let Some(mut transfer) = self.under_way.take() else { return Some(Ok(())) };
        let result = if self.driver.peek_used() == Some(transfer.token) {
            self.advance(&mut transfer)
        } else if self.has_broken_down() {
            // It has not given anything back: there will be no answer.
            self.abandon();
            return Some(Err(DriveError::NoAnswer(transfer.page())));
        } else {
            None
        };
        if result.is_none() {
            self.under_way = Some(transfer);
        }
        result.map(|result| result.map_err(DriveError::Virtio))
    }

    /// What the device was told of stays its own.
    fn abandon(&mut self) {
        core::mem::forget(self.request.take());
        pci::close(&mut Root::new(pci::Ports), self.at);
    }
}

/// Maps a structure where the crate will look for it.
fn map_structure(root: &mut Root, at: DeviceFunction, structure: Structure) -> Result<Hva, VirtioError> {
    let bar = structure.bar;
    let info = root.bar_info(at, bar).map_err(VirtioError::Pci)?;
    let memory = info.and_then(|info| info.memory_address_size());
    let (start, bytes) = memory.ok_or(VirtioError::NoMemory { bar })?;
    let range = structure.place(start, bytes).map_err(VirtioError::Structure)?;
    Dma::map_registers(range).map_err(VirtioError::Map)
}

/// What the common structure says of the queue that was selected last.
fn queue_offset(common: Hva) -> u16 {
    let register = common.add(QUEUE_OFFSET).as_u64() as *const u16;
    // SAFETY: registers that are mapped for ever and have room for it (`Structures::find`), aligned, because the
    // crate has refused a common structure that is not; reading this one has no effect (virtio 1.2, 4.1.4.3).
    unsafe { register.read_volatile() }
}
