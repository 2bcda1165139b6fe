//! One CPU: what it runs, what it has cached, and which flushes it still owes.
//!
//! ```text
//!              load_space                 enter(EPT root)
//!   root mode ───────────► root mode ───────────────────────► guest mode
//!   uses linear             pays what it owes, first           uses guest-physical
//!       ▲                                                          │
//!       └───────────── exit: pays what it owes, first ─────────────┘
//! ```
//!
//! A transition drops nothing by itself: with VPIDs and PCIDs, translations survive it. A flush reaches at once
//! (as an interrupt) only a CPU that could use the translations; any other owes it until its next transition
//! (I10).

use super::tlb::{Cached, Key, StructureKey, Tlb};
use addr::Pfn;
use paging::FlushScope;

/// A CPU.
#[derive(Debug, Default)]
pub(crate) struct Cpu {
    /// The tables of root mode; kept while in guest mode.
    pub(crate) space: Option<Pfn>,
    /// The EPT in guest mode; `None` in root mode.
    pub(crate) ept: Option<Pfn>,
    pub(crate) linear: Tlb,
    pub(crate) guest: Tlb,
    /// Flushes asked for and not done, by generation.
    owed: Vec<(u64, FlushScope)>,
}

/// Which of a CPU's caches.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// hva → hpa, used in root mode.
    Linear,
    /// gpa → hpa, used in guest mode.
    GuestPhysical,
}

/// A page whose translation was dropped.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dropped {
    pub(crate) kind: Kind,
    pub(crate) root: Pfn,
    pub(crate) page: u64,
}

impl Cpu {
    pub(crate) fn tlb(&mut self, kind: Kind) -> &mut Tlb {
        match kind {
            Kind::Linear => &mut self.linear,
            Kind::GuestPhysical => &mut self.guest,
        }
    }

    /// The tables that the CPU walks now.
    pub(crate) fn current(&self) -> Option<(Kind, Pfn)> {
        match self.ept {
            Some(root) => Some((Kind::GuestPhysical, root)),
            None => self.space.map(|root| (Kind::Linear, root)),
        }
    }

    /// Whether what the scope names can be used before the next transition.
    pub(crate) fn can_use(&self, scope: FlushScope) -> bool {
        self.current() == Some(named(scope))
    }

    pub(crate) fn owe(&mut self, generation: u64, scope: FlushScope) {
        self.owed.push((generation, scope));
    }

    /// The interrupt: pays what was asked up to this generation, if the CPU could use any of it.
    pub(crate) fn interrupt(&mut self, generation: u64) -> Vec<Dropped> {
        let urgent = self.owed.iter().any(|&(asked, scope)| asked <= generation && self.can_use(scope));
        if urgent { self.pay() } else { Vec::new() }
    }

    /// Does every flush that is owed.
    pub(crate) fn pay(&mut self) -> Vec<Dropped> {
        let mut dropped = Vec::new();
        for (_, scope) in std::mem::take(&mut self.owed) {
            let (kind, root) = named(scope);
            let pages = match scope {
                FlushScope::Primary { range, .. } => {
                    self.linear.flush_range(root, (range.start().as_u64(), range.end().as_u64()))
                }
                FlushScope::Secondary { .. } => self.guest.flush(root),
            };
            dropped.extend(pages.into_iter().map(|page| Dropped { kind, root, page }));
        }
        dropped
    }

    /// Whether a cached translation will be dropped before it can be used.
    pub(crate) fn is_doomed(&self, kind: Kind, key: &Key) -> bool {
        self.dooming(kind, key.root).any(|scope| match scope {
            FlushScope::Primary { range, .. } => {
                key.page < range.end().as_u64() && range.start().as_u64() < key.page + key.size.bytes()
            }
            FlushScope::Secondary { .. } => true,
        })
    }

    /// Whether a cached paging-structure entry will be dropped before it can be used.
    pub(crate) fn is_structure_doomed(&self, kind: Kind, key: &StructureKey) -> bool {
        self.dooming(kind, key.root).next().is_some()
    }

    fn dooming(&self, kind: Kind, root: Pfn) -> impl Iterator<Item = FlushScope> + '_ {
        self.owed
            .iter()
            .map(|(_, scope)| *scope)
            .filter(move |&scope| named(scope) == (kind, root) && !self.can_use(scope))
    }

    /// Translations that can still be used, or will be usable after a transition.
    pub(crate) fn live(&self) -> impl Iterator<Item = (Kind, Key, Cached)> + '_ {
        let linear = self.linear.pages.iter().map(|(key, cached)| (Kind::Linear, *key, *cached));
        let guest = self.guest.pages.iter().map(|(key, cached)| (Kind::GuestPhysical, *key, *cached));
        linear.chain(guest).filter(|(kind, key, _)| !self.is_doomed(*kind, key))
    }

    /// Paging-structure entries that can still be used, or will be usable after a transition.
    pub(crate) fn live_structures(&self) -> impl Iterator<Item = (Kind, StructureKey, Pfn)> + '_ {
        let linear = self.linear.structures.iter().map(|(key, table)| (Kind::Linear, *key, *table));
        let guest = self.guest.structures.iter().map(|(key, table)| (Kind::GuestPhysical, *key, *table));
        linear.chain(guest).filter(|(kind, key, _)| !self.is_structure_doomed(*kind, key))
    }
}

fn named(scope: FlushScope) -> (Kind, Pfn) {
    match scope {
        FlushScope::Primary { root, .. } => (Kind::Linear, root),
        FlushScope::Secondary { root } => (Kind::GuestPhysical, root),
    }
}
