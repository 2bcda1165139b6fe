//! Herald: the composition root. Everything privileged is in this program; everything that can be thought
//! about without a machine is in the crates below it.
#![no_std]
#![no_main]

extern crate alloc;

mod boot;
mod cpu;
mod exit;
mod layout;
mod link;
mod logger;
mod panic;
mod physmem;
mod plat;
mod vcpu;
mod vmx;

use abi::config::VmConfig;
use abi::package::Kind;
use abi::status::Status;
use boot::{BootError, Machine};
use devices::VcpuId;
use mmu::AccessedDirty;
use plat::{Image, MachineClock, Vm};
use vcpu::Vcpu;
use vmx::{Vmx, VmcsConfig};
use vmxdefs::capability::EptVpid;

/// How the run ended.
#[derive(Clone, Copy, Debug)]
struct Ending {
    status: Status,
    code: u32,
}

impl Ending {
    const HERALD_FAILED: Self = Self { status: Status::HeraldFailed, code: 0 };
}

/// Runs the guest that the configuration names.
fn run(machine: Machine) -> Ending {
    let vmx = match Vmx::start(&machine.memory, &machine.config.inject) {
        Ok(vmx) => vmx,
        Err(error) => {
            log::error!("{error}");
            return Ending::HERALD_FAILED;
        }
    };
    let Some(config) = machine.config.vms.first() else {
        log::error!("the configuration names no guest");
        return Ending { status: Status::Usage, code: 0 };
    };
    match run_guest(&machine, &vmx, config) {
        Ok(ending) => ending,
        Err(ending) => ending,
    }
}

fn run_guest(machine: &Machine, vmx: &Vmx, config: &VmConfig<'static>) -> Result<Ending, Ending> {
    let image = image_of(machine, config).map_err(|error| failed(&error, Status::HeraldFailed))?;
    let has_bits = vmx.capabilities.ept_vpid.contains(EptVpid::ACCESSED_DIRTY);
    let accessed_dirty =
        if machine.config.ept_ad && has_bits { AccessedDirty::Hardware } else { AccessedDirty::Absent };
    let clock = MachineClock { tsc_hz: machine.tsc_hz, boot_seconds: boot::boot_seconds() };
    let (mut vm, entry) =
        Vm::new(0, &machine.memory, &machine.config, config, image, accessed_dirty, clock)
            .map_err(|error| failed(&error, error.status()))?;
    let root = vm.memory.mmu().root().ok_or(Ending::HERALD_FAILED)?;
    let vmcs = VmcsConfig {
        ept_root: root,
        accessed_dirty: accessed_dirty == AccessedDirty::Hardware,
        vpid: 1,
        fail_entry: machine.config.inject.fail_entry,
    };
    let mut vcpu = Vcpu::new(VcpuId(0), vmx, &machine.memory, &vmcs, &entry)
        .map_err(|error| failed(&error, Status::HeraldFailed))?;
    assert!(!machine.config.inject.panic, "a panic was asked for");
    log::info!("{}: {} MiB of RAM, starts at {:#x}", config.name, config.memory >> 20, entry.rip);
    match vcpu::run(&mut vcpu, &mut vm) {
        Ok(end) => {
            log::info!("{end}");
            Ok(Ending { status: end.status(), code: end.code() })
        }
        Err(error) => Err(failed(&error, Status::HeraldFailed)),
    }
}

fn image_of(machine: &Machine, config: &VmConfig<'static>) -> Result<Image<'static>, BootError> {
    let kernel = machine.package.payload(config.kernel, Kind::Kernel)?;
    let initrd = config.initrd.map(|index| machine.package.payload(index, Kind::Initrd)).transpose()?;
    Ok(Image { kernel, initrd })
}

fn failed(error: &dyn core::fmt::Display, status: Status) -> Ending {
    log::error!("{error}");
    Ending { status, code: 0 }
}
