//! PCIDs (SDM vol. 3A 4.10.1): for which of them a shadow may be used again as it is.
//!
//! ```text
//!   stay:      1         2            3           4
//!   CR3:    A, root a │ B, root b  │ A, bit 63 │ C, bit 63          A stays known by (PCID, root, its last stay)
//!              │         │            │           └─ never had: a stranger, all lost tables are compared, as at a flush
//!              │         │            └─ known, last stay 1: lost tables that have got an entry since, or that a new way may lead to
//!              │         └─ derives E in a table of both; the guest changes that, and owes B a flush, but not A
//!              └─ all that was derived up to here A may have cached
//! ```
//!
//! A table stands for the guest's, whoever has it: tables of all PCIDs are shared. What a processor may have cached for one is less:
//! nothing that was only there while others were loaded, before it was changed. So what may an entry of a lost table be, that the
//! guest's does not say any more, when PCID A is loaded without a flush?
//!
//! - **Derived up to A's last stay**, and A's way to it, too: it was as the guest's said in some stay of A's, or was found as it is at the
//!   load before, since A's last flush. The processor could have it cached, and so may the shadow.
//! - **Derived since**, by another one: A cannot have it. Each table knows the last stay in which it got an entry, or another
//!   version of one, and is compared if that was after A's last.
//! - **Reached since**, by an entry that names a table that was there before, or allows more than it did: along this way A has cached nothing (`look_below`). For each
//!   level the last stay with such an entry is known, and lost tables of that level and below are compared.
//! - **Not reached** from A's root in the shadow: when it is, that is a new way, in A's stay or in one before A's next. So what other
//!   processes have for themselves stays as it is.
//! - **A flush of anybody's** compares all lost tables. What it leaves is what the guest's tables say, so A's case is no worse.
//!   What A flushes itself it has no entry of any more: it is known by a new stay, or not known.
//!
//! Whom a shadow does not know it takes for one who has cached nothing, which is always allowed. So few are known, each by the root that
//! it had last. The root's role is part of it, and with other CR0, CR4 or EFER nobody is known. Global translations are no PCID's: a flush may
//! drop them, and does, where they have changed. INVLPG drops those of all: the last addresses are remembered, and compared
//! when another one is loaded; where there were too many, that one is a stranger.

use super::origin::{Origin, Root};
use super::rmap::Place;
use super::table::Sync;
use super::tables::Shadow;
use crate::tdp::Tdp;
use mm::Host;
use mutants::{Mutant, intact};
use paging::Level;

/// Places for PCIDs that are known, each for some of them. Linux has 6, from 1 on, each once more with bit 11 for the user's tables.
const KNOWN: usize = 16;
/// Addresses of INVLPGs that are remembered.
const REMEMBERED: usize = 16;
/// Most lost tables that stay so when a known PCID is loaded: who looks for some of them, as INVLPG does, goes through all.
const MOST_LOST: usize = 16;
const LEVELS: [Level; 4] = [Level::Pml4, Level::Pdpt, Level::Pd, Level::Pt];

/// What a virtual processor drops of what it has cached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Drops {
    /// Nothing: a MOV to CR3 with bit 63.
    Nothing,
    /// What it has for the PCID of CR3.
    Pcid,
    /// All.
    All,
}

/// A PCID that was loaded.
#[derive(Clone, Copy, Debug)]
struct Context {
    pcid: u16,
    root: Origin,
    /// Its last stay.
    last: u64,
    /// INVLPGs before its last stay, or in it.
    invalidated: usize,
}

/// Those that are known.
#[derive(Debug, Default)]
pub(super) struct Contexts {
    known: [Option<Context>; KNOWN],
    /// The place of the one that is loaded.
    current: usize,
    /// The number of this stay.
    stay: u64,
    /// The last stay in which any entry was derived.
    newest: u64,
    /// The last stay in which a new way led to a table of a level, by the level's place in the address.
    ways: [u64; LEVELS.len()],
    /// INVLPGs, and the addresses of the last ones.
    invalidated: usize,
    addresses: [u64; REMEMBERED],
}

const fn place_of(level: Level) -> usize {
    match level {
        Level::Pt => 0,
        Level::Pd => 1,
        Level::Pdpt => 2,
        Level::Pml4 => 3,
    }
}

const fn place_for(pcid: u16) -> usize {
    (pcid ^ pcid >> 8) as usize % KNOWN
}

impl Contexts {
    fn find(&self, pcid: u16) -> Option<&Context> {
        self.known[place_for(pcid)].as_ref().filter(|context| context.pcid == pcid)
    }

    /// A stay begins.
    pub(super) fn begin(&mut self, pcid: u16, root: &Root) {
        if let Some(context) = &mut self.known[self.current] {
            context.invalidated = self.invalidated;
        }
        self.stay += 1;
        self.current = place_for(pcid);
        let (last, invalidated) = (self.stay, self.invalidated);
        self.known[self.current] = match *root {
            Root::Long(root) => Some(Context { pcid, root, last, invalidated }),
            Root::Legacy(_) => None,
        };
    }

    /// An entry is derived, in this stay.
    pub(super) const fn note_entry(&mut self) -> u64 {
        self.newest = self.stay;
        self.stay
    }

    /// Nobody has cached anything.
    pub(super) fn forget_all(&mut self) {
        self.known = [None; KNOWN];
    }

    /// INVLPG, which drops what there is of a global page for whomever. Others look at it when they are loaded.
    pub(super) fn note_invalidated(&mut self, linear: u64) {
        self.addresses[self.invalidated % REMEMBERED] = linear;
        self.invalidated += usize::from(intact(Mutant::ShadowGlobalOfOthersStays));
    }

    /// A new way leads to a table of this level.
    pub(super) fn note_way(&mut self, level: Level) {
        self.ways[place_of(level)] = self.stay;
    }

    /// Whether since that stay a new way may have led to tables of this level.
    fn has_new_way(&self, level: Level, since: u64) -> bool {
        self.ways[place_of(level)..].iter().any(|&stay| stay > since)
    }
}

impl Shadow {
    /// A known PCID is loaded again, and has dropped nothing. `false`: it is a stranger.
    pub(super) fn knows<H: Host>(
        &mut self,
        host: &H,
        (pcid, root): (u16, &Root),
        ground: Option<Tdp>,
    ) -> bool {
        let Root::Long(origin) = *root else { return false };
        let found = self.contexts.find(pcid).filter(|context| context.root == origin);
        let Some(&Context { last, invalidated, .. }) = found else {
            return !intact(Mutant::ShadowStrangerUncompared);
        };
        let Contexts { newest, invalidated: now, .. } = self.contexts;
        if self.lost.is_empty() {
            return true;
        }
        if now - invalidated > REMEMBERED || self.lost.len() > MOST_LOST {
            return false;
        }
        if newest <= last && now == invalidated {
            return true;
        }
        let begins_with = self.index.find(&self.tables, origin);
        for number in invalidated..now {
            let linear = self.contexts.addresses[number % REMEMBERED];
            self.compare_along(host, (begins_with, linear), ground);
        }
        let (by_entries, by_ways) =
            (intact(Mutant::ShadowPcidHasEntriesOfOthers), intact(Mutant::ShadowPcidHasWaysOfOthers));
        self.compare_lost(host, ground, |shadow, table, level| {
            let is_new = by_entries && shadow.table(table).since > last
                || by_ways && shadow.contexts.has_new_way(level, last);
            is_new && !shadow.is_apart(table, begins_with)
        });
        true
    }

    /// Whether a table is known not to be below a root.
    fn is_apart(&self, mut table: u16, root: Option<u16>) -> bool {
        while Some(table) != root {
            let Some(parent) = self.table(table).parents else { return true };
            // One of several ways may be the root's.
            if self.table(table).is_root || self.table(parent.table()).link(parent.index()).next.is_some() {
                return false;
            }
            table = parent.table();
        }
        false
    }

    /// A PCID that is not loaded has dropped all that it had.
    pub(super) fn drop_pcid(&mut self, pcid: u16) {
        if self.contexts.find(pcid).is_some() && intact(Mutant::ShadowPcidFlushedInVain) {
            self.contexts.known[place_for(pcid)] = None;
        }
    }

    /// The same, of a linear address.
    pub(super) fn drop_address<H: Host>(
        &mut self,
        host: &H,
        (pcid, linear): (u16, u64),
        ground: Option<Tdp>,
    ) {
        if let Some(&Context { root, .. }) = self.contexts.find(pcid) {
            self.compare_along(host, (self.index.find(&self.tables, root), linear), ground);
        }
    }

    /// Compares what there is on an address' way from a root on.
    fn compare_along<H: Host>(
        &mut self,
        host: &H,
        (mut next, linear): (Option<u16>, u64),
        ground: Option<Tdp>,
    ) {
        for level in LEVELS {
            let Some(table) = next else { return };
            let at = Place::new(table, level.index(linear));
            if self.table(table).sync == Sync::Lost {
                self.compare(host, at, ground);
            }
            next = self.child(at);
        }
    }
}
