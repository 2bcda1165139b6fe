//! One operation of the host memory manager on many pages, on the plainest machine there is, to be run under an
//! instruction counter: `costs OPERATION PAGES prepare|whole [subscriber | guests=N]`. The difference between `whole` and `prepare`
//! is what the operation costs. `cargo xtask bench` makes a table of it. With `guests` there are so many address spaces, and
//! so many pages in each, which a guest has in its tables.
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
const SPARE: u64 = 4096;
/// And for each address space.
const TABLES: u64 = 32;

type Space = Arc<AddressSpace<Plain>>;
/// What comes before, in each address space, and what is measured.
type Operation = (&'static str, fn(&World), Measured);

/// What is measured.
#[derive(Clone, Copy)]
enum Measured {
    /// In each address space.
    Each(fn(&World)),
    /// Of all memory at once: the host's own work. So many pages.
    All(fn(&Mm<Plain>, u64)),
}

use Measured::{All, Each};

/// An address space, an area in it, and a guest whose memory that is.
struct World {
    space: Space,
    range: HvaRange,
    mmu: Arc<SecondaryMmu<Plain>>,
    /// Whether the guest makes the accesses, and hears of changes.
    is_guests: bool,
}

const OPERATIONS: [Operation; 23] = [
    ("write-fault", nothing, Each(write_all)),
    ("read-fault", nothing, Each(read_all)),
    ("fault-when-mapped", write_all, Each(write_all)),
    ("page-walk", write_all, Each(look_up)),
    ("zap", write_all, Each(discard)),
    ("mprotect", write_all, Each(protect)),
    ("fork", write_all, Each(fork)),
    ("cow-break", write_and_fork, Each(write_all)),
    ("aging-unused", age_a_guest, All(age)),
    ("aging-used", run_a_guest, All(age)),
    ("reclaim-clean", map_a_file, All(reclaim)),
    ("swap-out", write_and_age, All(reclaim)),
    ("swap-in", swap_out, Each(read_all)),
    ("swap-in-cached", bring_back_for_a_child, Each(read_all)),
    ("guest-first-touch", listen, Each(guest_writes_backwards)),
    ("guest-stream", listen, Each(guest_streams)),
    ("guest-refault", run_and_protect, Each(guest_writes)),
    ("guest-logged-write", run_and_log, Each(guest_writes)),
    ("guest-cow-break", run_and_fork, Each(guest_writes)),
    ("guest-swap-in", listen_and_swap_out, Each(guest_writes)),
    ("mprotect-back", write_and_protect, Each(allow)),
    ("merge", run_pairs, Each(merge)),
    ("guest-merge-break", merge_pairs, Each(guest_writes)),
];

/// Somebody who listens and has nothing to do.
struct Idle;

impl MmuNotifier for Idle {}

fn nothing(_: &World) {}

fn write_all(world: &World) {
    world.touch(Access::Write);
}

fn read_all(world: &World) {
    world.touch(Access::Read);
}

impl World {
    /// Each page is read or written by whoever it belongs to: what an EPT violation costs but for the exit, or a fault of a program.
    fn touch(&self, access: Access) {
        let World { space, mmu, .. } = self;
        for page in self.backwards() {
            if self.is_guests {
                mmu.fault(self.gpa(page), access).expect("there are frames");
            } else {
                space.fault_in(page, access).expect("there are frames");
            }
        }
    }

    /// The pages, the last one first: none comes that nobody asks for.
    fn backwards(&self) -> impl Iterator<Item = Hva> + use<> {
        let (start, count) = (self.range.start(), self.range.len() / PAGE_SIZE);
        (0..count).rev().map(move |index| start.add(index * PAGE_SIZE))
    }

    fn gpa(&self, page: Hva) -> Gpa {
        Gpa::new(page.as_u64() - self.range.start().as_u64())
    }

    /// The guest hears of changes.
    fn listen(&self) {
        self.space.register(Arc::clone(&self.mmu) as Arc<dyn MmuNotifier>);
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
fn listen(world: &World) {
    if !world.is_guests {
        world.listen();
    }
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
    let merged = mm.merge_counts().merged * 2;
    assert_eq!(
        merged,
        range.len() / PAGE_SIZE,
        "candidates have too little room on a machine for so many pages"
    );
}

fn merge_pairs(world: &World) {
    run_pairs(world);
    merge(world);
}

/// Each page is written by a guest that has no right to.
fn guest_writes(world: &World) {
    for page in world.range.pages() {
        world.mmu.fault(world.gpa(page), Access::Write).expect("there are frames");
    }
}

/// The same, the last page first.
fn guest_writes_backwards(world: &World) {
    for page in world.backwards() {
        world.mmu.fault(world.gpa(page), Access::Write).expect("there are frames");
    }
}

/// Each page is written in order by a guest, which faults where no page has come with another.
fn guest_streams(World { range, mmu, .. }: &World) {
    let mut next = Gpa::new(0);
    while next.as_u64() < range.len() {
        let before = mmu.stats().snapshot().mapped_around;
        mmu.fault(next, Access::Write).expect("there are frames");
        let came = mmu.stats().snapshot().mapped_around - before;
        next = next.add((1 + came) * PAGE_SIZE);
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
    let World { space, range, mmu, .. } = world;
    let root = mmu.root().expect("nothing was released");
    for page in range.pages() {
        for level in [Level::Pd, Level::Pt] {
            let found =
                paging::walk_to::<EptEntry, _>(&**space.host(), root, world.gpa(page).as_u64(), level);
            space.host().store(found.at, found.entry.bits() | EptEntry::ACCESSED);
        }
    }
}

/// The same, and nothing since the last pass.
fn age_a_guest(world: &World) {
    run_a_guest(world);
    age(world.space.mm(), 0);
}

fn age(mm: &Mm<Plain>, _: u64) {
    mm.age_all();
}

/// All pages are written, and old.
fn write_and_age(world: &World) {
    write_all(world);
    (0..2).for_each(|_| world.space.mm().age_all());
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

fn reclaim(mm: &Mm<Plain>, pages: u64) {
    assert_eq!(mm.shrink(pages).reclaimed, pages, "all pages are old");
}

fn swap_out(world: &World) {
    write_and_age(world);
    reclaim(world.space.mm(), world.range.len() / PAGE_SIZE);
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

/// A machine for so many address spaces of so many pages.
fn machine(pages: u64, spaces: u64) -> Arc<Mm<Plain>> {
    let frames = (pages * 2 + TABLES) * spaces + SPARE;
    Mm::new(Arc::new(Plain::new(frames)), Some(Box::new(Nowhere(pages * spaces)))).expect("a frame")
}

fn world(mm: &Arc<Mm<Plain>>, pages: u64, is_guests: bool) -> World {
    let space = AddressSpace::new(mm).expect("a root");
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
    let world = World { space, range, mmu: Arc::new(mmu), is_guests };
    if is_guests {
        world.listen();
    }
    world
}

/// What is spent beside the pages themselves.
fn print_overhead(pages: u64) {
    let world = world(&machine(pages, 1), pages, false);
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
    let guests: Option<u64> = match words.get(3).and_then(|word| word.strip_prefix("guests=")) {
        Some(count) => Some(count.parse().ok()?),
        None => None,
    };
    let mm = machine(pages, guests.unwrap_or(1));
    let worlds: Vec<World> = (0..guests.unwrap_or(1)).map(|_| world(&mm, pages, guests.is_some())).collect();
    if words.get(3).is_some_and(|word| word == "subscriber") {
        worlds.iter().for_each(|world| world.space.register(Arc::new(Idle)));
    }
    worlds.iter().for_each(prepare);
    if whole {
        match *operation {
            Each(operation) => worlds.iter().for_each(operation),
            All(operation) => operation(&mm, pages * worlds.len() as u64),
        }
    }
    // What comes after is the same for both, and not part of the cost.
    std::process::exit(0)
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if run(&words).is_some() {
        return ExitCode::SUCCESS;
    }
    eprintln!("usage: costs OPERATION PAGES prepare|whole [subscriber | guests=N]");
    eprintln!("       costs overhead PAGES");
    OPERATIONS.iter().for_each(|(name, ..)| eprintln!("  {name}"));
    ExitCode::from(2)
}
