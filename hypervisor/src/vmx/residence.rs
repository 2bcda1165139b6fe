//! Which CPU has a VMCS.
//!
//! ```text
//!   clear ── load ──► current on a CPU ◄── load ──► active there, another one is current
//!     ▲                      │
//!     └──────── unload ──────┘
//! ```
//!
//! A processor may keep an active VMCS in itself: only a clear one can go to another CPU (SDM vol. 3C 25.1). The virtual
//! processor's thread has it, and whoever takes the CPU from that thread, on the thread's behalf; nobody else.

use super::host_state;
use super::instructions::{VmFail, invvpid_single, vmclear, vmptrld, vmwrite};
use super::kept::Extent;
use super::vpid::Vpid;
use crate::cpu::{self, local::MAX_CPUS};
use addr::Hpa;
use core::cell::Cell;
use core::sync::atomic::{AtomicU64, Ordering};

/// The VMCS that each CPU has loaded, by physical address; 0: none.
static CURRENT: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];

/// Where a VMCS is.
pub(crate) struct Residence {
    /// Its region, which outlives the time on a CPU: `Vmcs` ends that before it goes.
    address: u64,
    /// The tag of its linear translations, if they have one.
    vpid: Option<Vpid>,
    launched: Cell<bool>,
    /// The CPU on which it is active.
    active_on: Cell<Option<usize>>,
    /// The CPU that its host state describes.
    host: Cell<Option<usize>>,
    /// The fields of that which there are.
    extent: Extent,
}

impl Residence {
    /// A VMCS that no CPU knows; its region has the revision in it.
    ///
    /// # Errors
    /// [`VmFail`].
    pub(super) fn new(region: Hpa, vpid: Option<Vpid>, extent: Extent) -> Result<Self, VmFail> {
        let address = region.as_u64();
        // SAFETY: a frame of the caller's own with the revision in it.
        unsafe { vmclear(address)? };
        let (active_on, host) = (Cell::new(None), Cell::new(None));
        Ok(Self { address, vpid, launched: Cell::new(false), active_on, host, extent })
    }

    /// The tag of its linear translations.
    pub(super) fn tag(&self) -> Option<u16> {
        self.vpid.as_ref().map(Vpid::tag)
    }

    /// Whether it was entered since it was loaded.
    pub(super) fn is_launched(&self) -> bool {
        self.launched.get()
    }

    /// It was entered.
    pub(super) fn set_launched(&self) {
        self.launched.set(true);
    }

    /// Makes it this CPU's current VMCS; `true` where its last one was another CPU.
    pub(crate) fn load(&self) -> bool {
        let cpu = cpu::index();
        if CURRENT[cpu].load(Ordering::Relaxed) == self.address {
            return false;
        }
        let active_on = self.active_on.get();
        assert!(
            active_on.is_none_or(|active| active == cpu),
            "a VMCS goes from CPU {active_on:?} to {cpu}, active"
        );
        // SAFETY: a frame of the VMCS's own with the revision in it, and active on no other CPU.
        if let Err(error) = unsafe { vmptrld(self.address) } {
            panic!("VMPTRLD failed: {error}");
        }
        CURRENT[cpu].store(self.address, Ordering::Relaxed);
        self.active_on.set(Some(cpu));
        self.host.replace(Some(cpu)) != Some(cpu) && {
            host_state::fields(self.extent).for_each(|(field, value)| {
                // SAFETY: host state comes from `host_state` alone, which describes this CPU.
                if let Err(error) = unsafe { vmwrite(field.encoding(), value) } {
                    panic!("VMWRITE of {field:?} failed: {error}");
                }
            });
            true
        }
    }

    /// Makes it clear: it may be loaded anywhere. Called on the CPU on which it is active.
    pub(crate) fn unload(&self) {
        let Some(cpu) = self.active_on.take() else { return };
        assert_eq!(cpu, cpu::index(), "a VMCS is cleared by another CPU than has it");
        // SAFETY: a VMCS that is active here.
        if let Err(error) = unsafe { vmclear(self.address) } {
            panic!("VMCLEAR failed: {error}");
        }
        // VMCLEAR of the current VMCS leaves none.
        let _ = CURRENT[cpu].compare_exchange(self.address, 0, Ordering::Relaxed, Ordering::Relaxed);
        self.launched.set(false);
    }

    /// Drops the guest's linear translations on this CPU. `false`: there is no VPID, and each entry does it.
    pub(crate) fn flush_linear(&self) -> bool {
        let tag = self.tag();
        if let Some(tag) = tag
            && let Err(error) = invvpid_single(tag)
        {
            panic!("INVVPID of {tag} failed: {error}");
        }
        tag.is_some()
    }
}
