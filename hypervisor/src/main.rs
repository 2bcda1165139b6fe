//! Herald: the composition root. Everything privileged is in this program; everything that can be thought
//! about without a machine is in the crates below it.
#![no_std]
#![no_main]

extern crate alloc;

mod boot;
mod cpu;
mod exit;
mod io;
mod layout;
mod link;
mod logger;
mod panic;
mod physmem;
mod plat;
mod vcpu;
mod vmx;

use abi::status::Status;
use boot::Machine;
use plat::{MachineClock, Outcome};
use vmx::Vmx;

/// Turns VMX on and runs the guest that the configuration names.
fn run(machine: &Machine) -> Outcome {
    for disk in &machine.disks {
        log::info!("disk: {disk}");
    }
    let vmx = match Vmx::start(&machine.memory, &machine.config.inject) {
        Ok(vmx) => vmx,
        Err(error) => return failed(&error),
    };
    let clock = MachineClock {
        tsc_hz: machine.tsc_hz,
        boot_seconds: boot::boot_seconds(),
        shortest_period: boot::shortest_period(machine.tsc_hz),
    };
    plat::run(&plat::Machine {
        host: &machine.memory,
        vmx: &vmx,
        config: &machine.config,
        package: machine.package,
        table: &machine.table,
        clock,
    })
}

/// Herald itself has failed.
fn failed(error: &dyn core::fmt::Display) -> Outcome {
    log::error!("{error}");
    Outcome { status: Status::HeraldFailed, code: 0 }
}
