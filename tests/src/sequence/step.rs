//! One step of a random sequence, as data that prints and shrinks.

use crate::Violation;
use crate::lab::Verdict;
use crate::worlds::{Backing, By, Callback, Lost, Move, Reclaim, Rewrite, SPACES, With, World};
use addr::PageSize;
use mm::{Advice, Change, CpuIndex, Protection};
use mmu::LogBy;

/// First page, and how many.
pub type Range = (u64, u64);

/// One step. Numbers of spaces stand for those that live.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "the fields are what their names say")]
pub enum Step {
    Spawn { guest: bool },
    Fork { space: usize, guest: bool },
    Exit { space: usize },
    In { space: usize, what: What },
    Truncate { file: usize, len: u64 },
    WriteBack { file: usize },
    Failing { swap: bool, disk: bool, in_place: bool },
    FailNext { after: u64 },
    AgeAll,
    Merge { pages: u64 },
    Shrink { goal: u64 },
    ZeroAhead { frames: u64 },
}

/// What happens in one space.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "the operations are those of the world")]
pub enum What {
    Mmap { range: Range, protection: Protection, backing: Backing },
    Munmap(Range),
    Mprotect(Range, Protection),
    Discard(Range),
    Madvise(Range, Advice),
    Mlock(Range),
    Munlock(Range),
    Msync(Range),
    Mremap { range: Range, new: u64, to: Move },
    RemapFilePages(Range, u64),
    Apply(Range, Callback),
    Collapse(u64),
    Populate(u64),
    Migrate(u64),
    Reclaim(u64, Reclaim),
    Referenced(u64),
    Age(u64),
    UseAndAge(usize, u64),
    MergeAlike(Range, u64),
    Load { cpu: usize, page: u64, word: u16 },
    Store { cpu: usize, page: u64, word: u16, value: u64 },
    GuestLoad { cpu: usize, page: u64, word: u16 },
    GuestStore { cpu: usize, page: u64, word: u16, value: u64 },
    GuestLoadLinear { cpu: usize, page: u64, word: u16 },
    GuestStoreLinear { cpu: usize, page: u64, word: u16, value: u64 },
    Speculate { cpu: usize, page: u64, guest: bool },
    SpeculateLinear { cpu: usize, page: u64 },
    Lose { cpu: usize, what: Lost },
    ProtectTables(Protection),
    Rewrite { cpu: usize, what: Rewrite },
    ToggleAlias,
    ToggleLog { by_processor: bool },
    Harvest,
}

const fn with(guest: bool) -> With {
    if guest { With::Guest } else { With::Nothing }
}

/// The living space that a number stands for.
fn living(world: &World, number: usize) -> Option<usize> {
    let living: Vec<_> = (0..SPACES).filter(|&id| world.is_living(id)).collect();
    (!living.is_empty()).then(|| living[number % living.len()])
}

/// Takes a step.
///
/// # Errors
/// [`Violation`].
pub fn take(world: &mut World, step: Step) -> Result<Verdict, Violation> {
    let free = (0..SPACES).find(|&id| !world.is_living(id));
    match step {
        Step::Spawn { guest } => match free {
            Some(id) => world.spawn(id, with(guest)),
            None => Ok(Verdict::Done),
        },
        Step::Fork { space, guest } => match (living(world, space), free) {
            (Some(id), Some(to)) => world.fork(id, to, with(guest)),
            _ => Ok(Verdict::Done),
        },
        Step::Exit { space } => match living(world, space) {
            Some(id) => world.exit(id),
            None => Ok(Verdict::Done),
        },
        Step::In { space, what } => match living(world, space) {
            Some(id) => happen(world, id, what),
            None => world.spawn(0, With::Guest),
        },
        Step::Truncate { file, len } => world.truncate(file, len),
        Step::WriteBack { file } => world.write_back(file),
        Step::Failing { swap, disk, in_place } => {
            world.swap.set_failing(swap);
            world.disk.set_failing(disk);
            world.in_place.set_failing(in_place);
            Ok(Verdict::Done)
        }
        Step::AgeAll => world.age_all(),
        Step::Merge { pages } => world.merge(pages),
        Step::Shrink { goal } => world.shrink(goal),
        Step::ZeroAhead { frames } => world.zero_ahead(frames),
        Step::FailNext { after } => {
            world.fail_allocation_after(after);
            Ok(Verdict::Done)
        }
    }
}

fn happen(world: &mut World, id: usize, what: What) -> Result<Verdict, Violation> {
    match what {
        What::Mmap { range, protection, backing } => world.mmap(id, range, protection, backing),
        What::Munmap(range) => world.munmap(id, range),
        What::Mprotect(range, protection) => world.mprotect(id, range, protection),
        What::Discard(range) => world.discard(id, range),
        What::Madvise(range, advice) => world.madvise(id, range, advice),
        What::Mlock(range) => world.mlock(id, range),
        What::Munlock(range) => world.munlock(id, range),
        What::Msync(range) => world.msync(id, range),
        What::Mremap { range, new, to } => world.mremap(id, range, new, to),
        What::RemapFilePages(range, index) => world.remap_file_pages(id, range, index),
        What::Apply(range, callback) => world.apply(id, range, callback),
        What::Collapse(page) => world.collapse(id, page),
        What::Populate(first) => world.populate(id, (first, PageSize::Size2M.base_pages())),
        What::Migrate(page) => world.migrate(id, page),
        What::Reclaim(page, how) => world.reclaim(id, page, how),
        What::Referenced(page) => world.referenced(id, page),
        What::Age(page) => world.age(id, page),
        What::UseAndAge(cpu, page) => world.use_and_age(id, CpuIndex(cpu), page),
        What::MergeAlike(range, value) => merge_alike(world, id, range, value),
        What::Load { cpu, page, word } => world.load(id, CpuIndex(cpu), page, word),
        What::Store { cpu, page, word, value } => world.store(id, CpuIndex(cpu), (page, word), value),
        What::GuestLoad { cpu, page, word } => world.guest_load(id, CpuIndex(cpu), page, word),
        What::GuestStore { cpu, page, word, value } => {
            world.guest_store(id, CpuIndex(cpu), (page, word), value)
        }
        What::GuestLoadLinear { cpu, page, word } => world.guest_load_linear(id, CpuIndex(cpu), page, word),
        What::GuestStoreLinear { cpu, page, word, value } => {
            world.guest_store_linear(id, CpuIndex(cpu), (page, word), value)
        }
        What::SpeculateLinear { cpu, page } => world.speculate_linear(id, CpuIndex(cpu), page),
        What::Lose { cpu, what } => world.lose(CpuIndex(cpu), what),
        What::Rewrite { cpu, what } => world.rewrite(id, CpuIndex(cpu), what),
        What::ProtectTables(protection) => world.protect_tables(id, protection),
        What::Speculate { cpu, page, guest } => {
            world.speculate(id, CpuIndex(cpu), page, if guest { By::Guest } else { By::Herald })
        }
        What::ToggleAlias => world.toggle_alias(id),
        What::ToggleLog { by_processor } => {
            world.toggle_log(id, if by_processor { LogBy::Processor } else { LogBy::WriteFault })
        }
        What::Harvest => world.harvest(id),
    }
}

/// Fresh pages with the same word in each, which are merged: more of them than fall out of single stores.
fn merge_alike(world: &mut World, id: usize, range: Range, value: u64) -> Result<Verdict, Violation> {
    world.mmap(id, range, Protection::ReadWrite, Backing::Anonymous(PageSize::Size4K))?;
    world.madvise(id, range, Advice::Mergeable)?;
    for page in range.0..range.0 + range.1 {
        world.store(id, CpuIndex(0), (page, 0), value)?;
    }
    world.merge(u64::MAX)?;
    world.merge(u64::MAX)
}

/// What apply's callback may do.
pub const CALLBACKS: [Callback; 4] = [
    Callback::Each(Change::Keep),
    Callback::Each(Change::WriteProtect),
    Callback::Each(Change::Unmap),
    Callback::FailsAfter(1),
];
