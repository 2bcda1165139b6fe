//! The oracle: decides, from raw bits and outside of any operation, whether the machine is in order.
//!
//! | rule | where |
//! |---|---|
//! | tables are linked once, or as shared ones that know how often; they are alive, and none is lost | `walk` |
//! | primary entries lie in areas, with their rights; the counts of resident and swapped pages are theirs | `primary` |
//! | references, swap slots and reverse maps of frames are those of entries and caches | `frames` |
//! | secondary entries map what the primary ones map, with no more permission | `secondary` |
//! | device TLBs hold what the primary entries map, with no more permission | `device` |
//! | CPUs hold what the tables hold, and of what is dead nothing | `caches` |
//!
//! `check_coherence` of the product is asked as well, but is not trusted.

mod caches;
mod device;
mod frames;
mod primary;
mod secondary;
mod walk;

use crate::Violation;
use crate::machine::{Format, GuestMode, Kind, Machine};
use addr::{PAGE_SHIFT, Pfn};
use mm::{AddressSpace, File, Host, Mm};
use mmu::{DeviceTlb, SecondaryMmu};
use std::collections::BTreeSet;
use std::sync::Arc;
use walk::Tables;

/// A secondary MMU, and the root that it had when it was made.
#[derive(Clone, Debug)]
pub struct Secondary {
    /// The product's.
    pub mmu: Arc<SecondaryMmu<Machine>>,
    /// Kept apart: a released MMU does not tell its root any more.
    pub root: Pfn,
}

/// All that lives on a machine.
#[derive(Clone, Copy, Debug)]
pub struct Subjects<'a> {
    /// The memory manager, while it lives.
    pub mm: Option<&'a Mm<Machine>>,
    /// Files whose pages may be cached.
    pub files: &'a [Arc<File<Machine>>],
    /// Host address spaces.
    pub spaces: &'a [Arc<AddressSpace<Machine>>],
    /// Their secondary MMUs.
    pub secondaries: &'a [Secondary],
    /// Their device TLBs.
    pub devices: &'a [Arc<DeviceTlb<Machine>>],
    /// Base frames that the test itself has allocated.
    pub held: u64,
}

/// How much there was to check.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Census {
    /// Primary leaves.
    pub primary: usize,
    /// Secondary leaves.
    pub secondary: usize,
    /// Entries of device TLBs.
    pub device: usize,
    /// Translations in TLBs.
    pub cached: usize,
}

/// Checks everything.
///
/// # Errors
/// The first rule found broken; what the machine itself has recorded comes first.
pub fn check(machine: &Machine, subjects: Subjects<'_>) -> Result<Census, Violation> {
    if let Some(violation) = machine.first_violation() {
        return Err(violation);
    }
    let mut all = Vec::new();
    let mut census = Census::default();
    let mut owned = subjects.held + machine.quarantined_frames();
    for space in subjects.spaces {
        let tables = walk::walk(machine, Format::Host, space.root())?;
        census.primary += tables.leaves.len();
        primary::check_areas(space, &tables)?;
        all.push((Kind::Linear, tables));
    }
    owned += frames::check(machine, subjects, all.iter().map(|(_, tables)| tables))?;
    for secondary in subjects.secondaries {
        let tables = walk::walk(machine, machine.format(Kind::GuestPhysical), secondary.root)?;
        census.secondary += tables.leaves.len();
        let of = secondary.mmu.space().root();
        if let Some((_, primary)) =
            all.iter().find(|(kind, tables)| *kind == Kind::Linear && tables.root == of)
        {
            secondary::check(machine, &secondary.mmu, &tables, primary)?;
        }
        all.push((Kind::GuestPhysical, tables));
        for shadow in machine.shadow_roots(secondary.root) {
            let tables = walk::walk_shadow(machine, &shadow)?;
            // Without paging of its own, a guest's linear addresses are guest-physical ones.
            let primary = all.iter().find(|(kind, tables)| *kind == Kind::Linear && tables.root == of);
            if let (Some((_, primary)), GuestMode::Off) = (primary, shadow.mode) {
                secondary::check(machine, &secondary.mmu, &tables, primary)?;
            }
            all.push((Kind::Shadow, tables));
        }
        secondary.mmu.check_coherence().map_err(Violation::Incoherent)?;
    }
    for tlb in subjects.devices {
        let of = tlb.space().root();
        if let Some((_, primary)) =
            all.iter().find(|(kind, tables)| *kind == Kind::Linear && tables.root == of)
        {
            census.device += device::check(machine, tlb, primary)?;
        }
        tlb.check_coherence().map_err(Violation::Incoherent)?;
    }
    let spare = subjects.secondaries.iter().flat_map(|secondary| secondary.mmu.spare_tables());
    // Of the frames of shadows, those that no processor can walk now.
    let walked = |frame: &Pfn| all.iter().any(|(_, tables)| tables.tables.contains_key(frame));
    let shadow = subjects.secondaries.iter().flat_map(|secondary| secondary.mmu.shadow_frames());
    let spare = spare.chain(shadow.filter(|frame| !walked(frame))).collect();
    owned += check_tables(machine, &all, spare)?;
    let used = machine.frames().total() - machine.frames().free_count();
    if used != owned {
        return Err(Violation::FramesLeaked { used, owned });
    }
    census.cached = caches::check(machine, &all)?;
    Ok(census)
}

/// The base pages that the primary tables below a root map or hold, by number, and their frames.
pub(crate) fn resident(machine: &Machine, root: Pfn) -> Result<Vec<(u64, Pfn)>, Violation> {
    let tables = walk::walk(machine, Format::Host, root)?;
    let pages = tables.leaves.iter().flat_map(|(&address, leaf)| {
        let first = address >> PAGE_SHIFT;
        (0..leaf.raw.size.base_pages()).map(move |index| (first + index, leaf.raw.pfn.add(index)))
    });
    Ok(pages.collect())
}

/// Every allocated table is reached by exactly one walk, or by all that share it; returns how many there are.
fn check_tables(machine: &Machine, all: &[(Kind, Tables)], spare: BTreeSet<Pfn>) -> Result<u64, Violation> {
    let live = machine.live_tables();
    let mut lost: BTreeSet<Pfn> = live.difference(&spare).copied().collect();
    let count = live.len() as u64;
    // None of the spare ones is linked.
    let mut seen = spare;
    let shared: BTreeSet<Pfn> =
        all.iter().flat_map(|(_, tables)| tables.shared.values()).map(|shared| shared.table).collect();
    for (_, tables) in all {
        for &table in tables.tables.keys() {
            let again = !seen.insert(table);
            let is_shared = tables.shared.values().any(|shared| shared.table == table);
            if !is_shared && (again || shared.contains(&table)) {
                return Err(Violation::TableShared { table });
            }
            lost.remove(&table);
        }
    }
    if lost.is_empty() {
        Ok(count)
    } else {
        Err(Violation::TablesLeaked { tables: lost.into_iter().collect() })
    }
}
