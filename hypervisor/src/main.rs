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
mod sched;
mod vcpu;
mod vmx;

use abi::status::Status;
use alloc::boxed::Box;
use boot::Machine;
use cpu::smp::Program;
use plat::{Clock, Outcome};
use sched::Group;
use spin::{Mutex, Once};
use vmx::Vmx;

/// What other processors find here when they come.
static MACHINE: Once<&'static Machine> = Once::new();

/// Turns VMX on, starts the other processors, and runs the guests that the configuration names.
fn run(machine: Machine) -> ! {
    let machine: &'static Machine = Box::leak(Box::new(machine));
    MACHINE.call_once(|| machine);
    let disks = machine.disks.lock();
    disks.swap.iter().for_each(|disk| log::info!("disk: {disk}"));
    disks.snapshot.iter().for_each(|disk| log::info!("disk: {disk}"));
    drop(disks);
    let vmx: &'static Vmx = match Vmx::start(&machine.memory, &machine.config.inject) {
        Ok(vmx) => Box::leak(Box::new(vmx)),
        Err(error) => end(failed(&error)),
    };
    let Machine { memory, processors, low_pages, tsc_hz, config, .. } = machine;
    if config.zero_ahead {
        memory.tell_of_few_zeroed(sched::wake_idle);
    }
    let program = Program { prepare: start_vmx, run: run_threads };
    let count = cpu::smp::start_others(memory, processors, *low_pages, *tsc_hz, program);
    log::info!("{count} {}", if count == 1 { "CPU" } else { "CPUs" });
    let started = sched::spawn(&Group::new(MAIN_WEIGHT), move || end(run_guests(machine, vmx)));
    if let Err(error) = started {
        end(failed(&error));
    }
    run_threads()
}

/// The main thread sleeps while guests run.
const MAIN_WEIGHT: u32 = 100;

/// Ticks that a thread may be ahead of one that waits: 4 ms.
const fn slice(tsc_hz: u64) -> u64 {
    tsc_hz / 250
}

fn machine() -> &'static Machine {
    MACHINE.get().expect("it was set before another processor was started")
}

/// Turns VMX on, on another processor; whether it can be used.
fn start_vmx() -> bool {
    let machine = machine();
    match Vmx::start(&machine.memory, &machine.config.inject) {
        Ok(vmx) => {
            // For as long as Herald runs.
            core::mem::forget(vmx);
            true
        }
        Err(error) => {
            log::warn!("CPU {}: {error}", cpu::index());
            false
        }
    }
}

/// What each processor does from then on.
fn run_threads() -> ! {
    let Machine { memory, config, tsc_hz, .. } = machine();
    sched::idle(slice(*tsc_hz), |has_time| {
        if config.zero_ahead {
            mm::zero_ahead(&**memory, has_time);
        }
    })
}

fn run_guests(machine: &'static Machine, vmx: &'static Vmx) -> Outcome {
    let clock = Clock {
        tsc_hz: machine.tsc_hz,
        boot_seconds: boot::boot_seconds(),
        tsc_offset: 0,
        shortest_period: boot::shortest_period(machine.tsc_hz),
    };
    plat::run(Box::leak(Box::new(plat::Machine {
        host: &machine.memory,
        vmx,
        config: &machine.config,
        package: machine.package,
        table: &machine.table,
        clock,
        disks: &machine.disks,
        snapshot_queue: Mutex::default(),
        snapshot_claimed: core::sync::atomic::AtomicBool::new(false),
        family: Mutex::default(),
    })))
}

/// Herald itself has failed.
fn failed(error: &dyn core::fmt::Display) -> Outcome {
    log::error!("{error}");
    Outcome { status: Status::HeraldFailed, code: 0 }
}

fn end(outcome: Outcome) -> ! {
    link::end_machine(outcome.status, outcome.code)
}
