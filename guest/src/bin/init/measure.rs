//! What a Linux guest's own work costs, in ticks by RDTSC: system calls, switches between processes, page faults, mappings,
//! forks. The host has all memory that is measured: each event happens once before. `cargo xtask bench --linux` has it done under
//! an EPT and under shadow page tables. It writes to the serial port itself: Linux' driver would want interrupts.

use crate::sys::{self, Pages, Pipe, Refusal};
use abi::hypercall::{BY_PORT, MARK_INIT};
use guest::{cpu, port, println, testdev};

/// How often each event happens while it is measured.
const CALLS: usize = 1000;
const ROUNDS: usize = 500;
const TOUCHED: usize = 64;
const TIMES: usize = 16;
const MAPPINGS: usize = 128;
const FORKS: usize = 32;
/// Pages of a mapping in the storm.
const MAPPED: usize = 16;
/// What the guest ends with where Linux has refused something.
const FAILED: u32 = 1;

/// Measures everything, and says so. A figure of what Linux has refused to do would be a wrong one: that is the guest's end.
pub(crate) fn all() {
    if !sys::allow_ports() {
        return sys::complain("measure: no ports\n");
    }
    // A monitor of another hypervisor, which takes no VMCALL.
    port::write32(BY_PORT.into(), MARK_INIT as u32);
    if let Err(refusal) = events() {
        fail(&refusal);
    }
}

fn fail(Refusal { what, error }: &Refusal) -> ! {
    println!("measure: {what}: error {error}");
    testdev::exit(FAILED)
}

fn events() -> Result<(), Refusal> {
    say("system-call", CALLS, || {
        (0..CALLS).for_each(|_| sys::parent());
        Ok(())
    })?;
    switches()?;
    faults()?;
    say("mmap-storm", MAPPINGS, || (0..MAPPINGS).try_for_each(|_| map()))?;
    say("fork", FORKS, || (0..FORKS).try_for_each(|_| fork()))
}

/// Two processes wake each other; each round is two switches.
fn switches() -> Result<(), Refusal> {
    let (there, back) = (Pipe::new()?, Pipe::new()?);
    if sys::try_fork()? == 0 {
        loop {
            if let Err(refusal) = there.receive().and_then(|()| back.send()) {
                fail(&refusal);
            }
        }
    }
    let round = || there.send().and_then(|()| back.receive());
    say("switch", 2 * ROUNDS, || (0..ROUNDS).try_for_each(|_| round()))
}

/// First touches of few pages, which Linux hands out again and again: nothing but page faults.
fn faults() -> Result<(), Refusal> {
    let touch = || {
        let mut pages = Pages::new(TOUCHED)?;
        Ok(ticks(|| pages.touch()))
    };
    let all = || (0..TIMES).map(|_| touch()).sum::<Result<u64, Refusal>>();
    all()?;
    report("page-fault", all()?, TIMES * TOUCHED);
    Ok(())
}

/// A mapping comes, is used, protected, and goes.
fn map() -> Result<(), Refusal> {
    let mut pages = Pages::new(MAPPED)?;
    pages.touch();
    pages.protect().map(drop)
}

/// A process comes, and goes.
fn fork() -> Result<(), Refusal> {
    if sys::try_fork()? == 0 {
        sys::exit(0);
    }
    sys::wait()
}

/// Does it twice, and says what the second time has cost.
fn say(name: &str, count: usize, mut events: impl FnMut() -> Result<(), Refusal>) -> Result<(), Refusal> {
    events()?;
    let mut result = Ok(());
    report(name, ticks(|| result = events()), count);
    result
}

fn ticks(work: impl FnOnce()) -> u64 {
    let since = cpu::rdtsc();
    work();
    cpu::rdtsc() - since
}

/// Says what one of them has cost.
fn report(name: &str, ticks: u64, count: usize) {
    println!("cost: {name} {}", ticks / count as u64);
}
