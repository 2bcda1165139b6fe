//! Merging of equal anonymous pages (Linux: `mm/ksm.c`), in areas that have asked for it (`MADV_MERGEABLE`).
//!
//! ```text
//!   the next page ─► checksum ─ not that of the last pass ─► volatile: left alone
//!                       │ the same
//!                       ├─ zeros ───────────────► the zero page
//!                       ├─ equal to a merged one ► becomes it, up to a limit of sharers
//!                       ├─ equal to a candidate ─► the candidate is write-protected: merged; the page becomes it
//!                       └─ else ────────────────► a candidate, until the pass ends
//! ```
//!
//! Merged pages and candidates are found by their checksums, then compared. A candidate may change any time: it is
//! compared again when nobody can write to it any more (`space/merge.rs`). A merged page never changes: a write copies
//! it, also where it has one entry left. The checksum of the last pass is in the frame's metadata: a page that waits
//! costs nothing.
//!
//! No reference is held on merged pages: when their last entry goes, by writes, discards or reclaim, they are free. What is
//! kept here is their reverse map, whose number, as the owner of a frame that has references, proves that it still is that page.

mod contents;
mod stable;

use crate::frames::FrameMeta;
use crate::host::Host;
use crate::mm::Mm;
use crate::space::{AddressSpace, Next};
use addr::{Hva, Pfn};
use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
pub(crate) use contents::{checksum_by_pieces, equal_by_pieces};
pub(crate) use stable::Merged;
use stable::Stable;

/// Most pages that one frame stands for: reclaim visits them all (Linux: `max_page_sharing`).
pub const MOST_SHARERS: usize = 256;
/// Candidates that are kept; with more, those of this pass are forgotten.
const MOST_CANDIDATES: usize = 16_384;

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

/// A page that might have an equal.
struct Candidate<H: Host> {
    space: Weak<AddressSpace<H>>,
    address: Hva,
}

/// A page that is looked at, with a reference on its frame.
struct Page {
    address: Hva,
    frame: Pfn,
    checksum: u32,
}

/// Where merging is.
pub(crate) struct Merge<H: Host> {
    /// Place in the list of address spaces, and the address there.
    space: usize,
    address: Hva,
    stable: Stable<H>,
    candidates: BTreeMap<u32, Candidate<H>>,
    counts: MergeCounts,
    /// The same when the pass began.
    before: MergeCounts,
}

impl<H: Host> Merge<H> {
    /// Nothing was looked at.
    pub(crate) fn new() -> Self {
        Self {
            space: 0,
            address: Hva::ZERO,
            stable: Stable::new(),
            candidates: BTreeMap::new(),
            counts: MergeCounts::default(),
            before: MergeCounts::default(),
        }
    }

    /// A pass has ended.
    fn end_pass(&mut self) -> Pass {
        self.space = 0;
        self.candidates.clear();
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
        (0..pages).find_map(|_| self.merge_next(&mut merge, &spaces))
    }

    /// What merging has come to. The caller holds no lock of rank `Merge` or later.
    pub fn merge_counts(&self) -> MergeCounts {
        let merge = self.merger().lock();
        let (shared, sharing) = merge.stable.count(self);
        MergeCounts { shared, sharing, ..merge.counts }
    }

    /// One page, or as many that are no use as cost about the same; what the pass has come to, if it has ended.
    fn merge_next(&self, merge: &mut Merge<H>, spaces: &[Arc<AddressSpace<H>>]) -> Option<Pass> {
        let Some(space) = spaces.get(merge.space) else {
            merge.stable.forget_gone(self);
            return Some(merge.end_pass());
        };
        match space.next_mergeable(merge.address) {
            Next::Page(address, frame) => {
                merge.address = address.add(addr::PAGE_SIZE);
                merge.counts.scanned += 1;
                let checksum = self.host().checksum(frame);
                self.merge_page(merge, space, &Page { address, frame, checksum });
                self.put(frame);
            }
            Next::Later(address) => merge.address = address,
            Next::None => (merge.space, merge.address) = (merge.space + 1, Hva::ZERO),
        }
        None
    }

    fn merge_page(&self, merge: &mut Merge<H>, space: &Arc<AddressSpace<H>>, page: &Page) {
        let meta: &FrameMeta = self.host().frames().meta(page.frame);
        // Sixteen bits of it do: a volatile page that is taken for another now and then costs a comparison.
        let checksum = page.checksum as u16;
        if meta.swap_checksum(checksum) != checksum {
            merge.counts.changed += 1;
        } else if self.host().equal(page.frame, self.zero_page()) {
            merge.counts.zero += u64::from(space.become_zero(page.address, page.frame));
        } else if self.join_merged(merge, space, page) || self.join_candidate(merge, space, page) {
            merge.counts.merged += 1;
        }
    }

    /// The page becomes a merged one, if there is one that equals it.
    fn join_merged(&self, merge: &mut Merge<H>, space: &AddressSpace<H>, page: &Page) -> bool {
        merge.stable.find(self, page.checksum, |merged| {
            self.host().equal(page.frame, merged.frame)
                && space.become_merged(page.address, page.frame, merged)
        })
    }

    /// The page becomes the candidate with its checksum, if that is equal; else it is the candidate.
    fn join_candidate(&self, merge: &mut Merge<H>, space: &Arc<AddressSpace<H>>, page: &Page) -> bool {
        if merge.candidates.len() >= MOST_CANDIDATES {
            merge.candidates.clear();
        }
        let this = Candidate { space: Arc::downgrade(space), address: page.address };
        let Some(other) = merge.candidates.insert(page.checksum, this) else { return false };
        let Some(others) = other.space.upgrade() else { return false };
        let Some(merged) = others.make_merged(other.address, page.frame) else { return false };
        let joined = space.become_merged(page.address, page.frame, &merged);
        // What it is found by, now that it cannot change: what its like has; at worst, what that had before.
        let checksum = if joined { page.checksum } else { self.host().checksum(merged.frame) };
        self.put(merged.frame);
        merge.stable.add(checksum, merged);
        joined
    }
}
