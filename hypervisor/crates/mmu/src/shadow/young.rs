//! What was used, where shadows stand on an EPT's tables: a leaf of a shadow has A of its processor, the leaf below has A of faults. Without
//! shadows the processor's is in the latter, which is noted in frames block by block.

use crate::secondary::Locked;
use crate::slots::Slot;
use crate::tdp::Tdp;
use addr::{GfnRange, Hva};
use mm::Host;
use mm::notifier::YoungPages;

impl Locked {
    /// Whether anything may stand on leaves.
    pub(crate) const fn has_shadows(&self) -> bool {
        !self.shadows.is_empty()
    }

    /// Collects which pages of a part of a slot were used, and none is any more. The caller owes a flush.
    pub(crate) fn collect_young<H: Host>(
        &self,
        host: &H,
        tdp: Tdp,
        (slot, run): (Slot, GfnRange),
        young: &mut YoungPages,
    ) {
        if self.has_shadows() {
            tdp.age_each(host, run, |gfns, used| {
                if used {
                    young.add(slot.hvas_of(gfns));
                }
            });
            self.age_each(host, run, |gfns| young.add(slot.hvas_of(gfns)));
            return;
        }
        let uses = host.frames().uses(young.generation());
        // May lie before the slot; then the pages there are none of the run.
        let offset = slot.hva_of(run.start()).as_u64().wrapping_sub(run.start().base().as_u64());
        tdp.collect_young(host, run, uses, |first, used| {
            young.add_noted(Hva::new(first.base().as_u64().wrapping_add(offset)), used);
        });
    }
}
