//! Frames against what holds them: references, entries, swap slots, reverse maps.

use super::Subjects;
use super::walk::{Leaf, Note, Tables};
use crate::Violation;
use crate::machine::Machine;
use addr::{Hva, PAGE_SHIFT, PageSize, Pfn};
use mm::frames::PageFlags;
use mm::{Host, Mm};
use std::collections::BTreeMap;

/// How many entries name each shared page table.
type Shares = BTreeMap<Pfn, u32>;
/// Entries and caches of each frame.
type Owners = BTreeMap<Pfn, (u32, u32)>;

/// Each frame has one reference for each primary entry and each cache that holds it, and no other; returns how
/// many frames there are.
pub(super) fn check<'a>(
    machine: &Machine,
    subjects: Subjects<'_>,
    spaces: impl Iterator<Item = &'a Tables> + Clone,
) -> Result<u64, Violation> {
    let Some(mm) = subjects.mm else { return Ok(0) };
    let mut owners = Owners::new();
    let mut shares = Shares::new();
    for tables in spaces.clone() {
        for (&address, leaf) in &tables.leaves {
            if is_again(&shares, tables, address) {
                continue;
            }
            count(machine, mm, (Hva::new(address), leaf), &mut owners)?;
        }
        add_shares(&mut shares, tables);
    }
    check_shares(machine, &shares)?;
    let cached = subjects.files.iter().flat_map(|file| file.cached_frames()).map(|(_, frame)| frame);
    for frame in cached.chain(mm.swap_cached_frames()) {
        owners.entry(frame).or_default().1 += 1;
    }
    let notes = check_notes(mm, spaces.clone())?;
    for (&frame, &(entries, caches)) in &owners {
        let meta = machine.frames().meta(frame);
        let (count, told) = (meta.count(), meta.map_count());
        if count != entries + caches || told != entries {
            return Err(Violation::References { frame, entries, count });
        }
        let noted = meta.swap_slot().is_some_and(|slot| notes.contains_key(&slot));
        if meta.has(PageFlags::EXCLUSIVE) && (entries > 1 || noted) {
            return Err(Violation::ExclusiveShared { frame, entries });
        }
    }
    for tables in spaces {
        check_findable(mm, tables)?;
    }
    let sizes = [PageSize::Size2M, PageSize::Size1G];
    let pooled: u64 = sizes.iter().map(|&size| mm.pooled(size) as u64 * size.base_pages()).sum();
    // The zero page is the memory manager's own, as pools are, and the book of merged pages.
    Ok(owners.len() as u64 + pooled + mm.book_frames() + 1)
}

/// Whether what is mapped at an address, in a shared table, was met in another space already.
fn is_again(shares: &Shares, tables: &Tables, address: u64) -> bool {
    tables.shared_at(address).is_some_and(|shared| shares.contains_key(&shared.table))
}

fn add_shares(shares: &mut Shares, tables: &Tables) {
    for shared in tables.shared.values() {
        *shares.entry(shared.table).or_default() += 1;
    }
}

/// Each shared table knows how many entries name it.
fn check_shares(machine: &Machine, shares: &Shares) -> Result<(), Violation> {
    for (&table, &named) in shares {
        let told = machine.frames().meta(table).shares();
        if told != named {
            return Err(Violation::Shares { table, told, named });
        }
    }
    Ok(())
}

fn count(
    machine: &Machine,
    mm: &Mm<Machine>,
    (hva, leaf): (Hva, &Leaf),
    owners: &mut Owners,
) -> Result<(), Violation> {
    let zero_page = mm.zero_page();
    if leaf.raw.pfn != zero_page && machine.is_foreign(leaf.raw.pfn) {
        return Ok(());
    }
    for index in 0..leaf.raw.size.base_pages() {
        let frame = leaf.raw.pfn.add(index);
        if !machine.is_live_frame(frame) {
            return Err(Violation::PrimaryDead { hva, frame });
        }
        if frame != zero_page {
            owners.entry(frame).or_default().0 += 1;
        }
    }
    Ok(())
}

/// Each swap slot knows how many entries name it, and is in use if one does.
fn check_notes<'a>(
    mm: &Mm<Machine>,
    spaces: impl Iterator<Item = &'a Tables>,
) -> Result<BTreeMap<u64, u32>, Violation> {
    let mut named: BTreeMap<u64, u32> = BTreeMap::new();
    let mut shares = Shares::new();
    for tables in spaces {
        for (address, note) in &tables.notes {
            if let Note::Slot(slot) = note
                && !is_again(&shares, tables, *address)
            {
                *named.entry(*slot).or_default() += 1;
            }
        }
        add_shares(&mut shares, tables);
    }
    let told = mm.swap_notes();
    let unknown = named.keys().find(|slot| !told.iter().any(|(known, _)| known == *slot));
    let wrong = told.iter().find(|(slot, told)| named.get(slot).copied().unwrap_or(0) != *told);
    match (unknown, wrong) {
        (None, None) => Ok(named),
        (Some(&slot), _) => Err(Violation::SwapNotes { slot, told: 0, named: named[&slot] }),
        (None, Some(&(slot, told))) => {
            Err(Violation::SwapNotes { slot, told, named: named.get(&slot).copied().unwrap_or(0) })
        }
    }
}

/// Each counted entry is found by the reverse map of its frame; of a huge one, the first and the last frame's.
fn check_findable(mm: &Mm<Machine>, tables: &Tables) -> Result<(), Violation> {
    for (&address, leaf) in &tables.leaves {
        if mm.counted(leaf.raw.pfn).is_none() {
            continue;
        }
        let last = leaf.raw.size.base_pages() - 1;
        for index in if last == 0 { 0..1 } else { 0..2 } {
            let frame = leaf.raw.pfn.add(index * last);
            let hva = Hva::new(address + ((index * last) << PAGE_SHIFT));
            if !mm.places_of(frame).contains(&(tables.root, hva)) {
                return Err(Violation::Unfindable { hva, frame });
            }
        }
    }
    Ok(())
}
