//! What of an address space may hold something: whoever reads all of it passes over what was never touched, and makes no
//! table for it.

use super::AddressSpace;
use crate::host::Host;
use crate::vma::VmaKind;
use addr::{Hva, HvaRange, PageSize};
use paging::{Cursor, HostEntry};

impl<H: Host> AddressSpace<H> {
    /// The first base page of a range that may read as something else than zeros: one that an entry maps or says to be in
    /// swap, or one of a file. Takes the mmap lock for reading, and the page-table lock.
    pub fn next_used(&self, range: HvaRange) -> Option<Hva> {
        let vmas = self.vmas.read();
        let parts = vmas.iter().filter_map(|vma| Some((vma, vma.range.intersection(&range)?)));
        parts.filter(|(_, part)| !part.is_empty()).find_map(|(vma, part)| {
            if !matches!(vma.kind, VmaKind::Anonymous(_)) {
                return Some(part.start());
            }
            let _tables = self.tables.lock();
            let (start, end) = (part.start().as_u64(), part.end().as_u64());
            let mut cursor = Cursor::<_, HostEntry>::new(&**self.host(), self.root, start, end);
            let visit = cursor.next()?;
            Hva::try_new(visit.address.max(start)).map(|found| found.align_down(PageSize::Size4K))
        })
    }
}
