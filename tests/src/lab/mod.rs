//! The bench: one machine, one address space, guests on its CPUs, and a model that knows what must come of it.
//!
//! Every operation runs the product, asks the [`Model`](model::Model) for its opinion, and then the oracle. What
//! differs is a [`Violation`].

mod access;
mod deaf;
mod device;
mod model;
mod operations;
mod verdict;

pub use deaf::{Deaf, Miss, Notice};
pub use device::{Device, DeviceId};
pub use verdict::Verdict;

use crate::machine::{Kind, Machine, Options};
use crate::oracle::{self, Census, Secondary, Subjects};
use crate::paging::{OFF, load_root};
use crate::{Violation, lock};
use addr::{Gfn, GfnRange, Gpa, Hva, HvaRange, PAGE_SHIFT, PAGE_SIZE, PageSize, Pfn};
use mm::notifier::MmuNotifier;
use mm::{AddressSpace, CpuIndex, Host, Mm};
use mmu::{Drops, GuestPaging, SecondaryMmu, Slot};
use model::Model;
use std::sync::{Arc, Mutex};

/// First address of the arena that tests work in: the start of a 1 GiB page.
pub const ARENA: Hva = Hva::new(0x20_0000_0000);

/// The address of a base page of the arena.
#[must_use]
pub const fn page(index: u64) -> Hva {
    ARENA.add(index * PAGE_SIZE)
}

/// The addresses of `count` base pages of the arena.
#[must_use]
pub fn pages(first: u64, count: u64) -> HvaRange {
    HvaRange::new(page(first), page(first + count))
}

/// The guest-physical address of a base page.
#[must_use]
pub const fn gpage(index: u64) -> Gpa {
    Gfn::new(index).base()
}

/// A guest of the bench, by number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GuestId(pub usize);

/// A guest of the bench.
pub struct Guest {
    /// Its EPT.
    pub mmu: Arc<SecondaryMmu<Machine>>,
    /// What is subscribed in its place.
    pub ears: Arc<Deaf>,
    root: Pfn,
    slots: Mutex<Vec<Slot>>,
    /// Under a shadow.
    paging: GuestPaging,
}

impl Guest {
    /// The root of its EPT, also after release.
    #[must_use]
    pub const fn root(&self) -> Pfn {
        self.root
    }

    fn hva_of(&self, gpa: Gpa) -> Option<Hva> {
        let slots = lock(&self.slots);
        let slot = slots.iter().find(|slot| slot.gfns().contains(gpa.gfn()))?;
        Some(slot.hva_of(gpa.gfn()).add(gpa.offset_in(PageSize::Size4K)))
    }
}

/// The bench.
pub struct Lab {
    /// The machine.
    pub machine: Arc<Machine>,
    /// Its memory manager.
    pub mm: Arc<Mm<Machine>>,
    /// The address space under test.
    pub space: Arc<AddressSpace<Machine>>,
    guests: Vec<Guest>,
    devices: Vec<Device>,
    model: Mutex<Model>,
    held: Vec<(Pfn, PageSize)>,
}

impl Lab {
    /// A machine with one address space, loaded on all CPUs, one guest without RAM and one device.
    #[must_use]
    pub fn new(options: Options) -> Self {
        let machine = Arc::new(Machine::new(options));
        let mm = Mm::new(Arc::clone(&machine), None).expect("a zero page");
        let space = AddressSpace::new(&mm).expect("a root");
        machine.cpus().for_each(|cpu| machine.load_space(cpu, Some(space.root())));
        let mut lab = Self {
            machine,
            mm,
            space,
            guests: Vec::new(),
            devices: Vec::new(),
            model: Mutex::default(),
            held: Vec::new(),
        };
        lab.add_guest();
        lab.add_device();
        lab
    }

    /// A bench with RAM for guest 0: `count` guest frames from 0, backed by the arena page by page.
    #[must_use]
    pub fn with_ram(options: Options, count: u64) -> Self {
        let lab = Self::new(options);
        lab.add_slot(GuestId(0), gpage(0), pages(0, count));
        lab
    }

    /// One more guest on the same address space.
    pub fn add_guest(&mut self) -> GuestId {
        let mmu = crate::paging::secondary(&self.machine, &self.space).expect("a root");
        let (mmu, root) = (Arc::new(mmu), Pfn::ZERO);
        let root = mmu.root().unwrap_or(root);
        let ears = Arc::new(Deaf::new(Arc::clone(&mmu) as Arc<dyn MmuNotifier>));
        self.space.register(Arc::clone(&ears) as Arc<dyn MmuNotifier>);
        self.guests.push(Guest { mmu, ears, root, slots: Mutex::default(), paging: OFF });
        GuestId(self.guests.len() - 1)
    }

    /// Under a shadow: a guest's processors have this paging, by which addresses lead to themselves.
    pub fn set_paging(&mut self, id: GuestId, paging: GuestPaging) {
        for cpu in self.machine.cpus() {
            self.machine.exit(cpu);
            load_root(&self.machine, &self.guest(id).mmu, cpu, (&paging, Drops::All));
        }
        self.guests[id.0].paging = paging;
    }

    /// The last guest goes, and its secondary MMU, while the address space lives on.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn remove_guest(&mut self) -> Result<Verdict, Violation> {
        let Some(guest) = self.guests.pop() else { return Ok(Verdict::Unmapped) };
        self.machine.cpus().for_each(|cpu| self.machine.exit(cpu));
        let ears = Arc::clone(&guest.ears) as Arc<dyn MmuNotifier>;
        assert!(self.space.unregister(&ears), "it was registered");
        drop((guest, ears));
        self.audited(Verdict::Done)
    }

    /// A guest.
    #[must_use]
    pub fn guest(&self, id: GuestId) -> &Guest {
        &self.guests[id.0]
    }

    /// Makes guest frames from `first` on RAM, backed by `range`.
    pub fn add_slot(&self, guest: GuestId, first: Gpa, range: HvaRange) {
        let guest = self.guest(guest);
        let gfns = GfnRange::sized(first.gfn(), range.len() >> PAGE_SHIFT).expect("guest frames");
        let slot = Slot::try_new(gfns, range.start()).expect("a slot");
        guest.mmu.add_slot(slot).expect("no overlap");
        lock(&guest.slots).push(slot);
    }

    /// Makes the slot that starts at `first` no RAM any more.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn remove_slot(&self, guest: GuestId, first: Gpa) -> Result<Verdict, Violation> {
        let guest = self.guest(guest);
        let removed = guest.mmu.remove_slot(first.gfn());
        lock(&guest.slots).retain(|slot| Some(*slot) != removed);
        lock(&self.model).all_zapped();
        self.audited(if removed.is_some() { Verdict::Done } else { Verdict::NotRam })
    }

    /// Asks the oracle.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn check(&self) -> Result<Census, Violation> {
        let secondaries: Vec<_> = self
            .guests
            .iter()
            .map(|guest| Secondary { mmu: Arc::clone(&guest.mmu), root: guest.root })
            .collect();
        let held = self.held.iter().map(|(_, size)| size.base_pages()).sum();
        let spaces = std::slice::from_ref(&self.space);
        let devices: Vec<_> = self.devices.iter().map(|device| Arc::clone(&device.tlb)).collect();
        let subjects = Subjects {
            mm: Some(&self.mm),
            files: &[],
            spaces,
            secondaries: &secondaries,
            devices: &devices,
            held,
        };
        oracle::check(&self.machine, subjects)
    }

    /// Passes a verdict on if the oracle finds everything in order.
    fn audited(&self, verdict: Verdict) -> Result<Verdict, Violation> {
        self.check()?;
        Ok(verdict)
    }

    /// As [`Self::audited`], where the model has said what the verdict must be. Shortage of memory, which the
    /// model cannot foretell, always passes.
    fn judged(
        &self,
        what: impl FnOnce() -> String,
        expected: &[Verdict],
        found: Verdict,
    ) -> Result<Verdict, Violation> {
        if found != Verdict::OutOfMemory && !expected.contains(&found) {
            let (expected, found) = (format!("{expected:?}"), format!("{found:?}"));
            return Err(Violation::Answer { what: what(), expected, found });
        }
        self.audited(found)
    }

    /// Takes all free frames away, but for `left`.
    pub fn hoard(&mut self, left: u64) {
        let size = PageSize::Size4K;
        while self.machine.frames().free_count() > left {
            let Ok(frame) = self.machine.frames().allocate(CpuIndex(0), size) else { return };
            self.held.push((frame, size));
        }
    }

    /// Gives back what was hoarded.
    pub fn give_back(&mut self) {
        for (frame, size) in std::mem::take(&mut self.held) {
            assert!(self.machine.frames().meta(frame).put(), "{frame} has other owners");
            self.machine.frames().free(CpuIndex(0), frame, size);
        }
    }

    /// The host tears the address space down, while guests may still run.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn exit_space(&self) -> Result<Verdict, Violation> {
        self.space.exit();
        *lock(&self.model) = Model::default();
        self.audited(Verdict::Done)
    }

    /// Ends everything in order, and checks that the machine has all its frames back.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn finish(mut self) -> Result<(), Violation> {
        self.machine.clear_hook();
        self.exit_space()?;
        self.give_back();
        for cpu in self.machine.cpus() {
            self.machine.exit(cpu);
            self.machine.load_space(cpu, None);
        }
        let machine = Arc::clone(&self.machine);
        drop(self);
        let nothing = Subjects { mm: None, files: &[], spaces: &[], secondaries: &[], devices: &[], held: 0 };
        let census = oracle::check(&machine, nothing)?;
        assert_eq!(census, Census::default());
        Ok(())
    }

    /// Whether the guest on this CPU has a translation of this page cached.
    #[must_use]
    pub fn guest_has_cached(&self, cpu: CpuIndex, gpa: Gpa) -> bool {
        self.machine.has_cached(cpu, Kind::GuestPhysical, gpa.as_u64())
    }
}
