//! The registers of a virtio device on MMIO (virtio 1.2, 4.2.2) and its way from reset to work (3.1).
//!
//! ```text
//!  0 ─► ACKNOWLEDGE ─► DRIVER ─► features ─► FEATURES_OK ─► queues ─► DRIVER_OK ──► notifications are served
//!  ▲                                                                     │ the driver breaks the protocol
//!  └──────────────────────── status := 0 ◄──────── DEVICE_NEEDS_RESET ◄──┘
//! ```
//!
//! A notification that comes before DRIVER_OK waits for it: Linux 6.1 has its balloon's reports begin, after 2 s, before that.
//!
//! One queue at a time is lent to whoever serves it. What is said of that queue meanwhile makes the loan stale; a reset is
//! complete, and the status reads 0, once the loan is back: until then buffers are in use.

use super::Broken;
use super::queue::{Places, Queue};
use serde::{Deserialize, Serialize};
use serde_big_array::BigArray;

/// VIRTIO_F_VERSION_1: the driver must take it.
pub(crate) const VERSION_1: u64 = 1 << 32;

const MAGIC: u32 = u32::from_le_bytes(*b"virt");
const VERSION: u32 = 2;
const VENDOR: u32 = u32::from_le_bytes(*b"HRLD");

/// Registers.
mod register {
    pub(super) const MAGIC: u64 = 0x00;
    pub(super) const VERSION: u64 = 0x04;
    pub(super) const DEVICE: u64 = 0x08;
    pub(super) const VENDOR: u64 = 0x0c;
    pub(super) const DEVICE_FEATURES: u64 = 0x10;
    pub(super) const DEVICE_FEATURES_SELECT: u64 = 0x14;
    pub(super) const DRIVER_FEATURES: u64 = 0x20;
    pub(super) const DRIVER_FEATURES_SELECT: u64 = 0x24;
    pub(super) const QUEUE_SELECT: u64 = 0x30;
    pub(super) const QUEUE_SIZE_MAX: u64 = 0x34;
    pub(super) const QUEUE_SIZE: u64 = 0x38;
    pub(super) const QUEUE_READY: u64 = 0x44;
    pub(super) const QUEUE_NOTIFY: u64 = 0x50;
    pub(super) const INTERRUPT_STATUS: u64 = 0x60;
    pub(super) const INTERRUPT_ACK: u64 = 0x64;
    pub(super) const STATUS: u64 = 0x70;
    pub(super) const QUEUE_DESCRIPTORS: u64 = 0x80;
    pub(super) const QUEUE_DESCRIPTORS_HIGH: u64 = 0x84;
    pub(super) const QUEUE_AVAILABLE: u64 = 0x90;
    pub(super) const QUEUE_AVAILABLE_HIGH: u64 = 0x94;
    pub(super) const QUEUE_USED: u64 = 0xa0;
    pub(super) const QUEUE_USED_HIGH: u64 = 0xa4;
    /// Shared memory, of which there is none: all ones.
    pub(super) const SHARED_LENGTH: u64 = 0xb0;
    pub(super) const SHARED_BASE_HIGH: u64 = 0xbc;
    pub(super) const CONFIG_GENERATION: u64 = 0xfc;
}
/// The device's own configuration begins here.
pub(crate) const CONFIG: u64 = 0x100;

/// Bits of the status.
pub(crate) mod status {
    pub(crate) const DRIVER_OK: u32 = 1 << 2;
    pub(crate) const FEATURES_OK: u32 = 1 << 3;
    pub(crate) const NEEDS_RESET: u32 = 1 << 6;
    /// What the driver writes.
    pub(super) const DRIVERS: u32 = 0b1000_1111;
}

/// Bits of the interrupt status.
const USED: u32 = 1 << 0;
const CONFIGURATION: u32 = 1 << 1;

/// What a device is.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Identity<const QUEUES: usize> {
    /// Device type (chapter 5).
    pub(crate) device: u32,
    /// Offered, beside [`VERSION_1`].
    pub(crate) features: u64,
    /// Largest size of each queue; 0: there is none.
    #[serde(with = "BigArray")]
    pub(crate) sizes: [u16; QUEUES],
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Slot {
    places: Places,
    queue: Option<Queue>,
    notified: bool,
}

/// A queue that is out to be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Loan {
    pub(crate) index: usize,
    pub(crate) queue: Queue,
}

/// The loan that is out.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Out {
    index: usize,
    /// The queue is not what it was when it was lent.
    stale: bool,
    /// A reset waits for it.
    resets: bool,
}

/// How serving a queue has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Served {
    /// Nothing waited.
    Nothing,
    /// A chain was given back; whether the driver wants to hear of it.
    Chain { interrupt: bool },
}

/// Registers and queues.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Transport<const QUEUES: usize> {
    identity: Identity<QUEUES>,
    device_features_select: u32,
    driver_features_select: u32,
    driver_features: u64,
    status: u32,
    interrupt: u32,
    generation: u32,
    selected: u32,
    #[serde(with = "BigArray")]
    slots: [Slot; QUEUES],
    out: Option<Out>,
}

impl<const QUEUES: usize> Transport<QUEUES> {
    pub(crate) const fn new(identity: Identity<QUEUES>) -> Self {
        const EMPTY: Slot = Slot {
            places: Places { size: 0, descriptors: 0, available: 0, used: 0 },
            queue: None,
            notified: false,
        };
        Self {
            identity,
            device_features_select: 0,
            driver_features_select: 0,
            driver_features: 0,
            status: 0,
            interrupt: 0,
            generation: 0,
            selected: 0,
            slots: [EMPTY; QUEUES],
            out: None,
        }
    }

    /// Reads a register, 32 bits.
    pub(crate) fn read(&self, offset: u64) -> u32 {
        match offset {
            register::MAGIC => MAGIC,
            register::VERSION => VERSION,
            register::DEVICE => self.identity.device,
            register::VENDOR => VENDOR,
            register::DEVICE_FEATURES => word(self.offered(), self.device_features_select),
            register::QUEUE_SIZE_MAX => u32::from(self.largest()),
            register::QUEUE_READY => self.slot().is_some_and(|slot| slot.queue.is_some()).into(),
            register::INTERRUPT_STATUS => self.interrupt,
            register::STATUS => self.status,
            register::SHARED_LENGTH..=register::SHARED_BASE_HIGH => u32::MAX,
            register::CONFIG_GENERATION => self.generation,
            _ => 0,
        }
    }

    /// Writes a register, 32 bits. Whether a queue waits to be served.
    pub(crate) fn write(&mut self, offset: u64, value: u32) -> bool {
        // Between a reset and its end, nothing counts.
        if self.out.is_some_and(|out| out.resets) {
            return false;
        }
        match offset {
            register::DEVICE_FEATURES_SELECT => self.device_features_select = value,
            register::DRIVER_FEATURES_SELECT => self.driver_features_select = value,
            register::DRIVER_FEATURES if self.status & status::FEATURES_OK == 0 => {
                set_word(&mut self.driver_features, self.driver_features_select, value);
            }
            register::QUEUE_SELECT => self.selected = value,
            register::QUEUE_READY => self.set_ready(value & 1 != 0),
            register::QUEUE_NOTIFY => return self.notify(value),
            register::INTERRUPT_ACK => self.interrupt &= !value,
            register::STATUS => return self.set_status(value),
            _ => self.set_place(offset, value),
        }
        false
    }

    fn offered(&self) -> u64 {
        self.identity.features | VERSION_1
    }

    /// Whether the driver works.
    pub(crate) fn is_driven(&self) -> bool {
        self.status & (status::DRIVER_OK | status::NEEDS_RESET) == status::DRIVER_OK
    }

    /// Whether the driver has not begun yet.
    pub(crate) const fn is_reset(&self) -> bool {
        self.status == 0
    }

    /// Level of the interrupt line.
    pub(crate) fn line(&self) -> bool {
        self.interrupt != 0
    }

    /// The configuration has changed: the driver hears of it.
    pub(crate) fn configuration_changed(&mut self) {
        self.generation = self.generation.wrapping_add(1);
        if self.status & status::DRIVER_OK != 0 {
            self.interrupt |= CONFIGURATION;
        }
    }

    fn largest(&self) -> u16 {
        self.identity.sizes.get(self.selected as usize).copied().unwrap_or(0)
    }

    /// The selected queue, where there is one.
    fn slot(&self) -> Option<&Slot> {
        self.slots.get(self.selected as usize).filter(|_| self.largest() != 0)
    }

    fn set_place(&mut self, offset: u64, value: u32) {
        let largest = self.largest();
        let Some(slot) = self.slots.get_mut(self.selected as usize).filter(|_| largest != 0) else { return };
        // What a queue that is ready is made of stays as it is (4.2.2.2).
        if slot.queue.is_some() {
            return;
        }
        let places = &mut slot.places;
        match offset {
            register::QUEUE_SIZE => places.size = value,
            register::QUEUE_DESCRIPTORS => set_word(&mut places.descriptors, 0, value),
            register::QUEUE_DESCRIPTORS_HIGH => set_word(&mut places.descriptors, 1, value),
            register::QUEUE_AVAILABLE => set_word(&mut places.available, 0, value),
            register::QUEUE_AVAILABLE_HIGH => set_word(&mut places.available, 1, value),
            register::QUEUE_USED => set_word(&mut places.used, 0, value),
            register::QUEUE_USED_HIGH => set_word(&mut places.used, 1, value),
            _ => {}
        }
    }

    fn set_ready(&mut self, ready: bool) {
        let (index, largest) = (self.selected as usize, u32::from(self.largest()));
        let Some(slot) = self.slots.get_mut(index).filter(|_| largest != 0) else { return };
        if slot.queue.is_some() == ready {
            return;
        }
        slot.notified = false;
        slot.queue = None;
        if let Some(out) = self.out.as_mut().filter(|out| out.index == index) {
            out.stale = true;
        }
        if ready {
            match Queue::new(&slot.places).ok().filter(|_| slot.places.size <= largest) {
                Some(queue) => slot.queue = Some(queue),
                None => self.fail(),
            }
        }
    }

    /// Whether a queue waits to be served.
    fn set_status(&mut self, value: u32) -> bool {
        if value == 0 {
            match &mut self.out {
                Some(out) => out.resets = true,
                None => self.reset(),
            }
            return false;
        }
        // The driver sets bits, and clears them by a reset only (2.1.1).
        let mut set = value & status::DRIVERS & !self.status;
        let accepted = self.driver_features & !self.offered() == 0 && self.driver_features & VERSION_1 != 0;
        if !accepted {
            set &= !status::FEATURES_OK;
        }
        self.status |= set;
        self.is_driven() && self.slots.iter().any(|slot| slot.notified)
    }

    fn reset(&mut self) {
        let generation = self.generation;
        *self = Self { generation, ..Self::new(self.identity) };
    }

    /// The driver cannot be served any more.
    pub(crate) fn fail(&mut self) {
        self.status |= status::NEEDS_RESET;
        self.configuration_changed();
    }

    fn notify(&mut self, index: u32) -> bool {
        let driven = self.is_driven();
        match self.slots.get_mut(index as usize) {
            Some(slot) if slot.queue.is_some() => {
                slot.notified = true;
                driven
            }
            _ => false,
        }
    }

    /// Lends a queue that waits to be served; `None`: none does, or one is out already, whose server looks again.
    pub(crate) fn lend(&mut self) -> Option<Loan> {
        if self.out.is_some() || !self.is_driven() {
            return None;
        }
        let waits = |(index, slot): (usize, &mut Slot)| {
            let queue = slot.queue.filter(|_| core::mem::take(&mut slot.notified))?;
            Some(Loan { index, queue })
        };
        let loan = self.slots.iter_mut().enumerate().find_map(waits)?;
        self.out = Some(Out { index: loan.index, stale: false, resets: false });
        Some(loan)
    }

    /// Takes a queue back. Whether the outcome counts: the driver has not reset the queue meanwhile.
    pub(crate) fn give_back(&mut self, loan: &Loan, served: Result<Served, Broken>) -> bool {
        let Some(out) = self.out.take_if(|out| out.index == loan.index) else { return false };
        if out.resets {
            self.reset();
            return false;
        }
        if out.stale {
            return false;
        }
        match served {
            Ok(served) => {
                let slot = &mut self.slots[out.index];
                slot.queue = Some(loan.queue);
                // There may be more.
                slot.notified |= served != Served::Nothing;
                if served == (Served::Chain { interrupt: true }) {
                    self.interrupt |= USED;
                }
            }
            Err(Broken) => self.fail(),
        }
        true
    }
}

/// A half of 64 bits; there are two.
fn word(value: u64, select: u32) -> u32 {
    match select {
        0 => value as u32,
        1 => (value >> 32) as u32,
        _ => 0,
    }
}

/// Sets a half of 64 bits. What lies behind them is kept to be 0.
fn set_word(value: &mut u64, select: u32, half: u32) {
    let half = u64::from(half);
    match select {
        0 => *value = *value & !u64::from(u32::MAX) | half,
        1 => *value = *value & u64::from(u32::MAX) | half << 32,
        _ => {}
    }
}
