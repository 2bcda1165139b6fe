//! The shadow of one virtual processor: the tables that the real processor walks for it.
//!
//! ```text
//!                     ┌── pointers: PAE's four, where the guest is not in long mode ──┐
//!   root (PML4) ──► PDPT ──► PD ◄─────────────────────────────────────────────────────┘
//!                             └──► page table ──► frame         at most `most` tables; then the oldest page table goes
//! ```
//!
//! It is a TLB: entries appear at faults, and go by the guest's own flushes, by notifiers, and to make room. Everything but
//! [`Shadow::forget`] is done by or for the virtual processor itself, outside of its guest, and what has gone is not cached
//! any more where it enters next: there is no VPID. So its tables are used again without a flush. Notifiers take leaves away
//! while the processor runs, and flush; a table they leave where it is (I11).

use super::format::{self, ShadowLeaf};
use super::rmap::{Link, Place, ReverseMap};
use crate::entry;
use addr::{Gfn, GfnRange, PAGE_SHIFT, PageSize, Pfn};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use mm::Host;
use paging::{EntryRef, Level, OutOfTables};

const ENTRIES: usize = 512;
/// The root's number.
const ROOT: u16 = 0;
/// Tables without which a shadow cannot be: the root, and a path of three below it.
const LEAST: usize = 4;

/// Bytes of the heap that shadows do not grow into: who needs those cannot do with less.
const LEFT_TO_OTHERS: usize = 1 << 20;

/// A table, and what belongs to its entries.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) frame: Pfn,
    /// The table that names it, and where.
    parent: Option<Place>,
    /// log2 of the largest guest page that a leaf in it, or below it, is a part of.
    largest: u32,
    pub(super) links: Box<[Link; ENTRIES]>,
}

/// A table that is in no shadow.
#[derive(Debug)]
pub(crate) struct Unused {
    frame: Pfn,
    links: Box<[Link; ENTRIES]>,
}

impl Unused {
    /// # Errors
    /// [`OutOfTables`].
    pub(crate) fn new<H: Host>(host: &H) -> Result<Self, OutOfTables> {
        let mut links = Vec::new();
        links.try_reserve_exact(ENTRIES).map_err(|_| OutOfTables)?;
        links.resize(ENTRIES, Link::None);
        let links = links.into_boxed_slice().try_into().map_err(|_| OutOfTables)?;
        Ok(Self { frame: host.allocate_table()?, links })
    }

    /// One more, of what is left where others have enough of the heap: a guest says how many tables its shadow wants.
    ///
    /// # Errors
    /// [`OutOfTables`].
    pub(crate) fn of_plenty<H: Host>(host: &H) -> Result<Self, OutOfTables> {
        let mut left = Vec::<u8>::new();
        left.try_reserve_exact(LEFT_TO_OTHERS).map_err(|_| OutOfTables)?;
        // Nobody looks at it, and it has to be there all the same.
        core::hint::black_box(&mut left);
        Self::new(host)
    }
}

/// A table is missing, and there may be one more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Wanting;

/// What is installed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    /// The linear address.
    pub(crate) linear: u64,
    /// log2 of the bytes of the guest's page there.
    pub(crate) shift: u32,
    /// The guest frame.
    pub(crate) gfn: Gfn,
    /// What is mapped.
    pub(crate) leaf: ShadowLeaf,
}

/// The tables.
#[derive(Debug)]
pub(crate) struct Shadow {
    tables: Vec<Table>,
    most: usize,
    free: Vec<u16>,
    /// Page tables, oldest first.
    pages: VecDeque<u16>,
    /// Tables above them, but for the root.
    uppers: Vec<u16>,
    rmap: ReverseMap,
    pointers: Pfn,
}

impl Shadow {
    /// An empty shadow, of so many tables at most.
    ///
    /// # Errors
    /// [`OutOfTables`].
    pub(crate) fn new<H: Host>(host: &H, most: usize) -> Result<Self, OutOfTables> {
        let most = most.clamp(LEAST, usize::from(u16::MAX));
        let mut shadow = Self {
            tables: Vec::with_capacity(most),
            most,
            free: Vec::with_capacity(most),
            pages: VecDeque::with_capacity(most),
            uppers: Vec::with_capacity(most),
            rmap: ReverseMap::new(most * ENTRIES / 8)?,
            pointers: host.allocate_table()?,
        };
        for _ in 0..LEAST {
            match Unused::new(host) {
                Ok(table) => shadow.supply(table),
                Err(error) => {
                    shadow.frames().for_each(|frame| host.free_table(frame));
                    return Err(error);
                }
            }
        }
        shadow.free.retain(|&table| table != ROOT);
        Ok(shadow)
    }

    /// One more table.
    pub(crate) fn supply(&mut self, Unused { frame, links }: Unused) {
        self.free.push(self.tables.len() as u16);
        self.tables.push(Table { frame, parent: None, largest: PAGE_SHIFT, links });
    }

    /// There is no memory for more tables.
    pub(crate) fn stop_growing(&mut self) {
        self.most = self.tables.len();
    }

    /// Its root for long mode.
    pub(crate) fn root(&self) -> Pfn {
        self.tables[usize::from(ROOT)].frame
    }

    /// Where PAE's four pointers are.
    pub(crate) const fn pointers(&self) -> Pfn {
        self.pointers
    }

    /// All frames that it is made of.
    pub(crate) fn frames(&self) -> impl Iterator<Item = Pfn> + '_ {
        self.tables.iter().map(|table| table.frame).chain([self.pointers])
    }

    /// All leaves: where they are, the guest frames that they map, and whether the chain of that frame has them.
    pub(crate) fn leaves<H: Host>(&self, host: &H) -> impl Iterator<Item = (Gfn, ShadowLeaf, bool)> {
        self.pages.iter().flat_map(move |&table| {
            (0..ENTRIES as u16).filter_map(move |index| {
                let at = Place { table, index };
                let leaf = ShadowLeaf::decode(host.load(self.entry(at)))?;
                let Link::Leaf { gfn, .. } = *self.link(at) else {
                    return Some((Gfn::ZERO, leaf, false));
                };
                Some((gfn, leaf, self.chain(gfn).any(|(other, _)| other == at)))
            })
        })
    }

    fn entry(&self, Place { table, index }: Place) -> EntryRef {
        EntryRef::new(self.tables[usize::from(table)].frame, index)
    }

    fn link(&self, Place { table, index }: Place) -> &Link {
        &self.tables[usize::from(table)].links[usize::from(index)]
    }

    /// The leaves in the chain of a guest frame, with the frames that they map.
    fn chain(&self, gfn: Gfn) -> impl Iterator<Item = (Place, Gfn)> + '_ {
        let mut at = self.rmap.first(gfn);
        core::iter::from_fn(move || {
            let place = at?;
            let Link::Leaf { gfn, next, .. } = *self.link(place) else { return None };
            at = next;
            Some((place, gfn))
        })
    }

    /// The table below an entry.
    fn child(&self, at: Place) -> Option<u16> {
        match *self.link(at) {
            Link::Table(child) => Some(child),
            Link::None | Link::Leaf { .. } => None,
        }
    }

    /// The table of level `lowest` for a linear address.
    fn find(&self, linear: u64, lowest: Level) -> Option<u16> {
        let (mut table, mut level) = (ROOT, Level::ROOT);
        while level > lowest {
            table = self.child(Place { table, index: level.index(linear) })?;
            level = level.below()?;
        }
        Some(table)
    }

    /// Makes the shadow map a page, whatever it had there.
    ///
    /// # Errors
    /// [`Wanting`].
    pub(crate) fn install<H: Host>(&mut self, host: &H, part: &Part) -> Result<(), Wanting> {
        let (mut table, mut level) = (ROOT, Level::ROOT);
        while let Some(below) = level.below() {
            let known = &mut self.tables[usize::from(table)].largest;
            *known = part.shift.max(*known);
            let at = Place { table, index: level.index(part.linear) };
            table = match self.child(at) {
                Some(child) => child,
                None => match self.take(below)? {
                    Some(child) => {
                        self.link_table(host, (at, level), child);
                        child
                    }
                    // All that there was has gone, the way down to here, too.
                    None => {
                        self.clear(host);
                        return self.install(host, part);
                    }
                },
            };
            level = below;
        }
        let known = &mut self.tables[usize::from(table)].largest;
        *known = part.shift.max(*known);
        let at = Place { table, index: level.index(part.linear) };
        self.drop_leaf(host, at);
        self.rmap.insert(&mut self.tables, at, part.gfn);
        entry::derive(host, self.entry(at), part.leaf);
        Ok(())
    }

    /// A table for this level: an unused one, a new one, the oldest page table. `None`: there is no page table that could go.
    fn take(&mut self, level: Level) -> Result<Option<u16>, Wanting> {
        let table = match self.free.pop() {
            Some(table) => table,
            None if self.tables.len() < self.most => return Err(Wanting),
            None => match self.pages.pop_front() {
                Some(oldest) => oldest,
                None => return Ok(None),
            },
        };
        match level {
            Level::Pt => self.pages.push_back(table),
            Level::Pd | Level::Pdpt | Level::Pml4 => self.uppers.push(table),
        }
        Ok(Some(table))
    }

    /// Empties a table, takes it from where it is, and links it to `at`.
    fn link_table<H: Host>(&mut self, host: &H, (at, level): (Place, Level), table: u16) {
        if let Some(parent) = self.tables[usize::from(table)].parent.replace(at) {
            self.empty(host, table);
            self.unlink(host, parent);
        }
        let Table { frame, largest, .. } = &mut self.tables[usize::from(table)];
        *largest = PAGE_SHIFT;
        let frame = *frame;
        self.tables[usize::from(at.table)].links[usize::from(at.index)] = Link::Table(table);
        host.store(self.entry(at), format::table(frame));
        if level == Level::Pdpt && self.tables[usize::from(at.table)].parent == Some(FIRST) && at.index < 4 {
            host.store(EntryRef::new(self.pointers, at.index), format::pointer(frame));
        }
    }

    /// Empties the entry that names a table.
    fn unlink<H: Host>(&mut self, host: &H, at: Place) {
        self.tables[usize::from(at.table)].links[usize::from(at.index)] = Link::None;
        host.store(self.entry(at), 0);
    }

    /// Drops the leaf at a place, if there is one.
    fn drop_leaf<H: Host>(&mut self, host: &H, at: Place) {
        if let Link::Leaf { .. } = self.link(at) {
            entry::forget(host, self.entry(at));
            self.rmap.remove(&mut self.tables, at);
        }
    }

    /// Drops all leaves of a page table.
    fn empty<H: Host>(&mut self, host: &H, table: u16) {
        (0..ENTRIES as u16).for_each(|index| self.drop_leaf(host, Place { table, index }));
    }

    /// The guest's INVLPG: what maps the page around the address goes, however large it is.
    pub(crate) fn invalidate<H: Host>(&mut self, host: &H, linear: u64) {
        const GIGANTIC: u32 = Level::Pdpt.shift();
        /// A 4 MiB page has two page tables.
        const PAIR: u32 = Level::Pd.shift() + 1;
        const HUGE: u32 = Level::Pd.shift();
        let Some(directory) = self.find(linear, Level::Pd) else { return };
        let largest = |shadow: &Self, table: u16| shadow.tables[usize::from(table)].largest;
        if largest(self, directory) >= GIGANTIC {
            for index in 0..ENTRIES as u16 {
                if let Some(table) = self.child(Place { table: directory, index }) {
                    self.empty(host, table);
                }
            }
            return;
        }
        if let Some(other) = self.find(linear ^ Level::Pd.span(), Level::Pt)
            && largest(self, other) >= PAIR
        {
            self.empty(host, other);
        }
        let Some(table) = self.find(linear, Level::Pt) else { return };
        if largest(self, table) >= HUGE {
            self.empty(host, table);
        } else {
            self.drop_leaf(host, Place { table, index: Level::Pt.index(linear) });
        }
    }

    /// The guest's MOV to CR3 and whatever else drops all translations.
    pub(crate) fn clear<H: Host>(&mut self, host: &H) {
        for table in self.pages.drain(..).chain(self.uppers.drain(..)) {
            let Table { frame, parent, largest, links } = &mut self.tables[usize::from(table)];
            (*parent, *largest) = (None, PAGE_SHIFT);
            links.fill(Link::None);
            host.zero(*frame, PageSize::Size4K);
            self.free.push(table);
        }
        let Table { frame, largest, links, .. } = &mut self.tables[usize::from(ROOT)];
        *largest = PAGE_SHIFT;
        links.fill(Link::None);
        host.zero(*frame, PageSize::Size4K);
        host.zero(self.pointers, PageSize::Size4K);
        self.rmap.clear();
    }

    /// What guest frames translate to has changed, or is about to: no leaf maps them any more. The caller flushes.
    pub(crate) fn forget<H: Host>(&mut self, host: &H, gfns: GfnRange) {
        if gfns.len() <= self.rmap.len() {
            gfns.iter().for_each(|gfn| self.forget_frame(host, gfn));
            return;
        }
        for number in 0..self.pages.len() {
            let table = self.pages[number];
            for at in (0..ENTRIES as u16).map(|index| Place { table, index }) {
                if let Link::Leaf { gfn, .. } = *self.link(at)
                    && gfns.contains(gfn)
                {
                    self.drop_leaf(host, at);
                }
            }
        }
    }

    /// Once along the chain, which a guest can make long.
    fn forget_frame<H: Host>(&mut self, host: &H, gfn: Gfn) {
        let mut next = self.rmap.first(gfn);
        while let Some(at) = next {
            let Link::Leaf { gfn: mapped, next: behind, .. } = *self.link(at) else { return };
            if mapped == gfn {
                self.drop_leaf(host, at);
            }
            next = behind;
        }
    }
}

/// The entry of the root below which legacy modes are.
const FIRST: Place = Place { table: ROOT, index: 0 };
