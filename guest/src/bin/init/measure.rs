//! What a Linux guest's own work costs, in ticks by RDTSC: system calls, switches between processes, page faults, mappings,
//! forks. The host has all memory that is measured: each event happens once before. `cargo xtask bench --linux` has it done under
//! an EPT and under shadow page tables. It writes to the serial port itself: Linux' driver would want interrupts.

use crate::sys::{self, Pages, Pipe};
use abi::hypercall::{BY_PORT, MARK_INIT};
use guest::{cpu, port, println};

/// How often each event happens while it is measured.
const CALLS: usize = 1000;
const ROUNDS: usize = 500;
const TOUCHED: usize = 64;
const TIMES: usize = 16;
const MAPPINGS: usize = 128;
const FORKS: usize = 32;
/// Pages of a mapping in the storm.
const MAPPED: usize = 16;

/// Measures everything, and says so.
pub(crate) fn all() {
    if !sys::allow_ports() {
        return sys::complain("measure: no ports\n");
    }
    // A monitor of another hypervisor, which takes no VMCALL.
    port::write32(BY_PORT.into(), MARK_INIT as u32);
    say("system-call", CALLS, || (0..CALLS).for_each(|_| sys::parent()));
    switches();
    faults();
    say("mmap-storm", MAPPINGS, || (0..MAPPINGS).for_each(|_| map()));
    say("fork", FORKS, || (0..FORKS).for_each(|_| fork()));
}

/// Two processes wake each other; each round is two switches.
fn switches() {
    let (Some(there), Some(back)) = (Pipe::new(), Pipe::new()) else {
        return sys::complain("measure: no pipe\n");
    };
    let child = sys::fork();
    if child < 0 {
        return sys::complain("measure: no process\n");
    }
    if child == 0 {
        loop {
            there.receive();
            back.send();
        }
    }
    let round = || {
        there.send();
        back.receive();
    };
    say("switch", 2 * ROUNDS, || (0..ROUNDS).for_each(|_| round()));
}

/// First touches of few pages, which Linux hands out again and again: nothing but page faults.
fn faults() {
    let touch = || Pages::new(TOUCHED).map_or(0, |mut pages| ticks(|| pages.touch()));
    let all = || (0..TIMES).map(|_| touch()).sum();
    let _: u64 = all();
    report("page-fault", all(), TIMES * TOUCHED);
}

/// A mapping comes, is used, protected, and goes.
fn map() {
    if let Some(mut pages) = Pages::new(MAPPED) {
        pages.touch();
        drop(pages.protect());
    }
}

/// A process comes, and goes.
fn fork() {
    if sys::fork() == 0 {
        sys::exit(0);
    }
    sys::wait();
}

/// Does it twice, and says what the second time has cost.
fn say(name: &str, count: usize, mut events: impl FnMut()) {
    events();
    report(name, ticks(events), count);
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
