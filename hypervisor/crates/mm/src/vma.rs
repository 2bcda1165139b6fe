//! Virtual memory areas: ranges of an address space that share protection and kind.
//!
//! The tree is keyed by start address. Areas never overlap, never touch page fractions, and two neighbours
//! of equal attributes are one area.

use addr::{Hva, HvaRange, PageSize};
use alloc::collections::BTreeMap;
use core::fmt;
use paging::Rights;

/// What an access does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// A load.
    Read,
    /// A store.
    Write,
}

/// What an area allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protection {
    /// Nothing (PROT_NONE).
    None,
    /// Loads.
    Read,
    /// Loads and stores.
    ReadWrite,
}

impl Protection {
    /// Whether the access is allowed.
    #[must_use]
    pub const fn allows(self, access: Access) -> bool {
        matches!((self, access), (Self::ReadWrite, _) | (Self::Read, Access::Read))
    }

    /// The rights that a primary entry of such an area carries. Host mappings are never executable.
    #[must_use]
    pub const fn rights(self) -> Rights {
        match self {
            Self::None => Rights::NONE,
            Self::Read => Rights::READ,
            Self::ReadWrite => Rights::READ_WRITE,
        }
    }
}

/// What backs an area.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VmaKind {
    /// Private anonymous memory in pages of this size, zero-filled on demand.
    Anonymous(PageSize),
}

impl VmaKind {
    /// The size of the pages that a fault maps.
    #[must_use]
    pub const fn page_size(self) -> PageSize {
        let Self::Anonymous(size) = self;
        size
    }
}

/// One area.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Vma {
    /// Its addresses, whole pages.
    pub range: HvaRange,
    /// What it allows.
    pub protection: Protection,
    /// What backs it.
    pub kind: VmaKind,
}

impl Vma {
    fn same_attributes(&self, other: &Self) -> bool {
        self.protection == other.protection && self.kind == other.kind
    }
}

impl fmt::Debug for Vma {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?} {:?}", self.range, self.protection, self.kind)
    }
}

/// The areas of an address space.
#[derive(Clone, Debug, Default)]
pub(crate) struct VmaTree {
    by_start: BTreeMap<Hva, Vma>,
}

impl VmaTree {
    /// The area that holds the address.
    pub(crate) fn find(&self, address: Hva) -> Option<Vma> {
        let (_, vma) = self.by_start.range(..=address).next_back()?;
        vma.range.contains(address).then_some(*vma)
    }

    /// All areas, by address.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Vma> + '_ {
        self.by_start.values().copied()
    }

    /// The parts of areas that lie in `range`, by address.
    pub(crate) fn parts(&self, range: HvaRange) -> impl Iterator<Item = Vma> + '_ {
        let first =
            self.by_start.range(..=range.start()).next_back().map_or(range.start(), |(&start, _)| start);
        self.by_start.range(first..range.end()).filter_map(move |(_, vma)| {
            vma.range.intersection(&range).map(|part| Vma { range: part, ..*vma })
        })
    }

    /// Whether areas cover `range` without a hole.
    pub(crate) fn covers(&self, range: HvaRange) -> bool {
        let mut covered = range.start();
        for part in self.parts(range) {
            if part.range.start() != covered {
                return false;
            }
            covered = part.range.end();
        }
        covered == range.end()
    }

    /// The gap around `range`, which holds no area: the end of the area below and the start of the area above.
    pub(crate) fn gap_around(&self, range: HvaRange) -> (Option<Hva>, Option<Hva>) {
        let below = self.by_start.range(..range.start()).next_back().map(|(_, vma)| vma.range.end());
        let above = self.by_start.range(range.end()..).next().map(|(&start, _)| start);
        (below, above)
    }

    /// Adds an area where none is, and joins it with equal neighbours.
    pub(crate) fn insert(&mut self, vma: Vma) {
        debug_assert!(self.parts(vma.range).next().is_none(), "areas overlap");
        self.by_start.insert(vma.range.start(), vma);
        self.join(vma.range.start());
        self.join(vma.range.end());
    }

    /// Joins the areas that meet at `boundary`, if they are equal.
    fn join(&mut self, boundary: Hva) {
        let Some(&right) = self.by_start.get(&boundary) else { return };
        let Some((_, &left)) = self.by_start.range(..boundary).next_back() else { return };
        if left.range.end() == boundary && left.same_attributes(&right) {
            self.by_start.remove(&boundary);
            self.by_start.insert(left.range.start(), Vma { range: left.range.hull(&right.range), ..left });
        }
    }

    /// Cuts the area that straddles `boundary` in two.
    fn cut(&mut self, boundary: Hva) {
        let Some(vma) = self.find(boundary) else { return };
        if vma.range.start() < boundary {
            let (left, right) =
                (HvaRange::new(vma.range.start(), boundary), HvaRange::new(boundary, vma.range.end()));
            self.by_start.insert(left.start(), Vma { range: left, ..vma });
            self.by_start.insert(right.start(), Vma { range: right, ..vma });
        }
    }

    /// Removes everything in `range`.
    pub(crate) fn remove(&mut self, range: HvaRange) {
        self.cut(range.start());
        self.cut(range.end());
        let gone: alloc::vec::Vec<_> =
            self.by_start.range(range.start()..range.end()).map(|(&s, _)| s).collect();
        for start in gone {
            self.by_start.remove(&start);
        }
    }

    /// Gives all areas in `range` another protection.
    pub(crate) fn protect(&mut self, range: HvaRange, protection: Protection) {
        let parts: alloc::vec::Vec<_> = self.parts(range).collect();
        self.remove(range);
        for part in parts {
            self.insert(Vma { protection, ..part });
        }
    }

    /// The lowest gap of `len` bytes in `within`, aligned to `size`.
    pub(crate) fn gap(&self, within: HvaRange, len: u64, size: PageSize) -> Option<HvaRange> {
        let mut candidate = within.start().align_up(size)?;
        for vma in self.parts(within) {
            let fits = candidate.checked_add(len).is_some_and(|end| end <= vma.range.start());
            if fits {
                break;
            }
            candidate = vma.range.end().align_up(size)?;
        }
        let range = HvaRange::sized(candidate, len)?;
        within.contains_span(&range).then_some(range)
    }
}
