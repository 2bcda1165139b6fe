//! What memory should hold: pages of words that tell page, version and place, so that a stale, a lost and a misplaced
//! page all show.

use crate::Guest;
use crate::report::{Failure, same};
use guest::memory::{Pages, WORDS};

/// Pages, and beside each the version that it should hold; version 0 is a page of zeroes.
pub(crate) struct Model {
    pub(crate) pages: Pages,
    versions: Pages,
    pub(crate) next: u64,
}

fn pattern(page: u64, version: u64, word: u64) -> u64 {
    if version == 0 { 0 } else { (page << 40 ^ version << 12 ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15) }
}

impl Model {
    /// `count` pages that were never touched.
    pub(crate) fn new(guest: &mut Guest, count: u64) -> Result<Self, Failure> {
        let versions = guest.memory.take(count.div_ceil(WORDS))?;
        let pages = guest.memory.take(count)?;
        for index in 0..count.div_ceil(WORDS) {
            versions.fill(index, |_| 0);
        }
        Ok(Self { pages, versions, next: 1 })
    }

    fn version(&self, page: u64) -> u64 {
        self.versions.read(page / WORDS, page % WORDS)
    }

    /// The page now holds this version; 0: zeroes.
    pub(crate) fn set_version(&self, page: u64, version: u64) {
        self.versions.write(page / WORDS, page % WORDS, version);
    }

    /// Writes a new version to every word of a page.
    pub(crate) fn write(&mut self, page: u64) {
        let version = self.next;
        self.next += 1;
        self.pages.fill(page, |word| pattern(page, version, word));
        self.set_version(page, version);
    }

    /// Compares every word of a page.
    pub(crate) fn verify(&self, page: u64) -> Result<(), Failure> {
        let version = self.version(page);
        match self.pages.difference(page, |word| pattern(page, version, word)) {
            None => Ok(()),
            Some((word, found)) => {
                let what = if version == 0 { "word of a zero page" } else { "word of a page" };
                same(what, page * WORDS + word, pattern(page, version, word), found)
            }
        }
    }

    /// Compares every page.
    pub(crate) fn verify_all(&self) -> Result<(), Failure> {
        (0..self.pages.count()).try_for_each(|page| self.verify(page))
    }
}
