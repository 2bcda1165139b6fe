//! The shadow of one virtual processor: the tables that the real processor walks for it, and those that it may need again.
//!
//! ```text
//!   current ──► PML4 ────┐                       pointers: PAE's four, for a guest that is not in long mode
//!   roots:      PML4 ──┬─┼─► PDPT ──► PD ──► page table ──► frame
//!               PML4 ──┘ └─► PDPT ──► PD ──┘              shared, as the guest's are: found by what they stand for
//!
//!   take: an unused table ── or a new one ── or what the oldest root alone has ── or the oldest page table ── or all
//! ```
//!
//! A table is there as long as something names it, or it is a root. Everything but what notifiers and other processors take away
//! ([`Shadow::forget`], [`Shadow::protect`]) is done by or for the virtual processor itself, outside of its guest, and what has gone is not cached
//! any more where it enters next: there is no VPID. So its tables are used again without a flush. Those two only change leaves, and
//! leave tables where they are (I11).

use super::PAGES_OF_AN_INSTRUCTION;
use super::contexts::Contexts;
use super::format::{self, Rights, ShadowLeaf};
use super::index::Index;
use super::origin::{Origin, Root, Step, Way};
use super::rmap::{Named, Place, ReverseMap};
use super::table::{Sync, Table, Unused};
use crate::entry;
use crate::tdp::Tdp;
use addr::{Gfn, GfnRange, PageSize, Pfn};
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::ops::RangeInclusive;
use mm::Host;
use mutants::{Mutant, intact};
use paging::{EntryRef, Level, OutOfTables};

/// The number of the table that holds PAE's pointers.
pub(super) const POINTERS: u16 = 0;
/// Tables without which a shadow cannot be: the pointers, a root, and a path of three below it.
const LEAST: usize = 5;

/// A table is missing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Lack {
    /// There may be one more.
    Wanting,
    /// All that the processor begins with has gone for it, the way down to where it is missing, too: begin anew.
    Cleared,
}

/// What is installed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part<'w> {
    pub(super) way: &'w Way,
    /// The guest frame; the first one of a large page.
    pub(super) gfn: Gfn,
    /// What is mapped.
    pub(super) leaf: ShadowLeaf,
}

/// The tables.
#[derive(Debug)]
pub(crate) struct Shadow {
    pub(super) tables: Vec<Table>,
    most: usize,
    free: Vec<u16>,
    /// What the processor begins with: a PML4, or the pointers.
    current: u16,
    /// Tables that were loaded as roots, or named by the pointers, the one that was longest ago first.
    roots: VecDeque<u16>,
    /// Tables that the guest's may differ from.
    pub(super) lost: Vec<u16>,
    /// Whether directories may be among them.
    pub(super) has_lost_directory: bool,
    /// Tables that were taken so far.
    taken: u64,
    pub(super) index: Index,
    pub(super) rmap: ReverseMap,
    pub(super) contexts: Contexts,
}

/// Nothing, with room for so much.
fn room<T>(most: usize) -> Result<Vec<T>, OutOfTables> {
    let mut room = Vec::new();
    room.try_reserve_exact(most).map_err(|_| OutOfTables)?;
    Ok(room)
}

impl Shadow {
    /// An empty shadow, of so many tables: at first, and at most.
    ///
    /// # Errors
    /// [`OutOfTables`].
    pub(crate) fn new<H: Host>(host: &H, tables: &RangeInclusive<usize>) -> Result<Self, OutOfTables> {
        let possible = |count: &usize| (*count).clamp(LEAST, usize::from(u16::MAX));
        let (least, most) = (possible(tables.start()), possible(tables.end()));
        let mut roots = VecDeque::new();
        roots.try_reserve_exact(most).map_err(|_| OutOfTables)?;
        let mut shadow = Self {
            tables: room(most)?,
            most,
            free: room(most)?,
            current: POINTERS,
            roots,
            lost: room(most)?,
            has_lost_directory: false,
            taken: 0,
            index: Index::new(most)?,
            rmap: ReverseMap::new(most)?,
            contexts: Contexts::default(),
        };
        for _ in 0..least {
            match Unused::new(host) {
                Ok(table) => shadow.supply(table),
                Err(error) => {
                    shadow.frames().for_each(|frame| host.free_table(frame));
                    return Err(error);
                }
            }
        }
        shadow.free.retain(|&table| table != POINTERS);
        Ok(shadow)
    }

    /// One more table.
    pub(crate) fn supply(&mut self, table: Unused) {
        self.free.push(self.tables.len() as u16);
        self.tables.push(Table::new(table));
    }

    /// There is no memory for more tables.
    pub(crate) fn stop_growing(&mut self) {
        self.most = self.tables.len();
    }

    /// Where PAE's four pointers are.
    pub(crate) fn pointers(&self) -> Pfn {
        self.table(POINTERS).frame
    }

    /// All frames that it is made of.
    pub(crate) fn frames(&self) -> impl Iterator<Item = Pfn> + '_ {
        self.tables.iter().map(|table| table.frame)
    }

    pub(super) fn table(&self, table: u16) -> &Table {
        &self.tables[usize::from(table)]
    }

    pub(super) fn table_mut(&mut self, table: u16) -> &mut Table {
        &mut self.tables[usize::from(table)]
    }

    pub(super) fn entry(&self, at: Place) -> EntryRef {
        EntryRef::new(self.table(at.table()).frame, at.index())
    }

    fn named(&self, at: Place) -> Named {
        self.table(at.table()).link(at.index()).named
    }

    /// What the processor begins with.
    pub(super) const fn current(&self) -> u16 {
        self.current
    }

    /// The table that an entry names.
    pub(super) fn child(&self, at: Place) -> Option<u16> {
        match self.named(at) {
            Named::Table(child) => Some(child),
            Named::Nothing | Named::Frame(_) | Named::Large(_) => None,
        }
    }

    /// The page table for a linear address, below what the processor begins with.
    pub(super) fn find(&self, linear: u64) -> Option<u16> {
        let (mut table, levels) = if self.current == POINTERS {
            (self.child(Place::new(POINTERS, (linear >> 30 & 3) as u16))?, &[Level::Pd][..])
        } else {
            (self.current, &[Level::Pml4, Level::Pdpt, Level::Pd][..])
        };
        for level in levels {
            table = self.child(Place::new(table, level.index(linear)))?;
        }
        Some(table)
    }

    /// The processor begins with these tables from now on; what its CR3 has to be.
    ///
    /// # Errors
    /// [`Lack`].
    pub(super) fn load<H: Host>(&mut self, host: &H, root: &Root) -> Result<Pfn, Lack> {
        if self.current == POINTERS {
            (0..4).for_each(|index| self.remove(host, Place::new(POINTERS, index)));
        }
        match root {
            Root::Long(origin) => {
                let table = match self.index.find(&self.tables, *origin) {
                    Some(table) => table,
                    None => self.take_for(host, *origin)?,
                };
                self.keep_root(table);
                self.current = table;
            }
            Root::Legacy(quarters) => {
                self.current = POINTERS;
                for (quarter, index) in quarters.iter().zip(0..) {
                    if let Some(table) = quarter.and_then(|origin| self.index.find(&self.tables, origin)) {
                        self.point(host, Place::new(POINTERS, index), table);
                    }
                }
            }
        }
        Ok(self.table(self.current).frame)
    }

    fn keep_root(&mut self, table: u16) {
        if core::mem::replace(&mut self.table_mut(table).is_root, true)
            && let Some(place) = self.roots.iter().rposition(|&other| other == table)
        {
            self.roots.remove(place);
        }
        self.table_mut(table).used = true;
        self.roots.push_back(table);
    }

    /// Makes the shadow map a page, whatever it had there; the number of the table.
    ///
    /// # Errors
    /// [`Lack`].
    pub(super) fn install<H: Host>(
        &mut self,
        host: &H,
        part: &Part<'_>,
        ground: Option<Tdp>,
    ) -> Result<u16, Lack> {
        let mut steps = part.way.steps();
        let Some(mut step) = steps.next() else { return Ok(POINTERS) };
        let mut table = match part.way.pointer {
            None => self.current,
            Some(index) => self.step_to((host, ground), Place::new(POINTERS, index), &step)?,
        };
        assert_eq!(self.table(table).origin, Some(step.origin), "the guest's root was not loaded");
        for next in steps {
            self.table_mut(table).used = true;
            table = self.step_down((host, ground), (table, &step), next.origin)?;
            step = next;
        }
        self.table_mut(table).used = true;
        let at = Place::new(table, step.index);
        self.remove(host, at);
        let small = part.leaf.size == PageSize::Size4K;
        let named = if small { Named::Frame(part.gfn) } else { Named::Large(part.gfn) };
        self.note(at, (named, step.from));
        entry::derive(host, self.entry(at), part.leaf.encode());
        Ok(table)
    }

    /// Makes an empty entry of a page table map a page that nobody has used yet, from this entry of the guest's.
    pub(super) fn derive_unused<H: Host>(
        &mut self,
        host: &H,
        at: Place,
        (gfn, from): (Gfn, u64),
        leaf: ShadowLeaf,
    ) {
        self.note(at, (Named::Frame(gfn), from));
        let bits = if intact(Mutant::ShadowBesideCountsAsUse) { leaf.encode_unused() } else { leaf.encode() };
        entry::derive(host, self.entry(at), bits);
    }

    /// Whether an entry is not empty.
    pub(super) fn is_there(&self, at: Place) -> bool {
        self.named(at) != Named::Nothing
    }

    /// Whether the processor has used a leaf that maps one of these guest frames.
    pub(crate) fn has_used<H: Host>(&self, host: &H, gfns: GfnRange) -> bool {
        let mut used = false;
        self.rmap.each_leaf(&self.tables, gfns, |at| used |= format::is_used(host.load(self.entry(at))));
        used
    }

    /// The same, and none is used any more. The mmu lock is held, shared at least; the caller flushes.
    pub(crate) fn age<H: Host>(&self, host: &H, gfns: GfnRange) -> bool {
        let mut used = false;
        self.rmap.each_leaf(&self.tables, gfns, |at| used |= entry::age_shadow(host, self.entry(at)));
        used
    }

    /// The table that a pointer has to name.
    fn step_to<H: Host>(
        &mut self,
        (host, ground): (&H, Option<Tdp>),
        at: Place,
        step: &Step,
    ) -> Result<u16, Lack> {
        let named = self.child(at).filter(|&table| self.table(table).origin == Some(step.origin));
        if let Some(table) = named {
            return Ok(table);
        }
        self.remove(host, at);
        let table = match self.index.find(&self.tables, step.origin) {
            Some(table) => self.look_below(host, table, ground),
            None => self.take_for(host, step.origin)?,
        };
        self.point(host, at, table);
        Ok(table)
    }

    fn point<H: Host>(&mut self, host: &H, at: Place, table: u16) {
        self.keep_root(table);
        self.note(at, (Named::Table(table), 0));
        entry::derive(host, self.entry(at), format::pointer(self.table(table).frame));
    }

    /// The table that an entry has to name, and the entry with the rights of the guest's, whatever it was.
    fn step_down<H: Host>(
        &mut self,
        (host, ground): (&H, Option<Tdp>),
        (table, step): (u16, &Step),
        below: Origin,
    ) -> Result<u16, Lack> {
        let at = Place::new(table, step.index);
        let rights = if intact(Mutant::ShadowTableAllowsAll) { step.rights } else { Rights::ALL };
        if let Some(child) = self.child(at).filter(|&child| self.table(child).origin == Some(below)) {
            let bits = format::table(self.table(child).frame, rights);
            let from = &mut self.table_mut(table).link_mut(step.index).from;
            if core::mem::replace(from, step.from) != step.from {
                self.table_mut(table).since = self.contexts.note_entry();
                // With other rights it is another way.
                if intact(Mutant::ShadowRenamedWayUncompared) {
                    self.look_below(host, child, ground);
                }
            }
            entry::rename(host, self.entry(at), bits);
            return Ok(child);
        }
        self.remove(host, at);
        let child = match self.index.find(&self.tables, below) {
            Some(child) => self.look_below(host, child, ground),
            None => self.take_for(host, below)?,
        };
        self.note(at, (Named::Table(child), step.from));
        entry::derive(host, self.entry(at), format::table(self.table(child).frame, rights));
        Ok(child)
    }

    /// A table that stands for this from now on. The guest may write what it stands for.
    fn take_for<H: Host>(&mut self, host: &H, origin: Origin) -> Result<u16, Lack> {
        let number = self.take(host)?;
        self.taken += 1;
        let born = self.taken;
        let table = self.table_mut(number);
        debug_assert!(table.is_empty(), "an unused table has entries");
        (table.origin, table.born, table.used, table.floods) = (Some(origin), born, true, 0);
        self.index.insert(&mut self.tables, number, origin);
        if origin.is_table() {
            self.lose(number);
        }
        Ok(number)
    }

    /// A table: an unused one, a new one, one that others have to do without.
    fn take<H: Host>(&mut self, host: &H) -> Result<u16, Lack> {
        loop {
            if let Some(table) = self.free.pop() {
                return Ok(table);
            }
            if self.tables.len() < self.most {
                return Err(Lack::Wanting);
            }
            if !self.drop_oldest_root(host) && !self.drop_page_table(host) {
                self.clear(host);
                return Err(Lack::Cleared);
            }
        }
    }

    /// The root that was loaded longest ago goes, but not what the processor begins with.
    fn drop_oldest_root<H: Host>(&mut self, host: &H) -> bool {
        let is_idle = |&table: &u16| table != self.current && self.table(table).parents.is_none();
        let Some(oldest) = self.roots.iter().position(is_idle) else { return false };
        let Some(root) = self.roots.remove(oldest) else { return false };
        self.table_mut(root).is_root = false;
        self.release(host, root);
        true
    }

    /// The oldest page table goes; none where so few are left that the next ones would be those of the same instruction: directories, which do
    /// not go, have all the room then.
    fn drop_page_table<H: Host>(&mut self, host: &H) -> bool {
        let is_page_table = |origin: Origin| origin.level == Level::Pt;
        let all = 0..self.tables.len() as u16;
        let page_tables = all.filter(|&table| self.table(table).origin.is_some_and(is_page_table));
        if intact(Mutant::ShadowCrowdedOut) && page_tables.clone().count() <= PAGES_OF_AN_INSTRUCTION {
            return false;
        }
        let oldest = |&table: &u16| self.table(table).born;
        let going = if intact(Mutant::ShadowNewestGoes) {
            page_tables.min_by_key(oldest)
        } else {
            page_tables.max_by_key(oldest)
        };
        going.inspect(|&table| self.unname(host, table)).is_some()
    }

    /// All that the processor begins with goes. What pointers name stays for later, as roots do, and is empty.
    fn clear<H: Host>(&mut self, host: &H) {
        for index in self.table(self.current).present() {
            let at = Place::new(self.current, index);
            if let Some(root) = self.child(at).filter(|_| self.current == POINTERS) {
                self.empty(host, root);
            }
            self.remove(host, at);
        }
    }

    fn empty<H: Host>(&mut self, host: &H, table: u16) {
        for index in self.table(table).present() {
            self.remove(host, Place::new(table, index));
        }
    }

    /// Nothing names a table any more: it is unused then, unless it is a root.
    pub(super) fn unname<H: Host>(&mut self, host: &H, table: u16) {
        while let Some(at) = self.table(table).parents {
            self.remove(host, at);
        }
    }

    /// An entry is about to be there. Mostly a base leaf, which each caller that knows so is spared to ask.
    #[inline(always)]
    fn note(&mut self, at: Place, (named, from): (Named, u64)) {
        let stay = self.contexts.note_entry();
        let table = self.table_mut(at.table());
        table.note_present(at.index());
        table.since = stay;
        self.rmap.insert(&mut self.tables, at, (named, from));
    }

    /// Empties an entry, if it is not empty.
    pub(super) fn remove<H: Host>(&mut self, host: &H, at: Place) {
        if self.named(at) == Named::Nothing {
            return;
        }
        entry::forget(host, self.entry(at));
        self.table_mut(at.table()).note_empty(at.index());
        if let Named::Table(child) = self.rmap.remove(&mut self.tables, at)
            && self.table(child).parents.is_none()
            && !self.table(child).is_root
        {
            self.release(host, child);
        }
    }

    /// A table that nothing names is unused, and with it what only it has named.
    fn release<H: Host>(&mut self, host: &H, number: u16) {
        self.empty(host, number);
        let table = self.table_mut(number);
        let sync = core::mem::replace(&mut table.sync, Sync::Kept);
        if let Some(origin) = table.origin.take() {
            self.index.remove(&mut self.tables, number, origin);
        }
        if sync == Sync::Lost {
            self.lost.retain(|&other| other != number);
        }
        self.free.push(number);
    }

    /// A root that is of no use goes, unless the processor begins with it.
    pub(super) fn drop_root<H: Host>(&mut self, host: &H, table: u16) {
        if table != self.current && core::mem::take(&mut self.table_mut(table).is_root) {
            self.roots.retain(|&other| other != table);
            if self.table(table).parents.is_none() {
                self.release(host, table);
            }
        }
    }
}
