//! Host operations that a test guest asks for, on its own memory: each notifier site that a guest can see, seen from
//! inside. Only where the configuration allows it.

use super::memory::{Memory, NotRam};
use abi::hypercall::HostOperation as Op;
use addr::{GfnRange, Gpa, Hva, HvaRange, PageSize};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use mm::{AddressSpace, Advice, Change, Host, MapError, MapRequest, Mm, Placement, Protection, Remap};
use mmu::LogError;

/// Copies of the guest's address space that may be alive at a time.
const MOST_FORKS: usize = 4;
/// Pages that merging looks at between two looks at whether that was all.
const PAGES: u64 = 64;

/// Why a host operation was not done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum HostOperationError {
    /// The range is not whole pages of RAM.
    NotRam(NotRam),
    /// The memory manager refused.
    Refused(MapError),
    /// Too many copies are alive.
    Forks(usize),
    /// The machine has not enough memory.
    OutOfMemory,
    /// There is no dirty log.
    Log(LogError),
}

impl fmt::Display for HostOperationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRam(error) => error.fmt(f),
            Self::Refused(error) => error.fmt(f),
            Self::Forks(count) => write!(f, "{count} copies of the address space are alive already"),
            Self::OutOfMemory => f.write_str("not enough memory"),
            Self::Log(error) => error.fmt(f),
        }
    }
}

impl From<MapError> for HostOperationError {
    fn from(error: MapError) -> Self {
        Self::Refused(error)
    }
}

impl From<LogError> for HostOperationError {
    fn from(error: LogError) -> Self {
        Self::Log(error)
    }
}

/// What the operations leave behind.
pub(super) struct HostOperations<H: Host> {
    forks: Vec<Arc<AddressSpace<H>>>,
    /// The dirty logs are its own, and not those of a snapshot.
    logs: bool,
}

impl<H: Host> Default for HostOperations<H> {
    fn default() -> Self {
        Self { forks: Vec::new(), logs: false }
    }
}

impl<H: Host + 'static> HostOperations<H> {
    /// Performs one operation; what it counts, or 0.
    pub(super) fn perform(
        &mut self,
        memory: &Memory<H>,
        operation: Op,
        gpa: Gpa,
        len: u64,
    ) -> Result<u64, HostOperationError> {
        let start = memory.pages(gpa, len).map_err(HostOperationError::NotRam)?;
        let (space, range) = (memory.space(), HvaRange::new(start, start.add(len)));
        let count = |wanted: &dyn Fn(Hva) -> bool| range.pages().filter(|&page| wanted(page)).count() as u64;
        match operation {
            Op::Unmap => {
                let _upheaval = memory.upheaval();
                unmap_and_back(space, range)?;
            }
            Op::Migrate => return Ok(count(&|page| space.migrate_page(page).is_ok())),
            Op::Age => return Ok(count(&|page| space.test_and_clear_young(page) == Some(true))),
            Op::CountYoung => return Ok(count(&|page| space.test_young(page) == Some(true))),
            Op::CountMerged => return Ok(count(&|page| space.is_merged(page))),
            Op::PageOut => {
                let before = space.resident_frames();
                space.madvise(start, len, Advice::PageOut)?;
                return Ok(before.saturating_sub(space.resident_frames()));
            }
            Op::Free => space.madvise(start, len, Advice::Free)?,
            Op::Cold => space.madvise(start, len, Advice::Cold)?,
            Op::HugePages => space.madvise(start, len, Advice::HugePage)?,
            Op::Collapse => return Ok(collapse(space, range)),
            Op::Fork => self.fork(space)?,
            Op::DropForks => self.forks.clear(),
            Op::Move => {
                let _upheaval = memory.upheaval();
                move_and_back(space, range)?;
            }
            Op::WriteProtect => {
                space.apply_to_page_range(start, len, |_, _| Ok::<_, MapError>(Change::WriteProtect))?;
            }
            Op::WriteBack => space.msync(start, len)?,
            Op::Rearrange => rearrange(space, range)?,
            Op::Merge => {
                space.madvise(start, len, Advice::Mergeable)?;
                return Ok(merge(space.mm()));
            }
            Op::Lock => space.mlock(start, len)?,
            Op::Unlock => space.munlock(start, len)?,
            Op::BeginLog => {
                memory.begin_log()?;
                self.logs = true;
            }
            Op::Harvest if self.logs => {
                let gfns = GfnRange::new(gpa.gfn(), gpa.add(len).gfn());
                return Ok(memory.harvest(gfns).count());
            }
            Op::EndLog if core::mem::take(&mut self.logs) => memory.end_log(),
            Op::ReadOnly => space.mprotect(start, len, Protection::Read)?,
            Op::Writable => space.mprotect(start, len, Protection::ReadWrite)?,
            Op::AgeAll => space.mm().age_all(),
            // Counters are the virtual processor's (`exit::hypercall`).
            Op::Harvest | Op::EndLog | Op::Nothing | Op::Exits | Op::Flushes => {}
        }
        Ok(0)
    }

    fn fork(&mut self, space: &AddressSpace<H>) -> Result<(), HostOperationError> {
        if self.forks.len() >= MOST_FORKS {
            return Err(HostOperationError::Forks(self.forks.len()));
        }
        self.forks.push(space.fork().map_err(|_| HostOperationError::OutOfMemory)?);
        Ok(())
    }
}

/// The area at the start of a range. The rest of the range may have other flags, but not another backing.
fn area<H: Host>(space: &AddressSpace<H>, range: HvaRange) -> Result<mm::Vma<H>, MapError> {
    space.vmas().into_iter().find(|vma| vma.range.contains(range.start())).ok_or(MapError::Hole(range))
}

/// munmap, and the same kind of area again: anonymous memory is zero then, a file what it was.
fn unmap_and_back<H: Host>(space: &AddressSpace<H>, range: HvaRange) -> Result<(), MapError> {
    let kind = area(space, range)?.kind_at(range.start());
    space.munmap(range.start(), range.len())?;
    let placement = Placement::Fixed(range.start());
    let request = MapRequest { placement, len: range.len(), protection: Protection::ReadWrite, kind };
    space.mmap(request).map(|_| ())
}

/// mremap to far above all that is mapped, and back.
fn move_and_back<H: Host>(space: &AddressSpace<H>, range: HvaRange) -> Result<(), MapError> {
    let (start, len) = (range.start(), range.len());
    let far = space.vmas().iter().map(|vma| vma.range.end()).max().unwrap_or(start);
    let target = far.align_up(PageSize::Size1G).ok_or(MapError::NoRoom { len })?;
    let there = space.mremap(start, len, len, Remap::Fixed(target))?;
    space.mremap(there, len, len, Remap::Fixed(start)).map(|_| ())
}

fn collapse<H: Host>(space: &AddressSpace<H>, range: HvaRange) -> u64 {
    let pages_of_huge = PageSize::Size2M.base_pages() as usize;
    let made = |page: &Hva| space.collapse(*page) == Ok(true);
    range.pages().step_by(pages_of_huge).filter(made).count() as u64
}

/// Goes on to the end of a pass.
fn merge<H: Host>(mm: &Mm<H>) -> u64 {
    loop {
        if let Some(pass) = mm.merge(PAGES) {
            return pass.gained;
        }
    }
}

/// remap_file_pages to where each page is anyway: the area becomes non-linear.
fn rearrange<H: Host>(space: &AddressSpace<H>, range: HvaRange) -> Result<(), MapError> {
    let first = area(space, range)?.file_page(range.start()).ok_or(MapError::NotShared(range))?;
    space.remap_file_pages(range.start(), range.len(), first)
}
