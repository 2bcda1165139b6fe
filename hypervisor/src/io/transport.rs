//! The crate's PCI transport, without its waits that have no end.
//!
//! ```text
//!   reset ─► ACKNOWLEDGE, DRIVER ─► features ─► FEATURES_OK ─► queue ─► DRIVER_OK      (virtio 1.2, 3.1.1)
//!     │ until status reads 0 (4.1.4.3.2)           │ does the device keep it?
//!     └──────── an error, when it does not ────────┘
//! ```
//!
//! The crate writes the status and goes on; what a device answers is looked at here, and told at the one point of
//! start-up that may fail, the first look at the configuration.

use crate::cpu::tsc;
use core::mem::ManuallyDrop;
use virtio_drivers::transport::pci::PciTransport;
use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use virtio_drivers::{Error, PhysAddr, Result};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// VIRTIO_F_EVENT_IDX (virtio 1.2, 6). The crate compares such indices as if they never wrapped around.
const EVENT_IDX: u64 = 1 << 29;
/// Attempts to read a configuration that does not change meanwhile.
const ATTEMPTS: u32 = 1000;

/// A transport that never hangs.
pub(super) struct Bounded {
    /// Never dropped: that would wait for a reset.
    inner: ManuallyDrop<PciTransport>,
    /// TSC ticks that a device has for an answer.
    patience: u64,
    trouble: Option<Error>,
}

impl Bounded {
    pub(super) const fn new(inner: PciTransport, patience: u64) -> Self {
        Self { inner: ManuallyDrop::new(inner), patience, trouble: None }
    }

    /// Makes the device forget what it was told before.
    ///
    /// # Errors
    /// [`Error::NotReady`]: it does not.
    pub(super) fn reset(&mut self) -> Result {
        self.set_status(DeviceStatus::empty());
        self.trouble.map_or(Ok(()), Err)
    }

    fn is_reset_in_time(&self) -> bool {
        let start = tsc();
        while !self.inner.get_status().is_empty() {
            if tsc() - start > self.patience {
                return false;
            }
            core::hint::spin_loop();
        }
        true
    }
}

impl Transport for Bounded {
    fn set_status(&mut self, status: DeviceStatus) {
        self.inner.set_status(status);
        if status.is_empty() && !self.is_reset_in_time() {
            self.trouble = Some(Error::NotReady);
        }
        let refused = status.difference(self.inner.get_status());
        if refused.contains(DeviceStatus::FEATURES_OK) {
            self.trouble = Some(Error::Unsupported);
        }
    }

    fn read_consistent<T>(&self, read: impl Fn() -> Result<T>) -> Result<T> {
        if let Some(trouble) = self.trouble {
            return Err(trouble);
        }
        for _ in 0..ATTEMPTS {
            let before = self.inner.read_config_generation();
            let result = read();
            if self.inner.read_config_generation() == before {
                return result;
            }
        }
        Err(Error::NotReady)
    }

    fn device_type(&self) -> DeviceType {
        self.inner.device_type()
    }

    fn read_device_features(&mut self) -> u64 {
        self.inner.read_device_features() & !EVENT_IDX
    }

    fn write_driver_features(&mut self, features: u64) {
        self.inner.write_driver_features(features);
    }

    fn max_queue_size(&mut self, queue: u16) -> u32 {
        self.inner.max_queue_size(queue)
    }

    fn notify(&mut self, queue: u16) {
        self.inner.notify(queue);
    }

    fn get_status(&self) -> DeviceStatus {
        self.inner.get_status()
    }

    fn set_guest_page_size(&mut self, size: u32) {
        self.inner.set_guest_page_size(size);
    }

    fn requires_legacy_layout(&self) -> bool {
        self.inner.requires_legacy_layout()
    }

    fn queue_set(&mut self, queue: u16, size: u32, table: PhysAddr, driver: PhysAddr, device: PhysAddr) {
        self.inner.queue_set(queue, size, table, driver, device);
    }

    fn queue_unset(&mut self, queue: u16) {
        self.inner.queue_unset(queue);
    }

    fn queue_used(&mut self, queue: u16) -> bool {
        self.inner.queue_used(queue)
    }

    fn ack_interrupt(&mut self) -> InterruptStatus {
        self.inner.ack_interrupt()
    }

    fn read_config_generation(&self) -> u32 {
        self.inner.read_config_generation()
    }

    fn read_config_space<T: FromBytes + IntoBytes>(&self, offset: usize) -> Result<T> {
        self.inner.read_config_space(offset)
    }

    fn write_config_space<T: IntoBytes + Immutable>(&mut self, offset: usize, value: T) -> Result<()> {
        self.inner.write_config_space(offset, value)
    }
}
