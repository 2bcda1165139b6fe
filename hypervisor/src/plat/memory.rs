//! A guest's memory: ordinary anonymous mappings of a host address space, and the EPT that follows them.
//!
//! ```text
//!   gpa ──slot──► hva ──CPU, primary tables──► frame        Herald's own accesses
//!   gpa ─────────── CPU, EPT ────────────────► frame        the guest's accesses
//! ```
//!
//! Herald reads and writes guest memory by host virtual address: its own page faults bring the pages in.

use crate::cpu::uaccess;
use addr::{Gfn, GfnRange, Gpa, GpaRange, Hva, PAGE_SHIFT, PageSize};
use alloc::sync::Arc;
use core::fmt;
use emulate::GuestMemory;
use firmware::{GuestWriter, Ram, WriteError};
use mm::{Access, AddressSpace, Host, MapError, MapRequest, Placement, Protection, VmaKind};
use mmu::{AccessedDirty, FaultOutcome, Incoherence, MmuError, SecondaryMmu, Slot, SlotError};
use paging::OutOfTables;

/// Whether the secondary MMU hears of changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Notifiers {
    /// As it must be.
    Subscribed,
    /// A fault injected by tests: the coherence oracle has to find it.
    Dropped,
}

/// Why a guest's memory could not be set up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SetupError {
    /// No frame for a root table.
    OutOfTables(OutOfTables),
    /// The address space refused the mapping.
    Map(MapError),
    /// The secondary MMU refused the slot.
    Slot(SlotError),
}

impl fmt::Display for SetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the guest's memory cannot be set up: ")?;
        match self {
            Self::OutOfTables(error) => error.fmt(f),
            Self::Map(error) => error.fmt(f),
            Self::Slot(error) => error.fmt(f),
        }
    }
}

/// Bytes that are not all in one range of RAM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotRam {
    /// First guest-physical address.
    pub gpa: Gpa,
    /// Bytes.
    pub len: u64,
}

impl fmt::Display for NotRam {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x} bytes at {} are not guest RAM, or not whole pages", self.len, self.gpa)
    }
}

/// The memory of one guest.
pub struct Memory<H: Host + 'static> {
    space: Arc<AddressSpace<H>>,
    mmu: Arc<SecondaryMmu<H>>,
}

impl<H: Host + 'static> Memory<H> {
    /// Maps the guest's RAM, as yet without a single frame.
    ///
    /// # Errors
    /// [`SetupError`].
    pub fn new(
        host: Arc<H>,
        ram: &Ram,
        accessed_dirty: AccessedDirty,
        notifiers: Notifiers,
    ) -> Result<Self, SetupError> {
        let space = Arc::new(AddressSpace::new(host).map_err(SetupError::OutOfTables)?);
        let mmu = SecondaryMmu::new(Arc::clone(&space), accessed_dirty).map_err(SetupError::OutOfTables)?;
        let memory = Self { space, mmu: Arc::new(mmu) };
        if notifiers == Notifiers::Subscribed {
            memory.space.register(Arc::clone(&memory.mmu) as Arc<dyn mm::notifier::MmuNotifier>);
        }
        for range in ram.ranges() {
            memory.add_ram(range)?;
        }
        Ok(memory)
    }

    fn add_ram(&self, range: GpaRange) -> Result<(), SetupError> {
        let hvas = self
            .space
            .mmap(MapRequest {
                placement: Placement::Anywhere,
                len: range.len(),
                protection: Protection::ReadWrite,
                kind: VmaKind::Anonymous(PageSize::Size4K),
            })
            .map_err(SetupError::Map)?;
        let first: Gfn = range.start().gfn();
        let gfns = GfnRange::new(first, first.add(range.len() >> PAGE_SHIFT));
        let slot = Slot::try_new(gfns, hvas.start())
            .ok_or(SetupError::Map(MapError::NoRoom { len: range.len() }))?;
        self.mmu.add_slot(slot).map_err(SetupError::Slot)
    }

    /// The host address space.
    pub fn space(&self) -> &Arc<AddressSpace<H>> {
        &self.space
    }

    /// The EPT.
    pub fn mmu(&self) -> &Arc<SecondaryMmu<H>> {
        &self.mmu
    }

    fn hva(&self, gpa: Gpa, len: u64) -> Result<Hva, NotRam> {
        let range = GpaRange::sized(gpa, len).ok_or(NotRam { gpa, len })?;
        self.mmu.translate(range).map(|hvas| hvas.start()).ok_or(NotRam { gpa, len })
    }

    /// Writes guest memory at the guest's behest.
    ///
    /// # Errors
    /// A hole, or the host has no memory; a part may be written then.
    pub fn write(&self, gpa: Gpa, bytes: &[u8]) -> Result<(), WriteError> {
        let hva = self.hva(gpa, bytes.len() as u64).map_err(|hole| WriteError::Hole(hole.gpa))?;
        uaccess::copy_to(hva, bytes).map_err(|_| WriteError::OutOfMemory(gpa))
    }

    /// Resolves an EPT violation.
    ///
    /// # Errors
    /// [`MmuError`]; the guest cannot go on.
    pub fn fault(&self, gpa: Gpa, access: Access) -> Result<FaultOutcome, MmuError> {
        self.mmu.fault(gpa, access)
    }

    /// `mprotect(PROT_NONE)` and back on whole pages of guest memory: the entries go, the contents stay.
    /// `check` runs after each of the two.
    ///
    /// # Errors
    /// [`NotRam`], also where the range is empty or not page-aligned; nothing has changed then.
    pub fn protect(&self, gpa: Gpa, len: u64, mut check: impl FnMut()) -> Result<(), NotRam> {
        let hva = self.pages(gpa, len)?;
        for protection in [Protection::None, Protection::ReadWrite] {
            self.space.mprotect(hva, len, protection).map_err(|_| NotRam { gpa, len })?;
            check();
        }
        Ok(())
    }

    /// `madvise(MADV_DONTNEED)` on whole pages of guest memory: they read zero afterwards.
    ///
    /// # Errors
    /// As for [`Self::protect`].
    pub fn discard(&self, gpa: Gpa, len: u64) -> Result<(), NotRam> {
        let hva = self.pages(gpa, len)?;
        self.space.discard(hva, len).map_err(|_| NotRam { gpa, len })
    }

    fn pages(&self, gpa: Gpa, len: u64) -> Result<Hva, NotRam> {
        let aligned = gpa.is_aligned(PageSize::Size4K) && len.is_multiple_of(PageSize::Size4K.bytes());
        if aligned && len > 0 { self.hva(gpa, len) } else { Err(NotRam { gpa, len }) }
    }

    /// Checks the coherence rule; returns how many entries it looked at.
    ///
    /// # Errors
    /// The first entry that breaks it.
    pub fn check_coherence(&self) -> Result<u64, Incoherence> {
        self.mmu.check_coherence()
    }
}

impl<H: Host + 'static> GuestMemory for Memory<H> {
    fn read(&self, gpa: Gpa, bytes: &mut [u8]) -> bool {
        let Ok(hva) = self.hva(gpa, bytes.len() as u64) else { return false };
        uaccess::copy_from(bytes, hva).is_ok()
    }
}

/// The boot loader's view: whole images, whose pages are faulted in as they are written.
impl<H: Host + 'static> GuestWriter for &Memory<H> {
    fn write(&mut self, gpa: Gpa, bytes: &[u8]) -> Result<(), WriteError> {
        Memory::write(self, gpa, bytes)
    }
}
