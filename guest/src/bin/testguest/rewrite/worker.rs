//! What one processor does.

use super::access::{self, Fault};
use super::shoot::{self, Means};
use super::tree::{
    ACCESSED, DIRTY, ENTRIES, LARGE, Leaf, MIRROR, PAGES, PRESENT, Place, ROOTS, TABLES, Tree, WRITABLE,
    linear,
};
use super::{Check, FRAMES_OF_LARGE, Field, SMALL, STOP, count, tag, wrong};
use core::sync::atomic::Ordering;
use guest::cpu;
use guest::println;
use guest::random::Random;

/// So many changes at most before the others hear of them.
const BATCH: u64 = 6;
/// A word of a busy page that is written, and not read.
const BUSY_WORD: u64 = 100;
/// Of so many pages each is named by INVLPG only now and then.
const MANY: u32 = 12;
/// Bits of an entry that processors set.
const FLAGS: u64 = ACCESSED | DIRTY;
/// What a store's fault says: present, and a store; or a store.
const REFUSED: u64 = 3;
const ABSENT: u64 = 2;

/// A processor, the owner of a tree.
pub(super) struct Worker<'a> {
    field: &'a Field,
    me: u64,
    random: Random,
    /// The root that CR3 names.
    root: u64,
    /// Pages of its own that have to be dropped before they are used: by itself, by others.
    pending: u64,
    pending_of_others: u64,
    /// Pages where a store may fault once, since rights came without a flush.
    loosened: u64,
    /// Changes that the others have not heard of.
    changes: u64,
}

impl<'a> Worker<'a> {
    pub(super) fn new(field: &'a Field, me: u64) -> Self {
        let random = Random::new(field.seed.wrapping_mul(1000).wrapping_add(me + 1));
        Self { field, me, random, root: 0, pending: 0, pending_of_others: 0, loosened: 0, changes: 0 }
    }

    fn tree(&self, owner: u64) -> Tree<'a> {
        Tree { roots: &self.field.roots, tables: &self.field.tables, owner }
    }

    fn means(&mut self, mask: u64) -> Means {
        let all = if mask.count_ones() > MANY { 7 } else { 2 };
        if self.random.below(8) < all { Means::All } else { Means::Each }
    }

    pub(super) fn run(&mut self) {
        let each = self.field.operations / self.field.count;
        for step in 0..each {
            if STOP.load(Ordering::SeqCst) {
                return;
            }
            shoot::serve(self.me, |mask| self.means(mask));
            match self.random.below(8) {
                0..=2 => self.change(),
                3..=5 => self.use_own(),
                _ => self.use_others(),
            }
            self.keep_busy();
            if self.me == 0 && each >= 10 && (step + 1).is_multiple_of(each / 10) {
                println!("rewrite: {} of {each} steps", step + 1);
            }
        }
        self.settle();
    }

    /// The host has something else to keep, too.
    fn keep_busy(&mut self) {
        let Field { busy, .. } = self.field;
        if busy.count() > 0 {
            let page = self.random.below(busy.count());
            let found = busy.read(page, self.me);
            if found != page {
                wrong(Check::Busy, (self.me, busy.page(page).as_u64()), page, found);
            }
            busy.write(page, BUSY_WORD, page);
        }
    }

    /// Changes an entry, and tells the others now and then.
    fn change(&mut self) {
        let level = [0, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3, 3][self.random.below(12) as usize];
        let place = Place {
            level,
            table: self.random.below(TABLES[level]),
            index: self.random.below(ENTRIES[level]),
        };
        let tree = self.tree(self.me);
        let old = tree.read(place);
        let new = self.entry(place, old);
        let pages = tree.pages_through(place);
        shoot::begin(self.me);
        self.store(place, new);
        count(0, 1);
        if old & PRESENT != 0 && (old ^ new) & !(FLAGS | WRITABLE) == 0 && new & WRITABLE >= old & WRITABLE {
            self.loosened |= pages;
        } else if old & PRESENT != 0 {
            self.pending |= pages;
            self.pending_of_others |= pages;
        }
        self.changes += 1;
        if self.pending_of_others == 0 || self.changes >= BATCH || self.random.below(3) == 0 {
            self.settle();
        }
    }

    fn settle(&mut self) {
        if self.pending_of_others != 0 {
            count(2, 1);
        }
        shoot::settle(self.me, self.field.count, self.pending_of_others, || STOP.load(Ordering::SeqCst));
        (self.pending_of_others, self.changes) = (0, 0);
    }

    /// What an entry becomes: another one, or the same with more rights, or with other A and D.
    fn entry(&mut self, place: Place, old: u64) -> u64 {
        // Without upper entries there would be little to see.
        match self.random.below(if place.level < 3 { 24 } else { 8 }) {
            0 if old & PRESENT != 0 => old | WRITABLE,
            1 if old & PRESENT != 0 => old ^ [ACCESSED, DIRTY, FLAGS][self.random.below(3) as usize],
            2 => 0,
            3 => old & !PRESENT,
            _ => self.new_entry(place),
        }
    }

    fn new_entry(&mut self, Place { level, index, .. }: Place) -> u64 {
        let write = if self.random.below(4) == 0 { 0 } else { WRITABLE };
        let flags = self.random.below(4) * ACCESSED;
        let bits = PRESENT | write | flags;
        let field = self.field;
        match level {
            3 if index == MIRROR => self.tree(self.me).table(1, self.random.below(super::TREE)) | bits,
            3 => field.small.page(self.random.below(SMALL)).as_u64() | bits,
            2 if self.random.below(3) == 0 => {
                let page = self.random.below(super::LARGE) * FRAMES_OF_LARGE;
                field.large.page(page).as_u64() | bits | LARGE
            }
            _ => self.tree(self.me).table(level + 1, self.random.below(TABLES[level + 1])) | bits,
        }
    }

    /// Writes an entry, where it can by a page that maps its table.
    fn store(&mut self, place: Place, entry: u64) {
        let tree = self.tree(self.me);
        if let Some((table, offset)) = tree.address(place)
            && let Some(page) = self.mirror_of(table)
        {
            let at = linear(self.me, page) + offset;
            match access::store(at, entry) {
                Ok(()) if (tree.read(place) ^ entry) & !FLAGS == 0 => return,
                Ok(()) => wrong(Check::Mirror, (self.me, at), entry, tree.read(place)),
                Err(Fault(code)) => wrong(Check::Fault, (self.me, at), 0, code),
            }
        }
        tree.write(place, entry);
    }

    /// A page that maps a table, may be written, and is as the tables say.
    fn mirror_of(&mut self, table: u64) -> Option<u64> {
        if self.random.below(2) == 0 {
            return None;
        }
        let first = self.random.below(PAGES / 8);
        let tree = self.tree(self.me);
        (0..PAGES / 8).map(|number| (first + number) % (PAGES / 8) * 8 + MIRROR).find(|&page| {
            (self.pending | self.loosened) >> page & 1 == 0
                && tree.walk(self.root, page) == Some(Leaf { frame: table, write: true })
        })
    }

    /// Uses a page of its own, which is as its tables say.
    fn use_own(&mut self) {
        let page = self.random.below(PAGES);
        self.flush(page);
        let at = linear(self.me, page);
        let leaf = self.tree(self.me).walk(self.root, page);
        if leaf.is_some_and(|leaf| self.tree(self.me).is_table(leaf.frame)) {
            self.look_into_mirror(at, page);
        } else {
            let may_fault = self.loosened >> page & 1 != 0;
            self.compare(at, leaf, may_fault, || true);
        }
        self.loosened &= !(1 << page);
    }

    /// What is pending for a page is dropped, and sometimes more.
    fn flush(&mut self, page: u64) {
        if self.random.below(64) == 0 {
            self.root = self.random.below(ROOTS);
            // SAFETY: the boot code's entry is in each root.
            unsafe { cpu::set_cr3(self.field.roots.page(self.root).as_u64()) };
            (self.pending, self.loosened) = (0, 0);
        }
        if self.pending >> page & 1 == 0 {
            return;
        }
        let one = self.random.below(2) == 0;
        let means = self.means(self.pending);
        let mask = if one && means == Means::Each { 1 << page } else { self.pending };
        shoot::drop_pages(self.me, mask, means);
        self.pending &= !mask;
    }

    /// A page that maps a table of its own shows the same entries as the table.
    fn look_into_mirror(&mut self, at: u64, page: u64) {
        let Some(Leaf { frame, .. }) = self.tree(self.me).walk(self.root, page) else { return };
        let table = (frame - self.field.tables.page(0).as_u64()) >> 12;
        let word = self.random.below(8);
        let expected = self.field.tables.read(table, word);
        count(1, 1);
        match access::load(at + word * 8) {
            Ok(found) if (found ^ expected) & !FLAGS == 0 => {}
            Ok(found) => wrong(Check::Mirror, (self.me, at), expected, found),
            Err(Fault(code)) => wrong(Check::Fault, (self.me, at), 0, code),
        }
    }

    /// Uses a page of another's, which may be about to change.
    fn use_others(&mut self) {
        let owner = self.random.below(self.field.count);
        let page = self.random.below(PAGES);
        if owner == self.me || page % 8 == MIRROR {
            return;
        }
        let before = shoot::sequence(owner);
        let leaf = self.tree(owner).walk(self.root, page);
        let at = linear(owner, page);
        let settled = || before.is_multiple_of(2) && shoot::sequence(owner) == before;
        if settled() {
            self.compare(at, leaf, true, settled);
            return;
        }
        count(4, 1);
        if let Ok(found) = access::load(at)
            && self.field.page(tag(found)).is_none()
        {
            wrong(Check::Foreign, (self.me, at), 0, found);
        }
    }

    /// A load or a store, against what the tables say, unless they have changed by then.
    fn compare(&mut self, at: u64, leaf: Option<Leaf>, may_fault: bool, counts: impl Fn() -> bool) {
        if self.random.below(2) == 0 {
            let found = access::load(at);
            if counts() {
                self.compare_load(at, leaf, found);
            }
            return;
        }
        let (value, at) = (self.random.number(), at + 8 * (self.me + 1));
        let mut done = access::store(at, value);
        if done == Err(Fault(REFUSED)) && may_fault && leaf.is_some_and(|leaf| leaf.write) {
            count(3, 1);
            done = access::store(at, value);
        }
        let page = leaf.and_then(|leaf| self.field.page(leaf.frame));
        let left = page.map(|(pages, page)| pages.read(page, self.me + 1));
        if counts() {
            self.compare_store(at, leaf, (done, value, left));
        }
    }

    fn compare_load(&self, at: u64, leaf: Option<Leaf>, found: Result<u64, Fault>) {
        count(1, 1);
        match (found, leaf.map(|leaf| tag(leaf.frame))) {
            (Ok(found), Some(expected)) if found == expected => {}
            (Ok(found), Some(expected)) => wrong(Check::Contents, (self.me, at), expected, found),
            (Ok(found), None) => wrong(Check::NoFault, (self.me, at), 0, found),
            (Err(Fault(0)), None) => {}
            (Err(Fault(code)), _) => wrong(Check::Fault, (self.me, at), 0, code),
        }
    }

    /// What came of a store, what was stored, and what its page has by now.
    fn compare_store(
        &self,
        at: u64,
        leaf: Option<Leaf>,
        (done, value, left): (Result<(), Fault>, u64, Option<u64>),
    ) {
        count(1, 1);
        let refused = match leaf {
            None => Some(ABSENT),
            Some(Leaf { write, .. }) => (!write).then_some(REFUSED),
        };
        match (done, refused) {
            (Ok(()), None) if left == Some(value) => {}
            (Ok(()), None) => wrong(Check::Stored, (self.me, at), value, left.unwrap_or(0)),
            (Ok(()), Some(code)) => wrong(Check::NoFault, (self.me, at), code, value),
            (Err(Fault(code)), Some(expected)) if code == expected => {}
            (Err(Fault(code)), expected) => {
                wrong(Check::Fault, (self.me, at), expected.unwrap_or(0), code);
            }
        }
    }
}
