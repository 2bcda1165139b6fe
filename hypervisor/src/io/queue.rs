//! A disk at work: requests wait in two lines, and a thread takes them to the drive, one at a time.
//!
//! ```text
//!   who faults ──► reads  ─┐                         ┌── interrupt, or a look now and then
//!   who writes ──► writes ─┴─► the disk's thread ─► drive ─► done: whoever has asked goes on
//! ```
//!
//! Reads first, since a guest waits for each of them; but not for ever, since they need frames, which come from writes.

use super::drive::{Access, Drive, DriveError, SECTOR_BYTES};
use crate::cpu::{interrupts, tsc};
use crate::physmem::PhysicalMemory;
use crate::sched::{self, Group, JoinHandle, Thread};
use abi::config::SwapFaults;
use addr::{PAGE_SIZE, Pfn};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use mm::{Host, OutOfFrames};
use spin::{Mutex, Once};
use tiers::{BlockDevice, BlockError, MOST_PAGES};

/// Reads in a row while a write waits.
const MOST_READS: u32 = 8;
/// Looks at a drive in a second that may not interrupt.
const LOOKS: u64 = 2000;
/// Before guests: it only moves pages between lines and drive.
const WEIGHT: u32 = 400;

/// Disks that are served in a run: the swap disk, and one for a snapshot. The threads of others would look now and then.
const MOST_DISKS: usize = 2;
/// Whom an interrupt wakes: the thread of each disk. Its handler takes no lock: who holds it may be the one interrupted (I4).
static THREADS: [Once<Arc<Thread>>; MOST_DISKS] = [const { Once::new() }; MOST_DISKS];

/// Frames that devices have kept.
static LOST: AtomicU64 = AtomicU64::new(0);

/// Frames that devices have kept which did not answer.
pub(crate) fn lost_frames() -> u64 {
    LOST.load(Ordering::Relaxed)
}

const PENDING: u8 = 0;
const DONE: u8 = 1;
const FAILED: u8 = 2;

/// What is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Work {
    Read,
    Write,
    /// To know when the writes before it are done.
    Wait,
    /// To have them stay, should the power go.
    Flush,
}

struct Request {
    block: u64,
    work: Work,
    frames: heapless::Vec<Pfn, MOST_PAGES>,
    state: AtomicU8,
    waiter: Arc<Thread>,
}

#[derive(Default)]
struct Lines {
    reads: VecDeque<Arc<Request>>,
    writes: VecDeque<Arc<Request>>,
    /// Reads since the last write.
    reads_served: u32,
    /// Requests to write so far, for faults that are injected.
    writes_served: u32,
}

/// A disk, or a part of one.
pub(crate) struct Share {
    /// What messages call it.
    pub(super) name: &'static str,
    pub(super) drive: Box<dyn Drive>,
    /// TSC ticks that it has for an answer.
    pub(super) patience: u64,
    /// The page of the disk that is block 0.
    pub(super) first: u64,
    /// Blocks.
    pub(super) blocks: u64,
}

/// The lines.
pub(crate) struct DiskQueue {
    blocks: u64,
    lines: Mutex<Lines>,
    thread: Once<Arc<Thread>>,
    stops: AtomicBool,
    faults: SwapFaults,
}

impl DiskQueue {
    /// Starts the thread of a disk.
    ///
    /// # Errors
    /// [`OutOfFrames`].
    pub(crate) fn start(
        share: Share,
        memory: &Arc<PhysicalMemory>,
        tsc_hz: u64,
        faults: SwapFaults,
    ) -> Result<(Arc<Self>, JoinHandle), OutOfFrames> {
        let this = Arc::new(Self {
            blocks: share.blocks,
            lines: Mutex::default(),
            thread: Once::new(),
            stops: AtomicBool::new(false),
            faults,
        });
        let line = share.drive.interrupt_line();
        let memory = Arc::clone(memory);
        let mut server = Server { share, memory, pause: tsc_hz / LOOKS };
        let own = Arc::clone(&this);
        let handle = sched::spawn(&Group::new(WEIGHT), move || own.run(&mut server))?;
        this.thread.call_once(|| Arc::clone(handle.thread()));
        let is_own =
            |place: &Once<_>| Arc::ptr_eq(place.call_once(|| Arc::clone(handle.thread())), handle.thread());
        let _noted = THREADS.iter().any(is_own);
        if let Some(line) = line {
            let wake = || THREADS.iter().filter_map(Once::get).for_each(Thread::unpark);
            interrupts::listen_to_disk(line, wake);
        }
        Ok((this, handle))
    }

    /// What was written before stays, should the power go.
    ///
    /// # Errors
    /// [`BlockError`].
    pub(crate) fn flush(&self) -> Result<(), BlockError> {
        self.ask(0, Work::Flush, &[])
    }

    /// The thread ends, once nobody waits.
    pub(crate) fn stop(&self) {
        self.stops.store(true, Ordering::Release);
        self.wake();
    }

    fn wake(&self) {
        self.thread.get().into_iter().for_each(Thread::unpark);
    }

    /// Asks, and waits for the answer. No lock is held.
    fn ask(&self, block: u64, work: Work, frames: &[Pfn]) -> Result<(), BlockError> {
        let request = Arc::new(Request {
            block,
            work,
            frames: frames.iter().copied().collect(),
            state: AtomicU8::new(PENDING),
            waiter: sched::current(),
        });
        let mut lines = self.lines.lock();
        let line = if work == Work::Read { &mut lines.reads } else { &mut lines.writes };
        line.push_back(Arc::clone(&request));
        drop(lines);
        self.wake();
        loop {
            match request.state.load(Ordering::Acquire) {
                PENDING => sched::park(None),
                DONE => return Ok(()),
                _ => return Err(BlockError { block }),
            }
        }
    }

    fn next(&self) -> Option<Arc<Request>> {
        let mut lines = self.lines.lock();
        let patient = lines.reads_served < MOST_READS || lines.writes.is_empty();
        let read = if patient { lines.reads.pop_front() } else { None };
        lines.reads_served = if read.is_some() { lines.reads_served + 1 } else { 0 };
        read.or_else(|| lines.writes.pop_front()).or_else(|| lines.reads.pop_front())
    }

    fn run(&self, server: &mut Server) {
        loop {
            match self.next() {
                Some(request) => {
                    let good = self.is_spared(&request) && server.serve(&request);
                    request.state.store(if good { DONE } else { FAILED }, Ordering::Release);
                    request.waiter.unpark();
                }
                None if self.stops.load(Ordering::Acquire) => return,
                None => sched::park(None),
            }
        }
    }

    /// Whether no fault is to be injected. A block that cannot be read cannot be read again, alone or with others.
    fn is_spared(&self, request: &Request) -> bool {
        let SwapFaults { read_every, write_every } = self.faults;
        let blocks = request.block..request.block + request.frames.len() as u64;
        match request.work {
            Work::Read => {
                read_every == 0
                    || !blocks.into_iter().any(|block| (block + 1).is_multiple_of(read_every.into()))
            }
            Work::Write => {
                let mut lines = self.lines.lock();
                lines.writes_served += 1;
                write_every == 0 || !lines.writes_served.is_multiple_of(write_every)
            }
            Work::Wait | Work::Flush => true,
        }
    }
}

impl BlockDevice for DiskQueue {
    fn blocks(&self) -> u64 {
        self.blocks
    }

    fn read(&self, first: u64, frames: &[Pfn]) -> Result<(), BlockError> {
        self.ask(first, Work::Read, frames)
    }

    fn write(&self, first: u64, frames: &[Pfn]) -> Result<(), BlockError> {
        self.ask(first, Work::Write, frames)
    }

    fn wait(&self) {
        // Nothing is asked of the drive, so nothing fails.
        let _ = self.ask(0, Work::Wait, &[]);
    }
}

/// What the thread owns.
struct Server {
    share: Share,
    memory: Arc<PhysicalMemory>,
    /// TSC ticks between two looks.
    pause: u64,
}

impl Server {
    fn serve(&mut self, request: &Request) -> bool {
        let sector = (self.share.first + request.block) * (PAGE_SIZE / SECTOR_BYTES);
        let access = match request.work {
            Work::Read => Access::Read(sector),
            Work::Write => Access::Write(sector),
            Work::Wait => return true,
            Work::Flush => Access::Flush,
        };
        let result = self.share.drive.begin(access, &request.frames).and_then(|()| self.wait(access));
        if matches!(result, Err(DriveError::NoAnswer(_))) {
            self.give_away(&request.frames);
        }
        if let Err(error) = &result {
            log::error!("{}: {error}", self.share.name);
        }
        result.is_ok()
    }

    /// A device that does not answer may still write to these frames, whatever it was told since: nobody else gets them.
    fn give_away(&self, frames: &[Pfn]) {
        frames.iter().for_each(|&frame| self.memory.frames().meta(frame).get());
        LOST.fetch_add(frames.len() as u64, Ordering::Relaxed);
    }

    /// Waits until a request is done. A drive that does not answer is cut off: it refuses whatever comes later.
    fn wait(&mut self, access: Access) -> Result<(), DriveError> {
        let start = tsc();
        loop {
            if let Some(result) = self.share.drive.poll() {
                return result;
            }
            if tsc() - start > self.share.patience {
                self.share.drive.abandon();
                return Err(DriveError::NoAnswer(access));
            }
            sched::park(Some(tsc() + self.pause));
        }
    }
}
