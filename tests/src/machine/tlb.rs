//! What one CPU has cached: translations and paging-structure entries, tagged by the root they came from.
//!
//! Nothing is ever evicted. Of several translations for an address, one that allows the access is preferred:
//! hardware may use any of them (SDM vol. 3A 4.10.2.3).

use super::format::shift;
use addr::{PAGE_SHIFT, PageSize, Pfn};
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
}

/// Where a translation applies.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Key {
    pub(crate) root: Pfn,
    pub(crate) size: PageSize,
    /// First address of the page.
    pub(crate) page: u64,
}

/// Where a cached table pointer applies: to the addresses that share `prefix`, the bits above what a table of
/// this level spans.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct StructureKey {
    pub(crate) root: Pfn,
    pub(crate) level: u8,
    pub(crate) prefix: u64,
}

/// The caches of one kind: linear, or guest-physical.
#[derive(Debug, Default)]
pub(crate) struct Tlb {
    pub(crate) pages: BTreeMap<Key, Cached>,
    pub(crate) structures: BTreeMap<StructureKey, Pfn>,
}

const SIZES: [PageSize; 3] = [PageSize::Size4K, PageSize::Size2M, PageSize::Size1G];

fn keys(root: Pfn, address: u64) -> impl Iterator<Item = Key> {
    SIZES.into_iter().map(move |size| Key { root, size, page: address & !(size.bytes() - 1) })
}

impl Tlb {
    /// A translation for the address: one that allows the store if there is one and a store is meant.
    pub(crate) fn find(&self, root: Pfn, address: u64, access: Access) -> Option<(Key, Cached)> {
        let found = keys(root, address).filter_map(|key| Some((key, *self.pages.get(&key)?)));
        found.max_by_key(|(_, cached)| access == Access::Read || cached.write)
    }

    pub(crate) fn cache(&mut self, root: Pfn, address: u64, cached: Cached) {
        let key = Key { root, size: cached.size, page: address & !(cached.size.bytes() - 1) };
        self.pages.insert(key, cached);
    }

    /// The deepest cached table on the way to the address, with its level.
    pub(crate) fn table(&self, root: Pfn, address: u64) -> Option<(u8, Pfn)> {
        (1..=3).find_map(|level| {
            let key = StructureKey { root, level, prefix: address >> shift(level + 1) };
            self.structures.get(&key).map(|&table| (level, table))
        })
    }

    pub(crate) fn cache_table(&mut self, root: Pfn, level: u8, address: u64, table: Pfn) {
        self.structures.insert(StructureKey { root, level, prefix: address >> shift(level + 1) }, table);
    }

    /// What a fault drops: everything that was used, or might have been, for this address (SDM vol. 3A
    /// 4.10.4.1 for page faults, vol. 3C 28.4.3.1 for EPT violations).
    pub(crate) fn forget(&mut self, root: Pfn, address: u64) {
        for key in keys(root, address) {
            self.pages.remove(&key);
        }
        for level in 1..=3 {
            self.structures.remove(&StructureKey { root, level, prefix: address >> shift(level + 1) });
        }
    }

    /// Drops all that came from `root`; returns the pages that were translated.
    pub(crate) fn flush(&mut self, root: Pfn) -> Vec<u64> {
        self.flush_range(root, (0, u64::MAX))
    }

    /// Drops the translations that overlap a range, and every paging-structure entry of the root.
    pub(crate) fn flush_range(&mut self, root: Pfn, (start, end): (u64, u64)) -> Vec<u64> {
        let mut dropped = Vec::new();
        self.pages.retain(|key, _| {
            let goes = key.root == root && key.page < end && start < key.page + key.size.bytes();
            if goes {
                dropped.push(key.page);
            }
            !goes
        });
        self.structures.retain(|key, _| key.root != root);
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
