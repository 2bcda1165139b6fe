//! From the boot package to the end of the run: builds each guest that the configuration names, and runs it.

use super::end::End;
use super::memory::EptFeatures;
use super::store::FrameStore;
use super::vm::{MachineClock, Vm, VmError};
use crate::physmem::PhysicalMemory;
use crate::vcpu::{self, RunError, Vcpu};
use crate::vmx::{VmcsConfig, VmcsError, Vmx};
use abi::config::{BootConfig, VmConfig};
use abi::package::Table;
use abi::status::Status;
use addr::PageSize;
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::fmt;
use devices::VcpuId;
use firmware::{Guest, Ram};
use mm::{Mm, OutOfFrames, SwapDevice};
use mmu::AccessedDirty;
use vmxdefs::capability::EptVpid;

/// How a run ended, for the link's last frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Outcome {
    /// Exit status.
    pub status: Status,
    /// The guest's exit code.
    pub code: u32,
}

/// Why a guest did not run to its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum GuestError {
    /// The configuration asks for what this build cannot do.
    Unsupported {
        vms: usize,
        vcpus: u32,
    },
    /// An image that the package does not hold.
    NoImage(u32),
    /// Not even one frame.
    NoMemory(OutOfFrames),
    Vm(VmError),
    Vmcs(VmcsError),
    Run(RunError),
}

impl GuestError {
    const fn status(&self) -> Status {
        match self {
            Self::Unsupported { .. } | Self::NoImage(_) => Status::Usage,
            Self::Vm(error) => error.status(),
            Self::Vmcs(_) | Self::Run(_) | Self::NoMemory(_) => Status::HeraldFailed,
        }
    }
}

impl fmt::Display for GuestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsupported { vms, vcpus } => {
                write!(f, "{vms} guests, the first with {vcpus} virtual CPUs: not yet; one guest with one is")
            }
            Self::NoMemory(error) => error.fmt(f),
            Self::NoImage(index) => write!(f, "the boot package has no entry {index}"),
            Self::Vm(error) => error.fmt(f),
            Self::Vmcs(error) => error.fmt(f),
            Self::Run(error) => error.fmt(f),
        }
    }
}

/// What a run works with.
pub(crate) struct Machine<'a> {
    /// All memory.
    pub host: &'a Arc<PhysicalMemory>,
    /// VMX, switched on.
    pub vmx: &'a Vmx,
    /// The configuration.
    pub config: &'a BootConfig<'a>,
    /// The boot package.
    pub package: &'a [u8],
    /// Its entries.
    pub table: &'a Table<'a>,
    /// Time.
    pub clock: MachineClock,
}

/// Runs the configured guest to its end; says in the log how it ended.
pub(crate) fn run(machine: &Machine<'_>) -> Outcome {
    match machine.run() {
        Ok(end) => {
            match end.status() {
                Status::Success => log::info!("{end}"),
                _ => log::error!("{end}"),
            }
            Outcome { status: end.status(), code: end.code() }
        }
        Err(error) => {
            log::error!("{error}");
            Outcome { status: error.status(), code: 0 }
        }
    }
}

impl Machine<'_> {
    fn run(&self) -> Result<End, GuestError> {
        let [config] = self.config.vms.as_slice() else {
            return Err(GuestError::Unsupported { vms: self.config.vms.len(), vcpus: 0 });
        };
        if config.vcpus != 1 {
            return Err(GuestError::Unsupported { vms: 1, vcpus: config.vcpus });
        }
        let ept = self.ept_features();
        let guest = self.guest(config)?;
        let mm = Mm::new(Arc::clone(self.host), self.swap()).map_err(GuestError::NoMemory)?;
        let (mut vm, entry) =
            Vm::new(0, &mm, self.config, &guest, ept, self.clock).map_err(GuestError::Vm)?;
        let ept_root = vm.memory.mmu().root().expect("nothing has released the address space");
        let vmcs = VmcsConfig {
            ept_root,
            accessed_dirty: ept.accessed_dirty == AccessedDirty::Hardware,
            vpid: 1,
            fail_entry: self.config.inject.fail_entry,
        };
        let mut vcpu = Vcpu::new(VcpuId(0), self.vmx, self.host, &vmcs, &entry).map_err(GuestError::Vmcs)?;
        assert!(!self.config.inject.panic, "a panic, as the configuration asks for");
        log::info!("guest {} starts at {:#x}", config.name, entry.rip);
        let end = vcpu::run(&mut vcpu, &mut vm);
        vm.finish(&vcpu.counters);
        end.map_err(GuestError::Run)
    }

    /// Swap in memory, for tests of the mechanism: it saves nothing.
    fn swap(&self) -> Option<Box<dyn SwapDevice>> {
        let slots = self.config.inject.swap_slots;
        let device = FrameStore::with_slots(Arc::clone(self.host), slots);
        (slots > 0).then(|| Box::new(device) as Box<dyn SwapDevice>)
    }

    fn guest<'g>(&'g self, config: &VmConfig<'g>) -> Result<Guest<'g>, GuestError> {
        let image = |index: u32| {
            let entry = self.table.entries().get(index as usize).ok_or(GuestError::NoImage(index))?;
            entry.payload(self.package).ok_or(GuestError::NoImage(index))
        };
        let ram = Ram::new(config.memory).map_err(|error| GuestError::Vm(VmError::Firmware(error)))?;
        Ok(Guest {
            kernel: image(config.kernel)?,
            initrd: config.initrd.map(image).transpose()?,
            append: config.append,
            ram,
            vcpus: config.vcpus,
        })
    }

    fn ept_features(&self) -> EptFeatures {
        let offers = |feature| self.vmx.capabilities.ept_vpid.contains(feature);
        let tracked = offers(EptVpid::ACCESSED_DIRTY) && self.config.ept_ad;
        EptFeatures {
            accessed_dirty: if tracked { AccessedDirty::Hardware } else { AccessedDirty::Absent },
            largest_page: match (offers(EptVpid::PAGES_1G), offers(EptVpid::PAGES_2M)) {
                (true, _) => PageSize::Size1G,
                (false, true) => PageSize::Size2M,
                (false, false) => PageSize::Size4K,
            },
        }
    }
}
