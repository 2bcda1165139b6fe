//! The bench for everything at once: several spaces that fork from each other, guests in them, files, swap.
//!
//! As in [`crate::lab`], every operation runs the product, asks the model for its opinion, and then the oracle. What
//! differs is a [`Violation`]. Pages are numbered: those of the arena from 0, those above [`ANNEX`] lie where mremap
//! moves what may move.

mod access;
mod areas;
mod check;
mod devices;
mod dirty_log;
mod files;
mod frames;
mod late;
mod model;
mod operations;
mod paging;
mod remap;
mod rewrite;

pub use access::By;
pub use devices::{Direct4K, Disk, Kept, Medium, Slots};
pub use frames::Reclaim;
pub use late::Late;
pub use operations::{Backing, Callback};
pub use paging::{Lost, TABLES, gva};
pub use remap::Move;
pub use rewrite::{IN_SMALL, Rewrite};

use crate::lab::{ARENA, Verdict};
use crate::machine::{Kind, Machine, Options, Speculation};
use crate::{Violation, lock};
use addr::{Gfn, GfnRange, Hva, HvaRange, PAGE_SHIFT, Pfn};
use areas::Run;
use mm::notifier::MmuNotifier;
use mm::{AddressSpace, File, Mm, Zeros};
use mmu::{SecondaryMmu, Slot};
use model::{Model, Words};
use std::sync::{Arc, Mutex};

/// Most spaces at a time.
pub const SPACES: usize = 3;
/// First page number that lies behind the arena.
pub const ANNEX: u64 = 2048;
/// Pages behind the arena that guests see.
pub const ANNEX_PAGES: u64 = 64;
/// First guest frame of the slot whose frames are out of step with the host's.
pub const ALIAS: u64 = 5001;
/// Pages that it shows: first, and how many.
pub const ALIASED: (u64, u64) = (510, 520);
/// Where the annex lies: the lowest address that a mapping gets which named none.
const ANNEX_BASE: Hva = Hva::new(0x10_0000_0000);

/// Shared anonymous memory.
pub const SHARED: usize = 0;
/// A file with a store.
pub const STORED: usize = 1;
/// An execute-in-place file.
pub const IN_PLACE: usize = 2;
/// Pages of the files at first.
const FILE_PAGES: [u64; 3] = [24, 24, 12];

/// The number of a page: its address in pages.
pub(super) fn number(page: u64) -> u64 {
    match page.checked_sub(ANNEX) {
        None => (ARENA.as_u64() >> PAGE_SHIFT) + page,
        Some(behind) => (ANNEX_BASE.as_u64() >> PAGE_SHIFT) + behind,
    }
}

pub(super) fn address(number: u64) -> Hva {
    Hva::new(number << PAGE_SHIFT)
}

fn run(first: u64, count: u64) -> Run {
    (number(first), number(first) + count)
}

fn span((first, end): Run) -> HvaRange {
    HvaRange::new(address(first), address(end))
}

/// A guest of a space.
struct Guest {
    mmu: Arc<SecondaryMmu<Machine>>,
    root: Pfn,
    slots: Vec<Slot>,
}

struct Living {
    space: Arc<AddressSpace<Machine>>,
    guest: Option<Guest>,
    /// What a guest's own tables map, if they are in its pages.
    tables: Option<rewrite::Maps>,
    /// What its pages held at the last harvest, where its guest is logged.
    seen: Option<dirty_log::Seen>,
}

/// Whether a space gets a guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum With {
    /// It does.
    Guest,
    /// It does not.
    Nothing,
}

/// The bench.
pub struct World {
    /// The machine.
    pub machine: Arc<Machine>,
    /// Its memory manager.
    pub mm: Arc<Mm<Machine>>,
    /// What the swap device keeps.
    pub swap: Arc<Medium>,
    /// What the file with a store keeps.
    pub disk: Arc<Medium>,
    /// What the execute-in-place file is made of.
    pub in_place: Arc<Direct4K>,
    files: Vec<Arc<File<Machine>>>,
    spaces: [Option<Living>; SPACES],
    /// The space that each CPU has loaded.
    loaded: Vec<Option<usize>>,
    model: Model,
    /// An allocation will fail.
    armed: bool,
    /// Huge pages may be mapped somewhere.
    huge: bool,
    /// Accesses in the middle of operations.
    late: Arc<Mutex<late::Lateness>>,
}

impl World {
    /// A machine with a swap device of `slots` slots and three files, and no space.
    #[must_use]
    pub fn new(options: Options, slots: u64) -> Self {
        let machine = Arc::new(Machine::new(options));
        machine.watch_writes();
        let (swap, disk) = (Medium::new(&machine), Medium::new(&machine));
        let in_place = Direct4K::new(&machine, FILE_PAGES[IN_PLACE]);
        let device = Box::new(devices::Slots(Arc::clone(&swap), slots));
        let mm = Mm::new(Arc::clone(&machine), Some(device)).expect("a zero page");
        let files = vec![
            File::new(&mm, Box::new(Zeros), FILE_PAGES[SHARED]),
            File::new(&mm, Box::new(devices::Disk(Arc::clone(&disk))), FILE_PAGES[STORED]),
            File::new(&mm, Box::new(devices::InPlace(Arc::clone(&in_place))), FILE_PAGES[IN_PLACE]),
        ];
        let mut model = Model::new(SPACES, &FILE_PAGES);
        for index in 0..FILE_PAGES[STORED] {
            let word = 0xf11e_0000 + index;
            disk.put(index, vec![(0, word)]);
            model.files[STORED].pages.insert(index, Words::new([(0, word)]));
        }
        let loaded = machine.cpus().map(|_| None).collect();
        let spaces = [const { None }; SPACES];
        Self {
            machine,
            mm,
            swap,
            disk,
            in_place,
            files,
            spaces,
            loaded,
            model,
            armed: false,
            huge: false,
            late: Arc::default(),
        }
    }

    fn living(&self, id: usize) -> &Living {
        self.spaces[id].as_ref().expect("a living space")
    }

    /// A space. Whoever asks for it begins an operation: what was done to another before has ended.
    ///
    /// # Panics
    /// If there is none of that number.
    #[must_use]
    pub fn space(&self, id: usize) -> Arc<AddressSpace<Machine>> {
        self.machine.settle();
        Arc::clone(&self.living(id).space)
    }

    /// The guest of a space, and the root of its tables.
    #[must_use]
    pub fn guest(&self, id: usize) -> Option<(&SecondaryMmu<Machine>, Pfn)> {
        self.living(id).guest.as_ref().map(|guest| (&*guest.mmu, guest.root))
    }

    /// Whether there is a space of that number.
    #[must_use]
    pub fn is_living(&self, id: usize) -> bool {
        self.spaces[id].is_some()
    }

    /// A file.
    #[must_use]
    pub fn file(&self, file: usize) -> &Arc<File<Machine>> {
        &self.files[file]
    }

    /// Lets the allocation fail that comes after `successes` others.
    pub fn fail_allocation_after(&mut self, successes: u64) {
        self.machine.fail_allocation_after(successes);
        self.armed = true;
    }

    /// Lets none fail any more; whether the failure asked for had not happened yet.
    pub fn cancel_failure(&mut self) -> bool {
        self.armed = false;
        self.machine.cancel_failure()
    }

    /// A new space in a free place.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn spawn(&mut self, id: usize, with: With) -> Result<Verdict, Violation> {
        assert!(!self.is_living(id), "space {id} lives");
        let Ok(space) = AddressSpace::new(&self.mm) else {
            return self.judged(|| "a new space".into(), &[], Verdict::OutOfMemory);
        };
        self.model.spaces[id] = Some(model::Space::default());
        self.adopt(id, space, with, None)
    }

    /// fork.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn fork(&mut self, id: usize, to: usize, with: With) -> Result<Verdict, Violation> {
        assert!(!self.is_living(to), "space {to} lives");
        match self.space(id).fork() {
            Ok(child) => {
                self.absorb()?;
                self.model.spaces[to] = self.model.forked(id);
                self.adopt(to, child, with, self.living(id).tables.as_ref().map(rewrite::Maps::inherited))
            }
            Err(_) => self.judged(|| format!("fork of {id}"), &[], Verdict::OutOfMemory),
        }
    }

    fn adopt(
        &mut self,
        id: usize,
        space: Arc<AddressSpace<Machine>>,
        with: With,
        tables: Option<rewrite::Maps>,
    ) -> Result<Verdict, Violation> {
        self.machine.watch_root(Kind::Linear, space.root());
        lock(&self.late).add_space(space.root(), id);
        let mmu = (with == With::Guest).then(|| crate::paging::secondary(&self.machine, &space).ok());
        let guest = mmu.flatten().map(|mmu| {
            let mmu = Arc::new(mmu);
            space.register(Arc::clone(&mmu) as Arc<dyn MmuNotifier>);
            let root = mmu.root().expect("not released");
            self.machine.watch_root(Kind::GuestPhysical, root);
            lock(&self.late).add_guest(root, id);
            Guest { mmu, root, slots: Vec::new() }
        });
        self.spaces[id] = Some(Living { space, guest, tables, seen: None });
        self.add_slot(id, Gfn::new(0), run(0, ANNEX));
        self.add_slot(id, Gfn::new(ANNEX), run(ANNEX, ANNEX_PAGES));
        self.add_slot(id, Gfn::new(TABLES.0), run(TABLES.0, TABLES.1));
        self.judged(|| format!("a space {id}"), &[Verdict::Done], Verdict::Done)
    }

    fn add_slot(&mut self, id: usize, first: Gfn, pages: Run) {
        let Some(guest) = self.spaces[id].as_mut().and_then(|living| living.guest.as_mut()) else { return };
        let gfns = GfnRange::sized(first, pages.1 - pages.0).expect("guest frames");
        let slot = Slot::try_new(gfns, address(pages.0)).expect("a slot");
        guest.mmu.add_slot(slot).expect("no overlap");
        guest.slots.push(slot);
        lock(&self.late).set_slots(guest.root, &guest.slots);
        self.log_slot(id, &slot);
    }

    /// Adds the slot that is out of step, or removes it.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn toggle_alias(&mut self, id: usize) -> Result<Verdict, Violation> {
        let guest = self.spaces[id].as_mut().and_then(|living| living.guest.as_mut());
        let Some(guest) = guest else { return Ok(Verdict::NotRam) };
        match guest.slots.iter().position(|slot| slot.gfns().start() == Gfn::new(ALIAS)) {
            Some(place) => {
                let slot = guest.slots.remove(place);
                assert_eq!(guest.mmu.remove_slot(slot.gfns().start()), Some(slot));
                lock(&self.late).set_slots(guest.root, &guest.slots);
            }
            None => self.add_slot(id, Gfn::new(ALIAS), run(ALIASED.0, ALIASED.1)),
        }
        self.judged(|| format!("another slot in {id}"), &[Verdict::Done], Verdict::Done)
    }

    /// A space is torn down, its guest while it runs; then both go.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn exit(&mut self, id: usize) -> Result<Verdict, Violation> {
        self.space(id).exit();
        self.absorb()?;
        self.model.spaces[id] = Some(model::Space::default());
        self.judged(|| format!("exit of {id}"), &[Verdict::Done], Verdict::Done)?;
        for cpu in self.machine.cpus().filter(|cpu| self.loaded[cpu.0] == Some(id)).collect::<Vec<_>>() {
            self.machine.exit(cpu);
            self.machine.load_space(cpu, None);
            self.loaded[cpu.0] = None;
        }
        self.model.spaces[id] = None;
        self.spaces[id] = None;
        lock(&self.late).remove(id);
        self.judged(|| format!("the end of {id}"), &[Verdict::Done], Verdict::Done)
    }

    /// Whether CPUs fetch what nobody asked for: then A bits are not exact.
    fn speculates(&self) -> bool {
        self.machine.options.speculation != Speculation::Off
    }

    /// Lets all devices fail, or none.
    pub fn set_devices_failing(&mut self, failing: bool) {
        self.swap.set_failing(failing);
        self.disk.set_failing(failing);
        self.in_place.set_failing(failing);
    }
}
