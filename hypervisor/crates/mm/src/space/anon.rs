//! Anonymous pages: the zero page, and fresh pages.

use super::AddressSpace;
use super::ahead::UNFIT;
use super::fault::{Fault, Mapped};
use crate::frames::PageFlags;
use crate::host::Host;
use crate::vma::{Access, VmaFlags};
use addr::{PageSize, Pfn};
use mutants::{Mutant, intact};
use paging::{Found, HostEntry, Leaf, Level, Rights, TableEntry, TableReserve};

impl<H: Host> AddressSpace<H> {
    /// First touch: a read maps the zero page, a write a page of its own, huge where the area wants that.
    pub(super) fn map_anonymous(&self, fault: &Fault<'_, H>, found: &Found<HostEntry>) -> Mapped {
        if fault.vma.flags.contains(VmaFlags::HUGE) && self.map_transparent_huge(fault)? {
            return Ok(None);
        }
        match fault.access {
            Access::Read => self.map_zero_page(fault),
            Access::Write => {
                let frame = self.host().allocate_zeroed(PageSize::Size4K)?;
                self.own(fault, frame);
                let has_table = found.level == Level::Pt;
                let ask = fault.beside.take().filter(|_| !fault.vma.flags.intersects(UNFIT));
                let ahead =
                    ask.as_ref().map_or(0, |ask| self.streams.pages_ahead(fault.page, ask, has_table));
                match ask {
                    _ if !has_table => self.map_new(fault, HostEntry::EMPTY, frame),
                    Some(ask) if ahead > 0 => self.map_ahead(fault, found.at, (frame, ahead), ask),
                    _ => self.map_fresh(fault, found, frame),
                }
            }
        }
    }

    /// [`Self::map_new`] for a write to a page of which nothing was found in a page table that is there, as it mostly is: no table
    /// is wanted, all rights are those of the area, and the mmap lock, held since that look, keeps the table where it was.
    fn map_fresh(&self, fault: &Fault<'_, H>, found: &Found<HostEntry>, frame: Pfn) -> Mapped {
        let rights = fault.vma.protection.rights();
        let leaf = Leaf { pfn: frame, size: PageSize::Size4K, rights, accessed: false, dirty: true };
        let tables = self.tables.lock();
        debug_assert_eq!(self.walk(fault.page).at, found.at, "a page table has gone under the mmap lock");
        let is_empty =
            self.host().load(found.at) == HostEntry::EMPTY.bits() || !intact(Mutant::FreshMapsUnseen);
        if is_empty {
            self.count_leaf(&leaf);
            // Not present to present: no flush (SDM vol. 3A 4.10.4.3).
            self.host().store(found.at, HostEntry::leaf(leaf).bits());
        }
        drop(tables);
        if !is_empty {
            // Never visible: no flush is owed.
            self.mm.put(frame);
        }
        Ok(is_empty.then_some(leaf))
    }

    /// Maps the zero page. Its entry is not counted, and a write will replace it.
    pub(super) fn map_zero_page(&self, fault: &Fault<'_, H>) -> Mapped {
        self.map_uncounted(fault, HostEntry::EMPTY, (self.mm.zero_page(), Rights::READ), || true)
    }

    /// Maps a frame that is nobody's to free, if `still` says so, which is asked under the page-table lock: whoever
    /// takes the frame away visits the entry under it, before or after.
    pub(super) fn map_uncounted(
        &self,
        fault: &Fault<'_, H>,
        seen: HostEntry,
        (pfn, rights): (Pfn, Rights),
        still: impl FnOnce() -> bool,
    ) -> Mapped {
        let mut reserve = TableReserve::new(&**self.host());
        reserve.top_up(fault.lacking.get())?;
        let dirty = fault.access == Access::Write;
        let leaf = Leaf { pfn, size: PageSize::Size4K, rights, accessed: false, dirty };
        let tables = self.tables.lock();
        let installed = still() && self.install(&tables, fault.page, seen, leaf, &mut reserve);
        Ok(installed.then_some(leaf))
    }

    /// Makes a frame that nobody else knows an anonymous page of the fault's area. No copy of it exists elsewhere:
    /// it is dirty from its first moment.
    pub(super) fn own(&self, fault: &Fault<'_, H>, frame: Pfn) {
        self.own_at(fault, frame, fault.index());
    }

    /// The same, one with another index.
    #[inline]
    pub(super) fn own_at(&self, fault: &Fault<'_, H>, frame: Pfn, index: u64) {
        let meta = self.host().frames().meta(frame);
        meta.set_owner(fault.vma.anon.owner_id(), index);
        let dirty = if intact(Mutant::NoDirtyOnFresh) { PageFlags::DIRTY } else { PageFlags::empty() };
        meta.set(dirty | PageFlags::EXCLUSIVE);
    }

    /// Maps an anonymous page that nobody else knows, where the entry still is `seen`; frees it where it is not.
    pub(super) fn map_new(&self, fault: &Fault<'_, H>, seen: HostEntry, frame: Pfn) -> Mapped {
        self.map_new_if(fault, seen, frame, || true)
    }

    /// The same, if `still` says so, which is asked under the page-table lock.
    pub(super) fn map_new_if(
        &self,
        fault: &Fault<'_, H>,
        seen: HostEntry,
        frame: Pfn,
        still: impl FnOnce() -> bool,
    ) -> Mapped {
        let mut reserve = TableReserve::new(&**self.host());
        let prepared = reserve.top_up(fault.lacking.get());
        let rights = self.rights_for(fault.vma.protection, &fault.vma.kind, frame);
        let dirty = fault.access == Access::Write;
        let leaf = Leaf { pfn: frame, size: PageSize::Size4K, rights, accessed: false, dirty };
        let tables = self.tables.lock();
        let installed =
            prepared.is_ok() && still() && self.install(&tables, fault.page, seen, leaf, &mut reserve);
        drop(tables);
        if !installed {
            // Never visible: no flush is owed.
            self.mm.put(frame);
        }
        prepared?;
        Ok(installed.then_some(leaf))
    }
}
