//! Primary entries against areas and against the frames' metadata.

use super::walk::{Leaf, Note, Tables};
use crate::Violation;
use crate::machine::Machine;
use addr::{Hva, PageSize};
use mm::frames::PageFlags;
use mm::{AddressSpace, Mm, Protection, Vma, VmaFlags};

pub(super) fn check_areas(space: &AddressSpace<Machine>, tables: &Tables) -> Result<(), Violation> {
    let areas = space.vmas();
    for pair in areas.windows(2) {
        let meet = pair[0].range.end() == pair[1].range.start();
        let equal = pair[0].goes_on_in(&pair[1]);
        if pair[0].range.end() > pair[1].range.start() || (meet && equal) {
            return Err(Violation::AreasWrong { range: pair[1].range });
        }
    }
    if let Some(vma) = areas.iter().find(|vma| !vma.range.is_aligned(vma.kind.page_size())) {
        return Err(Violation::AreasWrong { range: vma.range });
    }
    let mut counted = 0;
    for (&address, leaf) in &tables.leaves {
        check_leaf(space.mm(), &areas, (Hva::new(address), leaf))?;
        if space.mm().counted(leaf.raw.pfn).is_some() && tables.counts(address) {
            counted += leaf.raw.size.base_pages();
        }
    }
    let mut slots = 0;
    for &(address, note) in &tables.notes {
        slots += u64::from(matches!(note, Note::Slot(_)) && tables.counts(address));
        let area = areas.iter().find(|vma| vma.range.contains(Hva::new(address)));
        let fits = area.is_some_and(|vma| match note {
            Note::Slot(_) => vma.kind.is_private() && vma.kind.page_size() == PageSize::Size4K,
            Note::Offset => vma.flags.contains(VmaFlags::NONLINEAR) && !vma.kind.is_private(),
        });
        if !fits {
            return Err(Violation::NoteOutsideAreas { hva: Hva::new(address) });
        }
    }
    let told = space.resident_frames();
    if told != counted {
        return Err(Violation::Resident { counted, told });
    }
    let told = space.swapped_pages().now;
    if told == slots { Ok(()) } else { Err(Violation::Swapped { counted: slots, told }) }
}

fn check_leaf(mm: &Mm<Machine>, areas: &[Vma<Machine>], (hva, leaf): (Hva, &Leaf)) -> Result<(), Violation> {
    let size = leaf.raw.size;
    let inside = |vma: &&Vma<Machine>| {
        vma.range.contains(hva)
            && vma.range.contains(hva.add(size.bytes() - 1))
            && vma.kind.page_size() <= size
    };
    let vma = areas.iter().find(inside).ok_or(Violation::OutsideAreas { hva, size })?;
    let Leaf { present, raw } = *leaf;
    let right = match vma.protection {
        Protection::None => !present,
        Protection::Read => present && !raw.write,
        // What is not writable yet becomes so by a fault.
        Protection::ReadWrite => present,
    };
    if !right {
        return Err(Violation::RightsDiffer { hva, present, write: raw.write });
    }
    if !raw.write {
        return Ok(());
    }
    // I7: nobody else has the frame, or everybody is to see the write.
    let may_write = match mm.counted(raw.pfn) {
        Some(meta) if vma.kind.is_private() => meta.has(PageFlags::EXCLUSIVE) && meta.map_count() == 1,
        Some(meta) => meta.is_dirty(),
        None => !vma.kind.is_private() && raw.pfn != mm.zero_page(),
    };
    if may_write { Ok(()) } else { Err(Violation::WritableShared { hva, frame: raw.pfn }) }
}
