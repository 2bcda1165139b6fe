//! What CPUs hold against what the tables hold. Outside of an operation no flush may be owed by a CPU that could
//! use what it covers.

use super::walk::Tables;
use crate::Violation;
use crate::machine::{Cached, Cpu, Key, Kind, Machine, Structure, Tag, shift};
use addr::{Gpa, PAGE_SHIFT, Pfn};

/// Checks every CPU; returns how many translations are cached.
pub(super) fn check(machine: &Machine, all: &[(Kind, Tables)]) -> Result<usize, Violation> {
    let mut cached = 0;
    for cpu in machine.cpus() {
        let state = machine.cpu(cpu);
        cached += check_pages(machine, cpu.0, &state, all)?;
        check_structures(machine, cpu.0, &state, all)?;
    }
    Ok(cached)
}

fn check_pages(
    machine: &Machine,
    cpu: usize,
    state: &Cpu,
    all: &[(Kind, Tables)],
) -> Result<usize, Violation> {
    let mut count = 0;
    for (kind, Key { tag: Tag { root, .. }, page, .. }, cached) in state.live() {
        let tables = tables(all, kind, root).ok_or(Violation::UnknownRoot { cpu, kind, root })?;
        let at = cached.gpa.map_or(page, Gpa::as_u64);
        check_page(machine, cpu, tables, (kind, page), (at, cached))?;
        count += 1;
    }
    Ok(count)
}

/// The tables that decide over entries of this kind: of combined ones the EPT. What the guest has in its own tables is
/// the guest's business.
fn tables(all: &[(Kind, Tables)], kind: Kind, root: Pfn) -> Option<&Tables> {
    let kind = if kind == Kind::Combined { Kind::GuestPhysical } else { kind };
    all.iter().find(|(of, tables)| *of == kind && tables.root == root).map(|(_, tables)| tables)
}

/// A translation allows no more than the tables do, for all of its page. Where the tables have smaller pages by now,
/// each of them counts: a split needs no flush (I9).
fn check_page(
    machine: &Machine,
    cpu: usize,
    tables: &Tables,
    (kind, page): (Kind, u64),
    (at, cached): (u64, Cached),
) -> Result<(), Violation> {
    let root = tables.root;
    // Without D bits in the EPT, a combined translation is dirty by the guest's own.
    let dirty = cached.dirty && machine.format(kind).dirty() != 0;
    let cached = Cached { dirty, ..cached };
    let tracks = machine.format(kind).accessed() != 0 && !machine.excuses_unaged(kind);
    let mut offset = 0;
    while offset < cached.size.bytes() {
        let address = at + offset;
        let found = tables.find(address).filter(|(_, leaf)| leaf.present);
        let now = found.map(|(start, leaf)| leaf.frame_at(start, address));
        let expected = cached.pfn.add(offset >> PAGE_SHIFT);
        let (start, leaf) = found
            .filter(|(_, leaf)| now == Some(expected) && allows(&leaf.raw, &cached))
            .ok_or(Violation::Stale { cpu, kind, root, page, cached, now })?;
        // Who ages what is in a shared table flushes his own CPUs only.
        let elsewhere = tables.shared_at(start).is_some();
        if tracks && !leaf.raw.accessed && !elsewhere {
            return Err(Violation::Unaged { cpu, kind, root, page });
        }
        offset = start + leaf.raw.size.bytes() - at;
    }
    Ok(())
}

fn allows(leaf: &crate::machine::RawLeaf, cached: &Cached) -> bool {
    (leaf.write || !cached.write) && (leaf.dirty || !cached.dirty)
}

fn is_at(tables: &Tables, table: Pfn, place: (u8, u64)) -> bool {
    tables.tables.get(&table).is_some_and(|places| places.contains(&place))
}

fn check_structures(
    machine: &Machine,
    cpu: usize,
    state: &Cpu,
    all: &[(Kind, Tables)],
) -> Result<(), Violation> {
    for (kind, key, Structure { table, through, write }) in state.live_structures() {
        let (root, level) = (key.tag.root, key.level);
        let tables = tables(all, kind, root).ok_or(Violation::UnknownRoot { cpu, kind, root })?;
        if let Some(through) = through {
            let at = through.gpa.map_or(0, Gpa::as_u64);
            check_page(machine, cpu, tables, (kind, key.prefix << shift(level + 1)), (at, through))?;
        } else if !is_at(tables, table, (level, key.prefix << shift(level + 1)))
            || write && tables.shared_at(key.prefix << shift(level + 1)).is_some() && level == 1
        {
            return Err(Violation::StaleStructure { cpu, kind, root, level, table });
        }
    }
    Ok(())
}
