//! Slots: which guest frames are RAM, and where in the host address space they lie (KVM: memslots).

use addr::{Gfn, GfnRange, Gpa, GpaRange, Hva, HvaRange, PAGE_SHIFT, PageSize};
use alloc::vec::Vec;
use core::fmt;

/// A run of guest frames and the host addresses that back them, page by page.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    gfns: GfnRange,
    hva: Hva,
}

impl Slot {
    /// Guest frames `gfns`, backed from `hva` on; `None` where `hva` is not page-aligned or the slot would
    /// leave the host address space.
    #[must_use]
    pub fn try_new(gfns: GfnRange, hva: Hva) -> Option<Self> {
        let fits = hva.is_aligned(PageSize::Size4K) && hva.checked_add(gfns.len() << PAGE_SHIFT).is_some();
        fits.then_some(Self { gfns, hva })
    }

    /// The guest frames.
    #[must_use]
    pub const fn gfns(&self) -> GfnRange {
        self.gfns
    }

    /// The host addresses.
    #[must_use]
    pub fn hvas(&self) -> HvaRange {
        HvaRange::new(self.hva, self.hva.add(self.gfns.len() << PAGE_SHIFT))
    }

    /// The host address of a guest frame in the slot.
    ///
    /// # Panics
    /// If the frame is not in the slot.
    #[must_use]
    pub fn hva_of(&self, gfn: Gfn) -> Hva {
        assert!(self.gfns.contains(gfn), "{gfn} is not in {self:?}");
        self.hva.add((gfn.as_u64() - self.gfns.start().as_u64()) << PAGE_SHIFT)
    }

    /// The host addresses of guest frames, as far as the slot has them.
    pub(crate) fn hvas_of(&self, gfns: GfnRange) -> HvaRange {
        let first = gfns.start().max(self.gfns.start());
        let count = gfns.end().min(self.gfns.end()).as_u64() - first.as_u64();
        let start = self.hva_of(first);
        HvaRange::new(start, start.add(count << PAGE_SHIFT))
    }

    /// The guest frames that `range` backs: whole pages, also where the range touches only a part.
    #[must_use]
    pub fn gfns_of(&self, range: HvaRange) -> Option<GfnRange> {
        let part = self.hvas().intersection(&range)?;
        let first = (part.start().as_u64() - self.hva.as_u64()) >> PAGE_SHIFT;
        let last = (part.end().as_u64() - 1 - self.hva.as_u64()) >> PAGE_SHIFT;
        Some(GfnRange::new(self.gfns.start().add(first), self.gfns.start().add(last + 1)))
    }

    /// The guest frame that a page backs.
    #[inline]
    fn gfn_at(&self, page: Hva) -> Option<Gfn> {
        let offset = page.as_u64().wrapping_sub(self.hva.as_u64()) >> PAGE_SHIFT;
        (offset < self.gfns.len()).then(|| self.gfns.start().add(offset))
    }

    /// Whether a page of this size around `gfn` lies in the slot with guest and host equally aligned: only
    /// then can one secondary entry map it.
    #[must_use]
    pub fn maps_whole(&self, gfn: Gfn, size: PageSize) -> bool {
        let first = gfn.align_down(size);
        let inside =
            GfnRange::sized(first, size.base_pages()).is_some_and(|page| self.gfns.contains_span(&page));
        inside && self.hva_of(first).is_aligned(size)
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} at {:?}", self.gfns, self.hva)
    }
}

/// Why a slot was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SlotError {
    /// It holds no frame.
    Empty,
    /// It shares guest frames with another.
    Overlap {
        /// The new one.
        new: Slot,
        /// The one that is there.
        old: Slot,
    },
}

impl fmt::Display for SlotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("a slot without frames"),
            Self::Overlap { new, old } => write!(f, "slot {new:?} overlaps {old:?}"),
        }
    }
}

/// All slots of a guest, by guest frame.
#[derive(Clone, Debug, Default)]
pub struct Slots {
    sorted: Vec<Slot>,
}

impl Slots {
    /// No RAM.
    #[must_use]
    pub const fn new() -> Self {
        Self { sorted: Vec::new() }
    }

    /// Adds a slot.
    ///
    /// # Errors
    /// [`SlotError`].
    pub fn insert(&mut self, slot: Slot) -> Result<(), SlotError> {
        if slot.gfns.is_empty() {
            return Err(SlotError::Empty);
        }
        if let Some(&old) = self.sorted.iter().find(|old| old.gfns.overlaps(&slot.gfns)) {
            return Err(SlotError::Overlap { new: slot, old });
        }
        let place = self.sorted.partition_point(|other| other.gfns.start() < slot.gfns.start());
        self.sorted.insert(place, slot);
        Ok(())
    }

    /// Removes the slot that starts at `first`.
    pub fn remove(&mut self, first: Gfn) -> Option<Slot> {
        let place = self.sorted.iter().position(|slot| slot.gfns.start() == first)?;
        Some(self.sorted.remove(place))
    }

    /// The slot that holds a guest frame.
    #[must_use]
    pub fn find(&self, gfn: Gfn) -> Option<Slot> {
        let place = self.sorted.partition_point(|slot| slot.gfns.end() <= gfn);
        self.sorted.get(place).copied().filter(|slot| slot.gfns.contains(gfn))
    }

    /// All slots, by guest frame.
    pub fn iter(&self) -> impl Iterator<Item = Slot> + '_ {
        self.sorted.iter().copied()
    }

    /// The host addresses of the guest-physical bytes in `range`, if one slot holds them all.
    #[must_use]
    pub fn translate(&self, range: GpaRange) -> Option<HvaRange> {
        let slot = self.find(range.start().gfn())?;
        let start = slot.hva_of(range.start().gfn()).add(range.start().offset_in(PageSize::Size4K));
        let hvas = HvaRange::sized(start, range.len())?;
        slot.hvas().contains_span(&hvas).then_some(hvas)
    }

    /// The guest frames backed by `range`, one run a slot.
    pub fn gfns_of(&self, range: HvaRange) -> impl Iterator<Item = GfnRange> + '_ {
        self.sorted.iter().filter_map(move |slot| slot.gfns_of(range))
    }

    /// The same for one page.
    pub fn gfns_at(&self, page: Hva) -> impl Iterator<Item = GfnRange> + '_ {
        self.sorted.iter().filter_map(move |slot| slot.gfn_at(page)).map(|gfn| GfnRange::new(gfn, gfn.add(1)))
    }

    /// The host address of a guest-physical address.
    #[must_use]
    pub fn hva_of(&self, gpa: Gpa) -> Option<Hva> {
        let slot = self.find(gpa.gfn())?;
        Some(slot.hva_of(gpa.gfn()).add(gpa.offset_in(PageSize::Size4K)))
    }
}
