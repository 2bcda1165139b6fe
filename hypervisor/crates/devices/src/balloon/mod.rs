//! A balloon (virtio 1.2, 5.5): the guest gives pages back, because it was asked to, or because they are free anyway.
//!
//! ```text
//!  Herald: target ──► num_pages, interrupt ──► driver takes pages from its guest's programs
//!                                                │ inflate: their numbers ──► Work: discarded, in ranges
//!                                                │ deflate: numbers that it takes back ──► touched again, that is all
//!                        actual ◄────────────────┘
//!  driver: pages that are free ──► report: their addresses ──► Work: discarded; the driver may use them again at any time
//! ```
//!
//! The driver deflates by itself rather than have a program killed (VIRTIO_BALLOON_F_DEFLATE_ON_OOM). It needs the memory, and
//! the target comes down to what it has left: it is not asked for the same pages again.
//!
//! Whoever notifies the device serves it, chain by chain: [`Balloon::lend`], [`Work::perform`] with no lock held,
//! [`Balloon::give_back`].

mod batch;
#[cfg(test)]
mod tests;

use crate::virtio::queue::{Chain, LARGEST, Queue};
use crate::virtio::transport::{self, Identity, Loan, Served, Transport};
use crate::virtio::{Broken, Memory};
use addr::{Gpa, PAGE_SHIFT};
use batch::Batch;
use serde::{Deserialize, Serialize};

/// Guest-physical address of the registers.
pub const BASE: u64 = 0xfeb0_0000;
/// Bytes that the device answers.
pub const BYTES: u64 = 0x1000;
/// Its interrupt line.
pub const IRQ: u8 = 16;

/// VIRTIO_BALLOON_F_DEFLATE_ON_OOM.
const DEFLATE_ON_OOM: u64 = 1 << 2;
/// VIRTIO_BALLOON_F_REPORTING.
const REPORTING: u64 = 1 << 5;
/// A memory balloon.
const DEVICE: u32 = 5;

const INFLATE: usize = 0;
const DEFLATE: usize = 1;
/// Where a driver has the queue of reports that counts only the queues which are there; and where the specification has it.
const REPORT_DENSE: usize = 2;
const REPORT: usize = 4;
const QUEUES: usize = 5;
const IDENTITY: Identity<QUEUES> = Identity {
    device: DEVICE,
    features: DEFLATE_ON_OOM | REPORTING,
    sizes: [LARGEST, LARGEST, LARGEST, 0, LARGEST],
};

/// Offset of actual in the configuration, behind num_pages; 32 bits each.
const ACTUAL: u64 = 4;
/// Most page numbers of a chain. Drivers send 256.
const MOST_NUMBERS: u32 = 4096;
const NUMBER_BYTES: u32 = 4;
/// Page numbers that are read at a time.
const NUMBERS: u32 = 128;

/// What has been given back since the guest's start, in pages of 4 KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    /// Put into the balloon.
    pub inflated: u64,
    /// Reported as free.
    pub reported: u64,
    /// Ranges that these were discarded in.
    pub ranges: u64,
}

/// What a balloon is like now, in pages of 4 KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BalloonState {
    /// Pages that it is to hold.
    pub target: u32,
    /// Pages that it holds, as the driver says.
    pub actual: u32,
    /// What has been given back.
    pub given: Given,
}

/// The device.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Balloon {
    transport: Transport<QUEUES>,
    state: BalloonState,
}

/// A chain that waits, to be served with no lock held.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    loan: Loan,
    served: Result<Served, Broken>,
    given: Given,
}

impl Balloon {
    pub(crate) const fn new(target: u32) -> Self {
        let given = Given { inflated: 0, reported: 0, ranges: 0 };
        Self { transport: Transport::new(IDENTITY), state: BalloonState { target, actual: 0, given } }
    }

    /// A load of `width` bytes at an offset. Registers answer aligned ones of 32 bits only.
    pub(crate) fn read(&self, offset: u64, width: u8) -> u64 {
        match offset.checked_sub(transport::CONFIG) {
            Some(at) => {
                let bytes = u64::from(self.state.actual) << 32 | u64::from(self.state.target);
                let value = if at < 8 { bytes >> (8 * at) } else { 0 };
                value & (u64::MAX >> (64 - 8 * u32::from(width.clamp(1, 8))))
            }
            None if width == 4 && offset & 3 == 0 => self.transport.read(offset).into(),
            None => 0,
        }
    }

    /// A store of `width` bytes at an offset; whether there is work now.
    pub(crate) fn write(&mut self, offset: u64, width: u8, value: u32) -> bool {
        if width != 4 || offset & 3 != 0 {
            return false;
        }
        match offset.checked_sub(transport::CONFIG) {
            Some(ACTUAL) => {
                self.set_actual(value);
                false
            }
            Some(_) => false,
            None => {
                let waits = self.transport.write(offset, value);
                if self.transport.is_reset() {
                    self.state.actual = 0;
                }
                waits
            }
        }
    }

    fn set_actual(&mut self, actual: u32) {
        let before = core::mem::replace(&mut self.state.actual, actual);
        if actual < before && actual < self.state.target {
            self.set_target(actual);
        }
    }

    /// Pages that the balloon is to hold.
    pub(crate) fn set_target(&mut self, pages: u32) {
        if pages != self.state.target {
            self.state.target = pages;
            self.transport.configuration_changed();
        }
    }

    pub(crate) const fn state(&self) -> BalloonState {
        self.state
    }

    /// Level of the interrupt line.
    pub(crate) fn line(&self) -> bool {
        self.transport.line()
    }

    /// A chain to be served, where one may wait and nobody else serves.
    pub(crate) fn lend(&mut self) -> Option<Work> {
        let loan = self.transport.lend()?;
        Some(Work { loan, served: Ok(Served::Nothing), given: Given::default() })
    }

    /// Takes back what [`Self::lend`] has lent.
    pub(crate) fn give_back(&mut self, work: &Work) {
        self.transport.give_back(&work.loan, work.served);
        let (total, new) = (&mut self.state.given, &work.given);
        total.inflated += new.inflated;
        total.reported += new.reported;
        total.ranges += new.ranges;
    }
}

impl Work {
    /// Serves one chain: what it names is discarded, and it goes back to the driver. With no lock held.
    pub fn perform(&mut self, memory: &impl Memory) {
        self.served = self.try_perform(memory);
    }

    fn try_perform(&mut self, memory: &impl Memory) -> Result<Served, Broken> {
        let queue = &mut self.loan.queue;
        let Some(mut chain) = queue.take(memory)? else { return Ok(Served::Nothing) };
        let mut batch = Batch::new(memory);
        match self.loan.index {
            INFLATE => {
                numbers(queue, &mut chain, memory, &mut batch)?;
                self.given.inflated = batch.finish();
            }
            // What the guest takes back it touches, and gets then.
            DEFLATE => {}
            REPORT_DENSE | REPORT => {
                addresses(queue, &mut chain, memory, &mut batch)?;
                self.given.reported = batch.finish();
            }
            _ => return Err(Broken),
        }
        self.given.ranges = batch.ranges();
        let interrupt = queue.put(&chain, memory)?;
        Ok(Served::Chain { interrupt })
    }

    /// Whether memory was given back.
    #[must_use]
    pub const fn has_given(&self) -> bool {
        self.given.ranges != 0
    }
}

/// Buffers of page numbers, 32 bits each.
fn numbers<M: Memory>(
    queue: &Queue,
    chain: &mut Chain,
    memory: &M,
    batch: &mut Batch<'_, M>,
) -> Result<(), Broken> {
    let mut allowed = MOST_NUMBERS;
    while let Some(buffer) = queue.next(chain, memory)? {
        let count = buffer.len / NUMBER_BYTES;
        if buffer.device_writes || !buffer.len.is_multiple_of(NUMBER_BYTES) || count > allowed {
            return Err(Broken);
        }
        allowed -= count;
        let mut done = 0;
        while done < count {
            let now = (count - done).min(NUMBERS);
            let mut bytes = [0; (NUMBERS * NUMBER_BYTES) as usize];
            let bytes = &mut bytes[..(now * NUMBER_BYTES) as usize];
            let at = Gpa::try_new(buffer.gpa).and_then(|gpa| gpa.checked_add((done * NUMBER_BYTES).into()));
            if !at.is_some_and(|at| memory.read(at, bytes)) {
                return Err(Broken);
            }
            for number in bytes.as_chunks::<4>().0 {
                batch.add(u64::from(u32::from_le_bytes(*number)), 1);
            }
            done += now;
        }
    }
    Ok(())
}

/// Buffers that are themselves what is free. Only whole pages of them count.
fn addresses<M: Memory>(
    queue: &Queue,
    chain: &mut Chain,
    memory: &M,
    batch: &mut Batch<'_, M>,
) -> Result<(), Broken> {
    while let Some(buffer) = queue.next(chain, memory)? {
        let end = buffer.gpa.checked_add(buffer.len.into()).ok_or(Broken)?;
        if !buffer.device_writes {
            return Err(Broken);
        }
        let first = buffer.gpa.div_ceil(1 << PAGE_SHIFT);
        batch.add(first, (end >> PAGE_SHIFT).saturating_sub(first));
    }
    Ok(())
}
