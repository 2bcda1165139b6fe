//! Where `mm` differs from Linux on purpose, or the kernel leaves the outcome open. Each has its entry in
//! `docs/CAVEATS.md`; a call that meets one is made on neither side, and counted.

use crate::TASK_SIZE;
use crate::areas::{Area, Backed, find, joined};
use crate::step::{Range, Raw, To, What};
use addr::PAGE_SIZE;

/// Why a call is left out.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Deviation {
    /// mremap wants one area, and only one side has joined the neighbours there: each side's own choice.
    JoinedDifferently,
    /// Linux moves several areas at once since 6.17, if none changes its size.
    SeveralAreas,
    /// mremap of nothing shows shared memory a second time.
    Duplicate,
    /// Linux takes a length for nothing that wraps around when it is rounded up to pages.
    WrappingLength,
    /// What is to be moved does not end in the address space: Linux may find that out when it has unmapped the target.
    EndlessMove,
}

/// Why a call is left out, if it is; `linux` and `herald` are the areas before it.
pub(crate) fn left_out(what: What, linux: &[Area], herald: &[Area]) -> Option<Deviation> {
    match what {
        What::Mlock(range) | What::Munlock(range) | What::Msync(range) => {
            let slack = range.start.0 % PAGE_SIZE;
            let wraps = range.len.0.checked_add(slack + PAGE_SIZE - 1).is_none();
            wraps.then_some(Deviation::WrappingLength)
        }
        What::Mremap { range, new_len: Raw(new_len), to } => {
            mremap(range, rounded(new_len), to, (linux, herald))
        }
        _ => None,
    }
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
