//! What of an address space may hold something: whoever reads all of it passes over what was never touched, and makes no
//! table for it.

use super::AddressSpace;
use crate::host::Host;
use crate::vma::{Vma, VmaKind};
use addr::{Hva, HvaRange, PAGE_SIZE, PageSize};
use paging::{Cursor, HostEntry};

impl<H: Host> AddressSpace<H> {
    /// The first base page of a range that may read as something else than zeros: one that an entry maps or says to be in
    /// swap, or one that a file may have there. Takes the mmap lock for reading, and the page-table lock.
    pub fn next_used(&self, range: HvaRange) -> Option<Hva> {
        let vmas = self.vmas.read();
        let parts = vmas.iter().filter_map(|vma| Some((vma, vma.range.intersection(&range)?)));
        parts.filter(|(_, part)| !part.is_empty()).find_map(|(vma, part)| {
            let own = || self.next_entry(part);
            match &vma.kind {
                VmaKind::Anonymous(_) => own(),
                VmaKind::Private(file, _) => {
                    let filled = vma.next_filled(part, file.store().next_used(vma.file_page(part.start())?));
                    [own(), filled].into_iter().flatten().min()
                }
                _ => Some(part.start()),
            }
        })
    }

    /// The first page of a range that an entry maps, or says to be in swap.
    fn next_entry(&self, range: HvaRange) -> Option<Hva> {
        let _tables = self.tables.lock();
        let (start, end) = (range.start().as_u64(), range.end().as_u64());
        let mut cursor = Cursor::<_, HostEntry>::new(&**self.host(), self.root, start, end);
        let visit = cursor.next()?;
        Hva::try_new(visit.address.max(start)).map(|found| found.align_down(PageSize::Size4K))
    }
}

impl<H: Host> Vma<H> {
    /// Where page `index` of the area's file is, if that is in `part`.
    fn next_filled(&self, part: HvaRange, index: Option<u64>) -> Option<Hva> {
        let pages = index?.checked_sub(self.file_page(part.start())?)?;
        (pages < part.len() / PAGE_SIZE).then(|| part.start().add(pages * PAGE_SIZE))
    }
}
