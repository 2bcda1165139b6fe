//! mmap, munmap, madvise(DONTNEED), mlock: what each does to the areas, and where it calls the notifiers.

use super::zap::Keep;
use super::{AddressSpace, LOWER_HALF_END, MAP_BASE, MapError, USER_END};
use crate::gather::Gather;
use crate::host::Host;
use crate::vma::{MOST_AREAS, Protection, Vma, VmaFlags, VmaKind, Vmas};
use addr::{Hva, HvaRange, PageSize};
use mutants::RangeSite;
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
#[derive(Debug)]
pub struct MapRequest<H: Host> {
    /// Where.
    pub placement: Placement,
    /// Bytes; rounded up to whole pages.
    pub len: u64,
    /// What it allows.
    pub protection: Protection,
    /// What backs it.
    pub kind: VmaKind<H>,
}

impl<H: Host> AddressSpace<H> {
    /// Creates an area. Nothing is allocated before it is touched. Takes the mmap lock for writing.
    ///
    /// # Errors
    /// [`MapError::BadRange`], [`MapError::NoRoom`], [`MapError::OutOfTables`], [`MapError::TooManyAreas`]; nothing has
    /// changed then.
    pub fn mmap(&self, request: MapRequest<H>) -> Result<HvaRange, MapError> {
        let size = request.kind.page_size();
        let no_room = MapError::NoRoom { len: request.len };
        let len = request.len.checked_next_multiple_of(size.bytes()).ok_or(no_room)?;
        let last_start = USER_END.as_u64().checked_sub(len).ok_or(no_room)?;
        let wanted = match request.placement {
            _ if len == 0 => return Err(MapError::BadRange { start: MAP_BASE, len, align: size }),
            Placement::Fixed(start) if start.as_u64() > last_start => return Err(no_room),
            Placement::Fixed(start) => Some(checked_range(start, len, size)?),
            Placement::Anywhere => None,
        };
        let mut vmas = self.vmas.write();
        refuse_too_many(&vmas, wanted, 1)?;
        let range = match wanted {
            Some(wanted) => {
                self.prepare_bounds(&vmas, wanted)?;
                self.unmap_region(&mut vmas, wanted);
                wanted
            }
            None => {
                let within = HvaRange::new(MAP_BASE, USER_END);
                vmas.gap(within, len, size).ok_or(no_room)?
            }
        };
        vmas.add((range, request.protection, request.kind), self.mm.rmaps());
        self.appeared(range);
        drop(vmas);
        self.mm.drop_orphans();
        Ok(range)
    }

    /// Removes all areas in a range, and what they map. Takes the mmap lock for writing.
    ///
    /// # Errors
    /// [`MapError::BadRange`], also where the range cuts a hugetlb page, [`MapError::OutOfTables`] where a huge
    /// page could not be split, [`MapError::TooManyAreas`]; nothing has changed then.
    pub fn munmap(&self, start: Hva, len: u64) -> Result<(), MapError> {
        let range = checked_range(start, len, PageSize::Size4K)?;
        let mut vmas = self.vmas.write();
        refuse_too_many(&vmas, Some(range), 0)?;
        self.prepare_bounds(&vmas, range)?;
        self.unmap_region(&mut vmas, range);
        drop(vmas);
        self.mm.drop_orphans();
        Ok(())
    }

    /// Patch site `unmap_region`: begin before the walk, end after frames and tables are freed. No leaf straddles
    /// an end of the range.
    pub(super) fn unmap_region(&self, vmas: &mut Vmas<H>, range: HvaRange) {
        if vmas.overlapping(range).next().is_none() {
            return;
        }
        let invalidation = self.chain.invalidate(RangeSite::UnmapRegion, range);
        let mut gather = self.gather(RangeSite::UnmapRegion);
        self.drop_tables(range, &mut gather);
        for (part, vma) in vmas.overlapping(range) {
            match vma.kind.page_size() {
                PageSize::Size4K => self.clear_range(part, &mut gather, Keep::Nothing),
                PageSize::Size2M | PageSize::Size1G => self.unmap_hugepage_range(part),
            }
        }
        vmas.remove(range);
        self.prune(vmas, range, &mut gather);
        gather.settle();
        drop(invalidation);
    }

    /// Unlinks the tables that served only the gap around `range`, where no area is left.
    pub(super) fn prune(&self, vmas: &Vmas<H>, range: HvaRange, gather: &mut Gather<'_, H>) {
        let (floor, ceiling) = vmas.gap_around(range);
        let bounds = (floor.map_or(0, Hva::as_u64), ceiling.map_or(LOWER_HALF_END, Hva::as_u64));
        let _tables = self.tables.lock();
        paging::prune::<HostEntry, H>(self.host(), self.root, bounds, &mut |table| {
            gather.table(range.start(), table);
        });
    }

    /// `madvise(MADV_DONTNEED)`: drops the pages of a range; the next touch finds zeros, or the file. Takes the
    /// mmap lock for reading.
    ///
    /// # Errors
    /// [`MapError::BadRange`], also where the range cuts a hugetlb page. [`MapError::Hole`]: what has an area
    /// was dropped all the same, as in Linux. [`MapError::Locked`]: what lies before was dropped.
    pub fn discard(&self, start: Hva, len: u64) -> Result<(), MapError> {
        let Some(range) = named_range(start, len)? else { return Ok(()) };
        let vmas = self.vmas.read();
        let _small = self.bar_huge_pages();
        self.prepare_bounds(&vmas, range)?;
        let done = vmas.overlapping(range).try_for_each(|(part, vma)| {
            refuse_locked(part, vma)?;
            self.zap_area(part, vma);
            Ok(())
        });
        let covered = vmas.covered_to(range) == range.end();
        drop(vmas);
        self.mm.drop_orphans();
        done?;
        if covered { Ok(()) } else { Err(MapError::Hole(range)) }
    }

    /// Makes sure that an operation on `range` cuts no page, and no shared table: hugetlb pages are refused, transparent
    /// ones split.
    pub(super) fn prepare_bounds(&self, vmas: &Vmas<H>, range: HvaRange) -> Result<(), MapError> {
        for (part, vma) in vmas.overlapping(range) {
            let align = vma.kind.page_size();
            if !part.is_aligned(align) {
                return Err(MapError::BadRange { start: range.start(), len: range.len(), align });
            }
        }
        for (part, _) in vmas.overlapping(range) {
            self.own_bounds(part).map_err(|_| MapError::OutOfTables)?;
        }
        for bound in [range.start(), range.end()] {
            if vmas.find(bound).is_some_and(|vma| vma.kind.page_size() == PageSize::Size4K) {
                self.split_straddling(bound).map_err(|_| MapError::OutOfTables)?;
            }
        }
        Ok(())
    }
}

/// Areas are Herald's small objects, whose memory is not the machine's frames: an operation that cuts areas at the
/// bounds of `cut`, and adds some, is refused before they are too many.
pub(super) fn refuse_too_many<H: Host>(
    vmas: &Vmas<H>,
    cut: Option<HvaRange>,
    added: usize,
) -> Result<(), MapError> {
    let inside = |bound: Hva| vmas.find(bound).is_some_and(|vma| vma.range.start() < bound);
    let cuts = cut.map_or(0, |cut| usize::from(inside(cut.start())) + usize::from(inside(cut.end())));
    if vmas.len() + cuts + added > MOST_AREAS { Err(MapError::TooManyAreas) } else { Ok(()) }
}

/// Pages that are locked are not given up.
pub(super) fn refuse_locked<H: Host>(part: HvaRange, vma: &Vma<H>) -> Result<(), MapError> {
    if vma.flags.contains(VmaFlags::LOCKED) { Err(MapError::Locked(part)) } else { Ok(()) }
}

/// The range of a call that creates or removes areas.
pub(super) fn checked_range(start: Hva, len: u64, align: PageSize) -> Result<HvaRange, MapError> {
    let bad = MapError::BadRange { start, len, align };
    let len = len.checked_next_multiple_of(PageSize::Size4K.bytes()).ok_or(bad)?;
    let range = HvaRange::sized(start, len).ok_or(bad)?;
    let inside = !range.is_empty() && range.end() <= USER_END && range.is_aligned(align);
    if inside { Ok(range) } else { Err(bad) }
}

/// The range of a call that takes any, and answers for its holes: what lies behind every area is one. `None`: it names
/// nothing, and nothing is to be done. One that wraps around is a bad one.
pub(super) fn named_range(start: Hva, len: u64) -> Result<Option<HvaRange>, MapError> {
    let bad = MapError::BadRange { start, len, align: PageSize::Size4K };
    let pages = len.checked_next_multiple_of(PageSize::Size4K.bytes()).ok_or(bad)?;
    let end = start.as_u64().checked_add(pages).filter(|_| start.is_aligned(PageSize::Size4K)).ok_or(bad)?;
    // Between the halves there are no addresses; no area reaches that far.
    let end = Hva::try_new(end).unwrap_or(Hva::new(LOWER_HALF_END - 1));
    let range = HvaRange::try_new(start, end).ok_or(bad)?;
    Ok((!range.is_empty()).then_some(range))
}

/// The same for calls to which a range that wraps around is one with a hole.
pub(super) fn named_range_or_hole(start: Hva, len: u64) -> Result<Option<HvaRange>, MapError> {
    let hole = MapError::Hole(HvaRange::new(start, start));
    named_range(start, len).map_err(|bad| if start.is_aligned(PageSize::Size4K) { hole } else { bad })
}
