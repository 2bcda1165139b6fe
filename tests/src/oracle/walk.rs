//! A walk over whole tables, entry by entry, in the hardware's reading.

use crate::Violation;
use crate::machine::{COUNTED, Format, GuestMode, Kind, Machine, Raw, RawLeaf, SHARED, ShadowRoot, shift};
use addr::{PAGE_SHIFT, PageSize, Pfn};
use std::collections::{BTreeMap, BTreeSet};

/// Bit 9 of a host entry: holds a frame although not present (PROT_NONE).
const HELD: u64 = 1 << 9;
/// Bit 10 of a host entry that maps and holds nothing: a note. Bit 11: of a page of a file; else of a swap slot.
const NOTE: u64 = 1 << 10;
const OF_FILE: u64 = 1 << 11;

/// What an entry without a frame says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Note {
    /// The page is in this swap slot.
    Slot(u64),
    /// This page of the file belongs here.
    Offset,
}

/// A leaf, present or only held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Leaf {
    pub(super) raw: RawLeaf,
    pub(super) present: bool,
}

impl Leaf {
    /// The frame that the leaf, found at `page`, maps at `address`.
    pub(super) fn frame_at(&self, page: u64, address: u64) -> Pfn {
        self.raw.pfn.add((address - page) >> PAGE_SHIFT)
    }
}

/// All tables below one root.
#[derive(Debug)]
pub(super) struct Tables {
    pub(super) root: Pfn,
    /// Level and first address of each table; a shadow may have one at several places.
    pub(super) tables: BTreeMap<Pfn, BTreeSet<(u8, u64)>>,
    /// Leaves, by the first address that they map.
    pub(super) leaves: BTreeMap<u64, Leaf>,
    /// Notes, with their addresses.
    pub(super) notes: Vec<(u64, Note)>,
    /// Shared page tables, by the first address that they map.
    pub(super) shared: BTreeMap<u64, Shared>,
}

/// A page table that other roots have, too.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shared {
    pub(super) table: Pfn,
    /// What is in it is in this space's counts.
    pub(super) counted: bool,
}

impl Tables {
    /// The shared table through which an address is mapped.
    pub(super) fn shared_at(&self, address: u64) -> Option<&Shared> {
        self.shared.get(&(address & !(PageSize::Size2M.bytes() - 1)))
    }

    /// Whether this space counts what is mapped at an address.
    pub(super) fn counts(&self, address: u64) -> bool {
        self.shared_at(address).is_none_or(|shared| shared.counted)
    }

    /// The leaf that maps an address, with its own first address.
    pub(super) fn find(&self, address: u64) -> Option<(u64, Leaf)> {
        let (&page, &leaf) = self.leaves.range(..=address).next_back()?;
        (address - page < leaf.raw.size.bytes()).then_some((page, leaf))
    }
}

impl Tables {
    const fn new(root: Pfn) -> Self {
        Self {
            root,
            tables: BTreeMap::new(),
            leaves: BTreeMap::new(),
            notes: Vec::new(),
            shared: BTreeMap::new(),
        }
    }
}

/// A shadow: four levels, or PAE's pointers and what is below them.
pub(super) fn walk_shadow(machine: &Machine, shadow: &ShadowRoot) -> Result<Tables, Violation> {
    let (format, root) = (machine.format(Kind::Shadow), shadow.root);
    if shadow.mode == GuestMode::Long {
        return walk(machine, format, root);
    }
    let mut tables = Tables::new(root);
    tables.tables.insert(root, BTreeSet::from([(3, 0)]));
    for (index, bits) in machine.memory.nonzero(root) {
        let address = u64::from(index) << shift(3);
        match Format::pointer(bits) {
            Raw::Table(directory, _) => {
                descend(machine, format, &mut tables, (directory, true), (2, address))?;
            }
            Raw::NotPresent | Raw::Leaf(_) | Raw::Malformed(_) => {
                return Err(Violation::BadEntry { root, address, bits });
            }
        }
    }
    Ok(tables)
}

pub(super) fn walk(machine: &Machine, format: Format, root: Pfn) -> Result<Tables, Violation> {
    let mut tables = Tables::new(root);
    descend(machine, format, &mut tables, (root, true), (4, 0))?;
    Ok(tables)
}

fn descend(
    machine: &Machine,
    format: Format,
    tables: &mut Tables,
    (table, write): (Pfn, bool),
    (level, first): (u8, u64),
) -> Result<(), Violation> {
    let root = tables.root;
    if !machine.is_live_table(table) {
        return Err(Violation::TableDead { root, table });
    }
    let places = tables.tables.entry(table).or_default();
    if !places.insert((level, first)) || places.len() > 1 && format != Format::Guest {
        return Err(Violation::TableShared { table });
    }
    for (index, bits) in machine.memory.nonzero(table) {
        let address = first + (u64::from(index) << shift(level));
        let leaf = match format.decode(level, bits) {
            Raw::Table(next, allowed) => {
                if format == Format::Host && level == 2 && bits & SHARED != 0 {
                    tables.shared.insert(address, Shared { table: next, counted: bits & COUNTED != 0 });
                }
                descend(machine, format, tables, (next, write && allowed), (level - 1, address))?;
                continue;
            }
            Raw::Leaf(raw) => Leaf { raw: RawLeaf { write: write && raw.write, ..raw }, present: true },
            Raw::NotPresent if format == Format::Host && level == 1 && bits & (NOTE | HELD) == NOTE => {
                let slot = Note::Slot(bits >> PAGE_SHIFT);
                tables.notes.push((address, if bits & OF_FILE != 0 { Note::Offset } else { slot }));
                continue;
            }
            Raw::NotPresent => {
                held(format, level, bits).ok_or(Violation::BadEntry { root, address, bits })?
            }
            Raw::Malformed(bits) => return Err(Violation::BadEntry { root, address, bits }),
        };
        tables.leaves.insert(address, leaf);
    }
    Ok(())
}

/// A host entry that keeps its frame for later.
fn held(format: Format, level: u8, bits: u64) -> Option<Leaf> {
    if format != Format::Host || bits & HELD == 0 {
        return None;
    }
    // Read as if it were present: only software looks at it.
    match format.decode(level, bits | 1) {
        Raw::Leaf(raw) => Some(Leaf { raw: RawLeaf { write: false, ..raw }, present: false }),
        _ => None,
    }
}
