//! A boot module as an execute-in-place file: a guest's initial RAM disk is mapped where the loader has put it, private
//! to the guest, and a page of it costs a frame only when the guest writes to it.

use addr::Pfn;
use mm::{Direct, Store, StoreError};

/// Whole pages of a boot module. They lie in memory that the allocator never had.
pub(super) struct Module {
    first: Pfn,
    pages: u64,
}

impl Module {
    /// `pages` frames from `first` on, which nobody changes.
    pub(super) const fn new(first: Pfn, pages: u64) -> Self {
        Self { first, pages }
    }
}

impl Store for Module {
    /// Not asked for: every page is mapped in place.
    fn read(&self, index: u64, _frame: Pfn) -> Result<(), StoreError> {
        Err(StoreError { index })
    }

    /// The mapping is private: nothing is written back.
    fn write(&self, index: u64, _frame: Pfn) -> Result<(), StoreError> {
        Err(StoreError { index })
    }

    /// Nobody truncates a module.
    fn truncate(&self, _len: u64) {}

    fn direct(&self, index: u64) -> Option<Direct> {
        // Past the end the file's length has refused already.
        Some(if index < self.pages { Direct::Frame(self.first.add(index)) } else { Direct::Hole })
    }
}
