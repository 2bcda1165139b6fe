//! Every pair of operations that may meet on one page, in every order that the bound allows.
//!
//! | file | what meets what |
//! |---|---|
//! | `ranges` | a fault, and a range between its begin and its end |
//! | `single_page` | a fault, and `invalidate_page`: copy on write, migration, swap-out, write-back |
//! | `two_faults` | two faults on one page |
//! | `parallel` | two faults of one guest, on one page and on pages with tables in common |
//! | `around` | a fault that maps its neighbours, and whatever may happen to one of these |
//! | `ahead` | a first touch that brings pages behind it, and whatever may happen to one of these |
//! | `huge` | a fault that maps a huge page, and a range over a part of it |
//! | `aging` | aging, and unmapping, with and without A and D bits |
//! | `fork` | fork, and a fault |
//! | `shadows` | what is derived and kept of a guest's tables, and whoever writes these, ages or takes what they lead to |
//! | `guest_tables` | a fault under a shadow, which writes the guest's tables, and the pages that these lie in |
//! | `merge` | merging of equal pages, and whoever works on one of them |
//! | `reclaim` | the policy of reclaim, and whatever may happen to a page meanwhile |
//! | `release` | the end of an address space, and reclaim |
//! | `registration` | subscribing and unsubscribing, and everything else |
//! | `slots` | the removal of a slot, a fault, and a notifier |
//! | `truncation` | truncation, and a private copy that is being made |
//! | `dirty_log` | the begin and the harvest of a dirty log, and whatever is written meanwhile |
//! | `flushes` | a flush that one operation owes and another needs |
//! | `broken` | rules broken on purpose: models can fail |

mod aging;
mod ahead;
mod around;
mod broken;
mod dirty_log;
mod flushes;
mod fork;
mod guest_tables;
mod huge;
mod merge;
mod parallel;
mod ranges;
mod reclaim;
mod registration;
mod release;
mod shadows;
mod single_page;
mod slots;
mod truncation;
mod two_faults;
mod zeroed;

use mm::Protection;
use mmu::AccessedDirty;
use models::{Bounds, Program, Word, frame_of, in_memory, map};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tests::lab::{Lab, page};
use tests::machine::{Options, Paging, Speculation};
use tests::worlds::{Backing, SPACES, STORED, With, World};

/// The word that everybody works on, and what it is at first.
const WORD: Word = Word::of(0);
const OLD: u64 = 7;
const NEW: u64 = 9;
const PAGE: u64 = 4096;
const TWO: Bounds = Bounds::preemptions(2);
const RW: Protection = Protection::ReadWrite;

/// A machine as small and as hostile as can be: what a CPU had to forget it fetches again at once.
fn machine() -> Options {
    Options {
        frames: 160,
        cpus: 2,
        quarantine: 16,
        accessed_dirty: AccessedDirty::Hardware,
        speculation: Speculation::AfterFlush,
        paging: Paging::Ept,
    }
    .with_chosen_paging()
}

/// A bench with two pages of memory that a guest sees; nothing was touched.
fn untouched(options: Options) -> Lab {
    let lab = Lab::with_ram(options, 2);
    map(&lab.space, 0, 2);
    lab
}

/// The same, where Herald has stored [`OLD`]: the page is resident, and the guest has no entry for it.
fn lab() -> Lab {
    lab_on(machine())
}

fn lab_on(options: Options) -> Lab {
    let lab = untouched(options);
    Program::herald(&lab, 1).store(WORD, OLD).expect("memory");
    lab
}

/// The same, where guest and Herald have cached translations, too.
fn busy_lab() -> Lab {
    busy_lab_on(machine())
}

fn busy_lab_on(options: Options) -> Lab {
    let lab = lab_on(options);
    assert_eq!(models::everybody_reads(&lab, WORD), Ok(OLD));
    Program::guest(&lab, 0).store(WORD, OLD).expect("memory");
    lab
}

/// A world with a guest in space 0 and two pages there; CPUs 0 and 1 have the space loaded, and the word is [`OLD`].
fn world(backing: Backing) -> World {
    world_on(machine(), backing)
}

fn world_on(options: Options, backing: Backing) -> World {
    let mut world = World::new(Options { frames: 224, ..options }, 4);
    world.machine.excuse_unaged_guests();
    // Threads' operations are not one at a time.
    world.machine.ignore_writes();
    world.spawn(0, With::Guest).expect("a space");
    world.mmap(0, (0, 2), RW, backing).expect("a mapping");
    for cpu in world.machine.cpus() {
        world.load(0, cpu, 1, 0).expect("a load");
    }
    let space = world.space(0);
    Program::guest_of(&world, &space, 0, 0).store(WORD, OLD).expect("memory");
    world
}

fn private_world() -> World {
    world(Backing::Anonymous(addr::PageSize::Size4K))
}

fn file_world() -> World {
    world(Backing::Shared { file: STORED, index: 0 })
}

/// Makes the words that programs have stored known to the world, which compares whole pages. They were looked at before.
fn note_stores(world: &mut World) {
    for id in (0..SPACES).filter(|&id| world.is_living(id)).collect::<Vec<_>>() {
        for word in [WORD, WORD.next()] {
            if let Some(value) = in_memory(&world.space(id), word).filter(|value| *value != 0) {
                world.note_store(id, (word.page, word.word as u16), value);
            }
        }
    }
}

/// Everything is in order, and ends in order.
fn world_ends_well(mut world: World) {
    world.check().unwrap_or_else(|violation| panic!("{violation:?}"));
    note_stores(&mut world);
    world.finish().unwrap_or_else(|violation| panic!("{violation:?}"));
}

/// Reclaims a space's page 0, which was written out before.
fn evict(world: &World, id: usize) {
    let space = world.space(id);
    let held = frame_of(&space, 0);
    assert_eq!(world.mm.page_out(held.frame), Ok(()));
    drop(held);
    assert_eq!(space.lookup(page(0)), None);
}

/// The word in the end, as the guest finds it on each CPU.
fn guests_read(world: &World) -> models::Found {
    let space = world.space(0);
    let found: Vec<_> =
        world.machine.cpus().map(|cpu| Program::guest_of(world, &space, 0, cpu.0).load(WORD)).collect();
    assert!(found.iter().all(|other| *other == found[0]), "{found:?}");
    found[0]
}

/// A bench, and what threads tell each other past the model: no switch points.
struct Bench<B> {
    bed: B,
    /// An operation has returned.
    done: AtomicBool,
    /// What a thread wants to tell.
    told: AtomicU64,
}

impl<B> Bench<B> {
    fn new(bed: B) -> Self {
        Self { bed, done: AtomicBool::new(false), told: AtomicU64::new(0) }
    }

    fn finish(&self) {
        self.done.store(true, Ordering::SeqCst);
    }

    fn is_finished(&self) -> bool {
        self.done.load(Ordering::SeqCst)
    }

    fn tell(&self, value: u64) {
        self.told.store(value, Ordering::SeqCst);
    }

    fn told(&self) -> u64 {
        self.told.load(Ordering::SeqCst)
    }
}
