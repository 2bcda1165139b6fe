//! Where guest frames are that something knows of, by 2 MiB: so that nobody looks page by page where there are none.

use addr::{Gfn, PageSize};
use alloc::boxed::Box;
use alloc::vec::Vec;
use paging::OutOfTables;

/// What a large leaf maps.
pub(super) const AREA: PageSize = PageSize::Size2M;

/// How many there are in each area. Areas that lie far apart may have one count together.
#[derive(Debug)]
pub(super) struct Areas(Box<[u32]>);

impl Areas {
    /// None, with about so many counts.
    ///
    /// # Errors
    /// [`OutOfTables`].
    pub(super) fn new(counts: usize) -> Result<Self, OutOfTables> {
        let (mut all, count) = (Vec::new(), counts.next_power_of_two());
        all.try_reserve_exact(count).map_err(|_| OutOfTables)?;
        all.resize(count, 0);
        Ok(Self(all.into_boxed_slice()))
    }

    const fn number(&self, gfn: Gfn) -> usize {
        (gfn.as_u64() / AREA.base_pages()) as usize & (self.0.len() - 1)
    }

    /// Whether there may be some in the area of a frame; if not, there are none.
    pub(super) const fn has(&self, gfn: Gfn) -> bool {
        self.0[self.number(gfn)] > 0
    }

    /// One more.
    pub(super) const fn add(&mut self, gfn: Gfn) {
        self.0[self.number(gfn)] += 1;
    }

    /// One less.
    pub(super) const fn remove(&mut self, gfn: Gfn) {
        self.0[self.number(gfn)] -= 1;
    }
}

/// The first frame behind the area of a frame.
pub(super) const fn end_of(gfn: Gfn) -> Gfn {
    gfn.align_down(AREA).add(AREA.base_pages())
}
