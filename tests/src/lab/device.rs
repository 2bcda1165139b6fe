//! Devices of the bench: each reaches memory by hva through a TLB of its own.

use super::model::Who;
use super::{Deaf, Lab, Verdict};
use crate::Violation;
use crate::machine::Machine;
use addr::Hva;
use mm::Access;
use mm::notifier::MmuNotifier;
use mmu::DeviceTlb;
use std::sync::Arc;

/// A device of the bench, by number. There is always one, number 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeviceId(pub usize);

/// A device of the bench.
pub struct Device {
    /// Its TLB.
    pub tlb: Arc<DeviceTlb<Machine>>,
    /// What is subscribed in its place.
    pub ears: Arc<Deaf>,
}

impl Lab {
    /// One more device on the same address space.
    pub fn add_device(&mut self) -> DeviceId {
        let tlb = Arc::new(DeviceTlb::new(Arc::clone(&self.space)));
        self.machine.watch_device(&tlb);
        let ears = Arc::new(Deaf::new(Arc::clone(&tlb) as Arc<dyn MmuNotifier>));
        self.space.register(Arc::clone(&ears) as Arc<dyn MmuNotifier>);
        self.devices.push(Device { tlb, ears });
        DeviceId(self.devices.len() - 1)
    }

    /// A device.
    #[must_use]
    pub fn device(&self, id: DeviceId) -> &Device {
        &self.devices[id.0]
    }

    /// The device loads a word.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn device_load(&self, device: DeviceId, hva: Hva) -> Result<Verdict, Violation> {
        let mut bytes = [0; 8];
        let found = match self.device(device).tlb.read(hva, &mut bytes) {
            Ok(()) => Verdict::Value(u64::from_le_bytes(bytes)),
            Err(error) => error.into(),
        };
        self.judge_device(|| format!("device {} loads {hva}", device.0), hva, Access::Read, found)
    }

    /// The device stores a word.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn device_store(&self, device: DeviceId, hva: Hva, value: u64) -> Result<Verdict, Violation> {
        let found = Verdict::of(self.device(device).tlb.write(hva, &value.to_le_bytes()));
        if found == Verdict::Done {
            self.note_store(hva, value);
        }
        self.judge_device(|| format!("device {} stores to {hva}", device.0), hva, Access::Write, found)
    }

    fn judge_device(
        &self,
        what: impl Fn() -> String,
        hva: Hva,
        access: Access,
        found: Verdict,
    ) -> Result<Verdict, Violation> {
        if found == Verdict::Released && self.space.vmas().is_empty() {
            return self.judged(what, &[Verdict::Released], found);
        }
        self.judge_access(what, Some(hva), (Who::Device, access), found)
    }
}
