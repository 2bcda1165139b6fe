//! The subscriber: what a device TLB does when the host changes memory under it.
//!
//! There is nothing to flush but the entries themselves: an access holds the lock that each call here waits for.

use super::DeviceTlb;
use crate::stats::add;
use addr::{Hva, HvaRange, PAGE_SIZE, PageSize};
use mm::Host;
use mm::notifier::{MmuNotifier, UsedBlocks, YoungPages, runs};
use mutants::{Mutant, intact};

impl<H: Host> DeviceTlb<H> {
    /// Primary entries are clear: what was made of them goes.
    #[inline]
    fn invalidate(&self, runs: impl Iterator<Item = HvaRange>) {
        let mut locked = self.locked.lock();
        // Raised before the zap, the primary entry being clear already: an access that resolved the old frame
        // finds the sequence changed (I3).
        if intact(Mutant::NoRaiseOnDevicePage) {
            self.sequence.raise(&mut locked.in_progress);
        }
        if intact(Mutant::DevicePageZapsNothing) {
            runs.for_each(|run| self.zap(&mut locked, run));
        }
    }
}

impl<H: Host> MmuNotifier for DeviceTlb<H> {
    /// Drops everything, and lets no access install again.
    fn release(&self) {
        let gone =
            intact(Mutant::DeviceReleaseDropsNothing).then(|| self.locked.lock().cache.take()).flatten();
        add(&self.stats.zapped, gone.map_or(0, |cache| cache.iter().count() as u64));
    }

    /// v8's contract, that the next access is seen again, needs no flush here: each access sets its flag.
    fn clear_flush_young(&self, range: HvaRange) -> bool {
        let age = |cache: &mut super::Cache| cache.age(range);
        intact(Mutant::DeviceAgingClearsNothing) && self.locked.lock().cache.as_mut().is_some_and(age)
    }

    /// There is no flush to leave out.
    fn clear_young(&self, range: HvaRange) -> bool {
        self.clear_flush_young(range)
    }

    fn collect_young(&self, young: &mut YoungPages) {
        if let Some(cache) = self.locked.lock().cache.as_mut() {
            cache.collect_young(young);
        }
    }

    fn find_used(&self, blocks: &mut UsedBlocks) {
        let locked = self.locked.lock();
        let entries = locked.cache.iter().flat_map(|cache| cache.iter());
        let used = entries.filter(|entry| entry.used && intact(Mutant::DeviceUsesNoBlock));
        used.for_each(|entry| blocks.add(entry.hvas()));
    }

    fn test_young(&self, range: HvaRange) -> bool {
        let locked = self.locked.lock();
        let mut entries = locked.cache.iter().flat_map(|cache| cache.iter());
        entries.any(|entry| entry.used && entry.hvas().overlaps(&range))
    }

    fn invalidate_page(&self, address: Hva) {
        let page = address.align_down(PageSize::Size4K);
        self.invalidate(core::iter::once(HvaRange::new(page, page.add(PAGE_SIZE))));
    }

    fn invalidate_pages(&self, pages: &[Hva]) {
        self.invalidate(runs(pages));
    }

    fn invalidate_range_begin(&self, range: HvaRange) {
        let mut locked = self.locked.lock();
        locked.in_progress.begin(range.start().as_u64(), range.end().as_u64());
        if intact(Mutant::DeviceBeginZapsNothing) {
            self.zap(&mut locked, range);
        }
    }

    fn invalidate_range_end(&self, _range: HvaRange) {
        self.locked.lock().in_progress.end(&self.sequence);
    }
}
