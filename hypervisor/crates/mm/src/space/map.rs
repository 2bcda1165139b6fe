//! mmap, munmap, mprotect, madvise: what each does to the areas, and where it calls the notifiers.

use super::{AddressSpace, LOWER_HALF_END, MAP_BASE, MapError, USER_END};
use crate::gather::Gather;
use crate::host::Host;
use crate::vma::{Protection, Vma, VmaKind, VmaTree};
use addr::{Hva, HvaRange, PageSize};
use paging::HostEntry;

/// Where a mapping goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Placement {
    /// Into the lowest gap that fits.
    Anywhere,
    /// There; what is mapped there is unmapped first (MAP_FIXED).
    Fixed(Hva),
}

/// What mmap is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MapRequest {
    /// Where.
    pub placement: Placement,
    /// Bytes; rounded up to whole pages.
    pub len: u64,
    /// What it allows.
    pub protection: Protection,
    /// What backs it.
    pub kind: VmaKind,
}

impl<H: Host> AddressSpace<H> {
    /// Creates an area. Nothing is allocated before it is touched. Takes the mmap lock for writing.
    ///
    /// # Errors
    /// [`MapError::BadRange`], [`MapError::NoRoom`]; nothing has changed then.
    pub fn mmap(&self, request: MapRequest) -> Result<HvaRange, MapError> {
        let size = request.kind.page_size();
        let len = request.len.checked_next_multiple_of(size.bytes()).unwrap_or(u64::MAX);
        let wanted = match request.placement {
            Placement::Fixed(start) => Some(checked_range(start, len, size)?),
            Placement::Anywhere if len == 0 => {
                return Err(MapError::BadRange { start: MAP_BASE, len, align: size });
            }
            // Whatever is too long for the address space finds no gap in it.
            Placement::Anywhere => None,
        };
        let mut vmas = self.vmas.write();
        let range = match wanted {
            Some(wanted) => {
                check_alignment(&vmas, wanted)?;
                self.unmap_region(&mut vmas, wanted);
                wanted
            }
            None => {
                let within = HvaRange::new(MAP_BASE, USER_END);
                vmas.gap(within, len, size).ok_or(MapError::NoRoom { len })?
            }
        };
        vmas.insert(Vma { range, protection: request.protection, kind: request.kind });
        Ok(range)
    }

    /// Removes all areas in a range, and what they map. Takes the mmap lock for writing.
    ///
    /// # Errors
    /// [`MapError::BadRange`], also where the range cuts a huge page; nothing has changed then.
    pub fn munmap(&self, start: Hva, len: u64) -> Result<(), MapError> {
        let range = checked_range(start, len, PageSize::Size4K)?;
        let mut vmas = self.vmas.write();
        check_alignment(&vmas, range)?;
        self.unmap_region(&mut vmas, range);
        Ok(())
    }

    /// Patch site `unmap_region`: begin before the walk, end after frames and tables are freed.
    pub(super) fn unmap_region(&self, vmas: &mut VmaTree, range: HvaRange) {
        if vmas.parts(range).next().is_none() {
            return;
        }
        let invalidation = self.chain.invalidate(range);
        let mut gather = Gather::new(&*self.host, self.root);
        self.clear_range(range, &mut gather);
        vmas.remove(range);
        self.prune(vmas, range, &mut gather);
        gather.settle();
        drop(invalidation);
    }

    /// Unlinks the tables that served only the gap around `range`, where no area is left.
    fn prune(&self, vmas: &VmaTree, range: HvaRange, gather: &mut Gather<'_, H>) {
        let (floor, ceiling) = vmas.gap_around(range);
        let bounds = (floor.map_or(0, Hva::as_u64), ceiling.map_or(LOWER_HALF_END, Hva::as_u64));
        let _tables = self.tables.lock();
        paging::prune::<HostEntry, H>(&self.host, self.root, bounds, &mut |table| {
            gather.table(range.start(), table);
        });
    }

    /// Changes the protection of a range. As in Linux, areas before the first hole change even where there
    /// is one. Takes the mmap lock for writing.
    ///
    /// # Errors
    /// [`MapError::BadRange`], also where the range cuts a huge page: nothing has changed. [`MapError::Hole`].
    pub fn mprotect(&self, start: Hva, len: u64, protection: Protection) -> Result<(), MapError> {
        let range = checked_range(start, len, PageSize::Size4K)?;
        let mut vmas = self.vmas.write();
        check_alignment(&vmas, range)?;
        let mut covered = range.start();
        for part in vmas.parts(range) {
            if part.range.start() != covered {
                break;
            }
            covered = part.range.end();
        }
        if let Some(prefix) = HvaRange::try_new(range.start(), covered).filter(|prefix| !prefix.is_empty()) {
            vmas.protect(prefix, protection);
            self.mprotect_fixup(prefix, protection);
        }
        if covered == range.end() { Ok(()) } else { Err(MapError::Hole(range)) }
    }

    /// Patch site `mprotect_fixup`: begin and end around the change of the entries, which is flushed in between.
    fn mprotect_fixup(&self, range: HvaRange, protection: Protection) {
        let invalidation = self.chain.invalidate(range);
        let mut gather = Gather::new(&*self.host, self.root);
        self.change_range(range, &mut gather, |entry| entry.with_rights(protection.rights()));
        gather.flush();
        drop(invalidation);
    }

    /// `madvise(MADV_DONTNEED)`: drops the pages of a range; the next touch finds zeros. Takes the mmap lock
    /// for reading.
    ///
    /// # Errors
    /// [`MapError::BadRange`], also where the range cuts a huge page. [`MapError::Hole`]: what has an area
    /// was dropped all the same, as in Linux.
    pub fn discard(&self, start: Hva, len: u64) -> Result<(), MapError> {
        let range = checked_range(start, len, PageSize::Size4K)?;
        let vmas = self.vmas.read();
        check_alignment(&vmas, range)?;
        for part in vmas.parts(range) {
            self.zap_page_range(part.range);
        }
        if vmas.covers(range) { Ok(()) } else { Err(MapError::Hole(range)) }
    }
}

fn checked_range(start: Hva, len: u64, align: PageSize) -> Result<HvaRange, MapError> {
    let bad = MapError::BadRange { start, len, align };
    let len = len.checked_next_multiple_of(PageSize::Size4K.bytes()).ok_or(bad)?;
    let range = HvaRange::sized(start, len).ok_or(bad)?;
    let inside = !range.is_empty() && range.end() <= USER_END && range.is_aligned(align);
    if inside { Ok(range) } else { Err(bad) }
}

/// A huge page is unmapped, protected and discarded as a whole.
fn check_alignment(vmas: &VmaTree, range: HvaRange) -> Result<(), MapError> {
    for part in vmas.parts(range) {
        let align = part.kind.page_size();
        if !part.range.is_aligned(align) {
            return Err(MapError::BadRange { start: range.start(), len: range.len(), align });
        }
    }
    Ok(())
}
