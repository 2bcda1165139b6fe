//! One operation of the host memory manager on many pages, on the plainest machine there is, to be run under an
//! instruction counter: `costs OPERATION PAGES prepare|whole [subscriber]`. The difference between `whole` and `prepare`
//! is what the operation costs. `cargo xtask bench` makes a table of it.
#![forbid(unsafe_code)]

mod plain;

use addr::{Gfn, GfnRange, Gpa, Hva, HvaRange, PAGE_SIZE, PageSize};
use mm::notifier::MmuNotifier;
use mm::{Access, AddressSpace, Advice, File, MapRequest, Mm, Placement, Protection, VmaKind, Zeros};
use mmu::{AccessedDirty, LogBy, SecondaryMmu, Slot};
use paging::{EptEntry, Level, TableEntry, TableMemory};
use plain::{Nowhere, Plain};
use std::process::ExitCode;
use std::sync::Arc;

const START: Hva = Hva::new(0x20_0000_0000);
/// Frames of the machine beyond the pages asked for: tables, copies.
const SPARE: u64 = 16384;

type Space = Arc<AddressSpace<Plain>>;
/// What comes before, and what is measured.
type Operation = (&'static str, fn(&World), fn(&World));

/// An address space, an area in it, and a guest whose memory that is.
struct World {
    space: Space,
    range: HvaRange,
    mmu: Arc<SecondaryMmu<Plain>>,
}

const OPERATIONS: [Operation; 22] = [
    ("write-fault", nothing, write_all),
    ("read-fault", nothing, read_all),
    ("fault-when-mapped", write_all, write_all),
    ("page-walk", write_all, look_up),
    ("zap", write_all, discard),
    ("mprotect", write_all, protect),
    ("fork", write_all, fork),
    ("cow-break", write_and_fork, write_all),
    ("aging-unused", age_a_guest, age),
    ("aging-used", run_a_guest, age),
    ("reclaim-clean", map_a_file, reclaim),
    ("swap-out", write_and_age, reclaim),
    ("swap-in", swap_out, read_all),
    ("swap-in-cached", bring_back_for_a_child, read_all),
    ("guest-first-touch", listen, guest_writes),
    ("guest-refault", run_and_protect, guest_writes),
    ("guest-logged-write", run_and_log, guest_writes),
    ("guest-cow-break", run_and_fork, guest_writes),
    ("guest-swap-in", listen_and_swap_out, guest_writes),
    ("mprotect-back", write_and_protect, allow),
    ("merge", run_pairs, merge),
    ("guest-merge-break", merge_pairs, guest_writes),
];

/// Somebody who listens and has nothing to do.
struct Idle;

impl MmuNotifier for Idle {}

fn nothing(_: &World) {}

fn write_all(World { space, range, .. }: &World) {
    for page in range.pages() {
        space.fault_in(page, Access::Write).expect("there are frames");
    }
}

fn read_all(World { space, range, .. }: &World) {
    for page in range.pages() {
        space.fault_in(page, Access::Read).expect("there are tables");
    }
}

fn look_up(World { space, range, .. }: &World) {
    assert!(range.pages().all(|page| space.lookup(page).is_some()), "all pages are mapped");
}

fn discard(World { space, range, .. }: &World) {
    space.discard(range.start(), range.len()).expect("the range is mapped");
}

fn protect(World { space, range, .. }: &World) {
    space.mprotect(range.start(), range.len(), Protection::Read).expect("the range is mapped");
}

/// The copy stays: its end is not part of the cost.
fn fork(world: &World) {
    std::mem::forget(world.space.fork().expect("there are tables"));
}

fn write_and_fork(world: &World) {
    write_all(world);
    fork(world);
}

/// The guest hears of changes.
fn listen(World { space, mmu, .. }: &World) {
    space.register(Arc::clone(mmu) as Arc<dyn MmuNotifier>);
}

fn run_and_fork(world: &World) {
    listen(world);
    guest_writes(world);
    fork(world);
}

fn listen_and_swap_out(world: &World) {
    swap_out(world);
    listen(world);
}

fn write_and_protect(world: &World) {
    write_all(world);
    protect(world);
}

fn allow(World { space, range, .. }: &World) {
    space.mprotect(range.start(), range.len(), Protection::ReadWrite).expect("the range is mapped");
}

/// A guest has pages that may be merged, each as another one, in the second half.
fn run_pairs(world: &World) {
    listen(world);
    guest_writes(world);
    let World { space, range, .. } = world;
    let half = range.len() / PAGE_SIZE / 2;
    for (page, index) in range.pages().zip(0..) {
        let mapping = space.lookup(page).expect("was written");
        space.host().fill(mapping.pfn, 1 + index % half);
    }
    space.madvise(range.start(), range.len(), Advice::Mergeable).expect("the range is mapped");
}

/// Two passes: a page is merged that has not changed since the first.
fn merge(World { space, range, .. }: &World) {
    let mm = space.mm();
    (0..2).for_each(|_| assert!(mm.merge(u64::MAX).is_some(), "a whole pass"));
    assert_eq!(mm.merge_counts().merged * 2, range.len() / PAGE_SIZE);
}

fn merge_pairs(world: &World) {
    run_pairs(world);
    merge(world);
}

/// Each page is written by a guest that has no right to: what an EPT violation costs but for the exit.
fn guest_writes(World { range, mmu, .. }: &World) {
    for page in range.pages() {
        let gpa = Gpa::new(page.as_u64() - range.start().as_u64());
        mmu.fault(gpa, Access::Write).expect("there are frames");
    }
}

/// The guest has lost all its entries but the first of each table, which thus stays, and the host none.
fn run_and_protect(world: &World) {
    listen(world);
    guest_writes(world);
    let World { space, range, .. } = world;
    let (block, len) = (Level::Pd.span(), range.len());
    for start in (0..len).step_by(block as usize) {
        let (first, rest) = (range.start().add(start + PAGE_SIZE), block.min(len - start) - PAGE_SIZE);
        for protection in [Protection::None, Protection::ReadWrite] {
            space.mprotect(first, rest, protection).expect("the range is mapped");
        }
    }
}

/// All was written before the log began.
fn run_and_log(world: &World) {
    listen(world);
    guest_writes(world);
    world.mmu.begin_log(Gfn::ZERO, LogBy::WriteFault).expect("a slot");
}

/// A guest writes all pages: as its processor does, A is set in each EPT entry that it goes through.
fn run_a_guest(world: &World) {
    listen(world);
    guest_writes(world);
    let World { space, range, mmu } = world;
    let gpa = |page: Hva| Gpa::new(page.as_u64() - range.start().as_u64());
    let root = mmu.root().expect("nothing was released");
    for page in range.pages() {
        for level in [Level::Pd, Level::Pt] {
            let found = paging::walk_to::<EptEntry, _>(&**space.host(), root, gpa(page).as_u64(), level);
            space.host().store(found.at, found.entry.bits() | EptEntry::ACCESSED);
        }
    }
}

/// The same, and nothing since the last pass.
fn age_a_guest(world: &World) {
    run_a_guest(world);
    age(world);
}

fn age(world: &World) {
    world.space.mm().age_all();
}

/// All pages are written, and old.
fn write_and_age(world: &World) {
    write_all(world);
    age(world);
    age(world);
}

/// The pages of a file are mapped, clean, and old.
fn map_a_file(World { space, range, .. }: &World) {
    let pages = range.len() / PAGE_SIZE;
    let file = File::new(space.mm(), Box::new(Zeros), pages);
    let request = MapRequest {
        placement: Placement::Anywhere,
        len: range.len(),
        protection: Protection::Read,
        kind: VmaKind::Shared(file, 0),
    };
    let mapped = space.mmap(request).expect("there is room");
    for page in mapped.pages() {
        space.fault_in(page, Access::Read).expect("there are frames");
    }
    (0..2).for_each(|_| space.mm().age_all());
}

fn reclaim(World { space, range, .. }: &World) {
    let pages = range.len() / PAGE_SIZE;
    assert_eq!(space.mm().shrink(pages).reclaimed, pages, "all pages are old");
}

fn swap_out(world: &World) {
    write_and_age(world);
    reclaim(world);
}

/// Pages of two went to swap, and the child has read them all since: they wait in the swap cache for the parent.
fn bring_back_for_a_child(World { space, range, .. }: &World) {
    for page in range.pages() {
        space.fault_in(page, Access::Write).expect("there are frames");
    }
    let child = space.fork().expect("there are tables");
    let pages = range.len() / PAGE_SIZE;
    (0..2).for_each(|_| space.mm().age_all());
    assert_eq!(space.mm().shrink(pages).reclaimed, pages, "all pages are old");
    for page in range.pages() {
        child.fault_in(page, Access::Read).expect("there are frames");
    }
    std::mem::forget(child);
}

fn world(pages: u64) -> World {
    let swap = Box::new(Nowhere(pages));
    let mm = Mm::new(Arc::new(Plain::new(pages * 2 + SPARE)), Some(swap)).expect("a frame");
    let space = AddressSpace::new(&mm).expect("a root");
    let request = MapRequest {
        placement: Placement::Fixed(START),
        len: pages * PAGE_SIZE,
        protection: Protection::ReadWrite,
        kind: VmaKind::Anonymous(PageSize::Size4K),
    };
    let range = space.mmap(request).expect("the address space is empty");
    let mmu = SecondaryMmu::new(Arc::clone(&space), AccessedDirty::Hardware).expect("a root");
    let slot = Slot::try_new(GfnRange::new(Gfn::ZERO, Gfn::new(pages)), range.start()).expect("whole pages");
    mmu.add_slot(slot).expect("there is no other");
    World { space, range, mmu: Arc::new(mmu) }
}

/// What is spent beside the pages themselves.
fn print_overhead(pages: u64) {
    let world = world(pages);
    let before = world.space.host().tables();
    write_all(&world);
    println!("metadata-bytes-per-frame {}", size_of::<mm::frames::FrameMeta>());
    println!(
        "table-bytes-per-mapped-mebibyte {}",
        (world.space.host().tables() - before) * PAGE_SIZE * 256 / pages
    );
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
    let world = world(pages);
    if words.get(3).is_some_and(|word| word == "subscriber") {
        world.space.register(Arc::new(Idle));
    }
    prepare(&world);
    if whole {
        operation(&world);
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
