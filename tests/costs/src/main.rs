//! One operation of the host memory manager on many pages, on the plainest machine there is, to be run under an
//! instruction counter: `costs OPERATION PAGES prepare|whole [subscriber]`. The difference between `whole` and `prepare`
//! is what the operation costs. `cargo xtask bench` makes a table of it.
#![forbid(unsafe_code)]

mod plain;

use addr::{Hva, HvaRange, PAGE_SIZE, PageSize};
use mm::notifier::MmuNotifier;
use mm::{Access, AddressSpace, MapRequest, Mm, Placement, Protection, VmaKind};
use plain::Plain;
use std::process::ExitCode;
use std::sync::Arc;

const START: Hva = Hva::new(0x20_0000_0000);
/// Frames of the machine beyond the pages asked for: tables, copies.
const SPARE: u64 = 4096;

type Space = Arc<AddressSpace<Plain>>;
/// What comes before, and what is measured.
type Operation = (&'static str, fn(&Space, HvaRange), fn(&Space, HvaRange));

const OPERATIONS: [Operation; 8] = [
    ("write-fault", nothing, write_all),
    ("read-fault", nothing, read_all),
    ("fault-when-mapped", write_all, write_all),
    ("page-walk", write_all, look_up),
    ("zap", write_all, discard),
    ("mprotect", write_all, protect),
    ("fork", write_all, fork),
    ("cow-break", write_and_fork, write_all),
];

/// Somebody who listens and has nothing to do.
struct Idle;

impl MmuNotifier for Idle {}

fn nothing(_: &Space, _: HvaRange) {}

fn write_all(space: &Space, range: HvaRange) {
    for page in range.pages() {
        space.fault_in(page, Access::Write).expect("there are frames");
    }
}

fn read_all(space: &Space, range: HvaRange) {
    for page in range.pages() {
        space.fault_in(page, Access::Read).expect("there are tables");
    }
}

fn look_up(space: &Space, range: HvaRange) {
    assert!(range.pages().all(|page| space.lookup(page).is_some()), "all pages are mapped");
}

fn discard(space: &Space, range: HvaRange) {
    space.discard(range.start(), range.len()).expect("the range is mapped");
}

fn protect(space: &Space, range: HvaRange) {
    space.mprotect(range.start(), range.len(), Protection::Read).expect("the range is mapped");
}

/// The copy stays: its end is not part of the cost.
fn fork(space: &Space, _: HvaRange) {
    std::mem::forget(space.fork().expect("there are tables"));
}

fn write_and_fork(space: &Space, range: HvaRange) {
    write_all(space, range);
    fork(space, range);
}

fn space(pages: u64) -> (Space, HvaRange) {
    let mm = Mm::new(Arc::new(Plain::new(pages * 2 + SPARE)), None).expect("a frame");
    let space = AddressSpace::new(&mm).expect("a root");
    let request = MapRequest {
        placement: Placement::Fixed(START),
        len: pages * PAGE_SIZE,
        protection: Protection::ReadWrite,
        kind: VmaKind::Anonymous(PageSize::Size4K),
    };
    let range = space.mmap(request).expect("the address space is empty");
    (space, range)
}

/// What is spent beside the pages themselves.
fn print_overhead(pages: u64) {
    let (space, range) = space(pages);
    write_all(&space, range);
    println!("metadata-bytes-per-frame {}", size_of::<mm::frames::FrameMeta>());
    println!("table-bytes-per-mapped-mebibyte {}", space.host().tables() * PAGE_SIZE * 256 / pages);
}

fn run(words: &[String]) -> Option<()> {
    let (name, pages) = (words.first()?, words.get(1)?.parse().ok()?);
    if name == "overhead" {
        print_overhead(pages);
        return Some(());
    }
    let (_, prepare, operation) = OPERATIONS.iter().find(|(known, ..)| known == name)?;
    let whole = match words.get(2)?.as_str() {
        "prepare" => false,
        "whole" => true,
        _ => return None,
    };
    let (space, range) = space(pages);
    if words.get(3).is_some_and(|word| word == "subscriber") {
        space.register(Arc::new(Idle));
    }
    prepare(&space, range);
    if whole {
        operation(&space, range);
    }
    // What comes after is the same for both, and not part of the cost.
    std::process::exit(0)
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if run(&words).is_some() {
        return ExitCode::SUCCESS;
    }
    eprintln!("usage: costs OPERATION PAGES prepare|whole [subscriber]");
    eprintln!("       costs overhead PAGES");
    OPERATIONS.iter().for_each(|(name, ..)| eprintln!("  {name}"));
    ExitCode::from(2)
}
