//! The host memory manager's operations, each judged.

use super::{Lab, Verdict};
use crate::{Violation, lock};
use addr::{Hva, HvaRange, PageSize};
use mm::{MapRequest, Placement, Protection, VmaKind};

impl Lab {
    /// mmap at a fixed place.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn mmap(
        &self,
        range: HvaRange,
        protection: Protection,
        size: PageSize,
    ) -> Result<Verdict, Violation> {
        let placement = Placement::Fixed(range.start());
        let kind = VmaKind::Anonymous(size);
        let found = self.space.mmap(MapRequest { placement, len: range.len(), protection, kind });
        let expected = lock(&self.model).mmap(range, protection, size);
        self.judged(|| format!("mmap {range} {protection:?} {size:?}"), &[expected], Verdict::of(found))
    }

    /// munmap.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn munmap(&self, range: HvaRange) -> Result<Verdict, Violation> {
        let found = Verdict::of(self.space.munmap(range.start(), range.len()));
        let expected = lock(&self.model).munmap(range);
        self.judged(|| format!("munmap {range}"), &[expected], found)
    }

    /// mprotect.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn mprotect(&self, range: HvaRange, protection: Protection) -> Result<Verdict, Violation> {
        let found = Verdict::of(self.space.mprotect(range.start(), range.len(), protection));
        let expected = lock(&self.model).mprotect(range, protection);
        self.judged(|| format!("mprotect {range} {protection:?}"), &[expected], found)
    }

    /// madvise(DONTNEED).
    ///
    /// # Errors
    /// [`Violation`].
    pub fn discard(&self, range: HvaRange) -> Result<Verdict, Violation> {
        let found = Verdict::of(self.space.discard(range.start(), range.len()));
        let expected = lock(&self.model).discard(range);
        self.judged(|| format!("discard {range}"), &[expected], found)
    }

    /// Migration of one page.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn migrate(&self, address: Hva) -> Result<Verdict, Violation> {
        let found = Verdict::of(self.space.migrate_page(address));
        let expected =
            if found == Verdict::OutOfMemory { vec![found] } else { lock(&self.model).migrate(address) };
        self.judged(|| format!("migrate {address}"), &expected, found)
    }

    /// Aging of one page.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn age(&self, address: Hva) -> Result<Verdict, Violation> {
        let young = self.space.test_and_clear_young(address);
        let found = young.map_or(Verdict::NotResident, Verdict::Young);
        let mut expected = lock(&self.model).age(address);
        if self.speculates() && expected == [Verdict::Young(false)] {
            expected.push(Verdict::Young(true));
        }
        self.judged(|| format!("age {address}"), &expected, found)
    }

    /// Loads every word that the model knows, by hva on this CPU, and compares.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn compare_all(&self, cpu: mm::CpuIndex) -> Result<(), Violation> {
        let written: Vec<_> = lock(&self.model).written().collect();
        written.into_iter().try_for_each(|word| self.load(cpu, word).map(|_| ()))
    }
}
