//! Where pages go when frames are short: the tiers, and the threads that serve them.
//!
//! ```text
//!   a fault, the reclaimer ─► tiers ── crowded ──► the writer ─┐
//!   a fault in swap ─────────► tiers ──────────────────────────┴─► the disk's thread ─► drive
//! ```

use super::run::GuestError;
use crate::io::{DiskQueue, Disks, Share};
use crate::physmem::PhysicalMemory;
use crate::sched::{self, Group, JoinHandle, Thread, Turn};
use abi::config::{Swap, SwapFaults};
use addr::PAGE_SHIFT;
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};
use mm::OutOfFrames;
use spin::{Mutex, Once};
use tiers::{BlockDevice, Memory, Tiers};

/// Frames through which pages pass on their way to a disk, where memory is no tier.
const PASSED: u64 = 256;
const WEIGHT: u32 = 100;

/// The tiers of a machine.
pub(super) type Device = Arc<Tiers<PhysicalMemory>>;

/// What the configuration asks for.
pub(super) struct SwapSystem {
    pub(super) device: Device,
    pub(super) writer: Option<Arc<Writer>>,
    /// The writer's thread, then the disk's.
    threads: Vec<JoinHandle>,
    queue: Option<Arc<DiskQueue>>,
}

impl SwapSystem {
    /// Sets up the tiers, and starts their threads. `None`: there is to be no swap.
    ///
    /// # Errors
    /// [`GuestError`]: no disk, or no memory for the tables.
    pub(super) fn start(
        host: &Arc<PhysicalMemory>,
        config: Swap,
        disks: &Mutex<Disks>,
        (tsc_hz, faults): (u64, SwapFaults),
    ) -> Result<Option<Self>, GuestError> {
        if config == Swap::default() {
            return Ok(None);
        }
        let memory = match config.ram >> PAGE_SHIFT {
            0 => (Memory::Passed, PASSED),
            frames => (Memory::Compressed, frames),
        };
        let mut threads = Vec::new();
        let mut queue = None;
        if config.disk > 0 {
            let disk = take_disk(disks, config.disk)?;
            let (started, thread) = DiskQueue::start(disk, host, tsc_hz, faults)?;
            queue = Some(started);
            threads.push(thread);
        }
        let disk = queue.clone().map(|queue| Box::new(queue) as Box<dyn BlockDevice>);
        let device = Arc::new(Tiers::new(Arc::clone(host), memory, disk).map_err(GuestError::Swap)?);
        let mut writer = None;
        if queue.is_some() {
            let (started, thread) = Writer::start(&device)?;
            writer = Some(started);
            threads.insert(0, thread);
        }
        Ok(Some(Self { device, writer, threads, queue }))
    }

    /// Ends the threads. Nobody uses the device any more.
    pub(super) fn stop(self) {
        let Self { device, writer, threads, queue } = self;
        drop(device);
        for thread in threads {
            // The writer may wait for the disk, so it goes first.
            match &writer {
                Some(writer) if !writer.stops.swap(true, Ordering::AcqRel) => writer.wake(),
                _ => queue.iter().for_each(|queue| queue.stop()),
            }
            thread.join();
        }
    }
}

/// So many bytes of a disk.
fn take_disk(disks: &Mutex<Disks>, bytes: u64) -> Result<Share, GuestError> {
    let wanted = bytes >> PAGE_SHIFT;
    let disks = &mut disks.lock().swap;
    let found = disks.iter().position(|disk| disk.slots() >= wanted);
    found.map(|index| disks.remove(index).into_share(wanted)).ok_or(GuestError::NoDisk(wanted))
}

/// Who moves pages on to the disk.
pub(crate) struct Writer {
    device: Device,
    thread: Once<Arc<Thread>>,
    stops: AtomicBool,
}

impl Writer {
    fn start(device: &Device) -> Result<(Arc<Self>, JoinHandle), OutOfFrames> {
        let this =
            Arc::new(Self { device: Arc::clone(device), thread: Once::new(), stops: AtomicBool::new(false) });
        let own = Arc::clone(&this);
        let handle = sched::spawn(&Group::new(WEIGHT), move || own.run())?;
        this.thread.call_once(|| Arc::clone(handle.thread()));
        Ok((this, handle))
    }

    /// Pages have gone to swap: there may be enough of them for the disk.
    pub(super) fn look(&self) {
        if self.device.is_crowded() {
            self.wake();
        }
    }

    fn wake(&self) {
        self.thread.get().into_iter().for_each(Thread::unpark);
    }

    fn run(&self) {
        while !self.stops.load(Ordering::Acquire) {
            while self.device.is_crowded() && self.device.move_down() && !self.stops.load(Ordering::Acquire) {
                if sched::turn() == Turn::Over {
                    sched::yield_now();
                }
            }
            // It has waited for the disk, and may have missed that it was woken.
            if !self.stops.load(Ordering::Acquire) {
                sched::park(None);
            }
        }
    }
}
