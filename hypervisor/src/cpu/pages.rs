//! Herald's own page tables: the direct map, the image with rights by section, the local APIC, firmware's tables.
//!
//! Built from frames of an early allocator, while the loader's identity map of the first 4 GiB is still in use.

use super::{descriptors, timer};
use crate::layout;
use abi::handoff::Screen;
use addr::{Hpa, HpaRange, Hva, HvaRange, PAGE_SIZE, PageSize, Pfn};
use core::cell::Cell;
use core::sync::atomic::{AtomicU64, Ordering};
use paging::{
    EachAlone, EntryRef, HostEntry, Leaf, Level, OutOfTables, Rights, TableEntry, TableMemory, TableReserve,
    walk, walk_or_grow,
};
use startup::memory::pages_of;
use x86::controlregs::cr3_write;
use x86::msr::{IA32_EFER, rdmsr, wrmsr};

/// PWT and PCD: uncached, whatever the PAT's first entries are (SDM vol. 3A table 12-10: entry 3).
const UNCACHED: u64 = 0b11 << 3;
/// PCD alone: uncached, unless an MTRR makes it write-combining (the same table: entry 2, UC-).
const MOSTLY_UNCACHED: u64 = 0b10 << 3;
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
    type Entries<'m> = EachAlone<'m, Self>;

    fn entries(&self, table: Pfn) -> Self::Entries<'_> {
        EachAlone(self, table)
    }

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

/// Builds the tables and uses them; returns their root. The direct map gets `mapped`, in pages no larger than `largest`;
/// Herald's image lies from `image` on.
///
/// # Errors
/// [`OutOfTables`].
pub(crate) fn build(
    early: &EarlyMemory,
    mapped: &[HpaRange],
    largest: PageSize,
    image: Hpa,
    screen: &Screen,
) -> Result<Pfn, OutOfTables> {
    let builder = Builder { early, root: early.allocate_table()? };
    for (page, size) in mapped.iter().flat_map(|range| pages_of(*range, largest)) {
        let at = layout::direct(page);
        builder.map(HvaRange::new(at, at.add(size.bytes())), page, size, Rights::READ_WRITE, 0)?;
    }
    builder.image(image)?;
    let apic = HvaRange::new(timer::mapped_at(), timer::mapped_at().add(PAGE_SIZE));
    builder.map(apic, timer::base(), PageSize::Size4K, Rights::READ_WRITE, UNCACHED)?;
    builder.screen(screen)?;
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
    /// The image, loaded from physical `start` on. W^X: no section is both writable and executable. Guard pages are left
    /// out.
    fn image(&self, start: Hpa) -> Result<(), OutOfTables> {
        let guards = descriptors::guard_pages();
        for (range, rights) in [
            (layout::text(), READ_EXECUTE),
            (layout::rodata(), Rights::READ),
            (layout::data(), Rights::READ_WRITE),
            (layout::stacks(), Rights::READ_WRITE),
        ] {
            for page in range.pages().filter(|page| !guards.contains(&page.as_u64())) {
                let one = HvaRange::new(page, page.add(PAGE_SIZE));
                let target = start.add(page.as_u64() - layout::text().start().as_u64());
                self.map(one, target, PageSize::Size4K, rights, 0)?;
            }
        }
        Ok(())
    }

    /// The screen's memory. One that makes no sense is not mapped.
    fn screen(&self, screen: &Screen) -> Result<(), OutOfTables> {
        let Ok(Some(pages)) = super::screen::pages(screen) else { return Ok(()) };
        for (index, target) in pages.pages().enumerate() {
            let at = layout::SCREEN.add(index as u64 * PAGE_SIZE);
            let page = HvaRange::new(at, at.add(PAGE_SIZE));
            self.map(page, target, PageSize::Size4K, Rights::READ_WRITE, MOSTLY_UNCACHED)?;
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
        map(self.early, self.root, page.start(), (target, size, rights), extra)
    }
}

/// Maps the page at `address`, which is not mapped yet.
fn map<M: TableMemory>(
    memory: &M,
    root: Pfn,
    address: Hva,
    (target, size, rights): (Hpa, PageSize, Rights),
    extra: u64,
) -> Result<(), OutOfTables> {
    let (address, lowest) = (address.as_u64(), Level::of_leaf(size));
    let mut reserve = TableReserve::new(memory);
    reserve.top_up(walk::<HostEntry, _>(memory, root, address).level as usize - lowest as usize)?;
    let found = walk_or_grow::<HostEntry, _>(memory, root, address, lowest, &mut reserve);
    let leaf = Leaf { pfn: target.pfn(), size, rights, accessed: true, dirty: rights.write };
    memory.store(found.at, HostEntry::leaf(leaf).bits() | extra);
    Ok(())
}

/// Maps the page of registers `page` at `at`, where nothing is mapped yet: not cached.
///
/// # Errors
/// [`OutOfTables`].
pub(super) fn map_registers<M: TableMemory>(
    memory: &M,
    root: Pfn,
    at: Hva,
    page: Hpa,
) -> Result<(), OutOfTables> {
    map(memory, root, at, (page, PageSize::Size4K, Rights::READ_WRITE), UNCACHED)
}

/// Maps `frame` at `at`, where nothing is mapped yet: memory of Herald's own.
///
/// # Errors
/// [`OutOfTables`].
pub(super) fn map_own<M: TableMemory>(memory: &M, root: Pfn, at: Hva, frame: Pfn) -> Result<(), OutOfTables> {
    map(memory, root, at, (frame.base(), PageSize::Size4K, Rights::READ_WRITE), 0)
}

/// Maps a page at its own physical address, to be run there: in tables that only a processor on its way up uses.
///
/// # Errors
/// [`OutOfTables`].
pub(super) fn map_identity<M: TableMemory>(memory: &M, root: Pfn, page: Hpa) -> Result<(), OutOfTables> {
    map(memory, root, Hva::new(page.as_u64()), (page, PageSize::Size4K, Rights::ALL), 0)
}

/// Whether anything is mapped at an address.
pub(super) fn is_mapped<M: TableMemory>(memory: &M, root: Pfn, at: Hva) -> bool {
    walk::<HostEntry, _>(memory, root, at.as_u64()).leaf().is_some()
}

/// Maps a base page in the direct map, for reading, if it is not there yet. Before there is an address space: each copies
/// the root.
///
/// # Errors
/// [`OutOfTables`].
pub(crate) fn map_readable<M: TableMemory>(memory: &M, root: Pfn, page: Hpa) -> Result<(), OutOfTables> {
    if is_in_direct_map(memory, root, page) {
        return Ok(());
    }
    map(memory, root, layout::direct(page), (page, PageSize::Size4K, Rights::READ), 0)
}

/// Whether the direct map has this base page.
pub(super) fn is_in_direct_map<M: TableMemory>(memory: &M, root: Pfn, page: Hpa) -> bool {
    page.as_u64() < layout::DIRECT_MAP_BYTES && is_mapped(memory, root, layout::direct(page))
}
