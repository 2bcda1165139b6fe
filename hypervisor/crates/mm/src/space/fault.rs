//! Faults: an area says that a page may be there, a fault puts it there.
//!
//! ```text
//!   find the area ─► walk ─┬─ leaf allows it ──────────────────────────────► done
//!                          ├─ shared table ────────► share.rs; walk again
//!                          ├─ leaf, not writable ──► cow.rs
//!                          ├─ nothing ─────────────► anon.rs, file.rs, huge.rs
//!                          ├─ note: swap slot ─────► swapin.rs
//!                          └─ note: file offset ───► file.rs
//!   of swap, or of a file that waits for a device: no lock ─► read it, hold it ─► again
//!   each: prepare frame and tables ─► page-table lock ─► entry still what it was? ─► install ─► done
//!                                                            └─ no: give back; walk again
//! ```

use super::beside::AskBeside;
use super::file::page_error;
use super::swapin::{Back, SwappedIn};
use super::{AddressSpace, FaultError, Mapping};
use crate::file::File;
use crate::host::Host;
use crate::shrink::Attempts;
use crate::vma::{Access, Vma, VmaKind};
use addr::{Hva, PageSize};
use alloc::sync::Arc;
use core::cell::Cell;
use paging::{Found, HostEntry, Leaf, Level, Note, TableEntry, View};

/// Whether it is for want of a frame of the usual size.
const fn is_short(error: FaultError) -> bool {
    match error {
        FaultError::OutOfFrames(error) => matches!(error.size, PageSize::Size4K),
        FaultError::OutOfTables(_) => true,
        _ => false,
    }
}

/// A fault under way: the mmap lock is held for reading.
pub(super) struct Fault<'v, H: Host> {
    pub(super) vma: &'v Vma<H>,
    /// The base page.
    pub(super) page: Hva,
    pub(super) access: Access,
    /// What was read from swap for it.
    pub(super) swapped: Cell<Option<SwappedIn<'v, H>>>,
    /// Tables that were missing on the way to its entry at the last look.
    pub(super) lacking: Cell<usize>,
    /// See [`Mapping::announced`].
    pub(super) announced: Cell<u64>,
    /// Who wants to hear of pages beside it.
    pub(super) beside: Cell<Option<AskBeside<'v>>>,
}

/// The leaf that a fault has put there; `None`: it has changed something else, or nothing, and looks again.
pub(super) type Mapped = Result<Option<Leaf>, FaultError>;

/// What one look at the tables has come to.
enum Attempt<H: Host> {
    /// An entry allows the access.
    Done(Mapping),
    /// The page has to be read from this slot first.
    InSwap(u64),
    /// It has to be read from this file first.
    InFile(Arc<File<H>>, u64),
}

impl<H: Host> Fault<'_, H> {
    /// Index of the page in its area's numbering.
    pub(super) fn index(&self) -> u64 {
        self.vma.index_of(self.page)
    }

    /// The file that the page has to be read from first.
    fn unread_file(&self) -> Option<&Arc<File<H>>> {
        self.vma.kind.file().filter(|file| file.is_unread(self.index()))
    }
}

impl<H: Host> AddressSpace<H> {
    /// Makes sure that a primary entry allows `access` at `address`, and tells what it maps. Takes the mmap
    /// lock for reading; call it with no memory-manager lock held.
    ///
    /// The frame is not referenced: whoever builds a secondary entry from the answer checks the invalidation
    /// sequence under its own lock before he installs it (I2, I6).
    ///
    /// # Errors
    /// [`FaultError`]; nothing has changed then (I16).
    pub fn fault_in(&self, address: Hva, access: Access) -> Result<Mapping, FaultError> {
        self.fault_in_and_ask(address, access, None)
    }

    /// The same, and what lies beside the page, if it is there already.
    ///
    /// # Errors
    /// [`FaultError`]; nothing has changed then (I16).
    #[inline(always)]
    pub fn fault_in_and_ask(
        &self,
        address: Hva,
        access: Access,
        beside: Option<AskBeside<'_>>,
    ) -> Result<Mapping, FaultError> {
        self.stay_below_limit(address, access)?;
        Ok(match self.try_fault_in(address, access, None, beside) {
            Ok(Attempt::Done(mapping)) => mapping,
            attempt => self.wait_and_fault_in(address, access, attempt)?,
        })
    }

    /// Goes on after the first attempt, which was none to end with.
    #[inline(never)]
    fn wait_and_fault_in(
        &self,
        address: Hva,
        access: Access,
        first: Result<Attempt<H>, FaultError>,
    ) -> Result<Mapping, FaultError> {
        let (mut attempt, mut _read) = (first, None);
        let mut attempts = Attempts::default();
        loop {
            // No lock is held: a device may read, and what goes for this page's sake may be of this address space.
            let outcome = match attempt {
                Ok(Attempt::Done(mapping)) => return Ok(mapping),
                Ok(Attempt::InSwap(slot)) => self.mm.read_swapped(slot),
                Ok(Attempt::InFile(file, index)) => match file.read_ahead(index) {
                    Ok(page) => {
                        _read = Some(page);
                        Ok(None)
                    }
                    Err(error) => Err(page_error(error, address)),
                },
                Err(error) => Err(error),
            };
            let swapped = match outcome {
                Ok(page) => page,
                Err(error) if is_short(error) && self.mm.make_room(&mut attempts) => None,
                Err(error) => return Err(error),
            };
            attempt = self.try_fault_in(address, access, swapped, None);
        }
    }

    #[inline(always)]
    fn try_fault_in(
        &self,
        address: Hva,
        access: Access,
        swapped: Option<SwappedIn<'_, H>>,
        beside: Option<AskBeside<'_>>,
    ) -> Result<Attempt<H>, FaultError> {
        let vmas = self.vmas.read();
        let vma = vmas.find(address).ok_or(FaultError::Unmapped(address))?;
        if !vma.protection.allows(access) {
            return Err(FaultError::Denied { address, access, protection: vma.protection });
        }
        let page = address.align_down(PageSize::Size4K);
        let found = self.look(page);
        if let Some(leaf) = allowing(&found, access) {
            if let Some(ask) = beside {
                ask.answer(&**self.host(), &found, page);
            }
            return Ok(Attempt::Done(self.mapping(&leaf)));
        }
        let (swapped, lacking, announced) = (Cell::new(swapped), Cell::new(0), Cell::new(0));
        let beside = Cell::new(beside);
        let fault = Fault { vma, page, access, swapped, lacking, announced, beside };
        self.change(&fault, found)
    }

    /// What was found does not allow the access: changes that, or says what has to be read first. Apart, so that who finds what he wants
    /// does not pay for it.
    #[inline(never)]
    fn change(&self, fault: &Fault<'_, H>, mut found: Found<HostEntry>) -> Result<Attempt<H>, FaultError> {
        loop {
            if let Some(attempt) = self.try_change(fault, &found)? {
                return Ok(attempt);
            }
            found = self.look(fault.page);
            if let Some(leaf) = allowing(&found, fault.access) {
                return Ok(Attempt::Done(self.mapping(&leaf)));
            }
        }
    }

    /// `None`: another look will tell.
    #[inline(always)]
    fn try_change(
        &self,
        fault: &Fault<'_, H>,
        found: &Found<HostEntry>,
    ) -> Result<Option<Attempt<H>>, FaultError> {
        fault.lacking.set(found.level as usize - Level::Pt as usize);
        let mapped = match found.page() {
            Some(page) => self.write_protected(fault, found, &page)?,
            None => match found.view() {
                _ if found.shared => {
                    self.own_table(fault.page)?;
                    None
                }
                View::Leaf(leaf) => self.write_protected_huge(fault, found, &leaf)?,
                View::Note(Note::Swap(slot)) => match self.swap_in(fault, found, slot)? {
                    Back::InSwap => return Ok(Some(Attempt::InSwap(slot))),
                    Back::Mapped(leaf) => Some(leaf),
                    Back::Changed => None,
                },
                View::Note(Note::Offset(index)) => self.map_file_page(fault, found.entry, index)?,
                View::Empty | View::Table(_) => match fault.unread_file() {
                    Some(file) => return Ok(Some(Attempt::InFile(Arc::clone(file), fault.index()))),
                    None => self.missing(fault, found)?,
                },
            },
        };
        // Whether it still is there, the invalidation sequence tells (I2), as where an entry was found.
        let mapped = mapped.filter(|leaf| allows(leaf, fault.access));
        Ok(mapped.map(|leaf| {
            // A page that is mapped for a write is dirty, if it is counted at all.
            let dirty = fault.access == Access::Write || self.is_dirty(leaf.pfn);
            let announced = fault.announced.get();
            Attempt::Done(Mapping { announced, ..Mapping::of(&leaf, dirty) })
        }))
    }

    /// Whether a fault would find an entry that allows the access. Takes the mmap lock for reading.
    pub(crate) fn has_page(&self, address: Hva, access: Access) -> bool {
        let _vmas = self.vmas.read();
        allowing(&self.look(address), access).is_some()
    }

    /// Lock-free: held for reading, the mmap lock keeps the tables from vanishing, but for shared ones.
    #[inline(always)]
    fn look(&self, page: Hva) -> Found<HostEntry> {
        let found = self.walk_owned(page);
        if found.level > Level::Pt && found.entry.is_shared_table() { self.look_locked(page) } else { found }
    }

    #[inline(never)]
    fn look_locked(&self, page: Hva) -> Found<HostEntry> {
        let _tables = self.tables.lock();
        self.walk(page)
    }

    /// Nothing is mapped.
    fn missing(&self, fault: &Fault<'_, H>, found: &Found<HostEntry>) -> Mapped {
        match &fault.vma.kind {
            VmaKind::Anonymous(PageSize::Size4K) => self.map_anonymous(fault, found),
            VmaKind::Anonymous(size) => self.map_huge(fault, *size).map(|()| None),
            VmaKind::Private(..) | VmaKind::Shared(..) => {
                self.map_file_page(fault, paging::HostEntry::EMPTY, fault.index())
            }
        }
    }
}

/// The leaf, if there is one and it allows the access. What mostly is not so is asked first, of the bits.
#[inline(always)]
fn allowing(found: &Found<HostEntry>, access: Access) -> Option<Leaf> {
    let wanted = match access {
        Access::Read => HostEntry::PRESENT,
        Access::Write => HostEntry::PRESENT | HostEntry::WRITABLE,
    };
    let may_allow = found.entry.bits() & wanted == wanted;
    if may_allow { found.leaf().filter(|leaf| allows(leaf, access)) } else { None }
}

const fn allows(leaf: &Leaf, access: Access) -> bool {
    match access {
        Access::Read => leaf.rights.read,
        Access::Write => leaf.rights.write,
    }
}
