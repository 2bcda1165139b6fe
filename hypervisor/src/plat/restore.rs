//! A guest that goes on from a snapshot: its memory is a private mapping of it, page by page as the guest asks.
//!
//! ```text
//!   disk ─► header, sections: good? ─► processors, board, time
//!     └───► the guest faults ─► a file of the machine's memory ─► page map ─► disk ─► checksum ─► mapped, or a copy of it
//! ```
//!
//! A page that cannot be read, or is not what was written, ends the guest, and nobody else. What the guest has written to is
//! its own, and goes to swap like any other memory. The pages that it asks for first are remembered, and read ahead the next
//! time (`ahead.rs`).

use super::ahead::{Ahead, Recorder};
use super::memory::{Memory, Notifiers};
use super::run::{GuestError, HostMemory, Machine};
use super::snapshot::digest;
use super::vm::{Clock, Place, Vm};
use crate::cpu::tsc;
use crate::exit;
use crate::io::DiskQueue;
use crate::physmem::PhysicalMemory;
use crate::vcpu::{Start, VcpuState};
use crate::vmx::VirtualApic;
use abi::config::{MAX_VCPUS, SwapFaults};
use addr::{Gpa, GpaRange, PAGE_SHIFT, PAGE_SIZE, PageSize, Pfn};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use devices::Board;
use mm::{File, FrameMemory, Host, Store, StoreError};
use snapshot::{
    Blocks, Missing, OpenError, Page, PageError, Place as PlaceOfPage, Range, Snapshot, empty_page,
};
use spin::Mutex;
use tiers::{BlockDevice, BlockError};

/// Chunks whose checksums are kept in memory.
const KEPT_SUMS: usize = 16;
/// Parts of a TSC's frequency by which two measurements of one may differ.
const LIKE: u64 = 100;

/// Why a guest does not go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum RestoreError {
    /// There is no disk with a snapshot.
    NoDisk,
    /// It is no good.
    Open(OpenError<BlockError>),
    /// The processor lacks what the guest has seen.
    Features(Missing),
    /// The TSC runs at another rate, in Hz.
    Frequency {
        /// The guest's.
        guest: u64,
        /// This machine's.
        machine: u64,
    },
    /// The configuration says another number of virtual processors.
    Processors {
        /// The snapshot's.
        snapshot: usize,
        /// The configuration's.
        configured: u32,
    },
    /// Its virtual processors, its devices or its memory are none that this Herald has.
    Strange(&'static str),
    /// Its local APICs were in the processor, and this machine does not do that.
    VirtualApic,
    /// The oracle sees other memory than at the instant.
    Oracle {
        /// Now; `None`: it cannot be read.
        now: Option<u64>,
        /// Then.
        then: u64,
    },
}

impl fmt::Display for RestoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the snapshot cannot be restored: ")?;
        match self {
            Self::NoDisk => f.write_str("there is no disk with one"),
            Self::Open(error) => error.fmt(f),
            Self::Features(missing) => write!(f, "its guest has seen what this processor lacks: {missing}"),
            Self::Frequency { guest, machine } => {
                write!(f, "its guest's TSC runs at {guest} Hz, this machine's at {machine} Hz")
            }
            Self::Processors { snapshot, configured } => {
                write!(f, "it has {snapshot} virtual processors, the configuration says {configured}")
            }
            Self::Strange(what) => write!(f, "its {what} makes no sense to this build"),
            Self::VirtualApic => {
                f.write_str("its local APICs need --apic-virtualisation, and a processor that has it")
            }
            Self::Oracle { now, then } => {
                write!(f, "the oracle saw memory of digest {then:#x}, and sees {now:#x?} now")
            }
        }
    }
}

impl From<RestoreError> for GuestError {
    fn from(error: RestoreError) -> Self {
        Self::Restore(error)
    }
}

impl Machine {
    /// Builds a guest from the snapshot on the disk. The caller is its supervisor.
    ///
    /// # Errors
    /// [`GuestError`].
    pub(super) fn restore(
        &'static self,
        place: &Place,
        host: &HostMemory,
    ) -> Result<(Vm, Vec<Start>, Ahead), GuestError> {
        let source = Arc::new(self.open_snapshot()?);
        let saved = &source.snapshot.machine;
        self.can_go_on(saved, place)?;
        let board = postcard::from_bytes::<Board>(&source.snapshot.board);
        let board = board.map_err(|_| RestoreError::Strange("board"))?;
        let starts = starts(saved)?;
        let clock = Clock {
            boot_seconds: saved.boot_seconds,
            tsc_offset: saved.tsc.wrapping_sub(tsc()).cast_signed(),
            ..self.clock
        };
        let ram = ram(&saved.ranges).ok_or(RestoreError::Strange("memory"))?;
        let mut first = 0;
        let mut files = Vec::new();
        for range in &ram {
            let store = Box::new(Restored { source: Arc::clone(&source), first });
            files.push((first, File::new(&host.mm, store, range.len() >> PAGE_SHIFT)));
            first += range.len() >> PAGE_SHIFT;
        }
        let mapped = ram.into_iter().zip(files.iter().map(|(_, file)| Arc::clone(file)));
        let memory = Memory::of_files(
            &host.mm,
            mapped,
            self.paging_features(place.config.vcpus),
            Notifiers::of(self.config),
        );
        let setup = |error| GuestError::Vm(super::vm::VmError::Setup(error));
        let mut memory = memory.map_err(setup)?;
        memory.obey(place.config).map_err(setup)?;
        if let Some(then) = saved.digest.filter(|_| self.config.oracle) {
            let now = digest(&memory).ok();
            if now != Some(then) {
                return Err(RestoreError::Oracle { now, then }.into());
            }
            log::info!("{}: the oracle sees the memory of the instant", place.name);
        }
        let vm = Vm::of(self, place.clone(), host, (memory, board, clock)).map_err(GuestError::Vm)?;
        if place.config.merge {
            log::warn!(
                "{}: its pages are not merged: its memory is a file, but for what it discards",
                place.name
            );
        }
        log::info!("guest {} goes on from a snapshot of {} pages", place.name, source.snapshot.header.stored);
        let ahead = Ahead::new(&source, files);
        Ok((vm, starts, ahead))
    }

    /// Reads all but memory.
    fn open_snapshot(&self) -> Result<Source, GuestError> {
        let disk = self.disks.lock().snapshot.take().ok_or(RestoreError::NoDisk)?;
        let served = DiskQueue::start(disk.into_share(), self.host, self.clock.tsc_hz, SwapFaults::default());
        let (queue, thread) = served.map_err(GuestError::NoMemory)?;
        // Clones of the guest may need it for longer than the guest.
        *self.snapshot_queue.lock() = Some((Arc::clone(&queue), thread));
        let disk = Disk { queue, host: Arc::clone(self.host) };
        let snapshot = Snapshot::open(&disk).map_err(RestoreError::Open)?;
        Ok(Source { disk, snapshot, sums: Mutex::default(), recorder: Recorder::default() })
    }

    /// Whether this machine can go on with such a guest.
    fn can_go_on(&self, saved: &snapshot::Machine, place: &Place) -> Result<(), RestoreError> {
        saved
            .features
            .check(&exit::features(|control| self.offers(control)))
            .map_err(RestoreError::Features)?;
        let (guest, machine) = (saved.tsc_hz, self.clock.tsc_hz);
        if guest.abs_diff(machine) > machine / LIKE {
            return Err(RestoreError::Frequency { guest, machine });
        }
        let (snapshot, configured) = (saved.processors.len(), place.config.vcpus);
        if snapshot as u64 != u64::from(configured) {
            return Err(RestoreError::Processors { snapshot, configured });
        }
        // No guest's TSC comes that far, and no sum of ticks overflows before.
        if saved.tsc.cast_signed() < 0 {
            return Err(RestoreError::Strange("time"));
        }
        if configured > MAX_VCPUS {
            return Err(RestoreError::Strange("number of virtual processors"));
        }
        let lent = saved.processors.iter().any(|processor| processor.apic.is_some());
        let lends = self.config.apic_virtualisation && VirtualApic::is_offered(&self.vmx.capabilities);
        if lent && !lends { Err(RestoreError::VirtualApic) } else { Ok(()) }
    }
}

fn starts(saved: &snapshot::Machine) -> Result<Vec<Start>, RestoreError> {
    let states = saved.processors.iter().map(|saved| VcpuState::load(saved).map(Start::Resume));
    states.collect::<Result<_, _>>().map_err(|_| RestoreError::Strange("virtual processor"))
}

/// The memory; `None`: not in whole pages, at no address, or not in order.
fn ram(ranges: &[Range]) -> Option<Vec<GpaRange>> {
    let whole = |bytes: u64| bytes.is_multiple_of(PAGE_SIZE);
    let range = |range: &Range| {
        (whole(range.start) && whole(range.bytes) && range.bytes != 0).then_some(())?;
        GpaRange::sized(Gpa::try_new(range.start)?, range.bytes)
    };
    let ram: Vec<GpaRange> = ranges.iter().map(range).collect::<Option<_>>()?;
    ram.is_sorted_by(|before, behind| before.end() <= behind.start()).then_some(ram)
}

/// The disk, for the format.
pub(super) struct Disk {
    pub(super) queue: Arc<DiskQueue>,
    pub(super) host: Arc<PhysicalMemory>,
}

impl Blocks for Disk {
    type Error = BlockError;

    fn bytes(&self) -> u64 {
        self.queue.blocks() << PAGE_SHIFT
    }

    fn read(&self, page: u64, bytes: &mut Page) -> Result<(), BlockError> {
        let frame = self.host.allocate_zeroed(PageSize::Size4K).map_err(|_| BlockError { block: page })?;
        let read = self.queue.read(page, &[frame]);
        self.host.read_bytes(frame, 0, bytes);
        self.host.free(frame);
        read
    }
}

/// A snapshot on its disk.
pub(super) struct Source {
    pub(super) disk: Disk,
    pub(super) snapshot: Snapshot,
    /// What is asked for.
    pub(super) recorder: Recorder,
    /// Checksums of chunks, those that were used last at the end.
    sums: Mutex<Vec<(u64, Arc<Page>)>>,
}

impl Source {
    /// Fills a zeroed frame.
    fn fill(&self, index: u64, frame: Pfn) -> Result<(), PageError<BlockError>> {
        let Some(place) = self.snapshot.place(index) else { return Ok(()) };
        self.recorder.note(index);
        self.disk.queue.read(place.page, &[frame]).map_err(PageError::Blocks)?;
        self.check(&place, frame)
    }

    /// Checks a page that was read.
    pub(super) fn check(&self, place: &PlaceOfPage, frame: Pfn) -> Result<(), PageError<BlockError>> {
        let sums = self.sums(place.chunk)?;
        let mut bytes = empty_page();
        self.disk.host.read_bytes(frame, 0, &mut bytes[..]);
        place.check(&sums, &bytes)
    }

    fn sums(&self, chunk: u64) -> Result<Arc<Page>, PageError<BlockError>> {
        if let Some((_, sums)) = self.sums.lock().iter().find(|(known, _)| *known == chunk) {
            return Ok(Arc::clone(sums));
        }
        // No lock is held while the disk is read.
        let read: Arc<Page> = self.snapshot.sums(&self.disk, chunk)?.into();
        let mut kept = self.sums.lock();
        if kept.len() == KEPT_SUMS {
            kept.remove(0);
        }
        kept.push((chunk, Arc::clone(&read)));
        Ok(read)
    }
}

/// A range of the guest's memory as a file, whose pages are on the disk.
struct Restored {
    source: Arc<Source>,
    /// The number of its first page among all.
    first: u64,
}

impl Store for Restored {
    fn read(&self, index: u64, frame: Pfn) -> Result<(), StoreError> {
        let page = self.first + index;
        self.source.fill(page, frame).map_err(|error| {
            log::error!("snapshot: page {page} of memory: {error}");
            StoreError { index }
        })
    }

    /// The mapping is private: nothing is written back.
    fn write(&self, index: u64, _frame: Pfn) -> Result<(), StoreError> {
        Err(StoreError { index })
    }

    /// Nobody truncates memory.
    fn truncate(&self, _len: u64) {}

    fn waits(&self) -> bool {
        true
    }
}
