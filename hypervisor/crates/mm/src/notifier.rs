//! The notifier chain of an address space: the interface of the 2008 patch "mmu notifiers #v8".
//!
//! ```text
//!   range sites                              single-page sites (page-table lock held)
//!   invalidate_range_begin                   primary entry cleared, primary TLBs flushed
//!     subscriber zaps and flushes            invalidate_page
//!   primary entries change, TLBs flushed       subscriber zaps and flushes
//!   invalidate_range_end                     new primary entry, if any
//!                                            (several pages at once: invalidate_pages, one flush for all)
//! ```
//!
//! Operations are called under spin locks: subscribers do not sleep, allocate, or take any lock that ranks
//! before [`sync::Rank::Mmu`].
//!
//! Mended against v8: `release` notifies first and unlinks afterwards, so that no entry outlives its last
//! notice; registration holds the chain's writer side, so that no subscriber sees an end without its begin
//! from a caller that has already passed the chain; aging passes the whole primary page, which a subscriber may
//! map in smaller pieces. Subscribers count nesting and never match ranges.

use addr::{Hva, HvaRange, PAGE_SHIFT, PAGE_SIZE, PageSize};
use alloc::sync::Arc;
use mutants::{Mutant, PageSite, RangeSite, YoungSite, intact};
use paging::BlockBits;
#[cfg(feature = "mmu-notifier")]
use {
    alloc::vec::Vec,
    sync::atomic::{AtomicUsize, Ordering},
    sync::{Rank, RwLock},
};

/// The pages of a block of 2 MiB, or of a part of it, that were used. Whoever has their frames in his entries notes it there
/// himself ([`crate::frames::Frames::uses`]); the frames of the others are looked for.
#[derive(Clone, Copy, Debug)]
pub struct YoungPages {
    range: HvaRange,
    generation: u32,
    bits: BlockBits,
    without_note: BlockBits,
}

impl YoungPages {
    /// Whether the page at this address was used.
    #[must_use]
    pub fn contains(&self, page: Hva) -> bool {
        let index = index_of(page);
        self.range.contains(page) && self.bits[index / 64] >> (index % 64) & 1 != 0
    }

    /// Whether none was used.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bits == [0; 8]
    }

    /// None of these pages, which lie in one naturally aligned block.
    #[must_use]
    pub const fn none(range: HvaRange, generation: u32) -> Self {
        Self { range, generation, bits: [0; 8], without_note: [0; 8] }
    }

    /// The generation that is noted in frames.
    #[must_use]
    pub const fn generation(&self) -> u32 {
        self.generation
    }

    /// The pages in question.
    #[must_use]
    pub const fn range(&self) -> HvaRange {
        self.range
    }

    /// These pages were used, and their frames do not know it yet; what lies outside of the block does not count.
    pub fn add(&mut self, used: HvaRange) {
        if let Some(used) = used.intersection(&self.range) {
            for page in used.pages() {
                let index = index_of(page);
                self.without_note[index / 64] |= 1 << (index % 64);
                self.add_page(page);
            }
        }
    }

    /// The page at this address, which lies in the block, was used.
    fn add_page(&mut self, page: Hva) {
        let index = index_of(page);
        self.bits[index / 64] |= 1 << (index % 64);
    }

    /// Of the 512 pages from `first` on these were used, and it is noted in their frames; those that are not in the range do not
    /// count. `first` need not be where this block begins: guest frames and host addresses may be out of step.
    pub fn add_noted(&mut self, first: Hva, used: &BlockBits) {
        if first == self.range.start().align_down(PageSize::Size2M)
            && self.range.len() == PageSize::Size2M.bytes()
        {
            self.bits.iter_mut().zip(used).for_each(|(own, used)| *own |= used);
            return;
        }
        for index in indices(used) {
            let page = first.add(index << PAGE_SHIFT);
            if self.range.contains(page) {
                self.add_page(page);
            }
        }
    }

    /// Those whose frames do not know it yet, by their numbers in the block.
    pub(crate) fn without_note(&self) -> impl Iterator<Item = u64> + '_ {
        indices(&self.without_note)
    }
}

/// The blocks of 2 MiB of a naturally aligned 1 GiB any page of which may have been used.
#[derive(Clone, Copy, Debug)]
pub struct UsedBlocks {
    range: HvaRange,
    bits: BlockBits,
}

impl UsedBlocks {
    /// None of the blocks in this range, which lies in one naturally aligned 1 GiB.
    #[must_use]
    pub const fn none(range: HvaRange) -> Self {
        Self { range, bits: [0; 8] }
    }

    /// The blocks in question: where it begins or ends within one, that is only asked for in part.
    #[must_use]
    pub const fn range(&self) -> HvaRange {
        self.range
    }

    /// The blocks that overlap these pages, if any; what lies outside of the range does not count.
    pub fn add(&mut self, used: HvaRange) {
        let Some(used) = used.intersection(&self.range).filter(|used| !used.is_empty()) else { return };
        let block = |page: Hva| (page.offset_in(PageSize::Size1G) >> PageSize::Size2M.shift()) as usize;
        let last = Hva::new(used.end().as_u64() - 1);
        (block(used.start())..=block(last)).for_each(|index| self.bits[index / 64] |= 1 << (index % 64));
    }

    /// All of them.
    pub fn add_all(&mut self) {
        self.add(self.range);
    }

    /// Each of them that was added, as much as is in the range.
    pub(crate) fn iter(&self) -> impl Iterator<Item = HvaRange> + '_ {
        let first = self.range.start().align_down(PageSize::Size1G);
        indices(&self.bits).filter_map(move |index| {
            let start = first.add(index << PageSize::Size2M.shift());
            HvaRange::new(start, start.add(PageSize::Size2M.bytes())).intersection(&self.range)
        })
    }
}

fn indices(bits: &BlockBits) -> impl Iterator<Item = u64> + '_ {
    (0..8).flat_map(move |word| {
        let mut rest = bits[word as usize];
        core::iter::from_fn(move || {
            let bit = u64::from(rest.trailing_zeros());
            (rest != 0).then(|| {
                rest &= rest - 1;
                word * 64 + bit
            })
        })
    })
}

fn index_of(page: Hva) -> usize {
    (page.offset_in(PageSize::Size2M) >> PAGE_SHIFT) as usize
}

/// Pages in the order of their addresses, as ranges: neighbours are one.
pub fn runs(pages: &[Hva]) -> impl Iterator<Item = HvaRange> + '_ {
    let neighbours = pages.chunk_by(|page, next| page.add(PAGE_SIZE) == *next);
    neighbours.map(|run| HvaRange::new(run[0], run[0].add(run.len() as u64 * PAGE_SIZE)))
}

/// Somebody who keeps translations of an address space in tables or caches of his own.
///
/// Each operation has an empty default. None of them may call back into the address space.
pub trait MmuNotifier: Send + Sync {
    /// The address space is about to go: drop everything, for good. No operation follows.
    fn release(&self) {}

    /// Tests and clears "young" on the primary page `range`; where any part of it was young, also flushes, so
    /// that the next access sets it again. Without A bits: unmaps the page and tells whether it was mapped.
    fn clear_flush_young(&self, range: HvaRange) -> bool {
        let _ = range;
        false
    }

    /// As [`Self::clear_flush_young`] over a range, without the flush: later accesses may go unnoticed until the
    /// translations are dropped for another reason (Linux: `clear_young`). Without A bits: unmaps, as above.
    fn clear_young(&self, range: HvaRange) -> bool {
        let _ = range;
        false
    }

    /// Tests and clears "young" on all pages of a block, and adds those that were; nothing is flushed before
    /// [`Self::flush_young`]. Without A bits: unmaps what was mapped, which is then the answer. The page-table lock is held: what a
    /// subscriber maps is what the primary entry maps.
    fn collect_young(&self, young: &mut YoungPages) {
        let _ = young;
    }

    /// Adds the blocks any page of which may have been used since [`Self::collect_young`] was last asked for all of it, and changes nothing:
    /// the others are not asked for. Who cannot tell says all, as who does not answer. The page-table lock is held.
    fn find_used(&self, blocks: &mut UsedBlocks) {
        blocks.add_all();
    }

    /// Whatever translations of pages are cached whose "young" was collected go, so that the next access sets it again.
    fn flush_young(&self) {}

    /// Whether any page in the range is young; changes nothing (Linux: `test_young`).
    fn test_young(&self, range: HvaRange) -> bool {
        let _ = range;
        false
    }

    /// The primary entry of the page at `address` was cleared. Returns with nothing left that translates to
    /// the old frame, which is not freed before (I1). The page-table lock is held.
    fn invalidate_page(&self, address: Hva) {
        let _ = address;
    }

    /// The same for several pages of one cluster, in the order of their addresses, for the price of one flush.
    fn invalidate_pages(&self, pages: &[Hva]) {
        pages.iter().for_each(|&page| self.invalidate_page(page));
    }

    /// Primary entries in `range` will change. Returns with nothing left that translates the range, and
    /// installs nothing in it until the matching end (I1).
    fn invalidate_range_begin(&self, range: HvaRange) {
        let _ = range;
    }

    /// Primary entries have changed. `range` may differ from that of the begin.
    fn invalidate_range_end(&self, range: HvaRange) {
        let _ = range;
    }

    /// What is read in `range` is not what was read before, and no subscriber's own translation was written through: Herald
    /// has written there, or other pages have taken the place of those that were there. Where that is done between a begin and its
    /// end, the end is yet to come.
    fn contents_changed(&self, range: HvaRange) {
        let _ = range;
    }
}

/// The subscribers of one address space. A forked address space starts with an empty chain (patch site:
/// `mm_init`).
#[cfg(feature = "mmu-notifier")]
#[derive(Default)]
pub struct NotifierChain {
    /// Mirrors the list's length, so that a call site without subscribers costs a load and a branch.
    count: AtomicUsize,
    list: Subscribers,
}

#[cfg(feature = "mmu-notifier")]
struct Subscribers(RwLock<Vec<Arc<dyn MmuNotifier>>>);

#[cfg(feature = "mmu-notifier")]
impl Default for Subscribers {
    fn default() -> Self {
        Self(RwLock::new(Rank::NotifierChain, Vec::new()))
    }
}

#[cfg(feature = "mmu-notifier")]
impl NotifierChain {
    /// Nobody listens yet.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Adds a subscriber. The caller holds the mmap lock for writing: no begin is without its end.
    pub(crate) fn register(&self, subscriber: Arc<dyn MmuNotifier>) {
        let mut list = self.list.0.write();
        list.push(subscriber);
        self.count.store(list.len(), Ordering::Release);
    }

    /// Removes a subscriber. On return none of its operations runs or will run: the writer side waits for
    /// the readers, which is the grace period.
    pub(crate) fn unregister(&self, subscriber: &Arc<dyn MmuNotifier>) -> bool {
        let mut list = self.list.0.write();
        let before = list.len();
        list.retain(|other| !core::ptr::addr_eq(Arc::as_ptr(other), Arc::as_ptr(subscriber)));
        self.count.store(list.len(), Ordering::Release);
        list.len() < before
    }

    /// Whether anybody listens.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    #[inline]
    fn notify(&self, mut operation: impl FnMut(&dyn MmuNotifier)) {
        if self.is_empty() {
            return;
        }
        for subscriber in self.list.0.read().iter() {
            operation(&**subscriber);
        }
    }

    /// Notifies, then unlinks: until the last `release` returns, other operations still find the subscriber.
    pub(crate) fn release(&self) {
        if intact(Mutant::NoRelease) && intact(Mutant::ReleaseUnlinksFirst) {
            self.notify(|subscriber| subscriber.release());
        }
        let gone = core::mem::take(&mut *self.list.0.write());
        self.count.store(0, Ordering::Release);
        if !intact(Mutant::ReleaseUnlinksFirst) {
            gone.iter().for_each(|subscriber| subscriber.release());
        }
        drop(gone);
    }

    /// Asks all subscribers; answers are OR-ed, never short-circuited.
    fn any(&self, ask: impl Fn(&dyn MmuNotifier) -> bool) -> bool {
        let mut young = false;
        self.notify(|subscriber| {
            if intact(Mutant::YoungShortCircuits) || !young {
                young |= ask(subscriber);
            }
        });
        young
    }

    pub(crate) fn clear_flush_young(&self, site: YoungSite, range: HvaRange) -> bool {
        intact(Mutant::NoClearFlushYoung(site)) && self.any(|subscriber| subscriber.clear_flush_young(range))
    }

    pub(crate) fn clear_young(&self, range: HvaRange) -> bool {
        intact(Mutant::NoClearYoung) && self.any(|subscriber| subscriber.clear_young(range))
    }

    pub(crate) fn collect_young(&self, young: &mut YoungPages) {
        if intact(Mutant::NoCollectYoung) {
            self.notify(|subscriber| subscriber.collect_young(young));
        }
    }

    pub(crate) fn find_used(&self, blocks: &mut UsedBlocks) {
        if intact(Mutant::NoFindUsed) {
            self.notify(|subscriber| subscriber.find_used(blocks));
        }
    }

    pub(crate) fn flush_young(&self) {
        if intact(Mutant::NoFlushYoung) {
            self.notify(|subscriber| subscriber.flush_young());
        }
    }

    pub(crate) fn test_young(&self, range: HvaRange) -> bool {
        intact(Mutant::NoTestYoung) && self.any(|subscriber| subscriber.test_young(range))
    }

    pub(crate) fn invalidate_page(&self, site: PageSite, address: Hva) {
        if intact(Mutant::NoInvalidatePage(site)) {
            self.notify(|subscriber| subscriber.invalidate_page(address));
        }
    }

    pub(crate) fn invalidate_pages(&self, site: PageSite, pages: &[Hva]) {
        if intact(Mutant::NoInvalidatePage(site)) {
            self.notify(|subscriber| subscriber.invalidate_pages(pages));
        }
    }

    fn invalidate_range_begin(&self, range: HvaRange) {
        self.notify(|subscriber| subscriber.invalidate_range_begin(range));
    }

    fn invalidate_range_end(&self, range: HvaRange) {
        self.notify(|subscriber| subscriber.invalidate_range_end(range));
    }

    pub(crate) fn contents_changed(&self, range: HvaRange) {
        self.notify(|subscriber| subscriber.contents_changed(range));
    }

    /// Begins an invalidation; the guard's drop ends it, also on an error path.
    pub(crate) fn invalidate(&self, site: RangeSite, range: HvaRange) -> Invalidation<'_> {
        if intact(Mutant::NoBegin(site)) {
            self.invalidate_range_begin(range);
        }
        Invalidation { chain: self, site, range }
    }
}

/// The chain of a build without notifiers: nothing at all.
#[cfg(not(feature = "mmu-notifier"))]
pub struct NotifierChain;

#[cfg(not(feature = "mmu-notifier"))]
impl NotifierChain {
    pub(crate) const fn new() -> Self {
        Self
    }
    pub(crate) fn register(&self, _subscriber: Arc<dyn MmuNotifier>) {}
    pub(crate) fn unregister(&self, _subscriber: &Arc<dyn MmuNotifier>) -> bool {
        false
    }
    /// Nobody listens.
    #[inline]
    pub fn is_empty(&self) -> bool {
        true
    }
    pub(crate) fn release(&self) {}
    pub(crate) fn clear_flush_young(&self, _site: YoungSite, _range: HvaRange) -> bool {
        false
    }
    pub(crate) fn clear_young(&self, _range: HvaRange) -> bool {
        false
    }
    pub(crate) fn test_young(&self, _range: HvaRange) -> bool {
        false
    }
    pub(crate) fn collect_young(&self, _young: &mut YoungPages) {}
    pub(crate) fn find_used(&self, _blocks: &mut UsedBlocks) {}
    pub(crate) fn flush_young(&self) {}
    pub(crate) fn invalidate_page(&self, _site: PageSite, _address: Hva) {}
    pub(crate) fn invalidate_pages(&self, _site: PageSite, _pages: &[Hva]) {}
    pub(crate) fn contents_changed(&self, _range: HvaRange) {}
    fn invalidate_range_end(&self, _range: HvaRange) {}
    pub(crate) fn invalidate(&self, site: RangeSite, range: HvaRange) -> Invalidation<'_> {
        Invalidation { chain: self, site, range }
    }
}

/// A range invalidation between its begin and its end.
#[must_use = "dropping it ends the invalidation"]
pub(crate) struct Invalidation<'a> {
    chain: &'a NotifierChain,
    site: RangeSite,
    range: HvaRange,
}

impl Drop for Invalidation<'_> {
    fn drop(&mut self) {
        if self.site.changes_contents() && intact(Mutant::NoContentsChanged(self.site)) {
            self.chain.contents_changed(self.range);
        }
        if intact(Mutant::NoEnd(self.site)) {
            self.chain.invalidate_range_end(self.range);
        }
    }
}
