//! The events, in an order in which each finds the pages as it needs them.

use super::Bench;
use super::order::Order;
use crate::report::{Failure, same};
use abi::hypercall::HostOperation as Op;
use guest::host::Call;

/// Passes of merging after which equal pages are merged, or never will be.
const PASSES: u64 = 6;

pub(super) fn all(bench: &Bench) -> Result<(), Failure> {
    touched(bench)?;
    protected(bench)?;
    discarded(bench)?;
    aged(bench)?;
    forked(bench)?;
    logged(bench)?;
    swapped(bench)?;
    merged(bench)
}

/// The main ones, few enough for a lot of memory.
pub(super) fn main_ones(bench: &Bench) -> Result<(), Failure> {
    bench.write("first-touch", Order::Sequential, 1)?;
    bench.operation("mprotect-read", Op::ReadOnly)?;
    bench.operation("mprotect-back", Op::Writable)?;
    bench.write("refault-random", Order::Random, 2)?;
    bench.operation("age-touched", Op::AgeAll)?;
    bench.operation("age-idle", Op::AgeAll)?;
    bench.operation("fork", Op::Fork)?;
    bench.write("cow-break", Order::Sequential, 3)?;
    bench.operation("end-of-fork", Op::DropForks)?;
    out(bench, "swap-out")?;
    bench.write("swap-in", Order::Sequential, 4)?;
    bench.verify(4)?;
    bench.operation("log-begin", Op::BeginLog)?;
    bench.write("write-when-logged", Order::Sequential, 5)?;
    bench.operation("harvest", Op::Harvest)?;
    bench.write("write-after-harvest", Order::Sequential, 6)?;
    bench.verify(6)?;
    bench.operation("log-end", Op::EndLog)?;
    bench.call("discard", Call::Discard)
}

/// In pages of 2 MiB: what a base page's share is.
pub(super) fn in_huge_pages(bench: &Bench) -> Result<(), Failure> {
    bench.done("huge pages", Call::Operation(Op::HugePages))?;
    bench.write("huge-first-touch", Order::Sequential, 1)?;
    bench.write("huge-touch-when-mapped", Order::Random, 2)?;
    bench.operation("huge-mprotect-read", Op::ReadOnly)?;
    bench.operation("huge-mprotect-back", Op::Writable)?;
    bench.write("huge-refault", Order::Sequential, 3)?;
    bench.verify(3)?;
    bench.call("huge-discard", Call::Discard)
}

fn touched(bench: &Bench) -> Result<(), Failure> {
    bench.write("first-touch", Order::Sequential, 1)?;
    bench.write("touch-when-mapped", Order::Random, 2)?;
    bench.verify(2)
}

/// Pages that stay, and whose entries the guest's tables lose.
fn protected(bench: &Bench) -> Result<(), Failure> {
    bench.operation("mprotect-read", Op::ReadOnly)?;
    bench.operation("mprotect-back", Op::Writable)?;
    bench.write("refault", Order::Sequential, 3)?;
    for (name, order) in [("refault-strided", Order::Strided), ("refault-random", Order::Random)] {
        bench.done(name, Call::Protect)?;
        bench.write(name, order, 4)?;
    }
    bench.done("refault-read", Call::Protect)?;
    bench.read("refault-read", Order::Sequential, |page| page ^ 4)?;
    bench.verify(4)
}

fn discarded(bench: &Bench) -> Result<(), Failure> {
    bench.call("discard", Call::Discard)?;
    bench.write("first-touch-random", Order::Random, 5)?;
    bench.verify(5)?;
    bench.done("discard", Call::Discard)?;
    bench.read("read-of-nothing", Order::Sequential, |_| 0)?;
    bench.write("write-after-read", Order::Sequential, 6)?;
    bench.verify(6)
}

fn aged(bench: &Bench) -> Result<(), Failure> {
    bench.operation("age-touched", Op::AgeAll)?;
    bench.operation("age-idle", Op::AgeAll)?;
    bench.write("touch-after-age", Order::Sequential, 7)?;
    bench.verify(7)
}

fn forked(bench: &Bench) -> Result<(), Failure> {
    bench.operation("fork", Op::Fork)?;
    bench.write("cow-break", Order::Sequential, 8)?;
    bench.verify(8)?;
    bench.operation("end-of-fork", Op::DropForks)?;
    bench.done("fork", Call::Operation(Op::Fork))?;
    bench.write("cow-break-random", Order::Random, 9)?;
    bench.verify(9)?;
    bench.done("end of fork", Call::Operation(Op::DropForks)).map(|_| ())
}

fn logged(bench: &Bench) -> Result<(), Failure> {
    bench.operation("log-begin", Op::BeginLog)?;
    bench.write("write-when-logged", Order::Sequential, 10)?;
    bench.operation("harvest", Op::Harvest)?;
    bench.write("write-after-harvest", Order::Sequential, 11)?;
    bench.write("write-when-in-log", Order::Sequential, 12)?;
    let written = bench.done("harvest", Call::Operation(Op::Harvest))?.value;
    same("pages in the log", 0, bench.pages.count(), written)?;
    bench.operation("harvest-of-nothing", Op::Harvest)?;
    bench.operation("log-end", Op::EndLog)?;
    bench.verify(12)
}

/// Twice out and in; of the pages that a host finds young it makes cold ones before.
fn swapped(bench: &Bench) -> Result<(), Failure> {
    out(bench, "swap-out")?;
    bench.write("swap-in", Order::Sequential, 13)?;
    bench.verify(13)?;
    out(bench, "swap-out-again")?;
    bench.read("swap-in-random", Order::Random, |page| page ^ 13)?;
    bench.verify(13)
}

fn out(bench: &Bench, name: &'static str) -> Result<(), Failure> {
    bench.done(name, Call::Operation(Op::Cold))?;
    bench.row(name, || {
        let answer = bench.done(name, Call::Operation(Op::PageOut))?;
        // A few may be on their way elsewhere.
        let enough = answer.value >= bench.pages.count() * 15 / 16;
        same("most pages are out", answer.value, 1, u64::from(enough))?;
        Ok((answer.aside + bench.call, answer.value))
    })
}

/// Each page becomes the one that its neighbour is; then each is written. What all passes cost, also those that only look, is
/// part of what the merge of a page costs.
fn merged(bench: &Bench) -> Result<(), Failure> {
    let count = bench.pages.count();
    let twin = |page: u64| page / 2 + 1;
    (0..count).for_each(|page| bench.pages.write(page, 0, twin(page)));
    bench.row("merge", || {
        let (mut merged, mut aside) = (0, 0);
        for _ in 0..PASSES {
            let answer = bench.done("merge", Call::Operation(Op::Merge))?;
            merged += answer.value;
            aside += answer.aside + bench.call;
            if merged >= count / 2 {
                break;
            }
        }
        same("pages merged", 0, count / 2, merged)?;
        Ok((aside, merged))
    })?;
    bench.read("read-after-merge", Order::Sequential, twin)?;
    bench.write("merge-break", Order::Sequential, 14)?;
    bench.verify(14)
}
