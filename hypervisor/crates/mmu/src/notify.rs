//! The subscriber: what the EPT does when the host changes memory under it.

use crate::secondary::SecondaryMmu;
use crate::tdp::{AccessedDirty, every_gfn};
use addr::{Hva, HvaRange, PAGE_SIZE};
use mm::Host;
use mm::notifier::MmuNotifier;
use mutants::{Mutant, intact};

fn page_at(address: Hva) -> HvaRange {
    HvaRange::new(address, address.add(PAGE_SIZE))
}

impl<H: Host> MmuNotifier for SecondaryMmu<H> {
    /// Zaps everything, flushes, and lets no fault install again: afterwards nothing translates. The tables
    /// themselves stay until the MMU is dropped: a CPU may be in guest mode on them now, and walk them again
    /// right after the flush (I11, I13).
    fn release(&self) {
        let mut locked = self.locked.lock();
        if intact(Mutant::ReleaseZapsNothing) {
            self.zap_and_flush(&locked, [every_gfn()]);
        }
        if intact(Mutant::ReleaseLeavesRoot) {
            locked.tdp = None;
        }
    }

    fn clear_flush_young(&self, range: HvaRange) -> bool {
        let slots = self.slots.read();
        let locked = self.locked.lock();
        let Some(tdp) = locked.tdp else { return false };
        let mut young = false;
        for run in slots.gfns_of(range) {
            young |= match self.accessed_dirty {
                AccessedDirty::Hardware => tdp.age(&*self.host, run),
                AccessedDirty::Absent if intact(Mutant::AgingWithoutBitsZapsNothing) => {
                    tdp.zap(&*self.host, run) > 0
                }
                AccessedDirty::Absent => tdp.is_young(&*self.host, run, self.accessed_dirty),
            };
        }
        if young && intact(Mutant::NoFlushOfYoung) {
            // v8's contract: the next access must set A again, so no cached translation may survive (I12).
            self.flush(tdp);
        }
        young
    }

    fn clear_young(&self, range: HvaRange) -> bool {
        let slots = self.slots.read();
        let locked = self.locked.lock();
        let Some(tdp) = locked.tdp else { return false };
        match self.accessed_dirty {
            AccessedDirty::Hardware => {
                slots.gfns_of(range).fold(false, |young, run| young | tdp.age(&*self.host, run))
            }
            // An entry that goes needs its flush, whoever asks (I6).
            AccessedDirty::Absent => {
                let zapped = slots.gfns_of(range).fold(0, |zapped, run| zapped + tdp.zap(&*self.host, run));
                if zapped > 0 && intact(Mutant::NoFlushOfClearedYoung) {
                    self.flush(tdp);
                }
                zapped > 0
            }
        }
    }

    fn test_young(&self, range: HvaRange) -> bool {
        let slots = self.slots.read();
        let locked = self.locked.lock();
        let Some(tdp) = locked.tdp else { return false };
        slots.gfns_of(range).any(|run| tdp.is_young(&*self.host, run, self.accessed_dirty))
    }

    fn invalidate_page(&self, address: Hva) {
        let slots = self.slots.read();
        let mut locked = self.locked.lock();
        // Raised before the zap, the primary entry being clear already: a fault that resolved the old frame
        // finds the sequence changed (I3).
        if intact(Mutant::NoRaiseOnPage) {
            self.sequence.raise(&mut locked.in_progress);
        }
        if intact(Mutant::PageZapsNothing) {
            self.zap_and_flush(&locked, slots.gfns_of(page_at(address)));
        }
    }

    fn invalidate_range_begin(&self, range: HvaRange) {
        let slots = self.slots.read();
        let mut locked = self.locked.lock();
        // Host addresses, not guest frames: a slot may be added before the end, and nothing may appear in it.
        locked.in_progress.begin(range.start().as_u64(), range.end().as_u64());
        if intact(Mutant::BeginZapsNothing) {
            self.zap_and_flush(&locked, slots.gfns_of(range));
        }
    }

    fn invalidate_range_end(&self, _range: HvaRange) {
        self.locked.lock().in_progress.end(&self.sequence);
    }
}
