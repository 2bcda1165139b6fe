//! Old pages that are neighbours go to swap together, for one flush.
//!
//! ```text
//!   who was used lately stays ─► page locks, each tried ─► a slot for each
//!        │
//!        └─► page-table lock: entry ─► note, entry ─► note, …      nobody else maps these frames
//!                             one primary flush
//!                             invalidate_pages: one secondary flush
//!            unlocked ─► each page that is dirty is written         (I14: after the flush)
//!                     ─► each frame that nobody has found in the swap cache meanwhile is free (I6)
//! ```
//!
//! A page goes this way if its one entry is in the cluster, and nothing about it is special; any other goes alone
//! (`reclaim.rs`). A fault that meets a note waits for the page lock, and finds the frame or the slot.

use crate::frames::{FrameMeta, PageFlags, PageTurn, TriedLock};
use crate::host::Host;
use crate::mm::Mm;
use crate::notifier::YoungPages;
use crate::reclaim::Spared;
use crate::rmap::{Owner, RmapId};
use crate::shrink::cluster_at;
use crate::space::{AddressSpace, Leaving, Youth};
use addr::{Hva, HvaRange, Pfn};
use alloc::sync::Arc;
use mutants::{Mutant, intact};

/// Pages that go together: a cluster, naturally aligned.
pub(crate) const CLUSTER: usize = 16;

/// Up to a cluster of something.
pub(crate) type Few<T> = heapless::Vec<T, CLUSTER>;

/// Pages of one cluster, and where they are.
pub(crate) struct Neighbours<H: Host> {
    pub(crate) space: Arc<AddressSpace<H>>,
    /// What finds the page that has led here.
    pub(crate) owner: Owner<H>,
    pub(crate) cluster: HvaRange,
}

/// A page on its way out.
struct Member<'a> {
    leaving: Leaving,
    lock: TriedLock<'a>,
}

impl<H: Host> Mm<H> {
    /// Reclaims pages of a cluster whether or not they were used lately; what cannot go stays. As below.
    pub(crate) fn page_out_together(&self, space: Arc<AddressSpace<H>>, pages: &[(Hva, Pfn)]) {
        let owners = pages.iter().find_map(|&(address, frame)| Some((address, self.owner_of(frame)?.0)));
        let Some((address, owner)) = owners else { return };
        let place = Neighbours { space, owner, cluster: cluster_at(address) };
        let youth = if intact(Mutant::PageOutSparesYoung) { Youth::Ignored } else { Youth::Spares };
        self.reclaim_together(&place, (pages, youth), |_, _| {});
    }

    /// Reclaims old pages of a cluster, and calls `tell` for each. The caller holds a reference on each frame, and no lock
    /// of rank `Page` or later.
    pub(crate) fn reclaim_together(
        &self,
        place: &Neighbours<H>,
        (pages, youth): (&[(Hva, Pfn)], Youth),
        mut tell: impl FnMut(Pfn, Result<(), Spared>),
    ) {
        let turn = PageTurn::take();
        let (mut members, mut alone) = (Few::new(), Few::<Pfn>::new());
        let locked = place.owner.is_locked_in(&place.space, place.cluster);
        let now = self.host().frames().generation();
        let young = match youth {
            Youth::Spares => place.space.take_young(place.cluster, now),
            Youth::Ignored => YoungPages::none(place.cluster, now),
        };
        if pages.iter().any(|&(address, _)| !young.contains(address)) {
            // Of pages whose table stays shared for want of another, no entry will be found.
            let _ = place.space.own_table(place.cluster.start());
        }
        for &(address, frame) in pages {
            let meta = self.host().frames().meta(frame);
            if young.contains(address) && self.host().frames().generation_of(frame) == now {
                tell(frame, Err(Spared::Young));
                continue;
            }
            let Some(lock) = meta.try_lock(&turn) else {
                tell(frame, Err(Spared::Busy));
                continue;
            };
            if locked || !goes_with_others(meta, place.owner.id()) {
                let _ = alone.push(frame);
                continue;
            }
            match self.swap_slot_for(frame) {
                Ok(slot) => drop(members.push(Member { leaving: Leaving { address, frame, slot }, lock })),
                Err(spared) => tell(frame, Err(spared)),
            }
        }
        self.swap_out_together(&place.space, members, &mut tell);
        drop(turn);
        for frame in alone {
            tell(frame, self.evict(frame, youth));
        }
    }

    /// The members have slots, and are locked.
    fn swap_out_together(
        &self,
        space: &AddressSpace<H>,
        members: Few<Member<'_>>,
        tell: &mut impl FnMut(Pfn, Result<(), Spared>),
    ) {
        if !intact(Mutant::BatchWritesFirst) {
            members.iter().for_each(|Member { leaving, .. }| {
                let _ = self.write_dirty(leaving.frame, leaving.slot);
            });
        }
        space.unmap_together(members.iter().map(|member| &member.leaving));
        for Member { leaving: Leaving { frame, slot, .. }, lock } in members {
            let unmapped = self.host().frames().meta(frame).map_count() == 0;
            let written = if unmapped { self.write_to_slot(frame, slot) } else { Err(Spared::Busy) };
            self.keep_cached_if_noted(frame, slot, written);
            drop(lock);
            tell(frame, written);
        }
    }
}

/// What makes a page go alone.
const SPECIAL: PageFlags =
    PageFlags::LAZY_FREE.union(PageFlags::HUGETLB).union(PageFlags::MERGED).union(PageFlags::FILE);

/// Whether a page can go with its neighbours: anonymous, of this reverse map, with one entry. The page lock is held.
fn goes_with_others(meta: &FrameMeta, rmap: RmapId) -> bool {
    let owned = meta.owner().is_some_and(|(owner, _)| owner == rmap);
    owned && meta.map_count() == 1 && !meta.flags().intersects(SPECIAL)
}
