//! Which tables of shadows say what the guest's say, and what happens where they do not.
//!
//! ```text
//!              a leaf that may be written comes to map the guest's table, in any shadow ── a device writes it ── its ground goes
//!   ┌──────┐ ─────────────────────────────────────────────────────────────────────────────────────────────► ┌──────┐
//!   │ Kept │                                                                                                │ Lost │ ◄── a new table
//!   └──────┘ ◄───────────────────────────────────────────────────────────────────────────────────────────── └──────┘
//!              the guest flushes: 1. each entry is compared with what it was derived from: those that have changed go
//!                                 2. where something is left, no leaf of any shadow may be written any more that maps the guest's table
//!                                 3. where another processor could: it is flushed, and 1 once more
//! ```
//!
//! The processor that flushes does not run, so that nobody else can have written what 1 has seen: what others write before they are flushed is
//! seen by 3, and what they write later faults, and loses the table again.
//! Until its flush a guest has what a TLB could have (SDM vol. 3A 4.10.2.3, 4.10.4).

use super::areas::AREA;
use super::format;
use super::origin::{Origin, still_says};
use super::rmap::{Named, Place};
use super::table::Sync;
use super::tables::Shadow;
use crate::entry;
use crate::tdp::Tdp;
use addr::{Gfn, GfnRange};
use alloc::vec::Vec;
use mm::Host;
use mutants::{Mutant, intact};
use paging::Level;

/// So often in a row a table may be written without being used.
const FLOOD: u8 = 3;

impl Shadow {
    /// The guest's table may be written from now on, or was.
    pub(super) fn lose(&mut self, table: u16) {
        if core::mem::replace(&mut self.table_mut(table).sync, Sync::Lost) == Sync::Kept {
            self.lost.push(table);
            self.has_lost_directory |=
                self.table(table).origin.is_some_and(|origin| origin.level > Level::Pt);
        }
    }

    /// The same for all tables that stand for one in this frame.
    pub(super) fn lose_frame(&mut self, gfn: Gfn) {
        let mut next = self.index.first(gfn);
        while let Some(table) = next {
            next = self.table(table).next;
            if self.table(table).guest_table() == Some(gfn) {
                self.lose(table);
            }
        }
    }

    /// What lies in guest frames may have been written.
    pub(crate) fn lose_frames(&mut self, gfns: GfnRange) {
        if gfns.len() <= self.tables.len() as u64 {
            gfns.iter().for_each(|gfn| self.lose_frame(gfn));
            return;
        }
        for number in 0..self.tables.len() as u16 {
            if self.table(number).guest_table().is_some_and(|gfn| gfns.contains(gfn)) {
                self.lose(number);
            }
        }
    }

    /// The list of lost tables, without those that are none any more. Nothing is allocated under the lock (I4).
    fn put_back(&mut self, mut lost: Vec<u16>) {
        lost.retain(|&table| self.table(table).sync == Sync::Lost);
        self.lost = lost;
    }

    /// Whether tables may lie in the 2 MiB around a frame, kept or lost.
    pub(super) const fn has_tables_near(&self, gfn: Gfn) -> bool {
        self.index.has_tables_near(gfn)
    }

    /// Whether some table says what the guest's in this frame says.
    pub(super) fn keeps(&self, gfn: Gfn) -> bool {
        self.index.tables_of(&self.tables, gfn).any(|table| self.table(table).sync == Sync::Kept)
    }

    /// No leaf that maps a frame may be written any more; whether one could. A large one goes: base leaves come in its place, of which one may
    /// not be written. The caller flushes.
    pub(crate) fn protect<H: Host>(&mut self, host: &H, gfn: Gfn) -> bool {
        let mut narrowed = false;
        let base = self.rmap.leaves_of(&self.tables, Named::Frame(gfn));
        for at in base.map(|place| self.entry(place)) {
            if format::is_writable(host.load(at)) {
                entry::protect(host, at);
                narrowed = true;
            }
        }
        let large = self.rmap.large(GfnRange::new(gfn, gfn.add(1)));
        for named in large.filter(|_| intact(Mutant::ShadowProtectMissesLarge)) {
            narrowed |= self.drop_leaves(host, named, format::is_writable);
        }
        narrowed
    }

    /// What guest frames translate to has changed, or is about to: no leaf maps them any more, and tables that lie in them may have
    /// changed. The caller flushes.
    pub(crate) fn forget<H: Host>(&mut self, host: &H, gfns: GfnRange) {
        if intact(Mutant::ShadowTableOutlivesGround) {
            self.lose_frames(gfns);
        }
        if gfns.len() <= AREA.base_pages() {
            for named in self.rmap.large(gfns).filter(|_| intact(Mutant::ShadowForgetMissesLarge)) {
                self.drop_leaves(host, named, |_| true);
            }
            let mut rest = gfns;
            while let Some(gfn) = self.rmap.next_base(rest) {
                self.drop_leaves(host, Named::Frame(gfn), |_| true);
                rest = GfnRange::new(gfn.add(1), gfns.end());
            }
            return;
        }
        for table in 0..self.tables.len() as u16 {
            for index in self.table(table).present() {
                if let Some((gfn, size)) = self.table(table).link(index).named.page()
                    && gfns.overlaps(&GfnRange::new(gfn, gfn.add(size.base_pages())))
                {
                    self.remove(host, Place::new(table, index));
                }
            }
        }
    }

    /// Of the leaves that name this, those go that are such; whether one was. Once along the chain, which a guest can make long.
    fn drop_leaves<H: Host>(&mut self, host: &H, named: Named, is_such: impl Fn(u64) -> bool) -> bool {
        let (mut next, mut dropped) = (self.rmap.first_leaf(named), false);
        while let Some(at) = next {
            let link = self.table(at.table()).link(at.index());
            next = link.next;
            if link.named == named && is_such(host.load(self.entry(at))) {
                self.remove(host, at);
                dropped = true;
            }
        }
        dropped
    }

    /// Drops what an entry names, unless the guest's still says so.
    pub(super) fn compare<H: Host>(&mut self, host: &H, at: Place, ground: Option<Tdp>) {
        let table = self.table(at.table());
        let Some(origin) = table.origin.filter(Origin::is_table) else { return };
        let frame = ground.and_then(|tdp| tdp.ground(host, origin.gfn)).map(|leaf| leaf.pfn);
        let now = frame.map(|frame| origin.guest_entry(host, frame, at.index()));
        if !now.is_some_and(|now| still_says(now, table.link(at.index()).from)) {
            self.remove(host, at);
        }
    }

    /// Drops all entries of a table that the guest's does not say any more: all where that is nowhere by now.
    fn compare_all<H: Host>(&mut self, host: &H, number: u16, ground: Option<Tdp>) {
        let table = self.table(number);
        let Some(origin) = table.origin.filter(|_| intact(Mutant::ShadowTableKeptUnseen)) else { return };
        let frame = ground.and_then(|tdp| tdp.ground(host, origin.gfn)).map(|leaf| leaf.pfn);
        for index in table.present() {
            let now = frame.map(|frame| origin.guest_entry(host, frame, index));
            if !now.is_some_and(|now| still_says(now, self.table(number).link(index).from)) {
                self.remove(host, Place::new(number, index));
            }
        }
    }

    /// Compares a lost table. It goes where nothing is left of it, or where it is written again and again and not used: it may be none any
    /// more. The guest's table, if it stays.
    fn look_at<H: Host>(&mut self, host: &H, number: u16, ground: Option<Tdp>) -> Option<Gfn> {
        self.compare_all(host, number, ground);
        let table = self.table_mut(number);
        table.floods = if core::mem::take(&mut table.used) { 0 } else { table.floods + 1 };
        let is_flooded = table.floods >= FLOOD && intact(Mutant::ShadowFloodIgnored);
        if table.is_empty() || is_flooded {
            self.drop_root(host, number);
            self.unname(host, number);
        }
        self.table(number).guest_table()
    }

    /// A table is about to be reached by one more way, along which no processor has cached anything: so the guest owes no flush for what
    /// it has written meanwhile, and all lost tables that may be below are compared. Those above stay as they are; the way down to here is
    /// among them. The table.
    pub(super) fn look_below<H: Host>(&mut self, host: &H, number: u16, ground: Option<Tdp>) -> u16 {
        // Below a part of a large page there are no tables.
        let Some(Origin { level, .. }) = self.table(number).origin.filter(Origin::is_table) else {
            return number;
        };
        self.contexts.note_way(level);
        self.compare_lost(host, ground, |_, table, other| {
            intact(Mutant::ShadowNewWayUncompared) && (table == number || other < level)
        });
        number
    }

    /// Compares lost tables, those that are wanted.
    pub(super) fn compare_lost<H: Host>(
        &mut self,
        host: &H,
        ground: Option<Tdp>,
        is_wanted: impl Fn(&Self, u16, Level) -> bool,
    ) {
        let lost = core::mem::take(&mut self.lost);
        for &number in &lost {
            if self.table(number).origin.is_some_and(|origin| is_wanted(self, number, origin.level)) {
                self.compare_all(host, number, ground);
            }
        }
        self.put_back(lost);
    }

    /// The guest's INVLPG: what has been read of tables above the page tables, and the entry for the address.
    pub(crate) fn invalidate<H: Host>(&mut self, host: &H, linear: u64, ground: Option<Tdp>) {
        if self.has_lost_directory {
            self.compare_lost(host, ground, |_, _, level| level > Level::Pt);
        }
        if let Some(table) = self.find(linear).filter(|&table| self.table(table).sync == Sync::Lost) {
            self.compare(host, Place::new(table, Level::Pt.index(linear)), ground);
        }
        self.contexts.note_invalidated(linear);
    }
}

/// All tables of one processor's shadow, from a level up, say what the guest's say, which is flushed.
pub(super) fn keep_all<H: Host>(
    host: &H,
    (shadows, number): (&mut [Shadow], usize),
    lowest: Level,
    ground: Option<Tdp>,
    flush: impl FnOnce(),
) {
    let Some(shadow) = shadows.get_mut(number) else { return };
    shadow.has_lost_directory = false;
    let lost = core::mem::take(&mut shadow.lost);
    let is_meant = |shadow: &Shadow, table: u16| {
        shadow.table(table).origin.is_some_and(|Origin { level, .. }| level >= lowest)
    };
    let mut others_may_have_it = false;
    for &table in &lost {
        if !is_meant(&shadows[number], table) {
            continue;
        }
        let Some(gfn) = shadows[number].look_at(host, table, ground) else { continue };
        // Whose page is kept in another role has lost W everywhere: once a page, however many tables of the guest it is.
        let protects = !shadows[number].keeps(gfn) && intact(Mutant::ShadowTableUnprotected);
        shadows[number].table_mut(table).sync = Sync::Kept;
        for (other, shadow) in shadows.iter_mut().enumerate().filter(|_| protects) {
            others_may_have_it |= shadow.protect(host, gfn) && other != number;
        }
    }
    if others_may_have_it {
        if intact(Mutant::ShadowProtectUnflushed) {
            flush();
        }
        // They may have written until now.
        for &table in lost.iter().filter(|_| intact(Mutant::ShadowComparedOnce)) {
            if is_meant(&shadows[number], table) {
                shadows[number].compare_all(host, table, ground);
            }
        }
    }
    shadows[number].put_back(lost);
}
