//! The entries of a device TLB: sets of a few ways, chosen by the page number, as in a processor's TLB.
//!
//! ```text
//!   hva page number   ... tag ... | set          way 0   way 1   way 2   way 3
//!                                    └────────►  (page, pfn, writable, used)
//! ```
//!
//! An entry that goes to make room takes its used flag with it, as a zapped one does: aging is a hint.

use addr::{Hva, HvaRange, PAGE_SHIFT, PAGE_SIZE, Pfn};
use mm::Access;
use mm::notifier::YoungPages;

const SETS: usize = 16;
const WAYS: usize = 4;
const _: () = assert!(SETS.is_power_of_two());

/// One translation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeviceEntry {
    /// First host address of the base page.
    pub page: Hva,
    /// The frame, without a reference on it (I6).
    pub pfn: Pfn,
    /// Whether it may be written through this entry.
    pub writable: bool,
    /// Whether the entry was used since aging last asked.
    pub used: bool,
}

impl DeviceEntry {
    const fn allows(&self, access: Access) -> bool {
        matches!(access, Access::Read) || self.writable
    }

    /// The host addresses that it translates.
    #[must_use]
    pub fn hvas(&self) -> HvaRange {
        HvaRange::new(self.page, self.page.add(PAGE_SIZE))
    }
}

#[derive(Clone, Copy)]
struct Set {
    ways: [Option<DeviceEntry>; WAYS],
    /// Where the next entry goes if all ways are used.
    hand: usize,
}

/// All entries of a device TLB.
pub(super) struct Cache {
    sets: [Set; SETS],
    /// Entries there are: an invalidation of an empty cache costs nothing.
    len: u64,
}

impl Cache {
    pub(super) const fn new() -> Self {
        Self { sets: [Set { ways: [None; WAYS], hand: 0 }; SETS], len: 0 }
    }

    /// The frame of `page`, if an entry allows the access; the entry counts as used from now on.
    pub(super) fn hit(&mut self, page: Hva, access: Access) -> Option<Pfn> {
        let ways = &mut self.sets[set_of(page)].ways;
        let entry = ways.iter_mut().flatten().find(|entry| entry.page == page && entry.allows(access))?;
        entry.used = true;
        Some(entry.pfn)
    }

    /// The choke point: no entry appears or changes but here.
    ///
    /// # Panics
    /// If the page has an entry for another frame.
    pub(super) fn install(&mut self, new: DeviceEntry) {
        let set = &mut self.sets[set_of(new.page)];
        if let Some(old) = set.ways.iter_mut().flatten().find(|old| old.page == new.page) {
            assert!(
                old.pfn == new.pfn,
                "device TLB entry {old:?} would become {new:?} while present (I5): missing notifier call, or a \
                 race",
            );
            // An upgrade; what the device has read may not be taken back.
            *old = DeviceEntry { writable: old.writable || new.writable, ..new };
            return;
        }
        let place = set.place();
        self.len += u64::from(set.ways[place].is_none());
        set.ways[place] = Some(new);
    }

    /// Drops what translates any byte of `range`; returns how many entries went.
    #[inline]
    pub(super) fn zap(&mut self, range: HvaRange) -> u64 {
        if self.len == 0 { 0 } else { self.zap_some(range) }
    }

    #[inline(never)]
    fn zap_some(&mut self, range: HvaRange) -> u64 {
        let before = self.len;
        let mut left = before;
        self.overlapping(range, |way| {
            *way = None;
            left -= 1;
        });
        self.len = left;
        before - left
    }

    /// Tests and clears the used flags in `range`.
    pub(super) fn age(&mut self, range: HvaRange) -> bool {
        let mut young = false;
        self.overlapping(range, |way| {
            young |= way.as_mut().is_some_and(|entry| core::mem::take(&mut entry.used));
        });
        young
    }

    /// Tests and clears the used flags of a block's pages.
    pub(super) fn collect_young(&mut self, young: &mut YoungPages) {
        self.overlapping(young.range(), |way| {
            if let Some(entry) = way.as_mut()
                && core::mem::take(&mut entry.used)
            {
                young.add(entry.hvas());
            }
        });
    }

    /// Every entry.
    pub(super) fn iter(&self) -> impl Iterator<Item = &DeviceEntry> {
        self.sets.iter().flat_map(|set| set.ways.iter().flatten())
    }

    /// Visits the entries that translate a byte of `range`: its own sets, or all if it is long.
    fn overlapping(&mut self, range: HvaRange, mut visit: impl FnMut(&mut Option<DeviceEntry>)) {
        if range.is_empty() || self.len == 0 {
            return;
        }
        let first = range.start().as_u64() >> PAGE_SHIFT;
        let last = (range.end().as_u64() - 1) >> PAGE_SHIFT;
        for offset in 0..(last - first + 1).min(SETS as u64) {
            for way in &mut self.sets[(first + offset) as usize % SETS].ways {
                if way.as_ref().is_some_and(|entry| entry.hvas().overlaps(&range)) {
                    visit(way);
                }
            }
        }
    }
}

impl Set {
    /// A way for a new entry: an empty one, else one not used lately, else the next in turn.
    fn place(&mut self) -> usize {
        let wanted = |idle: fn(&Option<DeviceEntry>) -> bool| self.ways.iter().position(idle);
        wanted(Option::is_none).or_else(|| wanted(|way| way.is_some_and(|entry| !entry.used))).unwrap_or_else(
            || {
                self.hand = (self.hand + 1) % WAYS;
                self.hand
            },
        )
    }
}

fn set_of(page: Hva) -> usize {
    (page.as_u64() >> PAGE_SHIFT) as usize % SETS
}
