//! The coherence rule, decided a second time: from raw entries, and from the slots.

use super::walk::{Leaf, Tables};
use crate::Violation;
use crate::machine::Machine;
use addr::{Gfn, Gpa, GpaRange};
use mm::Host;
use mmu::SecondaryMmu;

pub(super) fn check(
    machine: &Machine,
    mmu: &SecondaryMmu<Machine>,
    tables: &Tables,
    primary: &Tables,
) -> Result<(), Violation> {
    for (&address, leaf) in &tables.leaves {
        check_leaf(machine, mmu, (Gpa::new(address), leaf), primary)?;
    }
    Ok(())
}

fn check_leaf(
    machine: &Machine,
    mmu: &SecondaryMmu<Machine>,
    (gpa, leaf): (Gpa, &Leaf),
    primary: &Tables,
) -> Result<(), Violation> {
    let (gfn, frame): (Gfn, _) = (gpa.gfn(), leaf.raw.pfn);
    let page = GpaRange::sized(gpa, leaf.raw.size.bytes());
    let hvas = page.and_then(|page| mmu.translate(page)).ok_or(Violation::NoSlot { gfn, frame })?;
    let hva = hvas.start();
    let found = primary.find(hva.as_u64()).filter(|(_, found)| found.present);
    let mapped = found.map(|(start, found)| found.frame_at(start, hva.as_u64()));
    let whole = found.is_some_and(|(_, found)| found.raw.size >= leaf.raw.size);
    if mapped != Some(frame) || !whole {
        return Err(Violation::SecondaryDiffers { gfn, hva, frame, primary: mapped });
    }
    if leaf.raw.write && !found.is_some_and(|(_, found)| found.raw.write) {
        return Err(Violation::SecondaryWritable { gfn, hva });
    }
    // Dirty is noted at the head of the primary page; of a store's own frames nobody asks it.
    let head = found.map_or(frame, |(_, found)| found.raw.pfn);
    if leaf.raw.write && !machine.is_foreign(head) && !machine.frames().meta(head).is_dirty() {
        return Err(Violation::SecondaryClean { gfn, frame: head });
    }
    Ok(())
}
