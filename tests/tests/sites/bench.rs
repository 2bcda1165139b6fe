//! The bench: a machine with swap and files, and several address spaces, each with a guest.
//!
//! Space n has two CPUs of its own: its guest runs on CPU 2n and never leaves guest mode but for faults, Herald works
//! in the space on CPU 2n + 1. So whatever a CPU has cached once is still there when somebody forgets to flush.
//! Guest frame n is page n of the arena. After each step the oracle looks at everything.

use crate::Outcome;
use crate::devices::{Disk, InPlace, Platter, Swap};
use crate::recorder::Recorder;
use addr::{Gfn, GfnRange, HvaRange, PAGE_SIZE, PageSize, Pfn};
use mm::notifier::MmuNotifier;
use mm::{
    Access, AddressSpace, CpuIndex, File, Host, MapRequest, Mm, Placement, Protection, Spared, VmaKind,
};
use mmu::{AccessedDirty, FaultOutcome, SecondaryMmu, Slot};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tests::Violation;
use tests::lab::{ARENA, Deaf, Verdict, gpage, page, pages};
use tests::machine::{Machine, Options};
use tests::oracle::{self, Census, Secondary, Subjects};
use tests::paging::{resolve, secondary};

/// Address spaces that a bench has CPUs for.
const MOST_SPACES: usize = 3;
/// Faults that one access may take before it counts as stuck.
const MOST_FAULTS: u32 = 64;

/// What kind of bench.
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    /// Base frames of memory.
    pub(crate) frames: u64,
    /// Slots of the swap device.
    pub(crate) swap: u64,
    /// Base pages of each guest's RAM.
    pub(crate) ram: u64,
    /// Whether EPT entries have A and D bits.
    pub(crate) accessed_dirty: AccessedDirty,
    /// Whether what is shown needs A bits: then guests are under an EPT in any case.
    pub(crate) needs_young: bool,
}

/// A small machine.
pub(crate) const SMALL: Plan =
    Plan { frames: 2048, swap: 16, ram: 16, accessed_dirty: AccessedDirty::Hardware, needs_young: false };
/// A machine for 2 MiB pages.
pub(crate) const LARGE: Plan = Plan { frames: 8192, ram: 1536, ..SMALL };

/// An address space with its guest.
pub(crate) struct Space {
    pub(crate) space: Arc<AddressSpace<Machine>>,
    pub(crate) mmu: Arc<SecondaryMmu<Machine>>,
    pub(crate) ears: Arc<Deaf>,
    pub(crate) log: Arc<Recorder>,
    pub(crate) root: Pfn,
    pub(crate) guest_cpu: CpuIndex,
    pub(crate) herald_cpu: CpuIndex,
}

/// An address space of the bench, by number.
pub(crate) type SpaceId = usize;

/// The bench.
pub(crate) struct Bench {
    pub(crate) machine: Arc<Machine>,
    pub(crate) mm: Arc<Mm<Machine>>,
    pub(crate) swap: Arc<Platter>,
    plan: Plan,
    platters: Mutex<Vec<Arc<Platter>>>,
    files: Mutex<Vec<Arc<File<Machine>>>>,
    spaces: Mutex<Vec<Option<Arc<Space>>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Bench {
    /// A bench with one address space, of which nothing is mapped.
    pub(crate) fn new(plan: Plan) -> Self {
        let options = Options {
            frames: plan.frames,
            cpus: 2 * MOST_SPACES,
            quarantine: plan.frames / 8,
            accessed_dirty: plan.accessed_dirty,
            ..Options::default()
        };
        // A shadow always has A bits.
        let by_ept = plan.needs_young || plan.accessed_dirty == AccessedDirty::Absent;
        let options = if by_ept { options } else { options.with_chosen_paging() };
        let machine = Arc::new(Machine::new(options));
        let swap = Platter::new(&machine, plan.swap);
        let mm = Mm::new(Arc::clone(&machine), Some(Box::new(Swap(Arc::clone(&swap))))).expect("a zero page");
        let platters = Mutex::new(vec![Arc::clone(&swap)]);
        let (files, spaces) = (Mutex::default(), Mutex::default());
        let bench = Self { machine, mm, swap, plan, platters, files, spaces };
        bench.add_space();
        bench
    }

    /// One more address space.
    pub(crate) fn add_space(&self) -> SpaceId {
        self.adopt(AddressSpace::new(&self.mm).expect("a root"))
    }

    /// Gives an address space its guest and its CPUs.
    pub(crate) fn adopt(&self, space: Arc<AddressSpace<Machine>>) -> SpaceId {
        let mmu = Arc::new(secondary(&self.machine, &space).expect("a root"));
        let root = mmu.root().expect("a new MMU has a root");
        let gfns = GfnRange::sized(Gfn::ZERO, self.plan.ram).expect("guest frames");
        mmu.add_slot(Slot::try_new(gfns, ARENA).expect("a slot")).expect("no other slot");
        // First in the chain: it sees what the guest's MMU has before that hears.
        let log = Arc::new(Recorder::new(&space, &mmu, self.plan.ram));
        space.register(Arc::clone(&log) as Arc<dyn MmuNotifier>);
        let ears = Arc::new(Deaf::new(Arc::clone(&mmu) as Arc<dyn MmuNotifier>));
        space.register(Arc::clone(&ears) as Arc<dyn MmuNotifier>);
        let mut spaces = lock(&self.spaces);
        // The CPUs of one that has ended are free.
        let id = spaces.iter().position(Option::is_none).unwrap_or(spaces.len());
        assert!(id < MOST_SPACES, "a bench has CPUs for {MOST_SPACES} spaces");
        let (guest_cpu, herald_cpu) = (CpuIndex(2 * id), CpuIndex(2 * id + 1));
        for cpu in [guest_cpu, herald_cpu] {
            self.machine.load_space(cpu, Some(space.root()));
        }
        self.machine.enter(guest_cpu, root);
        let own = Some(Arc::new(Space { space, mmu, ears, log, root, guest_cpu, herald_cpu }));
        match spaces.get_mut(id) {
            Some(place) => *place = own,
            None => spaces.push(own),
        }
        id
    }

    /// An address space that still lives.
    pub(crate) fn space(&self, id: SpaceId) -> Arc<Space> {
        lock(&self.spaces)[id].clone().expect("the space lives")
    }

    /// All that live.
    pub(crate) fn live(&self) -> Vec<SpaceId> {
        lock(&self.spaces).iter().enumerate().filter_map(|(id, space)| space.as_ref().map(|_| id)).collect()
    }

    /// fork.
    pub(crate) fn fork(&self, parent: SpaceId) -> Result<SpaceId, Violation> {
        let child = self.space(parent).space.fork();
        let child = child.map_err(|error| answer("fork", "a child", format!("{error:?}")))?;
        let child = self.adopt(child);
        self.check()?;
        Ok(child)
    }

    /// Ends a space while its guest still runs, and takes everything of it away.
    pub(crate) fn end_space(&self, id: SpaceId) -> Outcome {
        self.space(id).space.exit();
        self.check()?;
        let space = lock(&self.spaces)[id].take().expect("the space lives");
        for cpu in [space.guest_cpu, space.herald_cpu] {
            self.machine.exit(cpu);
            self.machine.load_space(cpu, None);
        }
        drop(space);
        self.check()
    }

    /// A file on a disk of its own: page n starts with `DISK` + n.
    pub(crate) fn disk_file(&self, len: u64) -> (Arc<File<Machine>>, Arc<Platter>) {
        let platter = Platter::new(&self.machine, len);
        lock(&self.platters).push(Arc::clone(&platter));
        let file = File::new(&self.mm, Box::new(Disk(Arc::clone(&platter))), len);
        lock(&self.files).push(Arc::clone(&file));
        (file, platter)
    }

    /// The platters in the order in which they were made: the swap device's comes first.
    pub(crate) fn platter(&self, index: usize) -> Arc<Platter> {
        Arc::clone(&lock(&self.platters)[index])
    }

    /// The files in the order in which they were made.
    pub(crate) fn file(&self, index: usize) -> Arc<File<Machine>> {
        Arc::clone(&lock(&self.files)[index])
    }

    /// A file in execute-in-place memory.
    pub(crate) fn xip_file(&self, len: u64) -> Arc<File<Machine>> {
        let store = InPlace::new(&self.machine, len as usize);
        let file = File::new(&self.mm, Box::new(store), len);
        lock(&self.files).push(Arc::clone(&file));
        file
    }

    /// mmap at a fixed place, readable and writable.
    pub(crate) fn map(&self, id: SpaceId, range: HvaRange, kind: VmaKind<Machine>) -> Outcome {
        self.map_with(id, range, kind, Protection::ReadWrite)
    }

    /// mmap at a fixed place.
    pub(crate) fn map_with(
        &self,
        id: SpaceId,
        range: HvaRange,
        kind: VmaKind<Machine>,
        protection: Protection,
    ) -> Outcome {
        let placement = Placement::Fixed(range.start());
        self.does(id, "mmap", |space| {
            space.mmap(MapRequest { placement, len: range.len(), protection, kind })
        })
    }

    /// mmap of anonymous base pages.
    pub(crate) fn map_pages(&self, id: SpaceId, first: u64, count: u64) -> Outcome {
        self.map(id, pages(first, count), VmaKind::Anonymous(PageSize::Size4K))
    }

    /// An operation on a space, which must succeed.
    pub(crate) fn does<T, E: Into<Verdict>>(
        &self,
        id: SpaceId,
        what: &str,
        operation: impl FnOnce(&AddressSpace<Machine>) -> Result<T, E>,
    ) -> Outcome {
        self.answers(id, what, Verdict::Done, operation)
    }

    /// An operation on a space, and what it must answer.
    pub(crate) fn answers<T, E: Into<Verdict>>(
        &self,
        id: SpaceId,
        what: &str,
        expected: Verdict,
        operation: impl FnOnce(&AddressSpace<Machine>) -> Result<T, E>,
    ) -> Outcome {
        let found = operation(&self.space(id).space).map_or_else(Into::into, |_| Verdict::Done);
        self.same(&format!("{what} in space {id}"), expected, found)
    }

    /// Compares verdicts, and asks the oracle.
    pub(crate) fn same(&self, what: &str, expected: Verdict, found: Verdict) -> Outcome {
        match (expected, found) {
            _ if expected == found => self.check(),
            (Verdict::Value(expected), Verdict::Value(found)) => {
                Err(Violation::Content { what: what.into(), expected, found })
            }
            _ => Err(answer(what, format!("{expected:?}"), format!("{found:?}"))),
        }
    }

    /// The frame that a page has now.
    pub(crate) fn frame(&self, id: SpaceId, index: u64) -> Option<Pfn> {
        self.space(id).space.lookup(page(index)).map(|mapping| mapping.pfn)
    }

    /// Reclaims the page there, if it is old.
    pub(crate) fn reclaim(&self, id: SpaceId, index: u64) -> Result<Result<(), Spared>, Violation> {
        self.holding(id, index, |frame| self.mm.reclaim(frame))
    }

    /// Reclaims the page there, old or not; it must go.
    pub(crate) fn page_out(&self, id: SpaceId, index: u64) -> Outcome {
        self.holding(id, index, |frame| self.mm.page_out(frame))?
            .map_err(|spared| answer(&format!("page out {index}"), "done", format!("{spared:?}")))
    }

    /// Works on the frame of a page as reclaim does, with a reference on it.
    pub(crate) fn holding<T>(
        &self,
        id: SpaceId,
        index: u64,
        work: impl FnOnce(Pfn) -> T,
    ) -> Result<T, Violation> {
        let frame = self.frame(id, index).ok_or_else(|| answer("reclaim", "a frame", "none"))?;
        let meta = self.machine.frames().meta(frame);
        meta.get();
        let result = work(frame);
        if meta.put() {
            self.machine.retire(frame, PageSize::Size4K);
        }
        self.check()?;
        Ok(result)
    }

    /// What all that live look like to the oracle.
    pub(crate) fn check(&self) -> Outcome {
        let spaces: Vec<_> = lock(&self.spaces).iter().flatten().cloned().collect();
        for space in &spaces {
            space.log.settle()?;
        }
        self.census(&spaces).map(|_| ())
    }

    fn census(&self, live: &[Arc<Space>]) -> Result<Census, Violation> {
        let spaces: Vec<_> = live.iter().map(|space| Arc::clone(&space.space)).collect();
        let secondaries: Vec<_> =
            live.iter().map(|space| Secondary { mmu: Arc::clone(&space.mmu), root: space.root }).collect();
        let files = lock(&self.files).clone();
        let held = lock(&self.platters).iter().map(|platter| platter.held()).sum();
        let subjects = Subjects {
            mm: Some(&self.mm),
            files: &files,
            spaces: &spaces,
            secondaries: &secondaries,
            devices: &[],
            held,
        };
        oracle::check(&self.machine, subjects)
    }

    /// Ends everything in order; the machine must have all its frames back.
    pub(crate) fn finish(self) -> Outcome {
        self.machine.clear_hook();
        for id in self.live() {
            self.end_space(id)?;
        }
        let (machine, platters) = (Arc::clone(&self.machine), std::mem::take(&mut *lock(&self.platters)));
        drop(self);
        platters.iter().for_each(|platter| platter.scrap());
        let nothing = Subjects { mm: None, files: &[], spaces: &[], secondaries: &[], devices: &[], held: 0 };
        let census = oracle::check(&machine, nothing)?;
        assert_eq!(census, Census::default());
        Ok(())
    }
}

/// Accesses as programs make them: the CPU tries, and after a fault the handler runs and the CPU tries again.
impl Bench {
    fn retry(&self, mut attempt: impl FnMut() -> Result<Verdict, Option<Verdict>>) -> Verdict {
        for _ in 0..MOST_FAULTS {
            if let Ok(verdict) | Err(Some(verdict)) = attempt() {
                return verdict;
            }
        }
        panic!("{MOST_FAULTS} faults for one access");
    }

    /// What a load by the guest finds, without the oracle.
    pub(crate) fn guest_load(&self, id: SpaceId, index: u64) -> Verdict {
        let space = self.space(id);
        self.retry(|| match self.machine.guest_load(space.guest_cpu, gpage(index)) {
            Ok(value) => Ok(Verdict::Value(value)),
            Err(_) => self.ept_violation(&space, index, Access::Read),
        })
    }

    /// What a store by the guest comes to, without the oracle.
    pub(crate) fn guest_store(&self, id: SpaceId, index: u64, value: u64) -> Verdict {
        let space = self.space(id);
        self.retry(|| match self.machine.guest_store(space.guest_cpu, gpage(index), value) {
            Ok(()) => Ok(Verdict::Done),
            Err(_) => self.ept_violation(&space, index, Access::Write),
        })
    }

    fn ept_violation(&self, space: &Space, index: u64, access: Access) -> Result<Verdict, Option<Verdict>> {
        self.machine.exit(space.guest_cpu);
        let outcome = resolve(&self.machine, &space.mmu, space.guest_cpu, (gpage(index), access));
        self.machine.enter(space.guest_cpu, space.root);
        match outcome {
            Ok(FaultOutcome::Mapped) => Err(None),
            Ok(FaultOutcome::NotRam) => Err(Some(Verdict::NotRam)),
            Err(error) => Err(Some(error.into())),
        }
    }

    /// What a load by Herald finds, without the oracle.
    pub(crate) fn load(&self, id: SpaceId, index: u64) -> Verdict {
        let space = self.space(id);
        self.retry(|| match self.machine.load_linear(space.herald_cpu, page(index)) {
            Ok(value) => Ok(Verdict::Value(value)),
            Err(_) => page_fault(&space, index, Access::Read),
        })
    }

    /// What a store by Herald comes to, without the oracle.
    pub(crate) fn store(&self, id: SpaceId, index: u64, value: u64) -> Verdict {
        let space = self.space(id);
        self.retry(|| match self.machine.store_linear(space.herald_cpu, page(index), value) {
            Ok(()) => Ok(Verdict::Done),
            Err(_) => page_fault(&space, index, Access::Write),
        })
    }

    /// The guest must read this.
    pub(crate) fn guest_reads(&self, id: SpaceId, index: u64, value: u64) -> Outcome {
        let what = format!("page {index}, read by guest {id}");
        self.same(&what, Verdict::Value(value), self.guest_load(id, index))
    }

    /// Herald must read this.
    pub(crate) fn herald_reads(&self, id: SpaceId, index: u64, value: u64) -> Outcome {
        let what = format!("page {index}, read by Herald in space {id}");
        self.same(&what, Verdict::Value(value), self.load(id, index))
    }

    /// Guest and Herald must read this.
    pub(crate) fn both_read(&self, id: SpaceId, index: u64, value: u64) -> Outcome {
        self.guest_reads(id, index, value)?;
        self.herald_reads(id, index, value)
    }

    /// The guest writes.
    pub(crate) fn guest_writes(&self, id: SpaceId, index: u64, value: u64) -> Outcome {
        let what = format!("page {index}, written by guest {id}");
        self.same(&what, Verdict::Done, self.guest_store(id, index, value))
    }

    /// Herald writes.
    pub(crate) fn herald_writes(&self, id: SpaceId, index: u64, value: u64) -> Outcome {
        let what = format!("page {index}, written by Herald in space {id}");
        self.same(&what, Verdict::Done, self.store(id, index, value))
    }

    /// Guest and Herald fill pages, so that both have them cached, writable: page n with `value` + n.
    pub(crate) fn fill(&self, id: SpaceId, range: std::ops::Range<u64>, value: u64) -> Outcome {
        for index in range {
            self.herald_writes(id, index, value + index)?;
            self.guest_writes(id, index, value + index)?;
        }
        Ok(())
    }

    /// Guest and Herald touch all of the guest's RAM; what they may not, they leave.
    pub(crate) fn touch_all(&self) {
        for id in self.live() {
            for index in 0..self.plan.ram {
                self.guest_load(id, index);
                self.load(id, index);
            }
        }
    }
}

fn page_fault(space: &Space, index: u64, access: Access) -> Result<Verdict, Option<Verdict>> {
    match space.space.fault_in(page(index), access) {
        Ok(_) => Err(None),
        Err(error) => Err(Some(error.into())),
    }
}

/// An answer other than it should be.
pub(crate) fn answer(what: &str, expected: impl Into<String>, found: impl Into<String>) -> Violation {
    Violation::Answer { what: what.into(), expected: expected.into(), found: found.into() }
}

/// Bytes of that many base pages.
pub(crate) const fn bytes(pages: u64) -> u64 {
    pages * PAGE_SIZE
}
