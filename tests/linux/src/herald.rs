//! Herald's side: `mm` on the simulated machine, reached with a program's numbers.

use crate::answer::{Answer, errno_of, errno_of_fault, errno_of_mremap};
use crate::areas::{Area, Backed};
use crate::step::{Advised, Aside, Backing, Place, Range, Raw, To, What};
use crate::{FILE_PAGES, SPACES, STORED, first_word};
use addr::{Hva, PAGE_SIZE, PageSize};
use mm::{
    Access, AddressSpace, Advice, CpuIndex, File, MapError, MapRequest, Mm, Placement, Protection, Remap,
    VmaKind, Zeros,
};
use paging::{HostEntry, Note, View};
use std::sync::Arc;
use tests::Violation;
use tests::machine::{Machine, Options};
use tests::oracle::{self, Subjects};
use tests::worlds::{Disk, Medium, Slots};

/// The CPU that makes all accesses.
const CPU: CpuIndex = CpuIndex(0);
/// Slots of the swap device: fewer than pages.
const SLOTS: u64 = 40;
/// Faults that one access may take before it counts as stuck.
const MOST_FAULTS: u32 = 64;

/// What a page of a space is to the primary tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Presence {
    /// Nothing is there.
    Absent,
    /// A frame is there, or in swap.
    Present,
    /// The page that untouched memory reads as.
    Zero,
}

/// A machine with address spaces and files.
pub struct Herald {
    machine: Arc<Machine>,
    mm: Arc<Mm<Machine>>,
    files: Vec<Arc<File<Machine>>>,
    spaces: [Option<Arc<AddressSpace<Machine>>>; SPACES],
    /// The space that the CPU has loaded.
    loaded: Option<usize>,
}

impl Herald {
    /// A machine of so many frames, with its files and no space.
    #[must_use]
    pub fn new(frames: u64) -> Self {
        let options = Options { frames, cpus: 1, quarantine: 64, ..Options::default() };
        let machine = Arc::new(Machine::new(options));
        let swap = Box::new(Slots(Medium::new(&machine), SLOTS));
        let mm = Mm::new(Arc::clone(&machine), Some(swap)).expect("a zero page");
        let disk = Medium::new(&machine);
        (0..FILE_PAGES[STORED]).for_each(|index| disk.put(index, vec![(0, first_word(index))]));
        let files = vec![
            File::new(&mm, Box::new(Zeros), FILE_PAGES[0]),
            File::new(&mm, Box::new(Disk(disk)), FILE_PAGES[STORED]),
        ];
        Self { machine, mm, files, spaces: [const { None }; SPACES], loaded: None }
    }

    pub(crate) fn is_living(&self, id: usize) -> bool {
        self.spaces[id].is_some()
    }

    fn space(&self, id: usize) -> &AddressSpace<Machine> {
        self.spaces[id].as_ref().expect("a living space")
    }

    pub(crate) fn spawn(&mut self, id: usize) {
        self.spaces[id] = Some(AddressSpace::new(&self.mm).expect("a root"));
    }

    pub(crate) fn fork(&mut self, id: usize, to: usize) {
        self.spaces[to] = Some(self.space(id).fork().expect("tables"));
    }

    pub(crate) fn exit(&mut self, id: usize) {
        self.space(id).exit();
        if self.loaded == Some(id) {
            self.machine.load_space(CPU, None);
            self.loaded = None;
        }
        self.spaces[id] = None;
    }

    pub(crate) fn truncate(&self, file: usize, len: u64) {
        self.mm.truncate(&self.files[file], len);
    }

    pub(crate) fn write_back(&self) {
        self.mm.write_back(&self.files[STORED]).expect("the store works");
    }

    /// Does what a program asks for.
    pub(crate) fn call(&mut self, id: usize, what: What) -> Answer {
        match what {
            What::Mmap { place, len, protection, backing } => self.mmap(id, place, len, protection, backing),
            What::Munmap(range) => self.on(id, range, AddressSpace::munmap),
            What::Mprotect(range, protection) => {
                self.on(id, range, |space, start, len| space.mprotect(start, len, protection))
            }
            What::Madvise(range, Advised::Discard) => self.on(id, range, AddressSpace::discard),
            What::Madvise(range, Advised::Other(advice)) => {
                self.on(id, range, |space, start, len| space.madvise(start, len, advice))
            }
            What::Mlock(range) => self.on(id, range, AddressSpace::mlock),
            What::Munlock(range) => self.on(id, range, AddressSpace::munlock),
            What::Msync(range) => self.on(id, range, AddressSpace::msync),
            What::Mremap { range, new_len, to } => self.mremap(id, range, new_len, to),
            What::Load(Raw(address)) => self.access(id, address, Access::Read, |machine, hva| {
                machine.load_linear(CPU, hva).map_err(|fault| fault.access)
            }),
            What::Store(Raw(address), Raw(value)) => {
                self.access(id, address, Access::Write, |machine, hva| {
                    machine.store_linear(CPU, hva, value).map(|()| 0).map_err(|fault| fault.access)
                })
            }
            What::Aside(address, aside) => {
                self.aside(id, hva(address), aside);
                Ok(0)
            }
        }
    }

    fn on(
        &self,
        id: usize,
        range: Range,
        call: impl FnOnce(&AddressSpace<Machine>, Hva, u64) -> Result<(), MapError>,
    ) -> Answer {
        call(self.space(id), hva(range.start), range.len.0).map(|()| 0).map_err(errno_of)
    }

    fn mmap(
        &mut self,
        id: usize,
        place: Place,
        Raw(len): Raw,
        protection: Protection,
        backing: Backing,
    ) -> Answer {
        let file = |file: usize| Arc::clone(&self.files[file]);
        let kind = match backing {
            Backing::Anonymous => VmaKind::Anonymous(PageSize::Size4K),
            Backing::Private { file: of, index } => VmaKind::Private(file(of), index),
            Backing::Shared { file: of, index } => VmaKind::Shared(file(of), index),
            Backing::SharedAnonymous => {
                VmaKind::Shared(File::new(&self.mm, Box::new(Zeros), len.div_ceil(PAGE_SIZE)), 0)
            }
        };
        let placement = match place {
            Place::Fixed(start) => Placement::Fixed(hva(start)),
            Place::Anywhere => Placement::Anywhere,
        };
        let own = kind.file().filter(|_| backing == Backing::SharedAnonymous).cloned();
        let mapped = self.space(id).mmap(MapRequest { placement, len, protection, kind });
        let range = mapped.map_err(errno_of)?;
        self.files.extend(own);
        Ok(range.start().as_u64())
    }

    fn mremap(&self, id: usize, range: Range, Raw(new_len): Raw, to: To) -> Answer {
        let to = match to {
            To::InPlace => Remap::InPlace,
            To::MayMove => Remap::MayMove,
            To::Fixed(target) => Remap::Fixed(hva(target)),
        };
        let moved = self.space(id).mremap(hva(range.start), range.len.0, new_len, to);
        moved.map(Hva::as_u64).map_err(errno_of_mremap)
    }

    /// Tries until there is an answer.
    fn access(
        &mut self,
        id: usize,
        address: u64,
        access: Access,
        attempt: impl Fn(&Machine, Hva) -> Result<u64, Access>,
    ) -> Answer {
        if self.loaded != Some(id) {
            self.machine.load_space(CPU, Some(self.space(id).root()));
            self.loaded = Some(id);
        }
        let hva = Hva::new(address);
        for _ in 0..MOST_FAULTS {
            match attempt(&self.machine, hva) {
                Ok(value) => return Ok(value),
                Err(_) => self.space(id).fault_in(hva, access).map_err(errno_of_fault)?,
            };
        }
        panic!("{access:?} of {hva} faults for ever");
    }

    /// What nobody can tell: whether it works does not matter.
    fn aside(&self, id: usize, page: Hva, aside: Aside) {
        let space = self.space(id);
        let _ = match aside {
            Aside::PageOut => space.madvise(page, PAGE_SIZE, Advice::PageOut).is_ok(),
            Aside::Migrate => space.migrate_page(page).is_ok(),
            Aside::Collapse => space.collapse(page).is_ok(),
            Aside::Age => space.test_and_clear_young(page).is_some(),
        };
    }

    /// The areas, by address.
    pub(crate) fn areas(&self, id: usize) -> Vec<Area> {
        let number = |of: &Arc<File<Machine>>| {
            self.files.iter().position(|file| Arc::ptr_eq(file, of)).expect("a file of the test")
        };
        let area = |vma: mm::Vma<Machine>| Area {
            start: vma.range.start().as_u64(),
            end: vma.range.end().as_u64(),
            protection: vma.protection,
            backed: match &vma.kind {
                VmaKind::Anonymous(_) => Backed::Anonymous,
                VmaKind::Private(file, first) => Backed::Private { file: number(file), first: *first },
                VmaKind::Shared(file, first) => Backed::Shared { file: number(file), first: *first },
            },
            flags: vma.flags,
        };
        self.space(id).vmas().into_iter().map(area).collect()
    }

    /// What is at a page, without a touch.
    pub(crate) fn presence(&self, id: usize, address: u64) -> Presence {
        let found = paging::walk::<HostEntry, Machine>(&self.machine, self.space(id).root(), address);
        match found.view() {
            View::Leaf(leaf) if leaf.pfn == self.mm.zero_page() => Presence::Zero,
            View::Leaf(_) | View::Note(Note::Swap(_)) => Presence::Present,
            View::Note(Note::Offset(_)) | View::Empty | View::Table(_) => Presence::Absent,
        }
    }

    /// Asks the oracle.
    pub(crate) fn check(&self) -> Result<(), Violation> {
        let spaces: Vec<_> = self.spaces.iter().flatten().cloned().collect();
        let (mm, files) = (Some(&*self.mm), &self.files[..]);
        let subjects = Subjects { mm, files, spaces: &spaces, secondaries: &[], devices: &[], held: 0 };
        oracle::check(&self.machine, subjects).map(drop)
    }
}

/// An address that `mm` can be told: its type has no place for others, and no test passes one.
fn hva(Raw(address): Raw) -> Hva {
    Hva::new(address)
}
