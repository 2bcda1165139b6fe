//! Herald's own page tables: the direct map, the image with rights by section, the local APIC.
//!
//! Built from frames of an early allocator, while the loader's identity map of the first 4 GiB is still in use.

use super::{descriptors, timer};
use crate::layout;
use abi::handoff::Region;
use addr::{Hpa, HpaRange, Hva, HvaRange, PAGE_SIZE, PageSize, Pfn};
use core::cell::Cell;
use core::sync::atomic::{AtomicU64, Ordering};
use paging::{
    EntryRef, HostEntry, Leaf, Level, OutOfTables, Rights, TableEntry, TableMemory, TableReserve,
    walk_or_grow,
};
use x86::controlregs::cr3_write;
use x86::msr::{IA32_EFER, rdmsr, wrmsr};

/// PWT and PCD: uncached, whatever the PAT's first entries are (SDM vol. 3A table 12-10: entry 3).
pub(super) const UNCACHED: u64 = 0b11 << 3;
/// IA32_EFER.NXE.
const NO_EXECUTE_ENABLE: u64 = 1 << 11;
const READ_EXECUTE: Rights = Rights { read: true, write: false, execute: true };

/// Frames handed out before there is an allocator: a range of memory, from its end downwards.
pub(crate) struct EarlyMemory {
    start: u64,
    end: Cell<u64>,
}

impl EarlyMemory {
    /// Hands out frames of `range`, which lies below 4 GiB and is nobody's.
    ///
    /// # Panics
    /// If the range is not whole pages.
    #[must_use]
    pub(crate) fn new(range: HpaRange) -> Self {
        assert!(range.is_aligned(PageSize::Size4K), "{range} is not whole pages");
        Self { start: range.start().as_u64(), end: Cell::new(range.end().as_u64()) }
    }

    /// Takes `bytes` bytes, whole pages.
    ///
    /// # Errors
    /// [`OutOfTables`].
    pub(crate) fn take(&self, bytes: u64) -> Result<HpaRange, OutOfTables> {
        let bytes = bytes.next_multiple_of(PAGE_SIZE);
        let start =
            self.end.get().checked_sub(bytes).filter(|&start| start >= self.start).ok_or(OutOfTables)?;
        self.end.set(start);
        Ok(HpaRange::new(Hpa::new(start), Hpa::new(start + bytes)))
    }

    /// What was not handed out.
    #[must_use]
    pub(crate) fn rest(&self) -> HpaRange {
        HpaRange::new(Hpa::new(self.start), Hpa::new(self.end.get()))
    }
}

fn entry(at: EntryRef) -> &'static AtomicU64 {
    let address = at.table().base().as_u64() + u64::from(at.index()) * 8;
    // SAFETY: a frame that `EarlyMemory` has handed out, by the loader's identity map.
    unsafe { &*(address as *const AtomicU64) }
}

impl TableMemory for EarlyMemory {
    fn load(&self, at: EntryRef) -> u64 {
        entry(at).load(Ordering::Relaxed)
    }

    fn store(&self, at: EntryRef, value: u64) {
        entry(at).store(value, Ordering::Relaxed);
    }

    fn compare_exchange(&self, at: EntryRef, old: u64, new: u64) -> Result<(), u64> {
        entry(at).compare_exchange(old, new, Ordering::Relaxed, Ordering::Relaxed).map(|_| ())
    }

    fn allocate_table(&self) -> Result<Pfn, OutOfTables> {
        let frame = self.take(PAGE_SIZE)?.start();
        // SAFETY: a frame of our own, by the loader's identity map.
        unsafe { (frame.as_u64() as *mut u8).write_bytes(0, PAGE_SIZE as usize) };
        Ok(frame.pfn())
    }

    /// Early tables are for ever.
    fn free_table(&self, _table: Pfn) {}
}

/// Builds the tables and uses them; returns their root.
///
/// # Errors
/// [`OutOfTables`].
pub(crate) fn build(early: &EarlyMemory, regions: &[Region]) -> Result<Pfn, OutOfTables> {
    let builder = Builder { early, root: early.allocate_table()? };
    for region in regions {
        builder.direct_map(region)?;
    }
    builder.image()?;
    let apic = HvaRange::new(timer::mapped_at(), timer::mapped_at().add(PAGE_SIZE));
    builder.map(apic, timer::base(), PageSize::Size4K, Rights::READ_WRITE, UNCACHED)?;
    // An entry of the root for each half-terabyte that Herald may ever use: address spaces copy the root.
    // SAFETY: NXE before any entry with XD is used; the tables map the image, this stack and the hand-off's
    // memory where they are mapped now, or Herald reaches them through the direct map from here on.
    unsafe {
        wrmsr(IA32_EFER, rdmsr(IA32_EFER) | NO_EXECUTE_ENABLE);
        cr3_write(builder.root.base().as_u64());
    }
    Ok(builder.root)
}

struct Builder<'a> {
    early: &'a EarlyMemory,
    root: Pfn,
}

impl Builder<'_> {
    /// Maps a region of memory, of whatever kind, in 2 MiB pages. Neighbours may share a page.
    fn direct_map(&self, region: &Region) -> Result<(), OutOfTables> {
        let size = PageSize::Size2M;
        let end = region.start.saturating_add(region.len).min(layout::DIRECT_MAP_BYTES);
        let mut next = region.start & !(size.bytes() - 1);
        while next < end {
            let range = HvaRange::new(
                layout::direct(Hpa::new(next)),
                layout::direct(Hpa::new(next)).add(size.bytes()),
            );
            self.map(range, Hpa::new(next), size, Rights::READ_WRITE, 0)?;
            next += size.bytes();
        }
        Ok(())
    }

    /// W^X: no section is both writable and executable. Guard pages are left out.
    fn image(&self) -> Result<(), OutOfTables> {
        let guards = descriptors::guard_pages();
        for (range, rights) in [
            (layout::text(), READ_EXECUTE),
            (layout::rodata(), Rights::READ),
            (layout::data(), Rights::READ_WRITE),
            (layout::stacks(), Rights::READ_WRITE),
        ] {
            for page in range.pages().filter(|page| !guards.contains(&page.as_u64())) {
                let one = HvaRange::new(page, page.add(PAGE_SIZE));
                self.map(one, layout::image_physical(page), PageSize::Size4K, rights, 0)?;
            }
        }
        Ok(())
    }

    /// Maps one page; `extra` bits are set besides.
    fn map(
        &self,
        page: HvaRange,
        target: Hpa,
        size: PageSize,
        rights: Rights,
        extra: u64,
    ) -> Result<(), OutOfTables> {
        let leaf = Leaf { pfn: target.pfn(), size, rights, accessed: true, dirty: rights.write };
        map_page(self.early, self.root, page.start(), leaf, extra)
    }
}

/// Maps a page at `address`, whatever was there; `extra` bits are set besides.
///
/// # Errors
/// [`OutOfTables`].
pub(super) fn map_page(
    memory: &impl TableMemory,
    root: Pfn,
    address: Hva,
    leaf: Leaf,
    extra: u64,
) -> Result<(), OutOfTables> {
    let (mut reserve, lowest) = (TableReserve::new(memory), Level::of_leaf(leaf.size));
    let level = paging::walk::<HostEntry, _>(memory, root, address.as_u64()).level;
    reserve.top_up(level as usize - lowest as usize)?;
    let found = walk_or_grow::<HostEntry, _>(memory, root, address.as_u64(), lowest, &mut reserve);
    memory.store(found.at, HostEntry::leaf(leaf).bits() | extra);
    Ok(())
}
