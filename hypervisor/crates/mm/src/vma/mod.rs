//! Virtual memory areas: ranges of an address space that share protection and backing.
//!
//! Pages of an area have an *index*: in a file, the page's place in the file; else the number of the address at which
//! the area was created. An area that mremap moves keeps its indices, so that reverse maps find its pages.

mod areas;

use crate::file::File;
use crate::host::Host;
use crate::rmap::Rmap;
use addr::{Hva, HvaRange, PAGE_SHIFT, PageSize};
use alloc::sync::Arc;
use bitflags::bitflags;
use core::fmt;
use paging::Rights;

pub(crate) use areas::Vmas;

/// How many areas an address space has at most (Linux: `vm.max_map_count`).
pub const MOST_AREAS: usize = 1024;

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

    /// The most rights that a primary entry of such an area carries. Host mappings are never executable.
    #[must_use]
    pub const fn rights(self) -> Rights {
        match self {
            Self::None => Rights::NONE,
            Self::Read => Rights::READ,
            Self::ReadWrite => Rights::READ_WRITE,
        }
    }
}

bitflags! {
    /// What else is said of an area.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct VmaFlags: u32 {
        /// `mlock`: resident, and reclaim leaves it alone.
        const LOCKED = 1 << 0;
        /// `MADV_HUGEPAGE`: faults map huge pages where they fit.
        const HUGE = 1 << 1;
        /// `MADV_NOHUGEPAGE`: never.
        const NO_HUGE = 1 << 2;
        /// `MADV_MERGEABLE`: equal pages may be merged.
        const MERGEABLE = 1 << 3;
        /// `remap_file_pages` was here: an entry's page is not told by its address.
        const NONLINEAR = 1 << 4;
    }
}

/// What backs an area.
pub enum VmaKind<H: Host> {
    /// Private anonymous memory in pages of this size, zero-filled on demand. Sizes other than 4 KiB come from
    /// the huge-page pools (hugetlb).
    Anonymous(PageSize),
    /// A file from this page on. Writes are the area's own: the page is copied first (MAP_PRIVATE).
    Private(Arc<File<H>>, u64),
    /// A file from this page on. Writes are everybody's (MAP_SHARED).
    Shared(Arc<File<H>>, u64),
}

impl<H: Host> VmaKind<H> {
    /// The size of the pages that every mapping of such an area has at least.
    #[must_use]
    pub const fn page_size(&self) -> PageSize {
        match self {
            Self::Anonymous(size) => *size,
            Self::Private(..) | Self::Shared(..) => PageSize::Size4K,
        }
    }

    /// The file behind it.
    #[must_use]
    pub const fn file(&self) -> Option<&Arc<File<H>>> {
        match self {
            Self::Anonymous(_) => None,
            Self::Private(file, _) | Self::Shared(file, _) => Some(file),
        }
    }

    /// Whether a write must not be seen by others.
    #[must_use]
    pub const fn is_private(&self) -> bool {
        !matches!(self, Self::Shared(..))
    }

    /// Equal backing, wherever in the file.
    fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Anonymous(a), Self::Anonymous(b)) => *a as u8 == *b as u8,
            (Self::Private(a, _), Self::Private(b, _)) | (Self::Shared(a, _), Self::Shared(b, _)) => {
                Arc::ptr_eq(a, b)
            }
            _ => false,
        }
    }
}

impl<H: Host> Clone for VmaKind<H> {
    fn clone(&self) -> Self {
        match self {
            Self::Anonymous(size) => Self::Anonymous(*size),
            Self::Private(file, first) => Self::Private(Arc::clone(file), *first),
            Self::Shared(file, first) => Self::Shared(Arc::clone(file), *first),
        }
    }
}

impl<H: Host> fmt::Debug for VmaKind<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous(size) => write!(f, "Anonymous({size:?})"),
            Self::Private(_, first) => write!(f, "Private(from page {first})"),
            Self::Shared(_, first) => write!(f, "Shared(from page {first})"),
        }
    }
}

/// One area.
pub struct Vma<H: Host> {
    /// Its addresses, whole pages.
    pub range: HvaRange,
    /// What it allows.
    pub protection: Protection,
    /// What backs it.
    pub kind: VmaKind<H>,
    /// What else is said of it.
    pub flags: VmaFlags,
    /// Index of its first page.
    pub(crate) first: u64,
    /// Reverse map of its anonymous pages. A shared area of a file has no such pages, and no link there.
    pub(crate) anon: Arc<Rmap<H>>,
}

impl<H: Host> Vma<H> {
    /// A new area, in which nothing was ever mapped.
    pub(crate) fn new(range: HvaRange, protection: Protection, kind: VmaKind<H>, anon: Arc<Rmap<H>>) -> Self {
        let first = match &kind {
            VmaKind::Anonymous(_) => range.start().as_u64() >> PAGE_SHIFT,
            VmaKind::Private(_, first) | VmaKind::Shared(_, first) => *first,
        };
        Self { range, protection, kind, flags: VmaFlags::empty(), first, anon }
    }

    /// The reverse map of its anonymous pages, if it may have any.
    pub(crate) fn chain(&self) -> Option<&Arc<Rmap<H>>> {
        Some(&self.anon).filter(|anon| anon.is_used())
    }

    /// What backs the area from an address in it on.
    #[must_use]
    pub fn kind_at(&self, address: Hva) -> VmaKind<H> {
        self.part(HvaRange::new(address, self.range.end())).kind
    }

    /// The page of the file that a linear mapping has at an address of the area.
    #[must_use]
    pub fn file_page(&self, address: Hva) -> Option<u64> {
        self.kind.file().map(|_| self.index_of(address))
    }

    /// Index of the page at an address of the area.
    pub(crate) fn index_of(&self, address: Hva) -> u64 {
        self.first + ((address.as_u64() - self.range.start().as_u64()) >> PAGE_SHIFT)
    }

    /// The part of the area in `range`.
    pub(crate) fn part(&self, range: HvaRange) -> Self {
        self.at(range, self.index_of(range.start()))
    }

    /// An area like this one elsewhere, from page `first` on.
    pub(crate) fn at(&self, range: HvaRange, first: u64) -> Self {
        let kind = match &self.kind {
            VmaKind::Anonymous(size) => VmaKind::Anonymous(*size),
            VmaKind::Private(file, _) => VmaKind::Private(Arc::clone(file), first),
            VmaKind::Shared(file, _) => VmaKind::Shared(Arc::clone(file), first),
        };
        Self { range, kind, first, anon: Arc::clone(&self.anon), ..*self }
    }

    /// What can be said of such an area: what is shared, or huge, is not merged, and advice to do so is ignored.
    pub(crate) const fn possible_flags(&self) -> VmaFlags {
        match self.kind {
            VmaKind::Anonymous(PageSize::Size4K) | VmaKind::Private(..) => VmaFlags::all(),
            VmaKind::Anonymous(_) | VmaKind::Shared(..) => VmaFlags::all().difference(VmaFlags::MERGEABLE),
        }
    }

    /// Whether pages of it may be copied before they are written (patch: "COW mapping"): fork write-protects them.
    pub(crate) const fn is_cow(&self) -> bool {
        self.kind.is_private()
    }

    /// Whether `next`, which starts where this one ends, is the same area going on.
    #[must_use]
    pub fn goes_on_in(&self, next: &Self) -> bool {
        let same_chain = match (self.chain(), next.chain()) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            _ => true,
        };
        self.protection == next.protection
            && self.flags == next.flags
            && self.kind.same(&next.kind)
            && self.index_of(self.range.end()) == next.first
            && same_chain
    }
}

impl<H: Host> Clone for Vma<H> {
    fn clone(&self) -> Self {
        Self { kind: self.kind.clone(), anon: Arc::clone(&self.anon), ..*self }
    }
}

impl<H: Host> fmt::Debug for Vma<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?} {:?} {:?}", self.range, self.protection, self.kind, self.flags)
    }
}
