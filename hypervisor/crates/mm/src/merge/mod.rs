//! Merging of equal anonymous pages (Linux: `mm/ksm.c`), in areas that have asked for it (`MADV_MERGEABLE`).
//!
//! ```text
//!   the next page ─► checksum ─ not that of the last pass ─► volatile: left alone
//!                       │ the same
//!                       ├─ that of zeros ───────────────────► the zero page
//!                       ├─ that of a merged one, and equal ─► becomes it, up to a limit of sharers
//!                       ├─ that of a candidate, and equal ──► the candidate is write-protected: merged; the page becomes it
//!                       └─ else ───────────────────► a candidate, until the pass ends
//! ```
//!
//! Some pages of a block are looked at under one page-table lock, and no reference is taken: their entries keep them. Then
//! those that have not changed are looked for by their checksums, which are of a sample of their words (`contents.rs`), and compared:
//! first while they are written, so that nobody loses an entry for nothing, then when nobody can write to either page any
//! more (`space/merge.rs`). A merged page never changes: a write copies it, also where it has one entry left. The checksum
//! of the last pass is in the frame's metadata: a page that waits costs nothing.
//!
//! No reference is held on merged pages: when their last entry goes, by writes, discards or reclaim, they are free. What is
//! kept is their place in a book (`book.rs`), whose number, as the owner of a frame that has references, proves that it still is that page.

mod book;
mod candidates;
mod contents;
mod stable;

use crate::frames::FrameMeta;
use crate::host::Host;
use crate::mm::Mm;
use crate::space::AddressSpace;
use addr::{Hva, Pfn};
use alloc::sync::Arc;
use alloc::vec::Vec;
pub(crate) use book::{Added, Book, Sharer};
use candidates::{Candidate, Candidates};
pub use contents::sampled_word;
pub(crate) use contents::{checksum_by_words, equal_by_pieces};
use core::ops::ControlFlow;
use mutants::{Mutant, intact};
pub(crate) use stable::Merged;
use stable::Stable;

/// Most pages that one frame stands for: reclaim visits them all (Linux: `max_page_sharing`).
pub const MOST_SHARERS: usize = 256;
/// Pages that are looked at under one page-table lock.
const PIECE: u64 = 16;

/// What merging has come to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MergeCounts {
    /// Pages looked at.
    pub scanned: u64,
    /// Of these, pages that had changed since the last pass.
    pub changed: u64,
    /// Pages that have become the zero page.
    pub zero: u64,
    /// Pages that have become another.
    pub merged: u64,
    /// Passes over all areas that have asked for it.
    pub passes: u64,
    /// Frames that stand for merged pages now.
    pub shared: u64,
    /// Entries that map them now: so many more frames would be needed, but for these themselves.
    pub sharing: u64,
}

/// What a pass over all areas that have asked for it has come to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pass {
    /// Pages looked at.
    pub scanned: u64,
    /// Of these, pages that have become others.
    pub gained: u64,
}

/// A page that has not changed since the last pass. Nobody holds it.
#[derive(Clone, Copy)]
pub(crate) struct Page {
    pub(crate) address: Hva,
    pub(crate) frame: Pfn,
    checksum: u32,
}

/// What one look has found. It has room before it takes the page-table lock, under which nothing is allocated (I4).
#[derive(Default)]
pub(crate) struct Looked {
    unchanged: Vec<Page>,
    scanned: u64,
    most: u64,
}

impl Looked {
    /// For a look at so many pages at most.
    fn prepare(&mut self, most: u64) {
        self.unchanged.clear();
        self.unchanged.reserve(PIECE as usize);
        (self.scanned, self.most) = (0, most.min(PIECE));
    }

    /// Whether nothing was looked at.
    pub(crate) const fn is_empty(&self) -> bool {
        self.scanned == 0
    }

    /// Whether it is enough.
    pub(crate) const fn is_full(&self) -> bool {
        self.scanned == self.most
    }

    /// Looks at one more page.
    #[inline]
    pub(crate) fn look(&mut self, meta: &FrameMeta, page: (Hva, Pfn), checksum: u32) {
        self.scanned += 1;
        // Sixteen bits of it do: a volatile page that is taken for another now and then costs a comparison.
        if meta.is_checksum(checksum as u16) {
            let (address, frame) = page;
            self.unchanged.push(Page { address, frame, checksum });
        }
    }
}

/// Where merging is.
pub(crate) struct Merge<H: Host> {
    /// Place in the list of address spaces, and the address there.
    space: usize,
    address: Hva,
    /// The checksum of zeros.
    zeros: u32,
    stable: Stable,
    candidates: Candidates<H>,
    looked: Looked,
    counts: MergeCounts,
    /// The same when the pass began.
    before: MergeCounts,
}

impl<H: Host> Merge<H> {
    /// Nothing was looked at, on a machine where zeros have this checksum, of so many frames.
    pub(crate) fn new(zeros: u32, frames: u64) -> Self {
        Self {
            space: 0,
            address: Hva::ZERO,
            zeros,
            stable: Stable::new(frames),
            candidates: Candidates::new(frames),
            looked: Looked::default(),
            counts: MergeCounts::default(),
            before: MergeCounts::default(),
        }
    }

    /// A pass has ended.
    fn end_pass(&mut self) -> Pass {
        self.space = 0;
        self.candidates.end_pass();
        self.counts.passes += 1;
        let (now, before) = (self.counts, core::mem::replace(&mut self.before, self.counts));
        let gained = |counts: MergeCounts| counts.merged + counts.zero;
        Pass { scanned: now.scanned - before.scanned, gained: gained(now) - gained(before) }
    }
}

impl<H: Host> Mm<H> {
    /// Looks at the next pages, at most so many, and merges what is equal; stops at the end of a pass, and says then what
    /// it has come to. The caller holds no lock of rank `Merge` or later.
    pub fn merge(&self, pages: u64) -> Option<Pass> {
        let spaces = self.spaces();
        let mut merge = self.merger().lock();
        let mut left = pages;
        while left > 0 {
            match self.merge_next(&mut merge, &spaces, left) {
                ControlFlow::Continue(took) => left = left.saturating_sub(took),
                ControlFlow::Break(pass) => return Some(pass),
            }
        }
        None
    }

    /// What merging has come to. The caller holds no lock of rank `Merge` or later.
    pub fn merge_counts(&self) -> MergeCounts {
        let merge = self.merger().lock();
        let (shared, sharing) = merge.stable.count(self);
        MergeCounts { shared, sharing, ..merge.counts }
    }

    /// Some pages, at most so many, or as many that are no use as cost about the same as one: how many these are. What the pass
    /// has come to, if it has ended.
    fn merge_next(
        &self,
        merge: &mut Merge<H>,
        spaces: &[Arc<AddressSpace<H>>],
        most: u64,
    ) -> ControlFlow<Pass, u64> {
        let Some(space) = spaces.get(merge.space) else {
            merge.stable.forget_gone(self);
            return ControlFlow::Break(merge.end_pass());
        };
        let mut looked = core::mem::take(&mut merge.looked);
        looked.prepare(most);
        match space.look_from(merge.address, &mut looked) {
            Some(next) => merge.address = next,
            None => (merge.space, merge.address) = (merge.space + 1, Hva::ZERO),
        }
        merge.counts.scanned += looked.scanned;
        merge.counts.changed += looked.scanned - looked.unchanged.len() as u64;
        looked.unchanged.iter().for_each(|page| self.merge_page(merge, space, page));
        let took = looked.scanned.max(1);
        merge.looked = looked;
        ControlFlow::Continue(took)
    }

    fn merge_page(&self, merge: &mut Merge<H>, space: &Arc<AddressSpace<H>>, page: &Page) {
        if page.checksum == merge.zeros && self.seems(page.frame, self.zero_page()) {
            merge.counts.zero += u64::from(space.become_zero(page));
        } else if merge.stable.find(self, page.checksum, |merged| {
            self.seems(page.frame, merged.frame) && space.become_merged(page, &merged)
        }) || self.join_candidate(merge, space, page)
        {
            merge.counts.merged += 1;
        }
    }

    /// Whether a page has what is in a frame that the caller holds. Others may write to it: so nothing is taken from anybody for the sake of
    /// a page that is another.
    fn seems(&self, page: Pfn, held: Pfn) -> bool {
        self.holding(page, || self.host().equal(page, held)) == Some(true) || !intact(Mutant::MergeGuesses)
    }

    /// Does something with a page held that is in use: the entry that kept it may be gone. Merging does not hold what it merges.
    fn holding<T>(&self, page: Pfn, work: impl FnOnce() -> T) -> Option<T> {
        self.host().frames().meta(page).try_get().then(|| {
            let done = work();
            self.put(page);
            done
        })
    }

    /// The page becomes a candidate with its checksum that is equal; else it is one more of them.
    fn join_candidate(&self, merge: &mut Merge<H>, space: &Arc<AddressSpace<H>>, page: &Page) -> bool {
        if !merge.candidates.is_turn_of(page.checksum) || !merge.stable.is_ready() {
            return false;
        }
        let mut from = 0;
        while let Some((place, other)) = merge.candidates.take(page.checksum, from) {
            from = place + 1;
            match self.join_other(merge, space, page, &other) {
                Join::Joined => return true,
                Join::Gone => {}
                Join::Differs if !intact(Mutant::MergeForgetsLookalikes) => {}
                Join::Differs => merge.candidates.put_back(page.checksum, place, other),
            }
        }
        merge.candidates.add(page.checksum, Candidate::new(space, page.address));
        false
    }

    fn join_other(
        &self,
        merge: &mut Merge<H>,
        space: &AddressSpace<H>,
        page: &Page,
        other: &Candidate<H>,
    ) -> Join {
        let Some(others) = other.space() else { return Join::Gone };
        let merged = self.holding(page.frame, || others.make_merged(other.address, page.frame)).flatten();
        let Some(merged) = merged else { return Join::Differs };
        let joined = space.become_merged(page, &merged);
        // What it is found by, now that it cannot change: what its like has; at worst, what that had before.
        let checksum = if joined { page.checksum } else { self.host().checksum(merged.frame) };
        self.put(merged.frame);
        merge.stable.add((self.book(), &**self.host()), checksum, merged);
        if joined { Join::Joined } else { Join::Gone }
    }
}

/// What has come of a page and a candidate with its checksum.
enum Join {
    /// They are one.
    Joined,
    /// That is no candidate any more.
    Gone,
    /// Other contents, or it could not be taken just now.
    Differs,
}
