//! The operation alphabet: sequences over spaces, files, swap and guests on the simulated machine, whose model and
//! oracle look at every step. A random sequence does not know what is new; this search does.
//!
//! The numbers are drawn as the property tests draw them: pages near each other, so that what one step leaves behind
//! is what the next one meets.
#![no_main]

use addr::PageSize;
use arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use mm::{Advice, Protection};
use mmu::AccessedDirty;
use std::ops::RangeInclusive;
use tests::machine::{Options, Paging, Speculation};
use tests::sequence::{CALLBACKS, Case, Range, Step, What};
use tests::worlds::{ALIAS, ALIASED, ANNEX, Backing, Lost, Move, Reclaim, Rewrite, TABLES};

/// Most steps of a case.
const STEPS: usize = 60;
/// Pages of a region: 2 MiB.
const REGION: u64 = 512;

fuzz_target!(|input: &[u8]| {
    let mut bytes = Unstructured::new(input);
    let Ok(case) = draw(&mut bytes) else { return };
    if let Err(violation) = case.run() {
        eprintln!("{:?}, {} slots of swap, late: {:?}", case.options, case.slots, case.late);
        case.steps.iter().for_each(|step| eprintln!("  {step:?}"));
        panic!("{violation:?}");
    }
});

fn draw(u: &mut Unstructured<'_>) -> Result<Case> {
    let accessed_dirty = if u.ratio(3, 4)? { AccessedDirty::Hardware } else { AccessedDirty::Absent };
    let speculation = if u.arbitrary()? { Speculation::AfterFlush } else { Speculation::Off };
    let quarantine = if u.arbitrary()? { 600 } else { 0 };
    // What a shadow stands on has no A bits of a processor's.
    let shadow = accessed_dirty == AccessedDirty::Absent && u.arbitrary()?;
    let paging = if shadow { Paging::Shadow } else { Paging::Ept };
    let options = Options { frames: 10 * 1024, cpus: 4, quarantine, accessed_dirty, speculation, paging };
    let slots = *u.choose(&[3, 40])?;
    let late = if u.arbitrary()? { Some(1 + u64::from(u.arbitrary::<u16>()?)) } else { None };
    let mut steps = Vec::new();
    while !u.is_empty() && steps.len() < STEPS {
        steps.push(step(u)?);
    }
    Ok(Case { options, slots, late, steps })
}

fn step(u: &mut Unstructured<'_>) -> Result<Step> {
    let space = small(u, 0..=2)?;
    Ok(match u.int_in_range(0..=31u8)? {
        0 => Step::Spawn { guest: u.arbitrary()? },
        1 | 2 => Step::Fork { space, guest: u.arbitrary()? },
        3 => Step::Exit { space },
        4 => Step::Truncate { file: space, len: u.int_in_range(0..=25)? },
        5 => Step::WriteBack { file: space },
        6 => Step::Failing { swap: u.ratio(1, 4)?, disk: u.ratio(1, 4)?, in_place: u.ratio(1, 4)? },
        7 => Step::FailNext { after: u.int_in_range(0..=7)? },
        8 => Step::AgeAll,
        9 => Step::Shrink { goal: u.int_in_range(1..=40)? },
        10 => Step::Merge { pages: if u.arbitrary()? { u64::MAX } else { u.int_in_range(1..=8)? } },
        11 => Step::ZeroAhead { frames: u.int_in_range(1..=40)? },
        12..=14 => Step::In { space, what: access(u)? },
        15..=19 => Step::In { space, what: frames(u)? },
        _ => Step::In { space, what: change(u)? },
    })
}

fn change(u: &mut Unstructured<'_>) -> Result<What> {
    Ok(match u.int_in_range(0..=15u8)? {
        0..=4 => What::Mmap { range: range(u)?, protection: protection(u)?, backing: backing(u)? },
        5 => What::Munmap(range(u)?),
        6 => What::Mprotect(range(u)?, protection(u)?),
        7 => What::Discard(range(u)?),
        8 | 9 => What::Mremap { range: range(u)?, new: length(u)?, to: target(u)? },
        10 => What::RemapFilePages(range(u)?, u.int_in_range(0..=11)?),
        11 => What::Apply(range(u)?, *u.choose(&CALLBACKS)?),
        12 => What::Mlock((page(u)?, u.int_in_range(1..=6)?)),
        13 => What::Munlock(range(u)?),
        14 => What::Msync(range(u)?),
        _ => match u.int_in_range(0..=3u8)? {
            0 => What::ToggleAlias,
            1 => What::ToggleLog { by_processor: u.arbitrary()? },
            _ => What::Harvest,
        },
    })
}

fn target(u: &mut Unstructured<'_>) -> Result<Move> {
    Ok(match u.int_in_range(0..=5u8)? {
        0 => Move::InPlace,
        1 | 2 => Move::MayMove,
        _ => Move::Fixed(page(u)?),
    })
}

fn frames(u: &mut Unstructured<'_>) -> Result<What> {
    Ok(match u.int_in_range(0..=15u8)? {
        0..=4 => What::Madvise(range(u)?, advice(u)?),
        5..=8 => What::Reclaim(any_page(u)?, if u.ratio(1, 4)? { Reclaim::Old } else { Reclaim::Any }),
        9 => What::Migrate(any_page(u)?),
        10 => What::Referenced(any_page(u)?),
        11 => What::Age(any_page(u)?),
        12 => What::UseAndAge(small(u, 0..=3)?, page(u)?),
        13 => What::Collapse(REGION * u.int_in_range(0..=2)?),
        14 => What::MergeAlike(
            (REGION * u.int_in_range(0..=2)?, u.int_in_range(2..=15)?),
            u.int_in_range(0..=2)?,
        ),
        _ => What::Populate(REGION * u.int_in_range(0..=2)?),
    })
}

fn access(u: &mut Unstructured<'_>) -> Result<What> {
    let (cpu, word, value) = (small(u, 0..=3)?, word(u)?, u.arbitrary::<u16>()?.into());
    Ok(match u.int_in_range(0..=15u8)? {
        0 | 1 => What::GuestLoad { cpu, page: guest_page(u)?, word },
        2..=4 => What::GuestStore { cpu, page: guest_page(u)?, word, value },
        5 | 6 => What::Load { cpu, page: page(u)?, word },
        7..=9 => What::Store { cpu, page: page(u)?, word, value },
        10 => What::GuestLoadLinear { cpu, page: guest_page(u)?, word },
        11 => What::GuestStoreLinear { cpu, page: guest_page(u)?, word, value },
        12 => What::Rewrite { cpu, what: rewrite(u)? },
        13 => What::Speculate { cpu, page: page(u)?, guest: u.arbitrary()? },
        14 => What::SpeculateLinear { cpu, page: guest_page(u)? },
        _ if u.arbitrary()? => What::ProtectTables(protection(u)?),
        _ => What::Lose { cpu, what: lost(u)? },
    })
}

fn rewrite(u: &mut Unstructured<'_>) -> Result<Rewrite> {
    if u.ratio(1, 6)? {
        return Ok(Rewrite::Size { large: u.arbitrary()? });
    }
    let index = if u.ratio(3, 4)? { u.int_in_range(0..=9)? } else { u.int_in_range(508..=511)? };
    let to = if u.ratio(4, 5)? { Some(guest_page(u)?) } else { None };
    Ok(Rewrite::Page { index, to, alone: u.arbitrary()? })
}

fn lost(u: &mut Unstructured<'_>) -> Result<Lost> {
    Ok(match u.int_in_range(0..=3u8)? {
        0 | 1 => Lost::GuestPhysical,
        2 => Lost::GuestsAll,
        _ => Lost::GuestsPage(guest_page(u)?),
    })
}

/// The same few often enough to be read again.
fn word(u: &mut Unstructured<'_>) -> Result<u16> {
    Ok(if u.ratio(3, 4)? { u.int_in_range(0..=1)? } else { *u.choose(&[511, 100])? })
}

fn page(u: &mut Unstructured<'_>) -> Result<u64> {
    Ok(match u.int_in_range(0..=15u8)? {
        0..=6 => u.int_in_range(0..=2)?,
        7 => ANNEX + u.int_in_range(0..=11)?,
        8 => u.int_in_range(0..=3 * REGION - 1)?,
        9 => REGION * u.int_in_range(1..=3)? - u.int_in_range(1..=4)?,
        _ => REGION * u.int_in_range(0..=2)? + u.int_in_range(0..=9)?,
    })
}

/// Also one of the guest's tables.
fn any_page(u: &mut Unstructured<'_>) -> Result<u64> {
    if u.ratio(1, 8)? { Ok(TABLES.0 + u.int_in_range(0..=TABLES.1 - 1)?) } else { page(u) }
}

/// Through the slots in step, through the one out of step, or beside all.
fn guest_page(u: &mut Unstructured<'_>) -> Result<u64> {
    Ok(match u.int_in_range(0..=7u8)? {
        0 => ALIAS + u.int_in_range(0..=11)?,
        1 => ALIAS + u.int_in_range(510..=ALIASED.1 - 1)?,
        2 => 4000,
        _ => page(u)?,
    })
}

fn range(u: &mut Unstructured<'_>) -> Result<Range> {
    Ok(match u.int_in_range(0..=7u8)? {
        0 => (REGION * u.int_in_range(0..=2)?, REGION * u.int_in_range(1..=2)?),
        1 => (REGION * u.int_in_range(0..=2)? + u.int_in_range(1..=3)?, REGION),
        _ => (page(u)?, u.int_in_range(1..=6)?),
    })
}

fn length(u: &mut Unstructured<'_>) -> Result<u64> {
    if u.ratio(1, 4)? { Ok(REGION) } else { u.int_in_range(1..=7) }
}

fn protection(u: &mut Unstructured<'_>) -> Result<Protection> {
    let all = [Protection::ReadWrite, Protection::ReadWrite, Protection::Read, Protection::None];
    u.choose(&all).copied()
}

fn backing(u: &mut Unstructured<'_>) -> Result<Backing> {
    let (file, index) = (small(u, 0..=2)?, u.int_in_range(0..=9)?);
    Ok(match u.int_in_range(0..=7u8)? {
        0..=2 => Backing::Anonymous(PageSize::Size4K),
        3 => Backing::Anonymous(PageSize::Size2M),
        4 | 5 => Backing::Private { file, index },
        _ => Backing::Shared { file, index },
    })
}

fn advice(u: &mut Unstructured<'_>) -> Result<Advice> {
    u.choose(&[
        Advice::Free,
        Advice::Cold,
        Advice::PageOut,
        Advice::HugePage,
        Advice::NoHugePage,
        Advice::Mergeable,
        Advice::Unmergeable,
    ])
    .copied()
}

fn small(u: &mut Unstructured<'_>, range: RangeInclusive<u8>) -> Result<usize> {
    u.int_in_range(range).map(usize::from)
}
