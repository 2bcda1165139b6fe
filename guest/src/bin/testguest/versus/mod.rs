//! What a page of guest memory costs under the host that is there, be it Herald or another hypervisor: one program for both
//! (`cargo xtask bench --vs kvm`). Arguments: `pages=N` (4096), `huge=1`: in pages of 2 MiB where the host makes such,
//! `main=1`: the main events alone (`bench --scaling`, `bench --counts`);
//! `cpus=N` (1): all but the first only stay in the guest, so that they have to hear of flushes.
//!
//! ```text
//!   for each event:   its name ─► flushes, exits ─► TSC ─► touches, or one call ─► TSC ─► exits, flushes ─► a line
//!                     then every page is compared with what was written there last
//! ```
//!
//! The first line says by which entry the guest came. A line is `row: NAME ticks=T pages=N exits=E flushes=F`: ticks of all pages together; `now: NAME` comes before the event. Of a call, what a call of nothing costs
//! and what the host says went into its own books are taken off. Around each event is an instruction that does nothing (`cpu::stand_still`).

mod events;
mod order;

use crate::report::{Failure, same};
use crate::{Guest, cpus};
use abi::hypercall::HostOperation as Op;
use addr::PAGE_SIZE;
use guest::host::{Answer, Call, Host};
use guest::memory::Pages;
use guest::{cpu, println};
use order::Order;

/// Calls of nothing that the least is taken of.
const TRIES: u64 = 16;

/// Whose costs are measured, and on which pages.
struct Bench {
    host: Host,
    pages: Pages,
    /// Ticks of a call of nothing.
    call: u64,
}

impl Bench {
    /// Makes a call about all pages.
    fn ask(&self, call: Call) -> Answer {
        // SAFETY: the pages are the test's own, and no Rust object lies in them.
        unsafe { self.host.ask(call, self.pages.page(0).as_u64(), self.pages.count() * PAGE_SIZE) }
    }

    fn counter(&self, operation: Op) -> u64 {
        self.ask(Call::Operation(operation)).value
    }

    /// What a call of nothing costs.
    fn measure_call(&mut self) -> Result<(), Failure> {
        println!("now: call");
        let mut least = u64::MAX;
        for _ in 0..TRIES {
            let since = cpu::rdtsc();
            let answer = self.ask(Call::Operation(Op::Nothing));
            least = least.min((cpu::rdtsc() - since).saturating_sub(answer.aside));
            same("a call of nothing", 0, 0, answer.value)?;
        }
        println!("row: call ticks={least} pages=1 exits=1 flushes=0");
        self.call = least;
        Ok(())
    }

    /// Prints what `event` costs; it answers which of its ticks are not to count, and how many pages it was about.
    fn row(&self, name: &str, event: impl FnOnce() -> Result<(u64, u64), Failure>) -> Result<(), Failure> {
        println!("now: {name}");
        let (flushes, exits) = (self.counter(Op::Flushes), self.counter(Op::Exits));
        cpu::stand_still();
        let since = cpu::rdtsc();
        let (aside, pages) = event()?;
        let ticks = (cpu::rdtsc() - since).saturating_sub(aside);
        cpu::stand_still();
        // The call that asks is an exit, too.
        let exits = self.counter(Op::Exits) - exits - 1;
        let flushes = self.counter(Op::Flushes) - flushes;
        println!("row: {name} ticks={ticks} pages={pages} exits={exits} flushes={flushes}");
        Ok(())
    }

    /// One call about all pages, as a row.
    fn call(&self, name: &'static str, call: Call) -> Result<(), Failure> {
        self.row(name, || {
            let answer = self.done(name, call)?;
            Ok((answer.aside + self.call, self.pages.count()))
        })
    }

    /// The same of an operation.
    fn operation(&self, name: &'static str, operation: Op) -> Result<(), Failure> {
        self.call(name, Call::Operation(operation))
    }

    /// A call that has to succeed.
    fn done(&self, name: &'static str, call: Call) -> Result<Answer, Failure> {
        let answer = self.ask(call);
        if answer.is_done() { Ok(answer) } else { Err(Failure::Refused(name)) }
    }

    /// Writes each page, as a row.
    fn write(&self, name: &str, order: Order, value: u64) -> Result<(), Failure> {
        self.row(name, || {
            order.pages(self.pages.count()).for_each(|page| self.pages.write(page, 0, page ^ value));
            Ok((0, self.pages.count()))
        })
    }

    /// Reads each page, as a row; what was read must be `wanted`.
    fn read(&self, name: &'static str, order: Order, wanted: impl Fn(u64) -> u64) -> Result<(), Failure> {
        let sum = (0..self.pages.count()).fold(0u64, |sum, page| sum.wrapping_add(wanted(page)));
        self.row(name, || {
            let pages = order.pages(self.pages.count());
            let read = pages.fold(0u64, |sum, page| sum.wrapping_add(self.pages.read(page, 0)));
            same(name, 0, sum, read)?;
            Ok((0, self.pages.count()))
        })
    }

    /// Each page, as it was written last, at both ends and in the middle.
    fn verify(&self, value: u64) -> Result<(), Failure> {
        (0..self.pages.count()).try_for_each(|page| {
            same("word", page, page ^ value, self.pages.read(page, 0))?;
            same("word in the middle of page", page, 0, self.pages.read(page, 255))?;
            same("word at the end of page", page, 0, self.pages.read(page, 511))
        })
    }
}

/// What another CPU does, to the end: no PAUSE, for which a host may take the CPU away. With interrupts on, as most programs have
/// them: where RFLAGS.IF is 0 from the entry on, Bochs 2.7 keeps the host's own interrupts waiting, too.
fn stay(_: u64) {
    cpu::enable_interrupts();
    loop {
        cpu::do_nothing();
    }
}

pub(crate) fn run(guest: &mut Guest) -> Result<(), Failure> {
    let host = Host::find().ok_or(Failure::NoHerald)?;
    let count = guest.argument("pages").unwrap_or(4096).next_power_of_two();
    let huge = guest.argument("huge").is_some();
    println!("entry: {}", guest.info.protocol());
    let cpus = guest.argument("cpus").unwrap_or(1);
    if cpus > 1 {
        // As in `stay`: a host may wait for this one, too.
        cpu::enable_interrupts();
    }
    cpus::start_those(&mut guest.memory, cpus, stay)?;
    let mut bench = Bench { host, pages: guest.memory.take_aligned(count)?, call: 0 };
    bench.measure_call()?;
    if huge {
        return events::in_huge_pages(&bench);
    }
    if guest.argument("main").is_some() {
        return events::main_ones(&bench);
    }
    events::all(&bench)
}
