//! Merged pages, by their checksums. Where one has as many sharers as it may, there is another of the same contents.

use super::MOST_SHARERS;
use crate::frames::{FrameMeta, PageFlags};
use crate::host::Host;
use crate::mm::Mm;
use crate::rmap::Rmap;
use addr::Pfn;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Most merged pages that one page is compared with. Only those have room and the same checksum that somebody has made so.
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

/// There is a group of checksums for so many frames of the machine,
const FRAMES_EACH: u64 = 32;
/// but at most 2 to this power.
const MOST_BITS: u32 = 12;

struct Noted<H: Host> {
    checksum: u32,
    merged: Merged<H>,
}

/// All merged pages, in groups by the upper bits of their checksums.
pub(super) struct Stable<H: Host> {
    /// Empty until there is one.
    groups: Vec<Vec<Noted<H>>>,
    /// There are 2 to this power.
    bits: u32,
}

impl<H: Host> Stable<H> {
    /// None, on a machine of so many frames.
    pub(super) fn new(frames: u64) -> Self {
        Self { groups: Vec::new(), bits: (frames / FRAMES_EACH).max(2).ilog2().min(MOST_BITS) }
    }

    pub(super) fn add(&mut self, checksum: u32, merged: Merged<H>) {
        if self.groups.is_empty() {
            self.groups.resize_with(1 << self.bits, Vec::new);
        }
        let group = self.group(checksum);
        self.groups[group].push(Noted { checksum, merged });
    }

    const fn group(&self, checksum: u32) -> usize {
        (checksum >> (u32::BITS - self.bits)) as usize
    }

    /// Whether `suits` says so of a page with this checksum that may have more sharers. A reference is held on it meanwhile.
    pub(super) fn find(&self, mm: &Mm<H>, checksum: u32, mut suits: impl FnMut(&Merged<H>) -> bool) -> bool {
        let Some(group) = self.groups.get(self.group(checksum)) else { return false };
        // The newest first: those before it have as many sharers as they may.
        let newest = group.iter().rev().filter(|noted| noted.checksum == checksum).map(|noted| &noted.merged);
        let held = newest.filter(|merged| merged.rmap.has_room(MOST_SHARERS) && merged.hold(mm));
        held.take(MOST_COMPARED).any(|merged| {
            let suited = suits(merged);
            mm.put(merged.frame);
            suited
        })
    }

    /// Forgets pages whose frames have gone.
    pub(super) fn forget_gone(&mut self, mm: &Mm<H>) {
        for group in self.groups.iter_mut().filter(|group| !group.is_empty()) {
            group.retain(|Noted { merged, .. }| {
                let held = merged.hold(mm);
                if held {
                    mm.put(merged.frame);
                }
                held
            });
            group.shrink_to(2 * group.len());
        }
    }

    /// How many frames there are, and how many entries map them.
    pub(super) fn count(&self, mm: &Mm<H>) -> (u64, u64) {
        let (mut shared, mut sharing) = (0, 0);
        for merged in self.groups.iter().flatten().map(|noted| &noted.merged).filter(|merged| merged.hold(mm))
        {
            shared += 1;
            sharing += u64::from(mm.host().frames().meta(merged.frame).map_count());
            mm.put(merged.frame);
        }
        (shared, sharing)
    }
}
