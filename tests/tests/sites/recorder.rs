//! A subscriber that writes down every call, and what the guest's MMU stands to lose by it: so that a call which is
//! missed without harm can be told from one that no test notices.
//!
//! It stands before the guest's MMU in the chain. At each call but `invalidate_page` it also asks for the coherence
//! rule: at those moments no entry is under change that the secondary may still have.

use addr::{Gfn, Hva, HvaRange, PAGE_SHIFT, PAGE_SIZE, PageSize};
use mm::notifier::{MmuNotifier, UsedBlocks, YoungPages};
use mm::{AddressSpace, Mapping};
use mmu::SecondaryMmu;
use paging::Leaf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use tests::Violation;
use tests::lab::{ARENA, Notice, pages};
use tests::machine::Machine;

/// A secondary entry at the time of a call, and the primary page that it was made from.
struct Entry {
    hva: Hva,
    leaf: Leaf,
    primary_size: Option<PageSize>,
}

/// One call.
pub(crate) struct Call {
    pub(crate) notice: Notice,
    range: HvaRange,
    entries: Vec<Entry>,
    /// Whether any of them was used: also where A is of what stands on it.
    is_young: bool,
    /// Whether any of the entries is wrong after the operation; `None` until then.
    outdated: Option<bool>,
    in_slot: bool,
}

impl Call {
    /// Why nobody needs to notice that this call is missed, if there is a reason; `next` is the call after it.
    pub(crate) fn is_needless(&self, next: Option<&Self>) -> Option<&'static str> {
        let nothing = self.entries.is_empty();
        match self.notice {
            Notice::RangeBegin | Notice::InvalidatePage | Notice::Release if nothing => {
                Some("the secondary has nothing there, so nothing is zapped")
            }
            Notice::RangeBegin | Notice::InvalidatePage if self.outdated == Some(false) => {
                Some("what the secondary has is right afterwards, too")
            }
            Notice::RangeBegin if next.is_some_and(|next| self.is_repeated_by(next)) => {
                Some("a second begin over the same pages comes before any entry changes")
            }
            Notice::RangeEnd if !self.in_slot => Some("no slot holds the range, so no fault can wait for it"),
            Notice::ClearFlushYoung
            | Notice::ClearYoung
            | Notice::FindUsed
            | Notice::CollectYoung
            | Notice::TestYoung
                if !self.is_young =>
            {
                Some("nothing is young: no bit to clear, and no answer is the same as the right one")
            }
            Notice::ClearFlushYoung if next.is_some_and(|next| self.is_overruled_by(next)) => {
                Some("the page goes at once, young or not")
            }
            _ => None,
        }
    }

    fn is_repeated_by(&self, next: &Self) -> bool {
        next.notice == Notice::RangeBegin && self.entries.iter().all(|entry| next.range.contains(entry.hva))
    }

    fn is_overruled_by(&self, next: &Self) -> bool {
        next.notice == Notice::InvalidatePage && next.range == self.range
    }
}

/// The subscriber.
pub(crate) struct Recorder {
    space: Weak<AddressSpace<Machine>>,
    mmu: Weak<SecondaryMmu<Machine>>,
    ram: HvaRange,
    calls: Mutex<Vec<Call>>,
    incoherent: Mutex<Option<Violation>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Recorder {
    /// For a guest whose RAM is `ram` pages from the arena's start on, from guest frame 0 on.
    pub(crate) fn new(
        space: &Arc<AddressSpace<Machine>>,
        mmu: &Arc<SecondaryMmu<Machine>>,
        ram: u64,
    ) -> Self {
        Self {
            space: Arc::downgrade(space),
            mmu: Arc::downgrade(mmu),
            ram: pages(0, ram),
            calls: Mutex::default(),
            incoherent: Mutex::default(),
        }
    }

    /// The calls so far.
    pub(crate) fn calls(&self) -> MutexGuard<'_, Vec<Call>> {
        lock(&self.calls)
    }

    /// How often an operation was called.
    pub(crate) fn count(&self, notice: Notice) -> usize {
        self.calls().iter().filter(|call| call.notice == notice).count()
    }

    fn record(&self, notice: Notice, range: HvaRange) {
        // A single-page site is through with its entry before the next call.
        self.settle_those(|call| call.notice == Notice::InvalidatePage);
        let part = self.ram.intersection(&range);
        let entries = part.map_or_else(Vec::new, |part| self.entries(part));
        let in_slot = part.is_some();
        let mmu = self.mmu.upgrade();
        let is_young = part.is_some_and(|part| mmu.as_ref().is_some_and(|mmu| mmu.test_young(part)));
        self.calls().push(Call { notice, range, entries, is_young, outdated: None, in_slot });
        // At a single page the primary entry has gone already.
        if notice != Notice::InvalidatePage
            && let Some(mmu) = mmu
            && let Err(incoherence) = mmu.check_coherence()
        {
            lock(&self.incoherent).get_or_insert(Violation::Incoherent(incoherence));
        }
    }

    fn entries(&self, part: HvaRange) -> Vec<Entry> {
        let (Some(space), Some(mmu)) = (self.space.upgrade(), self.mmu.upgrade()) else { return Vec::new() };
        let entry = |hva: Hva| {
            let gfn = Gfn::new((hva.as_u64() - ARENA.as_u64()) >> PAGE_SHIFT);
            let leaf = mmu.lookup(gfn)?;
            let primary_size = space.lookup(hva).map(|mapping| mapping.size);
            Some(Entry { hva, leaf, primary_size })
        };
        part.pages().filter_map(entry).collect()
    }

    /// The operation is over: which of the entries were wrong by now, had they stayed?
    pub(crate) fn settle(&self) -> Result<(), Violation> {
        self.settle_those(|_| true);
        lock(&self.incoherent).take().map_or(Ok(()), Err)
    }

    fn settle_those(&self, which: impl Fn(&Call) -> bool) {
        let Some(space) = self.space.upgrade() else { return };
        for call in self.calls().iter_mut().filter(|call| call.outdated.is_none() && which(call)) {
            call.outdated = Some(call.entries.iter().any(|entry| {
                let now = space.lookup(entry.hva);
                !now.is_some_and(|now| is_right(&space, entry, &now))
            }));
        }
    }
}

/// The coherence rule, for an entry that would have stayed.
fn is_right(space: &AddressSpace<Machine>, entry: &Entry, now: &Mapping) -> bool {
    let offset = entry.hva.offset_in(now.size) >> PAGE_SHIFT;
    let tracked = space.mm().counted(now.pfn).is_some();
    now.pfn.add(offset) == entry.leaf.pfn
        && entry.primary_size.is_none_or(|size| size <= now.size)
        && (now.writable || !entry.leaf.rights.write)
        && (now.dirty || !tracked || !entry.leaf.rights.write)
}

impl MmuNotifier for Recorder {
    fn release(&self) {
        self.record(Notice::Release, self.ram);
    }

    fn clear_flush_young(&self, range: HvaRange) -> bool {
        self.record(Notice::ClearFlushYoung, range);
        false
    }

    fn clear_young(&self, range: HvaRange) -> bool {
        self.record(Notice::ClearYoung, range);
        false
    }

    fn find_used(&self, blocks: &mut UsedBlocks) {
        self.record(Notice::FindUsed, blocks.range());
    }

    fn collect_young(&self, young: &mut YoungPages) {
        self.record(Notice::CollectYoung, young.range());
    }

    fn flush_young(&self) {
        self.record(Notice::FlushYoung, self.ram);
    }

    fn test_young(&self, range: HvaRange) -> bool {
        self.record(Notice::TestYoung, range);
        false
    }

    fn invalidate_page(&self, address: Hva) {
        self.record(Notice::InvalidatePage, HvaRange::new(address, address.add(PAGE_SIZE)));
    }

    fn invalidate_range_begin(&self, range: HvaRange) {
        self.record(Notice::RangeBegin, range);
    }

    fn invalidate_range_end(&self, range: HvaRange) {
        self.record(Notice::RangeEnd, range);
    }
}
