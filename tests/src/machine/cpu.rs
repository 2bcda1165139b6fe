//! One CPU: what it runs, what it has cached, and which flushes it still owes.
//!
//! ```text
//!              load_space                 enter(EPT root)
//!   root mode ───────────► root mode ───────────────────────► guest mode
//!   uses linear             pays what it owes, first           uses guest-physical, combined
//!       ▲                                                          │
//!       └───────────── exit: pays what it owes, first ─────────────┘
//! ```
//!
//! A transition drops nothing by itself: with VPIDs and PCIDs, translations survive it. A flush reaches at once
//! (as an interrupt) only a CPU that could use the translations; any other owes it until its next transition
//! (I10).
//!
//! A guest under a shadow has neither an EPT nor a VPID: the CPU walks the shadow, and each transition drops what it has cached of
//! that (SDM vol. 3C 29.3.2). It still is the guest of an EPT's root, by which flushes name it.

use super::tlb::{Cached, Context, Key, Structure, StructureKey, Tag, Tlb};
use addr::Pfn;
use paging::FlushScope;

/// Where a CPU begins to walk a shadow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ShadowRoot {
    /// The root in long mode; where PAE's four pointers are, in any other.
    pub root: Pfn,
    /// The guest's own paging.
    pub mode: GuestMode,
}

/// Of a guest under a shadow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GuestMode {
    /// None: linear addresses are guest-physical ones.
    Off,
    /// Linear addresses of 32 bits.
    Legacy,
    /// Long mode.
    Long,
}

/// A CPU.
#[derive(Debug, Default)]
pub(crate) struct Cpu {
    /// The tables of root mode; kept while in guest mode.
    pub(crate) space: Option<Pfn>,
    /// The EPT in guest mode; `None` in root mode.
    pub(crate) ept: Option<Pfn>,
    /// The shadow that it walks in guest mode instead.
    pub(crate) shadow: Option<ShadowRoot>,
    pub(crate) linear: Tlb,
    pub(crate) guest: Tlb,
    pub(crate) combined: Tlb,
    pub(crate) shadowed: Tlb,
    /// What VM entry loads: the VPID and CR3 of the guest. `None`: it runs without paging.
    pub(crate) context: Option<Context>,
    /// Flushes asked for and not done.
    owed: Vec<Owed>,
}

/// A flush that was asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owed {
    pub(crate) generation: u64,
    pub(crate) scope: FlushScope,
    /// INVEPT drops guest-physical translations and leaves combined ones, for tests of the tests.
    pub(crate) spares_combined: bool,
}

impl Owed {
    /// Whether it drops anything of that kind from that root.
    fn covers(self, kind: Kind, root: Pfn) -> bool {
        match (self.scope, kind) {
            (FlushScope::Primary { root: of, .. }, Kind::Linear)
            | (FlushScope::Secondary { root: of }, Kind::GuestPhysical | Kind::Shadow) => of == root,
            (FlushScope::Secondary { root: of }, Kind::Combined) => of == root && !self.spares_combined,
            _ => false,
        }
    }
}

/// Which of a CPU's caches.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// hva → hpa, used in root mode.
    Linear,
    /// gpa → hpa, used in guest mode.
    GuestPhysical,
    /// gva → hpa, used in guest mode where the guest has paging.
    Combined,
    /// gva → hpa, used in guest mode under a shadow.
    Shadow,
}

/// A page whose translation was dropped.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dropped {
    pub(crate) kind: Kind,
    pub(crate) tag: Tag,
    pub(crate) page: u64,
}

impl Cpu {
    pub(crate) fn tlb(&mut self, kind: Kind) -> &mut Tlb {
        match kind {
            Kind::Linear => &mut self.linear,
            Kind::GuestPhysical => &mut self.guest,
            Kind::Combined => &mut self.combined,
            Kind::Shadow => &mut self.shadowed,
        }
    }

    /// All caches.
    pub(crate) fn tlbs(&self) -> [(Kind, &Tlb); 4] {
        [
            (Kind::Linear, &self.linear),
            (Kind::GuestPhysical, &self.guest),
            (Kind::Combined, &self.combined),
            (Kind::Shadow, &self.shadowed),
        ]
    }

    /// Which translations an access by the guest uses, where it may be under a shadow.
    pub(crate) fn used_for(&self, kind: Kind) -> Kind {
        if kind == Kind::GuestPhysical && self.shadow.is_some() { Kind::Shadow } else { kind }
    }

    /// What the combined translations that the CPU uses now are tagged with.
    pub(crate) fn combined_tag(&self) -> Option<Tag> {
        Some(Tag { root: self.ept?, guest: Some(self.context?) })
    }

    /// The tag of the translations of this kind that the CPU uses now.
    pub(crate) fn tag(&self, kind: Kind) -> Option<Tag> {
        match kind {
            Kind::Combined => self.combined_tag(),
            _ => self.current().filter(|(current, _)| *current == kind).map(|(_, root)| root.into()),
        }
    }

    /// The tables that the CPU walks now.
    pub(crate) fn current(&self) -> Option<(Kind, Pfn)> {
        match (self.shadow, self.ept) {
            (Some(shadow), _) => Some((Kind::Shadow, shadow.root)),
            (None, Some(root)) => Some((Kind::GuestPhysical, root)),
            (None, None) => self.space.map(|root| (Kind::Linear, root)),
        }
    }

    /// Whether what the scope names can be used before the next transition.
    pub(crate) fn can_use(&self, scope: FlushScope) -> bool {
        let current = match self.shadow {
            Some(_) => self.ept.map(|root| (Kind::GuestPhysical, root)),
            None => self.current(),
        };
        current == Some(named(scope))
    }

    pub(crate) fn owe(&mut self, owed: Owed) {
        self.owed.push(owed);
    }

    /// The interrupt: pays what was asked up to this generation, if the CPU could use any of it.
    pub(crate) fn interrupt(&mut self, generation: u64) -> Vec<Dropped> {
        let urgent = self.owed.iter().any(|owed| owed.generation <= generation && self.can_use(owed.scope));
        if urgent { self.pay() } else { Vec::new() }
    }

    /// Does every flush that is owed.
    pub(crate) fn pay(&mut self) -> Vec<Dropped> {
        let mut dropped = Vec::new();
        let mut note = |kind, keys: Vec<Key>| {
            dropped.extend(keys.into_iter().map(|Key { tag, page, .. }| Dropped { kind, tag, page }));
        };
        for owed in std::mem::take(&mut self.owed) {
            match owed.scope {
                FlushScope::Primary { root, range } => {
                    let range = (range.start().as_u64(), range.end().as_u64());
                    note(Kind::Linear, self.linear.flush_range(root, range));
                }
                FlushScope::Secondary { root } => {
                    note(Kind::GuestPhysical, self.guest.flush(root));
                    // The interrupt makes the guest exit.
                    if let Some(shadow) = self.shadow.filter(|_| self.ept == Some(root)) {
                        note(Kind::Shadow, self.shadowed.flush(shadow.root));
                    }
                    if !owed.spares_combined {
                        note(Kind::Combined, self.combined.flush(root));
                    }
                }
            }
        }
        dropped
    }

    /// What a transition drops.
    pub(crate) fn forget_shadow(&mut self) -> Vec<Dropped> {
        let Some(shadow) = self.shadow else { return Vec::new() };
        let keys = self.shadowed.flush(shadow.root).into_iter();
        keys.map(|Key { tag, page, .. }| Dropped { kind: Kind::Shadow, tag, page }).collect()
    }

    /// Whether a cached translation will be dropped before it can be used.
    pub(crate) fn is_doomed(&self, kind: Kind, key: &Key) -> bool {
        self.dooming(kind, key.tag.root).any(|scope| match scope {
            FlushScope::Primary { range, .. } => {
                key.page < range.end().as_u64() && range.start().as_u64() < key.page + key.size.bytes()
            }
            FlushScope::Secondary { .. } => true,
        })
    }

    /// Whether a cached paging-structure entry will be dropped before it can be used.
    pub(crate) fn is_structure_doomed(&self, kind: Kind, key: &StructureKey) -> bool {
        self.dooming(kind, key.tag.root).next().is_some()
    }

    fn dooming(&self, kind: Kind, root: Pfn) -> impl Iterator<Item = FlushScope> + '_ {
        // Flushes name a shadow by the root of the tables that it stands on.
        let root = self.ept.filter(|_| kind == Kind::Shadow).unwrap_or(root);
        let covering = self.owed.iter().filter(move |owed| owed.covers(kind, root));
        covering.map(|owed| owed.scope).filter(|&scope| !self.can_use(scope))
    }

    /// Translations that can still be used, or will be usable after a transition.
    pub(crate) fn live(&self) -> impl Iterator<Item = (Kind, Key, Cached)> + '_ {
        let all = self
            .tlbs()
            .into_iter()
            .flat_map(|(kind, tlb)| tlb.pages.iter().map(move |(key, cached)| (kind, *key, *cached)));
        all.filter(|(kind, key, _)| !self.is_doomed(*kind, key))
    }

    /// Paging-structure entries that can still be used, or will be usable after a transition.
    pub(crate) fn live_structures(&self) -> impl Iterator<Item = (Kind, StructureKey, Structure)> + '_ {
        let all = self
            .tlbs()
            .into_iter()
            .flat_map(|(kind, tlb)| tlb.structures.iter().map(move |(key, table)| (kind, *key, *table)));
        all.filter(|(kind, key, _)| !self.is_structure_doomed(*kind, key))
    }
}

fn named(scope: FlushScope) -> (Kind, Pfn) {
    match scope {
        FlushScope::Primary { root, .. } => (Kind::Linear, root),
        FlushScope::Secondary { root } => (Kind::GuestPhysical, root),
    }
}
