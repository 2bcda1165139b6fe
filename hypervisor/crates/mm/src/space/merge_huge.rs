//! Transparent huge pages in areas that want merging: one that is zeros to a good part is split, and its base pages are
//! looked at as all others are.
//!
//! That pays at once and for certain: a zero page costs no frame. Whether the other base pages have equals is only known
//! after a pass, for which their checksums would have to be kept; so it is not asked.

use super::AddressSpace;
use crate::frames::PageFlags;
use crate::host::Host;
use addr::{Hva, HvaRange, PageSize, Pfn};

/// So many base pages of zeros are worth a split: an eighth.
const WORTH: usize = 64;
/// Base pages that are looked at under one lock.
const PIECE: usize = 32;
const BASE_PAGES: usize = PageSize::Size2M.base_pages() as usize;

impl<H: Host> AddressSpace<H> {
    /// Splits the huge page at a block of 2 MiB, if that pays. The mmap lock is held.
    pub(super) fn split_where_it_pays(&self, block: HvaRange) {
        let Some(huge) = self.sole_huge(block.start()) else { return };
        let mut zeros = 0;
        for first in (0..BASE_PAGES).step_by(PIECE) {
            // It may go to swap between two looks: then it is split already.
            let Some(more) = self.zeros_in(block.start(), huge, first) else { return };
            zeros += more;
            if zeros >= WORTH {
                // Without a frame for the table it stays huge until the next pass.
                let _ = self.split_at(block.start());
                return;
            }
        }
    }

    /// The frame of a transparent huge page that this space alone has.
    fn sole_huge(&self, address: Hva) -> Option<Pfn> {
        let _tables = self.tables.lock();
        let leaf = self.walk_owned(address).leaf().filter(|leaf| leaf.size == PageSize::Size2M)?;
        let meta = self.mm.counted(leaf.pfn)?;
        let plain = meta.map_count() == 1 && !meta.flags().intersects(PageFlags::HUGETLB);
        plain.then_some(leaf.pfn)
    }

    /// How many of some base pages are zeros, while the huge page is there.
    fn zeros_in(&self, address: Hva, huge: Pfn, first: usize) -> Option<usize> {
        let _tables = self.tables.lock();
        let leaf = self.walk_owned(address).leaf()?;
        let same = leaf.pfn == huge && leaf.size == PageSize::Size2M;
        let zero = self.mm.zero_page();
        let base = (first..first + PIECE).map(|index| huge.add(index as u64));
        same.then(|| base.filter(|&frame| self.host().equal(frame, zero)).count())
    }
}
