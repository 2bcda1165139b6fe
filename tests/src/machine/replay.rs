//! Replays of an operation's table writes: after each of them, what would a CPU see that has cached nothing?
//!
//! ```text
//!   operation:   write ── write ── fill ── write ── … ── settle
//!                  │        │        │       │             │
//!   pages below:  sight    sight    sight   sight ──► each: nothing, or what was there before, or what is now
//! ```
//!
//! A write is seen by the pages below its entry, of which all are looked at. What is compared is contents, not
//! frames: an operation may pass through another frame with the same contents. A store is allowed only where it
//! would have been allowed before, or is now, to the same frame, or where a table that was shared is one's own again. Frames and tables that are seen must be alive.
//! Operations end where [`Machine::settle`] says so: after each fault that is handled, before the access is tried
//! again, and after each operation of the host.

use super::format::{Raw, RawLeaf, shift};
use super::{Kind, Machine};
use crate::{Violation, lock};
use addr::Pfn;
use paging::EntryRef;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What a page's walk has found: a frame, and what it held then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sight {
    /// The frame.
    pub frame: Pfn,
    /// Whether stores are allowed.
    pub write: bool,
    /// A digest of the frame's contents.
    pub contents: u64,
}

/// Where a table is linked.
#[derive(Clone, Copy, Debug)]
struct Place {
    kind: Kind,
    root: Pfn,
    level: u8,
    /// First address that it maps.
    first: u64,
    /// Whether the way there allows writes.
    write: bool,
}

/// What one page looked like during an operation.
#[derive(Debug)]
struct Trace {
    old: Option<Sight>,
    seen: Vec<Option<Sight>>,
}

/// A page, as the tables of one root map it.
type Page = (Kind, Pfn, u64);
/// The frame that each page of some entry is mapped to, and whether stores are allowed.
type Mapped = BTreeMap<u64, (Pfn, bool)>;

#[derive(Debug, Default)]
struct Running {
    /// Linked tables of the roots that are watched; shared ones have several places.
    tables: BTreeMap<Pfn, Vec<Place>>,
    traces: BTreeMap<Page, Trace>,
    /// Frames that a trace names.
    sighted: BTreeSet<Pfn>,
    /// What frames held before the operation, where it has changed that.
    before: BTreeMap<Pfn, u64>,
    /// What stores by CPUs made of contents: before and after.
    stored: Vec<(u64, u64)>,
}

/// The watcher of table writes.
#[derive(Debug, Default)]
pub(super) struct Replay {
    on: AtomicBool,
    /// Sights so far.
    sights: AtomicU64,
    running: Mutex<Running>,
}

const PAGE: u64 = addr::PAGE_SIZE;

impl Machine {
    /// From now on, looks at every write to the tables of the roots that [`Self::watch_root`] names. Not for
    /// operations that run at the same time: whose end would it be?
    pub fn watch_writes(&self) {
        self.replay.on.store(true, Ordering::Relaxed);
    }

    /// Looks at no writes any more.
    pub fn ignore_writes(&self) {
        self.replay.on.store(false, Ordering::Relaxed);
        *lock(&self.replay.running) = Running::default();
    }

    /// The tables below `root` can be seen by CPUs from now on, and until the root is freed.
    pub fn watch_root(&self, kind: Kind, root: Pfn) {
        if self.watches() {
            lock(&self.replay.running).link(
                self,
                root,
                Place { kind, root, level: 4, first: 0, write: true },
            );
        }
    }

    /// What CPUs could have seen in the middle of operations so far.
    pub fn sights(&self) -> u64 {
        self.replay.sights.load(Ordering::Relaxed)
    }

    fn watches(&self) -> bool {
        self.replay.on.load(Ordering::Relaxed)
    }

    /// An operation has ended: judges what could be seen since the last.
    pub fn settle(&self) {
        if !self.watches() {
            return;
        }
        let mut running = lock(&self.replay.running);
        for ((kind, root, page), Trace { old, seen }) in std::mem::take(&mut running.traces) {
            self.replay.sights.fetch_add(seen.len() as u64, Ordering::Relaxed);
            let now = seen.last().copied().flatten();
            for seen in seen.into_iter().flatten() {
                if !running.is_either(seen, old, now) {
                    self.report(Violation::Torn { kind, root, page, old, seen, now });
                }
            }
        }
        running.sighted.clear();
        running.before.clear();
        running.stored.clear();
    }

    /// An entry has been written.
    pub(super) fn wrote_entry(&self, at: EntryRef, old: u64, new: u64) {
        if !self.watches() {
            return;
        }
        let mut running = lock(&self.replay.running);
        for table in running.tables.get(&at.table()).cloned().unwrap_or_default() {
            let first = table.first + (u64::from(at.index()) << shift(table.level));
            running.wrote(self, Place { first, ..table }, (old, new));
        }
    }

    /// A table is about to be freed. One that is linked may go only if nobody walks from its root any more.
    pub(super) fn frees_table(&self, table: Pfn) {
        if !self.watches() {
            return;
        }
        let mut running = lock(&self.replay.running);
        for Place { root, .. } in running.tables.remove(&table).unwrap_or_default() {
            let uses = |cpu| {
                let cpu = self.cpu(cpu);
                cpu.space == Some(root) || cpu.ept == Some(root)
            };
            if self.cpus().any(uses) {
                self.report(Violation::TableDead { root, table });
            }
        }
    }

    /// A CPU stores to a frame, by a translation that it has.
    pub(super) fn store_word(&self, frame: Pfn, word: u16, value: u64) {
        self.by_cpu(frame, || self.memory.store(frame, word, value));
    }

    fn by_cpu<T>(&self, frame: Pfn, change: impl FnOnce() -> T) -> T {
        if !self.watches() {
            return change();
        }
        let before = self.memory.digest(frame);
        let done = change();
        lock(&self.replay.running).stored.push((before, self.memory.digest(frame)));
        done
    }

    /// A CPU changes a word of a frame, if it is still what it was.
    pub(super) fn update_word(&self, frame: Pfn, word: u16, old: u64, new: u64) -> bool {
        self.by_cpu(frame, || self.memory.compare_exchange(frame, word, old, new).is_ok())
    }

    /// The program is about to change what a frame holds.
    pub(super) fn fills_frame(&self, frame: Pfn) {
        if self.watches() {
            let digest = || self.memory.digest(frame);
            lock(&self.replay.running).before.entry(frame).or_insert_with(digest);
        }
    }

    /// It has.
    pub(super) fn filled_frame(&self, frame: Pfn) {
        if !self.watches() {
            return;
        }
        let mut running = lock(&self.replay.running);
        if !running.sighted.contains(&frame) {
            return;
        }
        for trace in running.traces.values_mut() {
            if let Some(&Some(last)) = trace.seen.last()
                && last.frame == frame
            {
                trace.seen.push(Some(Sight { contents: self.memory.digest(frame), ..last }));
            }
        }
    }
}

impl Running {
    /// Whether what was seen is what was there before, or what is there now; or would be, but for CPUs' stores.
    fn is_either(&self, seen: Sight, old: Option<Sight>, now: Option<Sight>) -> bool {
        let sides = || [old, now].into_iter().flatten();
        let write = sides().any(|side| side.write && side.frame == seen.frame);
        let mut same: BTreeSet<u64> = sides().map(|side| side.contents).collect();
        let mut known = 0;
        while known < same.len() {
            known = same.len();
            for (before, after) in &self.stored {
                if same.contains(before) || same.contains(after) {
                    same.extend([before, after]);
                }
            }
        }
        same.contains(&seen.contents) && (write || !seen.write)
    }

    /// A table, and all below it, can be reached.
    fn link(&mut self, machine: &Machine, table: Pfn, place: Place) {
        if !machine.is_live_table(table) {
            machine.report(Violation::TableDead { root: place.root, table });
            return;
        }
        self.tables.entry(table).or_default().push(place);
        for (next, place) in below(machine, table, place) {
            self.link(machine, next, place);
        }
    }

    /// A table, and all below it, cannot be reached any more.
    fn unlink(&mut self, machine: &Machine, table: Pfn, place: Place) {
        if let Some(places) = self.tables.get_mut(&table) {
            places.retain(|known| {
                (known.kind, known.root, known.first) != (place.kind, place.root, place.first)
            });
        }
        for (next, place) in below(machine, table, place) {
            self.unlink(machine, next, place);
        }
    }

    /// An entry at one of the places of its table has been written.
    fn wrote(&mut self, machine: &Machine, entry: Place, (old, new): (u64, u64)) {
        let was = self.mapped(machine, entry, old);
        self.relink(machine, entry, (old, new));
        let is = self.mapped(machine, entry, new);
        for page in was.keys().chain(is.keys().filter(|page| !was.contains_key(page))) {
            let (was, is) = (was.get(page).copied(), is.get(page).copied());
            if was != is {
                let page = (entry.kind, entry.root, *page);
                self.see(machine, page, was, is);
                if is_taken_over(machine, entry, (old, new)) {
                    self.allow(page);
                }
            }
        }
    }

    /// A page's table is its last sharer's own: what its entry allows was his before.
    fn allow(&mut self, page: Page) {
        let Some(trace) = self.traces.get_mut(&page) else { return };
        if let (Some(old), Some(&Some(now))) = (trace.old.as_mut(), trace.seen.last())
            && old.frame == now.frame
        {
            old.write |= now.write;
        }
    }

    fn relink(&mut self, machine: &Machine, entry: Place, (old, new): (u64, u64)) {
        let format = machine.format(entry.kind);
        let next = |write| Place { level: entry.level - 1, write: entry.write && write, ..entry };
        let (was, is) = (format.decode(entry.level, old), format.decode(entry.level, new));
        if was == is {
            return;
        }
        if let Raw::Table(table, write) = was {
            self.unlink(machine, table, next(write));
        }
        match is {
            Raw::Table(table, write) => self.link(machine, table, next(write)),
            Raw::Malformed(bits) => {
                machine.report(Violation::BadEntry { root: entry.root, address: entry.first, bits });
            }
            Raw::NotPresent | Raw::Leaf(_) => {}
        }
    }

    /// What lies below an entry that has these bits.
    fn mapped(&self, machine: &Machine, entry: Place, bits: u64) -> Mapped {
        let mut found = Mapped::new();
        collect(machine, entry, bits, &mut found);
        found
    }

    /// A page is mapped in another way than it was.
    fn see(&mut self, machine: &Machine, page: Page, was: Option<(Pfn, bool)>, is: Option<(Pfn, bool)>) {
        let (kind, root, address) = page;
        if let Some((frame, _)) = is
            && !machine.is_live_frame(frame)
        {
            machine.report(Violation::DeadFrameSeen { kind, root, page: address, frame });
        }
        let sight = |mapped: Option<(Pfn, bool)>, contents: &dyn Fn(Pfn) -> u64| {
            mapped.map(|(frame, write)| Sight { frame, write, contents: contents(frame) })
        };
        let now = sight(is, &|frame| machine.memory.digest(frame));
        let before = &self.before;
        let trace = self.traces.entry(page).or_insert_with(|| {
            let contents =
                |frame| before.get(&frame).copied().unwrap_or_else(|| machine.memory.digest(frame));
            Trace { old: sight(was, &contents), seen: Vec::new() }
        });
        trace.seen.push(now);
        self.sighted.extend(is.map(|(frame, _)| frame));
    }
}

/// Whether a write gives a space the right to write to a table that it has, and had shared.
fn is_taken_over(machine: &Machine, entry: Place, (old, new): (u64, u64)) -> bool {
    let decode = |bits| machine.format(entry.kind).decode(entry.level, bits);
    match (decode(old), decode(new)) {
        (Raw::Table(was, false), Raw::Table(is, true)) => was == is,
        _ => false,
    }
}

/// The tables that a table names.
fn below(machine: &Machine, table: Pfn, place: Place) -> Vec<(Pfn, Place)> {
    if place.level == 1 {
        return Vec::new();
    }
    let format = machine.format(place.kind);
    let entries = machine.memory.nonzero(table).into_iter();
    let named = entries.filter_map(|(index, bits)| match format.decode(place.level, bits) {
        Raw::Table(next, write) => {
            let first = place.first + (u64::from(index) << shift(place.level));
            Some((next, Place { level: place.level - 1, first, write: place.write && write, ..place }))
        }
        _ => None,
    });
    named.collect()
}

fn collect(machine: &Machine, entry: Place, bits: u64, found: &mut Mapped) {
    match machine.format(entry.kind).decode(entry.level, bits) {
        Raw::Leaf(RawLeaf { pfn, size, write, .. }) => {
            let pages = (0..size.base_pages()).map(|index| (entry.first + index * PAGE, pfn.add(index)));
            found.extend(pages.map(|(page, frame)| (page, (frame, write && entry.write))));
        }
        Raw::Table(table, allowed) => {
            let (level, write) = (entry.level - 1, entry.write && allowed);
            for (index, bits) in machine.memory.nonzero(table) {
                let first = entry.first + (u64::from(index) << shift(level));
                collect(machine, Place { level, first, write, ..entry }, bits, found);
            }
        }
        Raw::NotPresent | Raw::Malformed(_) => {}
    }
}
