//! Primary entries against areas and against the frames' metadata.

use super::walk::{Leaf, Tables};
use crate::Violation;
use crate::machine::Machine;
use addr::{Hva, Pfn};
use mm::{AddressSpace, Host, Protection, Vma};

pub(super) fn check_areas(space: &AddressSpace<Machine>, tables: &Tables) -> Result<(), Violation> {
    let areas = space.vmas();
    for pair in areas.windows(2) {
        let meet = pair[0].range.end() == pair[1].range.start();
        let equal = pair[0].protection == pair[1].protection && pair[0].kind == pair[1].kind;
        if pair[0].range.end() > pair[1].range.start() || (meet && equal) {
            return Err(Violation::AreasWrong { range: pair[1].range });
        }
    }
    if let Some(vma) = areas.iter().find(|vma| !vma.range.is_aligned(vma.kind.page_size())) {
        return Err(Violation::AreasWrong { range: vma.range });
    }
    let mut counted = 0;
    for (&address, leaf) in &tables.leaves {
        check_leaf(&areas, Hva::new(address), leaf)?;
        counted += leaf.raw.size.base_pages();
    }
    let told = space.resident_frames();
    if told == counted { Ok(()) } else { Err(Violation::Resident { counted, told }) }
}

fn check_leaf(areas: &[Vma], hva: Hva, leaf: &Leaf) -> Result<(), Violation> {
    let size = leaf.raw.size;
    let vma = areas.iter().find(|vma| vma.range.contains(hva) && vma.kind.page_size() == size);
    let vma = vma.ok_or(Violation::OutsideAreas { hva, size })?;
    let Leaf { present, raw } = *leaf;
    let right = match vma.protection {
        Protection::None => !present,
        Protection::Read => present && !raw.write,
        Protection::ReadWrite => present && raw.write,
    };
    if right { Ok(()) } else { Err(Violation::RightsDiffer { hva, present, write: raw.write }) }
}

/// Each frame has one reference for each primary entry, and no other; returns the frames mapped.
pub(super) fn check_references<'a>(
    machine: &Machine,
    spaces: impl Iterator<Item = &'a Tables>,
) -> Result<u64, Violation> {
    let mut mapped: Vec<Pfn> = Vec::new();
    for (&address, leaf) in spaces.flat_map(|tables| &tables.leaves) {
        let frames = (0..leaf.raw.size.base_pages()).map(|index| leaf.raw.pfn.add(index));
        if let Some(frame) = frames.clone().find(|&frame| !machine.is_live_frame(frame)) {
            return Err(Violation::PrimaryDead { hva: Hva::new(address), frame });
        }
        mapped.extend(frames);
    }
    mapped.sort_unstable();
    let mut distinct = 0;
    for same in mapped.chunk_by(|one, other| one == other) {
        let (frame, entries) = (same[0], same.len() as u32);
        let count = machine.frames().meta(frame).count();
        if count != entries {
            return Err(Violation::References { frame, entries, count });
        }
        distinct += 1;
    }
    Ok(distinct)
}
