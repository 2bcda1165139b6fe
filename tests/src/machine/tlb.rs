//! What one CPU has cached: translations and paging-structure entries, tagged by where they came from.
//!
//! ```text
//!   linear          hva ─► frame              tag: root of the host's tables
//!   guest-physical  gpa ─► frame              tag: root of the EPT
//!   combined        gva ─(gpa)─► frame        tag: root of the EPT, VPID, the guest's CR3
//! ```
//!
//! Nothing is ever evicted. Of several translations for an address, one that allows the access is preferred:
//! hardware may use any of them (SDM vol. 3A 4.10.2.3).

use super::format::shift;
use addr::{Gpa, PAGE_SHIFT, PageSize, Pfn};
use mm::Access;
use std::collections::BTreeMap;

/// A cached translation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cached {
    /// First frame of the page.
    pub pfn: Pfn,
    /// Bytes of the page.
    pub size: PageSize,
    /// Whether stores are allowed.
    pub write: bool,
    /// D was set when it was cached, or by a store since: further stores look at no table.
    pub dirty: bool,
    /// The guest-physical page, of a combined translation.
    pub gpa: Option<Gpa>,
}

/// Whose linear addresses a guest's are.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Context {
    /// The virtual processor's tag.
    pub vpid: u16,
    /// The guest's CR3.
    pub cr3: Gpa,
}

/// The tables that a cached entry came from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Tag {
    /// Root of the host's tables, or of the EPT.
    pub(crate) root: Pfn,
    /// Of combined entries.
    pub(crate) guest: Option<Context>,
}

impl From<Pfn> for Tag {
    fn from(root: Pfn) -> Self {
        Self { root, guest: None }
    }
}

/// Where a translation applies.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Key {
    pub(crate) tag: Tag,
    pub(crate) size: PageSize,
    /// First address of the page.
    pub(crate) page: u64,
}

/// Where a cached table pointer applies: to the addresses that share `prefix`, the bits above what a table of
/// this level spans.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct StructureKey {
    pub(crate) tag: Tag,
    pub(crate) level: u8,
    pub(crate) prefix: u64,
}

/// A cached table pointer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Structure {
    /// The table's frame.
    pub(crate) table: Pfn,
    /// Whether the way to it allows writes, as far as the host's tables say.
    pub(crate) write: bool,
    /// Of a guest's table: how the EPT maps the page that it is.
    pub(crate) through: Option<Cached>,
}

/// The caches of one kind.
#[derive(Debug, Default)]
pub(crate) struct Tlb {
    pub(crate) pages: BTreeMap<Key, Cached>,
    pub(crate) structures: BTreeMap<StructureKey, Structure>,
}

const SIZES: [PageSize; 3] = [PageSize::Size4K, PageSize::Size2M, PageSize::Size1G];

fn keys(tag: Tag, address: u64) -> impl Iterator<Item = Key> {
    SIZES.into_iter().map(move |size| Key { tag, size, page: address & !(size.bytes() - 1) })
}

const fn structure_key(tag: Tag, level: u8, address: u64) -> StructureKey {
    StructureKey { tag, level, prefix: address >> shift(level + 1) }
}

impl Tlb {
    /// A translation for the address: one that allows the store if there is one and a store is meant.
    pub(crate) fn find(&self, tag: Tag, address: u64, access: Access) -> Option<(Key, Cached)> {
        let found = keys(tag, address).filter_map(|key| Some((key, *self.pages.get(&key)?)));
        found.max_by_key(|(_, cached)| access == Access::Read || cached.write)
    }

    pub(crate) fn cache(&mut self, tag: Tag, address: u64, cached: Cached) {
        let key = Key { tag, size: cached.size, page: address & !(cached.size.bytes() - 1) };
        self.pages.insert(key, cached);
    }

    /// The deepest cached table on the way to the address, with its level.
    pub(crate) fn table(&self, tag: Tag, address: u64) -> Option<(u8, Structure)> {
        (1..=3).find_map(|level| {
            self.structures.get(&structure_key(tag, level, address)).map(|&table| (level, table))
        })
    }

    pub(crate) fn cache_table(&mut self, tag: Tag, level: u8, address: u64, table: Structure) {
        self.structures.insert(structure_key(tag, level, address), table);
    }

    /// What a fault drops: everything that was used, or might have been, for this address (SDM vol. 3A
    /// 4.10.4.1 for page faults, vol. 3C 28.4.3.1 for EPT violations).
    pub(crate) fn forget(&mut self, tag: Tag, address: u64) {
        for key in keys(tag, address) {
            self.pages.remove(&key);
        }
        for level in 1..=3 {
            self.structures.remove(&structure_key(tag, level, address));
        }
    }

    /// Drops all that came from `root`, whichever guest's it is; returns the pages that were translated.
    pub(crate) fn flush(&mut self, root: Pfn) -> Vec<Key> {
        self.drop_if(|tag| tag.root == root, |_| true)
    }

    /// Drops the translations that overlap a range, and every paging-structure entry of the root.
    pub(crate) fn flush_range(&mut self, root: Pfn, (start, end): (u64, u64)) -> Vec<Key> {
        self.drop_if(|tag| tag.root == root, |key| key.page < end && start < key.page + key.size.bytes())
    }

    /// What a guest's own flush drops: of its VPID, under every EPT, the translations of an address or of all.
    pub(crate) fn flush_guest(&mut self, vpid: u16, address: Option<u64>) -> Vec<Key> {
        let of_guest = |tag: Tag| tag.guest.is_some_and(|context| context.vpid == vpid);
        self.drop_if(of_guest, |key| {
            address.is_none_or(|address| address & !(key.size.bytes() - 1) == key.page)
        })
    }

    /// Drops some translations of some tags, and all their paging-structure entries.
    fn drop_if(&mut self, of: impl Fn(Tag) -> bool, goes: impl Fn(&Key) -> bool) -> Vec<Key> {
        let mut dropped = Vec::new();
        self.pages.retain(|key, _| {
            let goes = of(key.tag) && goes(key);
            if goes {
                dropped.push(*key);
            }
            !goes
        });
        self.structures.retain(|key, _| !of(key.tag));
        dropped
    }

    /// The translations that reach one of these frames.
    pub(crate) fn reaching(&self, first: Pfn, frames: u64) -> impl Iterator<Item = (Key, Cached)> + '_ {
        let (first, end) = (first.as_u64(), first.as_u64() + frames);
        self.pages.iter().map(|(key, cached)| (*key, *cached)).filter(move |(_, cached)| {
            let start = cached.pfn.as_u64();
            start < end && first < start + (cached.size.bytes() >> PAGE_SHIFT)
        })
    }
}
