//! A part of a file: the memory of an instant, or what of it is not as at the instant before.
//!
//! ```text
//!  page of memory ─► newest part: its own? ─ no ─► the one before: its own? ─ no ─► ... ─► the first, whose all are
//!                          └─ yes ─► stored? ─ yes ─► a page of the file
//!                                       └─ no ─► zeros
//! ```

use crate::layout::{CHUNK, stored_at, sums_at};
use crate::{Header, OpenError, PageMap, Place};

/// The page map of a part.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Part {
    first: u64,
    stored: PageMap,
    /// Pages that are not as in the part before; `None`: there is none.
    changed: Option<PageMap>,
}

impl Part {
    /// Of this header, and a section of the length that it has.
    ///
    /// # Errors
    /// The one is not of the other, or there is no memory for it.
    pub(crate) fn new<E>(header: &Header, bytes: &[u8]) -> Result<Self, OpenError<E>> {
        let memory = header.memory.get();
        let (stored, changed) = match header.number.get() {
            0 => (PageMap::decode(bytes, memory)?, None),
            _ => {
                let (stored, changed) = bytes.split_at(bytes.len() / 2);
                (PageMap::decode(stored, memory)?, Some(PageMap::decode(changed, memory)?))
            }
        };
        let own = changed.as_ref().is_none_or(|changed| stored.is_within(changed));
        let good = own && stored.count() == header.stored.get();
        if good {
            Ok(Self { first: header.first.get(), stored, changed })
        } else {
            Err(OpenError::Contents(PageMap::NAME))
        }
    }

    /// Where it has page `index`; `None`: that is for the part before to say. `Some(None)`: it holds zeros.
    pub(crate) fn find(&self, index: u64) -> Option<Option<Place>> {
        let number = self.stored.number_of(index);
        let own = number.is_some() || self.changed.as_ref().is_none_or(|changed| changed.contains(index));
        let place = |number| Place {
            page: stored_at(self.first, number),
            sums: sums_at(self.first, number / CHUNK),
            slot: (number % CHUNK) as usize,
        };
        own.then(|| number.map(place))
    }

    /// Which of 64 pages are stored, where those are that were in the parts before; `None`: behind all.
    pub(crate) fn apply(&self, word: usize, before: u64) -> Option<u64> {
        let changed = self.changed.as_ref().map_or(Some(u64::MAX), |changed| changed.word(word))?;
        Some(before & !changed | self.stored.word(word)?)
    }
}
