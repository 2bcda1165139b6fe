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
use super::snapshot::{Behind, digest};
use super::vm::{Clock, Place, Vm};
use crate::cpu::tsc;
use crate::exit;
use crate::io::DiskQueue;
use crate::physmem::PhysicalMemory;
use crate::vcpu::{Start, VcpuState};
use crate::vmx::VirtualApic;
use abi::config::{MAX_VCPUS, Snapshot as ConfiguredSnapshot};
use addr::{Gpa, GpaRange, PAGE_SHIFT, PAGE_SIZE, PageSize, Pfn};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use devices::Board;
use mm::{File, FrameMemory, Host, OutOfFrames, Store, StoreError};
use mmu::LogError;
use snapshot::{
    Blocks, Missing, OpenError, Page, PageError, Place as PlaceOfPage, Range, Snapshot, WorkingSet,
    empty_page,
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
    /// What the guest writes cannot be logged, and its snapshots are to build on this one.
    Log(LogError),
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
            Self::Log(error) => error.fmt(f),
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
            // Nothing is written yet: what is discarded is what the file has.
            let now = digest(&memory, Behind::Discarded).ok();
            if now != Some(then) {
                return Err(RestoreError::Oracle { now, then }.into());
            }
            log::info!("{}: the oracle sees the memory of the instant", place.name);
        }
        let vm = Vm::of(self, place.clone(), host, (memory, board, clock)).map_err(GuestError::Vm)?;
        if self.config.snapshot == ConfiguredSnapshot::RestoreAndTake {
            vm.memory.begin_log().map_err(RestoreError::Log)?;
            vm.snapshots.go_on(&source.disk.queue, source.snapshot.header);
        }
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
        let queue = self.snapshot_disk().ok_or(RestoreError::NoDisk)?;
        let disk = Disk { queue, host: Arc::clone(self.host) };
        let opened = disk.with_frame(|disk| Snapshot::open(disk)).map_err(GuestError::NoMemory)?;
        let snapshot = opened.map_err(RestoreError::Open)?;
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

/// The disk.
pub(super) struct Disk {
    pub(super) queue: Arc<DiskQueue>,
    pub(super) host: Arc<PhysicalMemory>,
}

/// The disk, for the format: by a frame of the caller's. So no read of what is not memory's fails for want of one.
struct Through<'a>(&'a Disk, Pfn);

impl Disk {
    /// Works on it with a frame of its own.
    fn with_frame<T>(&self, work: impl FnOnce(&Through<'_>) -> T) -> Result<T, OutOfFrames> {
        let frame = self.host.allocate_zeroed(PageSize::Size4K)?;
        let result = work(&Through(self, frame));
        self.host.free(frame);
        Ok(result)
    }
}

impl Blocks for Through<'_> {
    type Error = BlockError;

    fn bytes(&self) -> u64 {
        self.0.queue.blocks() << PAGE_SHIFT
    }

    fn read(&self, page: u64, bytes: &mut Page) -> Result<(), BlockError> {
        self.0.queue.read(page, &[self.1])?;
        self.0.host.read_bytes(self.1, 0, bytes);
        Ok(())
    }
}

/// A snapshot on its disk.
pub(super) struct Source {
    pub(super) disk: Disk,
    pub(super) snapshot: Snapshot,
    /// What is asked for.
    pub(super) recorder: Recorder,
    /// Checksums of chunks by their pages, those that were used last at the end.
    sums: Mutex<Vec<(u64, Arc<Page>)>>,
}

impl Source {
    /// Fills a zeroed frame.
    fn fill(&self, index: u64, frame: Pfn) -> Result<(), PageError<BlockError>> {
        let Some(place) = self.snapshot.place(index) else { return Ok(()) };
        self.recorder.note(index);
        let sums = self.sums(&place, frame)?;
        self.disk.queue.read(place.page, &[frame]).map_err(PageError::Blocks)?;
        self.check(&sums, &place, frame)
    }

    /// Checks a page that was read.
    pub(super) fn check(
        &self,
        sums: &Page,
        place: &PlaceOfPage,
        frame: Pfn,
    ) -> Result<(), PageError<BlockError>> {
        let mut bytes = empty_page();
        self.disk.host.read_bytes(frame, 0, &mut bytes[..]);
        place.check(sums, &bytes)
    }

    /// The checksums of a page's chunk, by a frame that is to have the page later.
    pub(super) fn sums(&self, place: &PlaceOfPage, frame: Pfn) -> Result<Arc<Page>, PageError<BlockError>> {
        if let Some((_, sums)) = self.sums.lock().iter().find(|(known, _)| *known == place.sums) {
            return Ok(Arc::clone(sums));
        }
        // No lock is held while the disk is read.
        let read: Arc<Page> = self.snapshot.sums(&Through(&self.disk, frame), place)?.into();
        let mut kept = self.sums.lock();
        if kept.len() == KEPT_SUMS {
            kept.remove(0);
        }
        kept.push((place.sums, Arc::clone(&read)));
        Ok(read)
    }

    /// The working set that was recorded last; empty where there is none, or no frame to read it with.
    pub(super) fn working_set(&self) -> WorkingSet {
        self.disk.with_frame(|disk| self.snapshot.working_set(disk)).unwrap_or_default()
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

    fn next_used(&self, index: u64) -> Option<u64> {
        // What is behind the range is another's.
        self.source.snapshot.next_stored(self.first + index)?.checked_sub(self.first)
    }

    /// Nobody truncates memory.
    fn truncate(&self, _len: u64) {}

    fn waits(&self) -> bool {
        true
    }
}
