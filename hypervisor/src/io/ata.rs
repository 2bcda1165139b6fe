//! ATA disks behind a PCI IDE controller in compatibility mode, by bus-master DMA and with 48-bit addresses (ATA/ATAPI-6;
//! "Programming Interface for Bus Master IDE Controller", SFF-8038i).
//!
//! ```text
//!   table of frames ─► address, count, command ─► start the bus master ─► interrupt ─► its status, the drive's status
//! ```
//!
//! The controller reaches memory below 4 GiB, so on a machine with more Herald leaves such disks alone.

use super::drive::{Access, Drive, DriveError, SECTOR_BYTES};
use super::pci::{self, Root};
use crate::cpu::tsc;
use crate::layout;
use crate::physmem::PhysicalMemory;
use addr::{PAGE_SIZE, PageSize, Pfn};
use alloc::vec::Vec;
use core::fmt;
use mm::{Host, OutOfFrames};
use virtio_drivers::transport::pci::bus::{BarInfo, DeviceFunction, DeviceFunctionInfo};
use x86::io::{inb, inw, outb, outl};

/// Class and subclass of an IDE controller.
const IDE: (u8, u8) = (1, 1);
/// Programming interface: the controller is a bus master.
const BUS_MASTER: u8 = 1 << 7;
/// The same: a channel has ports of its own choice.
const NATIVE: [u8; 2] = [1 << 0, 1 << 2];
/// The BAR of the bus master's ports, eight for each channel.
const PORTS_BAR: u8 = 4;
/// The channels in compatibility mode: command ports, control port, interrupt line.
const CHANNELS: [(u16, u16, u8); 2] = [(0x1f0, 0x3f6, 14), (0x170, 0x376, 15)];

const COUNT: u16 = 2;
const LBA: u16 = 3;
const DEVICE: u16 = 6;
const COMMAND: u16 = 7;
const IDENTIFY: u8 = 0xec;
const READ_DMA_EXT: u8 = 0x25;
const WRITE_DMA_EXT: u8 = 0x35;
const FLUSH_CACHE_EXT: u8 = 0xea;
/// Device register: addresses are block numbers.
const BY_BLOCK: u8 = 1 << 6;
const SECOND: u8 = 1 << 4;
/// Device control: no interrupts.
const NO_INTERRUPTS: u8 = 1 << 1;
/// Device control: reset both drives.
const RESET: u8 = 1 << 2;

const ERROR: u8 = 1 << 0;
const DATA_REQUEST: u8 = 1 << 3;
const FAULT: u8 = 1 << 5;
const BUSY: u8 = 1 << 7;
/// What a channel without drives reads as.
const FLOATING: u8 = 0xff;

const MASTER_STATUS: u16 = 2;
const MASTER_TABLE: u16 = 4;
const START: u8 = 1 << 0;
const TO_MEMORY: u8 = 1 << 3;
const ACTIVE: u8 = 1 << 0;
const MASTER_ERROR: u8 = 1 << 1;
const MASTER_INTERRUPT: u8 = 1 << 2;
/// Last entry of a table.
const LAST: u64 = 1 << 63;

/// IDENTIFY's answer: words, and the bits in them that matter.
const WORDS: usize = 256;
const CAPABILITIES: (usize, u16) = (49, 1 << 8);
const COMMAND_SETS: (usize, u16) = (83, 1 << 10);
const HAS_FLUSH: (usize, u16) = (83, 1 << 13);
const SECTORS: usize = 100;

/// Why an ATA disk cannot be used, or a request has failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum AtaError {
    /// It does not answer, or with an error.
    Identify(u8),
    /// It has no DMA, or no 48-bit addresses.
    TooOld,
    /// There is memory that the controller does not reach.
    Reach,
    /// There is no frame for its table.
    OutOfFrames(OutOfFrames),
    /// A request failed: status of the drive and of the bus master.
    Failed(Access, u8, u8),
    /// It was given up before.
    Abandoned,
}

impl fmt::Display for AtaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Identify(status) => write!(f, "it does not say what it is: status {status:#04x}"),
            Self::TooOld => f.write_str("it lacks DMA, or 48-bit addresses"),
            Self::Reach => f.write_str("an IDE controller does not reach memory above 4 GiB"),
            Self::OutOfFrames(error) => error.fmt(f),
            Self::Failed(access, drive, master) => {
                write!(f, "{access} failed: status {drive:#04x}, bus master {master:#04x}")
            }
            Self::Abandoned => f.write_str("it has never answered an earlier request"),
        }
    }
}

/// Where a drive is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place {
    at: DeviceFunction,
    channel: u8,
    second: bool,
    /// First port of the channel's bus master.
    master: u16,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ATA disk {}-{} at {}", self.channel, u8::from(self.second), self.at)
    }
}

/// A drive, by the ports of its channel.
pub(super) struct Ata {
    place: Place,
    sectors: u64,
    /// Whether it knows the command.
    flushes: bool,
    /// The frame of its table.
    table: Pfn,
    under_way: Option<Access>,
    abandoned: bool,
}

/// The places where drives may be behind this function.
pub(super) fn places(root: &mut Root, at: DeviceFunction, info: &DeviceFunctionInfo) -> Vec<Place> {
    if (info.class, info.subclass) != IDE || info.prog_if & BUS_MASTER == 0 {
        return Vec::new();
    }
    let Ok(Some(BarInfo::IO { address, .. })) = root.bar_info(at, PORTS_BAR) else { return Vec::new() };
    let channels = (0..2_u8).filter(|&channel| info.prog_if & NATIVE[usize::from(channel)] == 0);
    let place =
        |channel, second| Place { at, channel, second, master: address as u16 + 8 * u16::from(channel) };
    channels.flat_map(|channel| [place(channel, false), place(channel, true)]).collect()
}

impl Place {
    fn read(self, register: u16) -> u8 {
        // SAFETY: a register of an ATA channel; reading it does nothing but acknowledge an interrupt.
        unsafe { inb(CHANNELS[usize::from(self.channel)].0 + register) }
    }

    fn write(self, register: u16, value: u8) {
        // SAFETY: a register of an ATA channel; commands touch memory only by the table that `begin` has set up.
        unsafe { outb(CHANNELS[usize::from(self.channel)].0 + register, value) };
    }

    /// The drive's status; an interrupt stays.
    fn status(self) -> u8 {
        // SAFETY: the alternate status register has no side effect.
        unsafe { inb(CHANNELS[usize::from(self.channel)].1) }
    }

    fn control(self, value: u8) {
        // SAFETY: the device control register: interrupts on or off, reset.
        unsafe { outb(CHANNELS[usize::from(self.channel)].1, value) };
    }

    fn read_master(self, register: u16) -> u8 {
        // SAFETY: a register of the bus master, at ports that the controller's BAR names.
        unsafe { inb(self.master + register) }
    }

    fn write_master(self, register: u16, value: u8) {
        // SAFETY: as above; it is started only with a table of frames that are the caller's (`Drive::begin`).
        unsafe { outb(self.master + register, value) };
    }

    fn select(self) {
        self.write(DEVICE, BY_BLOCK | if self.second { SECOND } else { 0 });
        self.settle();
    }

    /// 400 ns until the status is that of the drive and the command chosen last: four reads (ATA/ATAPI-6, 9.2).
    fn settle(self) {
        for _ in 0..4 {
            let _ = self.status();
        }
    }

    /// Waits until a bit of the status is as wanted, or an error; the status.
    fn wait(self, until: impl Fn(u8) -> bool, patience: u64) -> u8 {
        let start = tsc();
        loop {
            let status = self.status();
            if until(status) || tsc() - start > patience {
                return status;
            }
            core::hint::spin_loop();
        }
    }

    /// Whether a drive answers, of whatever kind.
    fn is_there(self) -> bool {
        self.select();
        !matches!(self.status(), 0 | FLOATING)
    }

    /// What the drive says of itself; `None`: it is no disk.
    fn identify(self, patience: u64) -> Result<Option<[u16; WORDS]>, AtaError> {
        self.control(NO_INTERRUPTS);
        self.select();
        // What the last address has left there is no signature.
        self.write(LBA + 1, 0);
        self.write(LBA + 2, 0);
        self.write(COMMAND, IDENTIFY);
        self.settle();
        let status = self.wait(|status| status & BUSY == 0, patience);
        // Others than disks leave a signature (ATA/ATAPI-6, 9.12).
        if self.read(LBA + 1) != 0 || self.read(LBA + 2) != 0 {
            return Ok(None);
        }
        if status & (BUSY | ERROR | DATA_REQUEST) != DATA_REQUEST {
            return Err(AtaError::Identify(status));
        }
        // SAFETY: the data register; the drive holds a sector ready.
        Ok(Some(core::array::from_fn(|_| unsafe { inw(CHANNELS[usize::from(self.channel)].0) })))
    }
}

impl Ata {
    /// Takes the drive over, if there is a disk: it has `patience` TSC ticks to say what it is.
    ///
    /// # Errors
    /// [`AtaError`].
    pub(super) fn open(
        root: &mut Root,
        place: Place,
        memory: &PhysicalMemory,
        patience: u64,
    ) -> Result<Option<Self>, AtaError> {
        pci::open_ports(root, place.at);
        if !place.is_there() {
            return Ok(None);
        }
        let Some(words) = place.identify(patience)? else { return Ok(None) };
        let has = |(word, bit): (usize, u16)| words[word] & bit != 0;
        if !has(CAPABILITIES) || !has(COMMAND_SETS) {
            return Err(AtaError::TooOld);
        }
        if memory.frames().known() << addr::PAGE_SHIFT > 1 << 32 {
            return Err(AtaError::Reach);
        }
        let sectors = (0..4).map(|index| u64::from(words[SECTORS + index]) << (16 * index)).sum();
        let table = memory.allocate_zeroed(PageSize::Size4K).map_err(AtaError::OutOfFrames)?;
        pci::let_use_memory(root, place.at);
        Ok(Some(Self { place, sectors, flushes: has(HAS_FLUSH), table, under_way: None, abandoned: false }))
    }

    /// Writes the table of frames: address, bytes, end (SFF-8038i, 1.2).
    fn describe(&self, frames: &[Pfn]) {
        let table = layout::direct(self.table.base()).as_u64() as *mut u64;
        for (index, frame) in frames.iter().enumerate() {
            let last = if index + 1 == frames.len() { LAST } else { 0 };
            let entry = frame.base().as_u64() | PAGE_SIZE << 32 | last;
            // SAFETY: the frame of the table is this drive's own, and has room for 512 entries.
            unsafe { table.add(index).write_volatile(entry) };
        }
    }

    /// Count and address, high bytes first (ATA/ATAPI-6, 6.20).
    fn address(&self, sector: u64, count: u16) {
        let (sector, count) = (sector.to_le_bytes(), count.to_le_bytes());
        for half in [1, 0] {
            self.place.write(COUNT, count[half]);
            for byte in 0..3 {
                self.place.write(LBA + byte as u16, sector[3 * half + byte]);
            }
        }
    }

    /// A command without data (ATA/ATAPI-6, 8.13). A drive that lacks it keeps what it says is written.
    fn flush(&mut self) {
        if self.flushes {
            self.place.select();
            self.place.control(0);
            self.place.write(COMMAND, FLUSH_CACHE_EXT);
            self.place.settle();
            self.under_way = Some(Access::Flush);
        }
    }

    /// What became of the request, which has ended.
    fn conclude(&mut self, access: Access) -> Result<(), DriveError> {
        let (place, master) = (self.place, self.place.read_master(MASTER_STATUS));
        place.write_master(0, 0);
        place.write_master(MASTER_STATUS, master | MASTER_INTERRUPT | MASTER_ERROR);
        self.under_way = None;
        // Reading it here lets the next interrupt come.
        let status = place.read(COMMAND);
        let good = status & (ERROR | FAULT) == 0 && master & MASTER_ERROR == 0;
        good.then_some(()).ok_or(DriveError::Ata(AtaError::Failed(access, status, master)))
    }
}

impl Drive for Ata {
    fn sectors(&self) -> u64 {
        self.sectors
    }

    fn is_read_only(&self) -> bool {
        false
    }

    fn interrupt_line(&self) -> Option<u8> {
        Some(CHANNELS[usize::from(self.place.channel)].2)
    }

    fn begin(&mut self, access: Access, frames: &[Pfn]) -> Result<(), DriveError> {
        if self.abandoned {
            return Err(DriveError::Ata(AtaError::Abandoned));
        }
        let (sector, command, direction) = match access {
            Access::Read(sector) => (sector, READ_DMA_EXT, TO_MEMORY),
            Access::Write(sector) => (sector, WRITE_DMA_EXT, 0),
            Access::Flush => {
                self.flush();
                return Ok(());
            }
        };
        self.describe(frames);
        let place = self.place;
        place.select();
        place.write_master(0, direction);
        place.write_master(MASTER_STATUS, MASTER_INTERRUPT | MASTER_ERROR);
        // SAFETY: the bus master's pointer to its table, which stays where it is.
        unsafe { outl(place.master + MASTER_TABLE, self.table.base().as_u64() as u32) };
        self.address(sector, (frames.len() as u64 * PAGE_SIZE / SECTOR_BYTES) as u16);
        place.control(0);
        place.write(COMMAND, command);
        place.write_master(0, direction | START);
        self.under_way = Some(access);
        Ok(())
    }

    fn poll(&mut self) -> Option<Result<(), DriveError>> {
        let Some(access) = self.under_way else { return Some(Ok(())) };
        let (status, master) = (self.place.status(), self.place.read_master(MASTER_STATUS));
        let ended = master & (ACTIVE | MASTER_ERROR) != ACTIVE || status & (ERROR | FAULT) != 0;
        (status & (BUSY | DATA_REQUEST) == 0 && ended).then(|| self.conclude(access))
    }

    /// Its neighbour on the channel, and the other channel, go with it.
    fn abandon(&mut self) {
        self.abandoned = true;
        self.place.write_master(0, 0);
        self.place.control(RESET | NO_INTERRUPTS);
        pci::close(&mut Root::new(pci::Ports), self.place.at);
    }
}
