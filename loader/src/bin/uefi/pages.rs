//! Memory from firmware, below 4 GiB, where the hand-off must lie and all that it names.

use addr::{Hpa, HpaRange, PAGE_SIZE, PageSize};
use core::ptr::NonNull;
use loader::LoadError;
use uefi::boot::{self, AllocateType, MemoryType};
use zerocopy::{Immutable, IntoBytes};

/// The last address that may be used.
const LAST: u64 = u32::MAX as u64;

/// Pages that are this application's alone; firmware gets them back when they are dropped.
pub(crate) struct Pages {
    start: NonNull<u8>,
    count: usize,
}

impl Pages {
    /// So many bytes, rounded up, and zeroed.
    ///
    /// # Errors
    /// [`LoadError::NoRoom`].
    pub(crate) fn new(bytes: u64, kind: MemoryType) -> Result<Self, LoadError> {
        Self::allocate(AllocateType::MaxAddress(LAST), bytes, kind).ok_or(LoadError::NoRoom { bytes })
    }

    /// Pages for Herald's image, and where in them it goes: where it is linked if that is free, else to another 2 MiB
    /// boundary.
    ///
    /// # Errors
    /// [`LoadError::NoRoom`].
    pub(crate) fn for_image(linked: HpaRange) -> Result<(Self, HpaRange), LoadError> {
        let (start, bytes) = (linked.start().as_u64(), linked.len());
        let kind = MemoryType::LOADER_DATA;
        if let Some(pages) = Self::allocate(AllocateType::Address(start), bytes, kind) {
            return Ok((pages, linked));
        }
        let pages = Self::new(bytes + PageSize::Size2M.bytes() - PAGE_SIZE, kind)?;
        let start = pages.range().start().align_up(PageSize::Size2M);
        let place =
            start.and_then(|start| HpaRange::sized(start, bytes)).ok_or(LoadError::NoRoom { bytes })?;
        Ok((pages, place))
    }

    fn allocate(place: AllocateType, bytes: u64, kind: MemoryType) -> Option<Self> {
        let count = bytes.div_ceil(PAGE_SIZE) as usize;
        let start = boot::allocate_pages(place, kind, count).ok()?;
        // SAFETY: just allocated; firmware maps all memory to itself, writable (UEFI 2.10, 2.3.4).
        unsafe { start.write_bytes(0, count * PAGE_SIZE as usize) };
        Some(Self { start, count })
    }

    /// Where they are.
    pub(crate) fn range(&self) -> HpaRange {
        let start = self.start.as_ptr() as u64;
        HpaRange::new(Hpa::new(start), Hpa::new(start + self.count as u64 * PAGE_SIZE))
    }

    /// All their bytes.
    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: allocated and zeroed, and this value's alone, which is borrowed.
        unsafe { core::slice::from_raw_parts_mut(self.start.as_ptr(), self.count * PAGE_SIZE as usize) }
    }

    /// The bytes of a range in them.
    ///
    /// # Panics
    /// If it is not.
    pub(crate) fn part(&mut self, range: HpaRange) -> &mut [u8] {
        let start = (range.start().as_u64() - self.range().start().as_u64()) as usize;
        &mut self.bytes()[start..start + range.len() as usize]
    }

    /// Writes a value to their start.
    ///
    /// # Panics
    /// If it is longer.
    pub(crate) fn put(&mut self, value: &(impl IntoBytes + Immutable)) {
        let bytes = value.as_bytes();
        self.bytes()[..bytes.len()].copy_from_slice(bytes);
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: allocated so, and nothing borrows from it. A failure would leave firmware without this memory: no harm.
        let _ = unsafe { boot::free_pages(self.start, self.count) };
    }
}
