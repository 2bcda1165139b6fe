//! Merged pages, by their checksums. Where one has as many sharers as it may, there is another of the same contents.

use super::MOST_SHARERS;
use crate::frames::{FrameMeta, PageFlags};
use crate::host::Host;
use crate::mm::Mm;
use crate::rmap::Rmap;
use addr::Pfn;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Most merged pages that one page is compared with. Only those have room and the same checksum that somebody has made so, and each
/// costs a flush.
const MOST_COMPARED: usize = 4;

/// A frame that was made a merged page, and the reverse map that it had then.
pub(crate) struct Merged<H: Host> {
    pub(crate) frame: Pfn,
    pub(crate) rmap: Arc<Rmap<H>>,
}

impl<H: Host> Merged<H> {
    /// Whether the frame still is that page: while it has references, its owner says so. Then a reference is the caller's.
    fn hold(&self, mm: &Mm<H>) -> bool {
        let meta = mm.host().frames().meta(self.frame);
        // Asked before, too: others' frames are seldom held, and never for long.
        if !self.is_in(meta) || !meta.try_get() {
            return false;
        }
        let is_it = self.is_in(meta);
        if !is_it {
            mm.put(self.frame);
        }
        is_it
    }

    fn is_in(&self, meta: &FrameMeta) -> bool {
        meta.has(PageFlags::MERGED) && meta.owner() == Some((self.rmap.id(), 0))
    }
}

/// All merged pages.
pub(super) struct Stable<H: Host> {
    by_checksum: BTreeMap<u32, Vec<Merged<H>>>,
}

impl<H: Host> Stable<H> {
    pub(super) const fn new() -> Self {
        Self { by_checksum: BTreeMap::new() }
    }

    pub(super) fn add(&mut self, checksum: u32, merged: Merged<H>) {
        self.by_checksum.entry(checksum).or_default().push(merged);
    }

    /// Whether `suits` says so of a page with this checksum that may have more sharers. A reference is held on it meanwhile.
    pub(super) fn find(&self, mm: &Mm<H>, checksum: u32, mut suits: impl FnMut(&Merged<H>) -> bool) -> bool {
        let found = self.by_checksum.get(&checksum);
        // The newest first: those before it have as many sharers as they may.
        let newest = found.into_iter().flat_map(|all| all.iter().rev());
        let held = newest.filter(|merged| merged.rmap.has_room(MOST_SHARERS) && merged.hold(mm));
        held.take(MOST_COMPARED).any(|merged| {
            let suited = suits(merged);
            mm.put(merged.frame);
            suited
        })
    }

    /// Forgets pages whose frames have gone.
    pub(super) fn forget_gone(&mut self, mm: &Mm<H>) {
        self.by_checksum.retain(|_, all| {
            all.retain(|merged| {
                let held = merged.hold(mm);
                if held {
                    mm.put(merged.frame);
                }
                held
            });
            !all.is_empty()
        });
    }

    /// How many frames there are, and how many entries map them.
    pub(super) fn count(&self, mm: &Mm<H>) -> (u64, u64) {
        let (mut shared, mut sharing) = (0, 0);
        for merged in self.by_checksum.values().flatten().filter(|merged| merged.hold(mm)) {
            shared += 1;
            sharing += u64::from(mm.host().frames().meta(merged.frame).map_count());
            mm.put(merged.frame);
        }
        (shared, sharing)
    }
}
