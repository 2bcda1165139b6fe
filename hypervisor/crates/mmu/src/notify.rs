//! The subscriber: what the EPT does when the host changes memory under it. What takes entries away holds the mmu lock
//! exclusively, up to the end of its flush; aging by A bits shares it with faults.

use crate::secondary::{Locked, SecondaryMmu};
use crate::slots::{Slot, Slots};
use crate::tdp::{Tdp, every_gfn};
use addr::{GfnRange, Hva, HvaRange};
use mm::Host;
use mm::notifier::{MmuNotifier, UsedBlocks, YoungPages, runs};
use mutants::{Mutant, intact};

impl<H: Host> SecondaryMmu<H> {
    /// Primary entries are clear: what stands on them goes. The slots lock is held.
    #[inline]
    fn invalidate(&self, gfns: impl Iterator<Item = GfnRange>) {
        let mut locked = self.locked.write();
        // Raised before the zap, the primary entry being clear already: a fault that resolved the old frame
        // finds the sequence changed (I3).
        if intact(Mutant::NoRaiseOnPage) {
            self.sequence.raise(&mut locked.in_progress);
        }
        if intact(Mutant::PageZapsNothing) {
            self.zap_and_flush(&mut locked, gfns);
        }
    }

    /// Of shadows' leaves A tells what a virtual processor has used, of the leaves that these stand on what faults have.
    fn age(&self, locked: &Locked, tdp: Tdp, slots: &Slots, range: HvaRange) -> bool {
        let host = &*self.host;
        slots.gfns_of(range).fold(false, |young, run| young | tdp.age(host, run) | locked.age(host, run))
    }

    /// Aging without A bits: entries go, and whether one was used is the answer, as every one was that a fault has brought. So it takes the exclusive side, and
    /// flushes whoever asks (I6), unless the mistake `unflushed` is made.
    fn zap_young(&self, slots: &Slots, range: HvaRange, unflushed: Mutant) -> bool {
        let mut locked = self.locked.write();
        let Some(tdp) = locked.tdp else { return false };
        let young = slots.gfns_of(range).any(|run| locked.is_young(&*self.host, run));
        if !intact(Mutant::AgingWithoutBitsZapsNothing) {
            return young;
        }
        let zapped: u64 = slots.gfns_of(range).map(|run| tdp.zap(&*self.host, run, &mut locked)).sum();
        if zapped > 0 && intact(unflushed) {
            self.flush(tdp);
        }
        young
    }

    fn collect_by_zapping(&self, slots: &Slots, young: &mut YoungPages) {
        let mut locked = self.locked.write();
        let Some(tdp) = locked.tdp else { return };
        let mut zapped = 0;
        for (slot, run) in parts(slots, young.range()) {
            let leaves = tdp.leaves(&*self.host, run).filter(|(_, leaf)| leaf.accessed);
            leaves.for_each(|(gfns, _)| young.add(slot.hvas_of(gfns)));
            zapped += tdp.zap(&*self.host, run, &mut locked);
        }
        if zapped > 0 && intact(Mutant::NoFlushOfCollected) {
            self.flush(tdp);
        }
    }
}

/// Where slots and a range of host addresses meet.
fn parts(slots: &Slots, range: HvaRange) -> impl Iterator<Item = (Slot, GfnRange)> + '_ {
    slots.iter().filter_map(move |slot| Some((slot, slot.gfns_of(range)?)))
}

impl<H: Host> MmuNotifier for SecondaryMmu<H> {
    /// Zaps everything, flushes, and lets no fault install again: afterwards nothing translates. The root
    /// itself stays until the MMU is dropped: a CPU may be in guest mode on it now, and walk it again
    /// right after the flush (I11, I13).
    fn release(&self) {
        let mut locked = self.locked.write();
        if intact(Mutant::ReleaseZapsNothing) {
            self.zap_and_flush(&mut locked, [every_gfn()]);
        }
        if intact(Mutant::ReleaseLeavesRoot) {
            locked.tdp = None;
        }
    }

    /// The shared side will do where there are A bits: no entry goes. All who age hold the page-table lock, so nobody
    /// hears "old" of a page whose flush another one has yet to pay (I12).
    fn clear_flush_young(&self, range: HvaRange) -> bool {
        let slots = self.slots.read();
        if !self.has_accessed_bits() {
            return self.zap_young(&slots, range, Mutant::NoFlushOfYoung);
        }
        let locked = self.locked.read();
        let Some(tdp) = locked.tdp else { return false };
        let young = self.age(&locked, tdp, &slots, range);
        if young && intact(Mutant::NoFlushOfYoung) {
            // v8's contract: the next access must set A again, so no cached translation may survive (I12).
            self.flush(tdp);
        }
        young
    }

    fn clear_young(&self, range: HvaRange) -> bool {
        let slots = self.slots.read();
        if !self.has_accessed_bits() {
            return self.zap_young(&slots, range, Mutant::NoFlushOfClearedYoung);
        }
        let locked = self.locked.read();
        locked.tdp.is_some_and(|tdp| self.age(&locked, tdp, &slots, range))
    }

    /// By A bits under the shared side; without them entries go, and the flush is not put off (I6).
    fn collect_young(&self, young: &mut YoungPages) {
        let slots = self.slots.read();
        if !self.has_accessed_bits() {
            return self.collect_by_zapping(&slots, young);
        }
        let locked = self.locked.read();
        let Some(tdp) = locked.tdp else { return };
        for part in parts(&slots, young.range()) {
            locked.collect_young(&*self.host, tdp, part, young);
        }
    }

    /// By the A bits of entries that name page tables. Of shadows these say nothing.
    fn find_used(&self, blocks: &mut UsedBlocks) {
        let slots = self.slots.read();
        let locked = self.locked.read();
        let Some(tdp) = locked.tdp else { return };
        if !self.has_accessed_bits() || locked.has_shadows() && intact(Mutant::ShadowsUseNoBlock) {
            return blocks.add_all();
        }
        for (slot, run) in parts(&slots, blocks.range()) {
            tdp.find_used(&*self.host, run, |gfns| blocks.add(slot.hvas_of(gfns)));
        }
    }

    fn flush_young(&self) {
        let locked = self.locked.read();
        if let Some(tdp) = locked.tdp.filter(|_| self.has_accessed_bits()) {
            self.flush(tdp);
        }
    }

    fn test_young(&self, range: HvaRange) -> bool {
        let slots = self.slots.read();
        let locked = self.locked.read();
        slots.gfns_of(range).any(|run| locked.is_young(&*self.host, run))
    }

    fn invalidate_page(&self, address: Hva) {
        let slots = self.slots.read();
        self.invalidate(slots.gfns_at(address));
    }

    fn invalidate_pages(&self, pages: &[Hva]) {
        let slots = self.slots.read();
        self.invalidate(runs(pages).flat_map(|run| slots.gfns_of(run)));
    }

    fn invalidate_range_begin(&self, range: HvaRange) {
        let slots = self.slots.read();
        let mut locked = self.locked.write();
        // Host addresses, not guest frames: a slot may be added before the end, and nothing may appear in it.
        locked.in_progress.begin(range.start().as_u64(), range.end().as_u64());
        if intact(Mutant::BeginZapsNothing) {
            self.zap_and_flush(&mut locked, slots.gfns_of(range));
        }
    }

    fn invalidate_range_end(&self, _range: HvaRange) {
        self.locked.write().in_progress.end(&self.sequence);
    }

    fn contents_changed(&self, range: HvaRange) {
        self.note_contents(range);
        self.logs.read().mark(range);
    }
}
