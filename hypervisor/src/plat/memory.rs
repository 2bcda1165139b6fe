//! A guest's memory: ordinary anonymous mappings of a host address space, and the three subscribers that follow it.
//!
//! ```text
//!   gpa ─────────── CPU, EPT ────────────────► frame        the guest's accesses
//!   gpa ──slot──► hva ──device TLB───────────► frame        accesses at its behest: devices, emulation, clocks
//!   gpa ──slot──► hva ──CPU, primary tables──► frame        the boot loader: Herald's own page faults
//!   observer                                                counts the notifier's calls
//! ```

use super::module::Module;
use super::store::FrameStore;
use super::upheaval::{Upheaval, Upheavals};
use crate::cpu::uaccess;
use crate::layout;
use crate::physmem::PhysicalMemory;
use abi::config::{Backing, BootConfig, VmConfig};
use addr::{Gfn, GfnRange, Gpa, GpaRange, Hva, HvaRange, PAGE_SHIFT, PAGE_SIZE, PageSize};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::ops::RangeInclusive;
use emulate::GuestMemory;
use firmware::{GuestWriter, Ram, WriteError};
use mm::notifier::MmuNotifier;
use mm::{
    Access, AddressSpace, Advice, File, Host, MapError, MapRequest, Mm, Placement, Protection, VmaKind,
};
use mmu::{
    AccessedDirty, DeviceTlb, DeviceTlbError, DirtyPages, FaultOutcome, GuestPaging, Incoherence,
    LinearAccess, LinearFault, LogBy, LogError, MmuError, Observer, PageFault, Processor, SecondaryMmu, Slot,
    SlotError, TABLES_OF_AN_INSTRUCTION,
};
use paging::OutOfTables;

/// Without the notifier chain nothing may move that the EPT maps: all memory is there from the start, and stays.
const PINNED: bool = !cfg!(feature = "mmu-notifier");

/// Whether pages of such memory are free once the guest gives them back.
pub(super) fn can_be_given_back(backing: Backing) -> bool {
    !PINNED && backing == Backing::Anonymous
}

/// Whether such memory can be copied on write: not what all copies would share, and not what has to stay.
pub(super) fn can_be_cloned(backing: Backing) -> bool {
    !PINNED && backing != Backing::Shared
}

/// How guests' addresses are translated: what the processor's EPT can do, or shadows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PagingFeatures {
    /// Whether it sets A and D bits.
    pub accessed_dirty: AccessedDirty,
    /// Its largest leaf.
    pub largest_page: PageSize,
    /// How writes to logged pages are seen.
    pub log_by: LogBy,
    /// Virtual processors with shadows: all of a guest's, or none under an EPT.
    pub shadows: usize,
}

/// Tables of a virtual processor's shadow, at first and at most: those map 512 MiB, if a guest's memory is in one piece.
const SHADOW_TABLES: RangeInclusive<usize> = TABLES_OF_AN_INSTRUCTION..=256;

/// Whether those who hold translations hear of changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Notifiers {
    /// As it must be.
    Subscribed,
    /// A fault injected by tests: the coherence oracle has to find it.
    Dropped,
}

impl Notifiers {
    /// As the configuration wants it.
    pub(super) const fn of(config: &BootConfig<'_>) -> Self {
        if config.inject.drop_notifiers { Self::Dropped } else { Self::Subscribed }
    }
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
    /// The processor's own page tables have no 1 GiB pages.
    NoGiganticPages,
}

impl fmt::Display for SetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the guest's memory cannot be set up: ")?;
        match self {
            Self::OutOfTables(error) => error.fmt(f),
            Self::Map(error) => error.fmt(f),
            Self::Slot(error) => error.fmt(f),
            Self::NoGiganticPages => {
                f.write_str("this processor has no 1 GiB pages (CPUID.80000001:EDX bit 26 reads 0)")
            }
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

/// Why guest memory was not reached at the guest's behest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AccessError {
    /// There is no RAM.
    NotRam(NotRam),
    /// The host refused, or has no memory for it.
    Device(DeviceTlbError),
}

impl fmt::Display for AccessError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRam(error) => error.fmt(f),
            Self::Device(error) => error.fmt(f),
        }
    }
}

/// The memory of one guest.
pub struct Memory<H: Host + 'static> {
    space: Arc<AddressSpace<H>>,
    mmu: Arc<SecondaryMmu<H>>,
    device_tlb: Arc<DeviceTlb<H>>,
    observer: Arc<Observer>,
    upheavals: Upheavals,
    log_by: LogBy,
    /// Whether equal pages are merged.
    merges: bool,
}

impl<H: Host + 'static> Memory<H> {
    /// Maps the guest's RAM, as yet without a single frame.
    ///
    /// # Errors
    /// [`SetupError`].
    pub fn new(
        mm: &Arc<Mm<H>>,
        ram: &Ram,
        backing: Backing,
        paging: PagingFeatures,
        notifiers: Notifiers,
    ) -> Result<Self, SetupError> {
        let space = AddressSpace::new(mm).map_err(SetupError::OutOfTables)?;
        let memory = Self::of(space, paging, notifiers).map_err(SetupError::OutOfTables)?;
        for range in ram.ranges() {
            memory.add_ram(range, backing)?;
        }
        Ok(memory)
    }

    /// Maps the guest's RAM from files, privately, each as long as its range.
    ///
    /// # Errors
    /// [`SetupError`].
    pub(super) fn of_files(
        mm: &Arc<Mm<H>>,
        ram: impl Iterator<Item = (GpaRange, Arc<File<H>>)>,
        paging: PagingFeatures,
        notifiers: Notifiers,
    ) -> Result<Self, SetupError> {
        let space = AddressSpace::new(mm).map_err(SetupError::OutOfTables)?;
        let memory = Self::of(space, paging, notifiers).map_err(SetupError::OutOfTables)?;
        for (range, file) in ram {
            memory.map_ram(range, VmaKind::Private(file, 0))?;
        }
        Ok(memory)
    }

    /// A copy, copied on write. Nobody else works on this memory meanwhile.
    ///
    /// # Errors
    /// [`SetupError`]; nothing has changed then.
    pub fn copy(&self, paging: PagingFeatures, notifiers: Notifiers) -> Result<Self, SetupError> {
        let space = self.space.fork().map_err(SetupError::OutOfTables)?;
        let mut copy = Self::of(space, paging, notifiers).map_err(SetupError::OutOfTables)?;
        // Its areas have it from those that they are copies of.
        copy.merges = self.merges;
        self.mmu
            .slots()
            .into_iter()
            .try_for_each(|slot| copy.mmu.add_slot(slot))
            .map_err(SetupError::Slot)?;
        Ok(copy)
    }

    /// The subscribers of an address space that has none.
    fn of(
        space: Arc<AddressSpace<H>>,
        paging: PagingFeatures,
        notifiers: Notifiers,
    ) -> Result<Self, OutOfTables> {
        let mmu = SecondaryMmu::new(Arc::clone(&space), paging.accessed_dirty)?;
        let mmu = mmu.with_largest_page(paging.largest_page).with_shadows(paging.shadows, SHADOW_TABLES)?;
        let device_tlb = Arc::new(DeviceTlb::new(Arc::clone(&space)));
        let memory = Self {
            space,
            mmu: Arc::new(mmu),
            device_tlb,
            observer: Arc::new(Observer::new()),
            upheavals: Upheavals::default(),
            log_by: paging.log_by,
            merges: false,
        };
        if notifiers == Notifiers::Subscribed {
            memory.space.register(Arc::clone(&memory.mmu) as Arc<dyn MmuNotifier>);
            memory.space.register(Arc::clone(&memory.device_tlb) as Arc<dyn MmuNotifier>);
        }
        memory.space.register(Arc::clone(&memory.observer) as Arc<dyn MmuNotifier>);
        Ok(memory)
    }

    fn add_ram(&self, range: GpaRange, backing: Backing) -> Result<(), SetupError> {
        let kind = match backing {
            Backing::Anonymous => VmaKind::Anonymous(PageSize::Size4K),
            Backing::HugePages => VmaKind::Anonymous(PageSize::Size2M),
            Backing::GiganticPages if crate::cpu::has_gigantic_pages() => {
                VmaKind::Anonymous(PageSize::Size1G)
            }
            Backing::GiganticPages => return Err(SetupError::NoGiganticPages),
            Backing::Shared => {
                let store = Box::new(FrameStore::new(Arc::clone(self.space.host())));
                VmaKind::Shared(File::new(self.space.mm(), store, range.len() >> PAGE_SHIFT), 0)
            }
        };
        self.map_ram(range, kind)
    }

    fn map_ram(&self, range: GpaRange, kind: VmaKind<H>) -> Result<(), SetupError> {
        let hvas = self
            .space
            .mmap(MapRequest {
                placement: Placement::Anywhere,
                len: range.len(),
                protection: Protection::ReadWrite,
                kind,
            })
            .map_err(SetupError::Map)?;
        let first: Gfn = range.start().gfn();
        let gfns = GfnRange::new(first, first.add(range.len() >> PAGE_SHIFT));
        let slot = Slot::try_new(gfns, hvas.start())
            .ok_or(SetupError::Map(MapError::NoRoom { len: range.len() }))?;
        if PINNED {
            self.space.mlock(hvas.start(), hvas.len()).map_err(SetupError::Map)?;
        }
        self.mmu.add_slot(slot).map_err(SetupError::Slot)
    }

    /// Sets the limit and the weight of a guest, and whether equal pages of it are merged.
    ///
    /// # Errors
    /// [`SetupError::Map`].
    pub(super) fn obey(&mut self, config: &VmConfig<'_>) -> Result<(), SetupError> {
        self.space.set_limit(config.memory_max.map(|bytes| bytes / PAGE_SIZE));
        self.space.set_weight(config.memory_weight);
        // What is pinned stays what it is.
        self.merges = config.merge && !PINNED;
        let slots = self.mmu.slots().into_iter();
        slots.map(|slot| slot.hvas()).try_for_each(|range| self.advise(range)).map_err(SetupError::Map)
    }

    /// Nobody merges pages of it from now on.
    pub(super) fn stop_merging(&mut self) {
        if core::mem::take(&mut self.merges) {
            let ranges = self.mmu.slots().into_iter().map(|slot| slot.hvas());
            // Where an area cannot be marked, the merger goes on to look at it: that costs time, and nothing else.
            ranges.for_each(|range| _ = self.space.stop_merging(range));
        }
    }

    /// What is said of all memory that is the guest's.
    fn advise(&self, range: HvaRange) -> Result<(), MapError> {
        if !self.merges {
            return Ok(());
        }
        self.space.madvise(range.start(), range.len(), Advice::Mergeable)
    }

    /// The host address space.
    pub fn space(&self) -> &Arc<AddressSpace<H>> {
        &self.space
    }

    /// The EPT.
    pub fn mmu(&self) -> &Arc<SecondaryMmu<H>> {
        &self.mmu
    }

    /// The translations that devices use.
    pub fn device_tlb(&self) -> &Arc<DeviceTlb<H>> {
        &self.device_tlb
    }

    /// Who counts the notifier's calls.
    pub fn observer(&self) -> &Arc<Observer> {
        &self.observer
    }

    /// Maps `pages` whole pages of a boot module, privately and without a copy. `None`: it lies elsewhere than in the
    /// direct map, or where frames have no metadata, or guest memory is not made of base pages.
    fn map_module(&self, gpa: Gpa, module: &[u8], pages: u64) -> Option<()> {
        let first = layout::direct_frame(Hva::try_new(module.as_ptr() as u64)?)?;
        let last = first.checked_add(pages.checked_sub(1)?)?;
        self.space.host().frames().knows(last).then_some(())?;
        let hva = self.pages(gpa, pages << PAGE_SHIFT).ok()?;
        let file = File::new(self.space.mm(), Box::new(Module::new(first, pages)), pages);
        let request = MapRequest {
            placement: Placement::Fixed(hva),
            len: pages << PAGE_SHIFT,
            protection: Protection::ReadWrite,
            kind: VmaKind::Private(file, 0),
        };
        self.space.mmap(request).ok().map(|_| ())
    }

    fn hva(&self, gpa: Gpa, len: u64) -> Result<Hva, NotRam> {
        let range = GpaRange::sized(gpa, len).ok_or(NotRam { gpa, len })?;
        self.mmu.translate(range).map(|hvas| hvas.start()).ok_or(NotRam { gpa, len })
    }

    /// Writes guest memory at the guest's behest.
    ///
    /// # Errors
    /// A hole, or the host has no memory; a part may be written then.
    pub fn write(&self, gpa: Gpa, bytes: &[u8]) -> Result<(), AccessError> {
        let hva = self.hva(gpa, bytes.len() as u64).map_err(AccessError::NotRam)?;
        self.upheavals.outlast(|| self.device_tlb.write(hva, bytes)).map_err(AccessError::Device)
    }

    /// Replaces bytes if they are those that they should be, in one go as the guest's processors see it where they are of the
    /// same eight; `None` where there is no RAM.
    ///
    /// # Errors
    /// [`MmuError`]; the guest cannot go on.
    pub fn exchange(&self, gpa: Gpa, old: &[u8], new: &[u8]) -> Result<Option<bool>, MmuError> {
        self.upheavals.outlast(|| self.mmu.exchange(gpa, old, new))
    }

    /// Resolves an EPT violation.
    ///
    /// # Errors
    /// [`MmuError`]; the guest cannot go on.
    pub fn fault(&self, gpa: Gpa, access: Access) -> Result<FaultOutcome, MmuError> {
        self.upheavals.outlast(|| self.mmu.fault(gpa, access))
    }

    /// The first half of it: whether the dirty log alone was in the way of a write, which may go on now.
    #[inline]
    pub fn passes_log(&self, gpa: Gpa, access: Access) -> bool {
        self.mmu.passes_log(gpa, access)
    }

    /// The other half, where that was not so. Apart, so that such a write does not pay for it.
    ///
    /// # Errors
    /// As for [`Self::fault`].
    #[inline(never)]
    pub fn fault_behind_log(&self, gpa: Gpa, access: Access) -> Result<FaultOutcome, MmuError> {
        self.upheavals.outlast(|| self.mmu.fault_behind_log(gpa, access))
    }

    /// Resolves a page fault of a virtual processor under a shadow.
    ///
    /// # Errors
    /// [`MmuError`]; the guest cannot go on.
    pub fn fault_linear(
        &self,
        processor: Processor,
        paging: &GuestPaging,
        linear: u64,
        access: LinearAccess,
    ) -> Result<LinearFault, MmuError> {
        self.upheavals.outlast(|| self.mmu.fault_linear(processor, paging, linear, access))
    }

    /// Where an access would go by the tables of a guest under a shadow.
    ///
    /// # Errors
    /// [`MmuError`]; the guest cannot go on. Its own fault is an answer.
    pub fn walk_linear(
        &self,
        paging: &GuestPaging,
        linear: u64,
        access: LinearAccess,
    ) -> Result<Result<Gpa, PageFault>, MmuError> {
        self.upheavals.outlast(|| self.mmu.walk_linear(paging, linear, access))
    }

    /// `mprotect(PROT_NONE)` and back on whole pages of guest memory: the entries go, the contents stay.
    /// `check` runs after each of the two.
    ///
    /// # Errors
    /// [`NotRam`], also where the range is empty or not page-aligned; nothing has changed then.
    pub fn protect(&self, gpa: Gpa, len: u64, mut check: impl FnMut()) -> Result<(), NotRam> {
        let hva = self.pages(gpa, len)?;
        let upheaval = self.upheaval();
        for protection in [Protection::None, Protection::ReadWrite] {
            self.space.mprotect(hva, len, protection).map_err(|_| NotRam { gpa, len })?;
            if protection == Protection::None {
                check();
            }
        }
        drop(upheaval);
        check();
        Ok(())
    }

    /// Begins an operation in the middle of which memory is not there.
    pub(super) fn upheaval(&self) -> Upheaval<'_> {
        self.upheavals.begin()
    }

    /// Whether there is such an operation.
    pub(super) fn is_in_upheaval(&self) -> bool {
        self.upheavals.is_active()
    }

    /// `madvise(MADV_DONTNEED)` on whole pages of guest memory: they read zero afterwards, or what the file has where
    /// memory is one.
    ///
    /// # Errors
    /// As for [`Self::protect`]; also where boot modules would fall into more areas than there can be: what lies before
    /// in the range is dropped then.
    pub fn discard(&self, gpa: Gpa, len: u64) -> Result<(), NotRam> {
        let hva = self.pages(gpa, len)?;
        let refused = |_| NotRam { gpa, len };
        self.forget_modules(HvaRange::new(hva, hva.add(len))).map_err(refused)?;
        self.space.discard(hva, len).map_err(refused)
    }

    /// Pages of boot modules are to read zero, too, once they are discarded: anonymous memory takes their place.
    fn forget_modules(&self, range: HvaRange) -> Result<(), MapError> {
        for area in self.space.vmas() {
            let part = area.range.intersection(&range);
            let Some(part) = part.filter(|_| matches!(area.kind, VmaKind::Private(..))) else { continue };
            self.space.mmap(MapRequest {
                placement: Placement::Fixed(part.start()),
                len: part.len(),
                protection: Protection::ReadWrite,
                kind: VmaKind::Anonymous(PageSize::Size4K),
            })?;
            self.advise(part)?;
        }
        Ok(())
    }

    /// Logs from now on which pages are written, all over RAM.
    ///
    /// # Errors
    /// [`LogError`]: they are logged already; nothing has changed then.
    pub fn begin_log(&self) -> Result<(), LogError> {
        let firsts = self.mmu.slots().into_iter().map(|slot| slot.gfns().start());
        let mut begun = Vec::new();
        for first in firsts {
            if let Err(error) = self.mmu.begin_log(first, self.log_by) {
                begun.into_iter().for_each(|first| _ = self.mmu.end_log(first));
                return Err(error);
            }
            begun.push(first);
        }
        Ok(())
    }

    /// Ends what [`Self::begin_log`] began.
    pub fn end_log(&self) {
        for slot in self.mmu.logged() {
            self.mmu.end_log(slot.gfns().start());
        }
    }

    /// Which of these pages the guest, its devices or the host have written since they were harvested last, or since the log
    /// began. What is written from now on is in the next harvest.
    pub fn harvest(&self, gfns: GfnRange) -> DirtyPages {
        self.mmu.harvest(gfns)
    }

    /// Whether these are whole pages of guest memory.
    pub fn has_pages(&self, range: GpaRange) -> bool {
        self.pages(range.start(), range.len()).is_ok()
    }

    /// The host address of whole pages of guest memory, for an operation that changes what they map.
    ///
    /// # Errors
    /// [`NotRam`], also where memory is pinned.
    pub(super) fn pages(&self, gpa: Gpa, len: u64) -> Result<Hva, NotRam> {
        let aligned = gpa.is_aligned(PageSize::Size4K) && len.is_multiple_of(PageSize::Size4K.bytes());
        if aligned && len > 0 && !PINNED { self.hva(gpa, len) } else { Err(NotRam { gpa, len }) }
    }

    /// Checks the coherence rule on the EPT and on the device TLB; returns how many entries it looked at.
    ///
    /// # Errors
    /// The first entry that breaks it.
    pub fn check_coherence(&self) -> Result<u64, Incoherence> {
        Ok(self.device_tlb.check_coherence()? + self.mmu.check_coherence()?)
    }
}

/// The guest has ended: its address space lets go of its subscribers, which refer to it, and of all that it maps.
impl<H: Host + 'static> Drop for Memory<H> {
    fn drop(&mut self) {
        self.space.exit();
    }
}

impl<H: Host + 'static> GuestMemory for Memory<H> {
    fn read(&self, gpa: Gpa, bytes: &mut [u8]) -> bool {
        let Ok(hva) = self.hva(gpa, bytes.len() as u64) else { return false };
        self.upheavals.outlast(|| self.device_tlb.read(hva, bytes)).is_ok()
    }
}

/// The boot loader's view: whole images, written by hva, whose pages Herald's own page faults bring in.
impl GuestWriter for &Memory<PhysicalMemory> {
    fn write(&mut self, gpa: Gpa, bytes: &[u8]) -> Result<(), WriteError> {
        let hva = self.hva(gpa, bytes.len() as u64).map_err(|hole| WriteError::Hole(hole.gpa))?;
        let done = uaccess::copy_to(&self.space, hva, bytes).map_err(|_| WriteError::OutOfMemory(gpa));
        self.space.wrote(HvaRange::new(hva, hva.add(bytes.len() as u64)));
        done
    }

    /// Whole pages are mapped where they lie; the rest, and what cannot be mapped, is copied.
    fn place_module(&mut self, gpa: Gpa, module: &[u8]) -> Result<(), WriteError> {
        let pages = module.len() as u64 >> PAGE_SHIFT;
        let mapped = self.map_module(gpa, module, pages).map_or(0, |()| (pages << PAGE_SHIFT) as usize);
        GuestWriter::write(self, gpa.add(mapped as u64), &module[mapped..])
    }
}
