//! Where `mm` differs from Linux on purpose, or the kernel leaves the outcome open. Each has its entry in
//! `docs/CAVEATS.md`; a call that meets one is made on neither side, and counted.

use crate::TASK_SIZE;
use crate::areas::{Area, Backed, find, joined};
use crate::probe::Abilities;
use crate::step::{Range, Raw, To, What};
use addr::PAGE_SIZE;

/// Why a call is left out.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Deviation {
    /// mremap wants one area, and only one side has joined the neighbours there: each side's own choice.
    JoinedDifferently,
    /// Linux moves several areas at once since 6.17, if none changes its size.
    SeveralAreas,
    /// What mremap does of what it refuses, before Linux 6.17.
    OlderMremap,
    /// mremap of nothing shows shared memory a second time.
    Duplicate,
    /// Linux takes a length for nothing that wraps around when it is rounded up to pages.
    WrappingLength,
    /// What is to be moved does not end in the address space: Linux may find that out when it has unmapped the target.
    EndlessMove,
}

/// Why a call is left out, if it is; `linux` and `herald` are the areas before it.
pub(crate) fn left_out(
    what: What,
    linux: &[Area],
    herald: &[Area],
    abilities: &Abilities,
) -> Option<Deviation> {
    match what {
        What::Mlock(range) | What::Munlock(range) | What::Msync(range) => {
            let slack = range.start.0 % PAGE_SIZE;
            let wraps = range.len.0.checked_add(slack + PAGE_SIZE - 1).is_none();
            wraps.then_some(Deviation::WrappingLength)
        }
        What::Mremap { range, new_len: Raw(new_len), to } => {
            let plain = || is_plain(range, rounded(new_len), to, linux, herald);
            if !abilities.mremap_looks_first && !plain() {
                return Some(Deviation::OlderMremap);
            }
            mremap(range, rounded(new_len), to, (linux, herald))
        }
        _ => None,
    }
}

/// Whether there is nothing about a call that mremap could refuse: one area, a place that is free of the old one.
fn is_plain(range: Range, new_len: u64, to: To, linux: &[Area], herald: &[Area]) -> bool {
    let (start, old_len) = (range.start.0, rounded(range.len.0));
    let ends = |start: u64, len: u64| start.checked_add(len).filter(|&end| len > 0 && end <= TASK_SIZE);
    let (Some(end), Some(_)) = (ends(start, old_len), ends(start, new_len)) else { return false };
    let one = |areas: &[Area]| find(areas, start).is_some_and(|area| end <= area.end);
    let fits = match to {
        To::InPlace | To::MayMove => true,
        To::Fixed(Raw(target)) => {
            ends(target, new_len).is_some_and(|target_end| target_end <= start || end <= target)
        }
    };
    start.is_multiple_of(PAGE_SIZE) && one(linux) && one(&joined(herald)) && fits
}

fn mremap(range: Range, new_len: u64, to: To, (linux, herald): (&[Area], &[Area])) -> Option<Deviation> {
    let (start, old_len) = (range.start.0, rounded(range.len.0));
    let fixed = matches!(to, To::Fixed(_));
    if fixed && start.saturating_add(old_len) > TASK_SIZE {
        return Some(Deviation::EndlessMove);
    }
    let all = joined(herald);
    let area = find(&all, start)?;
    if old_len == 0 {
        return matches!(area.backed, Backed::Shared { .. }).then_some(Deviation::Duplicate);
    }
    if new_len <= old_len && !fixed {
        // What stays is not looked at.
        return None;
    }
    let end = start.saturating_add(old_len.min(new_len));
    let one = |areas: &[Area]| find(areas, start).is_some_and(|area| end <= area.end);
    match (one(linux), one(herald)) {
        (true, true) => None,
        (false, false) if fixed && old_len == new_len => Some(Deviation::SeveralAreas),
        (false, false) => None,
        _ => Some(Deviation::JoinedDifferently),
    }
}

/// As the kernel rounds: what is too long becomes 0.
pub(crate) const fn rounded(len: u64) -> u64 {
    len.wrapping_add(PAGE_SIZE - 1) & !(PAGE_SIZE - 1)
}
