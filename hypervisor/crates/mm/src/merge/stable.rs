//! Merged pages, by their checksums. Where one has as many sharers as it may, there is another of the same contents.
//!
//! They are in groups by the upper bits of their checksums. A group is a list, which begins here and goes on in the book (`book.rs`).

use super::{Book, MOST_SHARERS};
use crate::frames::{FrameMeta, PageFlags};
use crate::host::Host;
use crate::mm::Mm;
use crate::rmap::RmapId;
use addr::Pfn;
use alloc::vec::Vec;
use mutants::{Mutant, intact};

/// Most merged pages that one page is compared with. Only those have room and the same checksum that somebody has made so.
const MOST_COMPARED: usize = 4;

/// A frame that was made a merged page, and the number that it had then.
#[derive(Clone, Copy)]
pub(crate) struct Merged {
    pub(crate) frame: Pfn,
    pub(crate) page: RmapId,
}

impl Merged {
    /// Whether the frame still is that page: while it has references, its owner says so. Then a reference is the caller's.
    fn hold<H: Host>(self, mm: &Mm<H>) -> bool {
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

    /// Whether it is still that page, at the moment of asking.
    fn is_there<H: Host>(self, mm: &Mm<H>) -> bool {
        let meta = mm.host().frames().meta(self.frame);
        // In this order: who sees a reference of the frame's next use sees that it has no owner any more, or another one.
        meta.count() > 0 && self.is_in(meta)
    }

    fn is_in(self, meta: &FrameMeta) -> bool {
        meta.has(PageFlags::MERGED) && meta.owner() == Some((self.page, 0))
    }
}

/// There is a group of checksums for so many frames of the machine,
const FRAMES_EACH: u64 = 32;
/// but at most 2 to this power.
const MOST_BITS: u32 = 12;

/// All merged pages.
pub(super) struct Stable {
    /// The newest of each group. Empty until there is one.
    groups: Vec<Option<RmapId>>,
    /// There are 2 to this power.
    bits: u32,
}

impl Stable {
    /// None, on a machine of so many frames.
    pub(super) fn new(frames: u64) -> Self {
        Self { groups: Vec::new(), bits: (frames / FRAMES_EACH).max(2).ilog2().min(MOST_BITS) }
    }

    /// Whether there is room for the groups.
    pub(super) fn is_ready(&mut self) -> bool {
        let room = 1 << self.bits;
        if self.groups.is_empty() && self.groups.try_reserve_exact(room).is_ok() {
            self.groups.resize(room, None);
        }
        !self.groups.is_empty()
    }

    pub(super) fn add(&mut self, book: (&Book, &impl Host), checksum: u32, merged: Merged) {
        let (group, (book, host)) = (self.group(checksum), book);
        if let Some(newest) = self.groups.get_mut(group) {
            book.note(host, merged.page, (merged.frame, checksum), *newest);
            *newest = Some(merged.page);
        }
    }

    const fn group(&self, checksum: u32) -> usize {
        (checksum >> (u32::BITS - self.bits)) as usize
    }

    /// Whether `suits` says so of a page with this checksum that may have more sharers. A reference is held on it meanwhile.
    pub(super) fn find<H: Host>(
        &self,
        mm: &Mm<H>,
        checksum: u32,
        mut suits: impl FnMut(Merged) -> bool,
    ) -> bool {
        let (mut compared, mut next) = (0, self.groups.get(self.group(checksum)).copied().flatten());
        // The newest first: those before it have as many sharers as they may.
        while let Some(page) = next {
            let Some(noted) = mm.book().noted(&**mm.host(), page) else { break };
            let merged = Merged { frame: noted.frame, page };
            next = noted.next;
            if noted.checksum != checksum || noted.count >= MOST_SHARERS || !merged.hold(mm) {
                continue;
            }
            let suited = suits(merged);
            mm.put(merged.frame);
            compared += 1;
            if suited || compared == MOST_COMPARED {
                return suited;
            }
        }
        false
    }

    /// Forgets pages whose frames have gone.
    pub(super) fn forget_gone<H: Host>(&mut self, mm: &Mm<H>) {
        let stays = |frame, page| Merged { frame, page }.is_there(mm) && intact(Mutant::BookForgetsMapped);
        for newest in self.groups.iter_mut().filter(|newest| newest.is_some()) {
            *newest = mm.book().retain(&**mm.host(), *newest, stays);
        }
    }

    /// How many frames there are, and how many entries map them.
    pub(super) fn count<H: Host>(&self, mm: &Mm<H>) -> (u64, u64) {
        let (mut shared, mut sharing) = (0, 0);
        for &newest in self.groups.iter().filter(|newest| newest.is_some()) {
            mm.book().each(&**mm.host(), newest, |frame, page| {
                if (Merged { frame, page }).is_there(mm) {
                    shared += 1;
                    sharing += u64::from(mm.host().frames().meta(frame).map_count());
                }
            });
        }
        (shared, sharing)
    }
}
