//! Programs of models: accesses that are tried until they go through, without an opinion of what they must find.

use addr::{Gpa, Hva, PageSize, Pfn};
use mm::{Access, AddressSpace, CpuIndex, Host, MapRequest, Placement, Protection, VmaKind};
use mmu::{FaultOutcome, SecondaryMmu};
use tests::lab::{DeviceId, GuestId, Lab, Verdict, gpage, page, pages};
use tests::machine::Machine;
use tests::worlds::World;

/// The guest of a bench.
pub const GUEST: GuestId = GuestId(0);

/// A word that programs touch. The first words of a page belong to the benches' own models.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Word {
    /// Number of the page in the arena.
    pub page: u64,
    /// Number of the word.
    pub word: u64,
}

impl Word {
    /// A word of a page that nobody else has an opinion of.
    #[must_use]
    pub const fn of(page: u64) -> Self {
        Self { page, word: 8 }
    }

    /// The word behind.
    #[must_use]
    pub const fn next(self) -> Self {
        Self { word: self.word + 1, ..self }
    }

    const fn hva(self) -> Hva {
        page(self.page).add(self.word * 8)
    }

    const fn gpa(self) -> Gpa {
        gpage(self.page).add(self.word * 8)
    }
}

/// An access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Touch {
    /// A load.
    Load,
    /// A store of this.
    Store(u64),
}

impl Touch {
    const fn access(self) -> Access {
        match self {
            Self::Load => Access::Read,
            Self::Store(_) => Access::Write,
        }
    }
}

/// What an access found or stored, or why it was refused.
pub type Found = Result<u64, Verdict>;

/// A program on a CPU: Herald's, or a guest's.
#[derive(Clone, Copy)]
pub struct Program<'a> {
    machine: &'a Machine,
    space: &'a AddressSpace<Machine>,
    guest: Option<(&'a SecondaryMmu<Machine>, Pfn)>,
    cpu: CpuIndex,
}

impl<'a> Program<'a> {
    /// The bench's guest on a CPU.
    #[must_use]
    pub fn guest(lab: &'a Lab, cpu: usize) -> Self {
        let guest = lab.guest(GUEST);
        Self { guest: Some((&guest.mmu, guest.root())), ..Self::herald(lab, cpu) }
    }

    /// Herald on a CPU.
    #[must_use]
    pub fn herald(lab: &'a Lab, cpu: usize) -> Self {
        Self { machine: &lab.machine, space: &lab.space, guest: None, cpu: CpuIndex(cpu) }
    }

    /// The guest of a space, on a CPU that has the space loaded.
    ///
    /// # Panics
    /// If the space has none.
    #[must_use]
    pub fn guest_of(world: &'a World, space: &'a AddressSpace<Machine>, id: usize, cpu: usize) -> Self {
        let guest = world.guest(id).expect("a guest");
        Self { machine: &world.machine, space, guest: Some(guest), cpu: CpuIndex(cpu) }
    }

    /// Herald on a CPU that has a space loaded.
    #[must_use]
    pub fn herald_in(world: &'a World, space: &'a AddressSpace<Machine>, cpu: usize) -> Self {
        Self { machine: &world.machine, space, guest: None, cpu: CpuIndex(cpu) }
    }

    /// Touches a word.
    ///
    /// # Errors
    /// The refusal.
    pub fn touch(&self, word: Word, touch: Touch) -> Found {
        match self.guest {
            Some((_, root)) if self.machine.guest_root(self.cpu) != Some(root) => {
                self.machine.enter(self.cpu, root);
            }
            None if self.machine.guest_root(self.cpu).is_some() => self.machine.exit(self.cpu),
            _ => {}
        }
        loop {
            if let Some(found) = self.attempt(word, touch) {
                return Ok(found);
            }
            self.resolve(word, touch.access())?;
        }
    }

    /// Loads a word.
    ///
    /// # Errors
    /// The refusal.
    pub fn load(&self, word: Word) -> Found {
        self.touch(word, Touch::Load)
    }

    /// Stores a word.
    ///
    /// # Errors
    /// The refusal.
    pub fn store(&self, word: Word, value: u64) -> Found {
        self.touch(word, Touch::Store(value))
    }

    /// One access as the CPU makes it; `None`: a fault.
    fn attempt(&self, word: Word, touch: Touch) -> Option<u64> {
        let (machine, cpu) = (self.machine, self.cpu);
        match (self.guest.is_some(), touch) {
            (true, Touch::Load) => machine.guest_load(cpu, word.gpa()).ok(),
            (true, Touch::Store(value)) => machine.guest_store(cpu, word.gpa(), value).ok().map(|()| value),
            (false, Touch::Load) => machine.load_linear(cpu, word.hva()).ok(),
            (false, Touch::Store(value)) => machine.store_linear(cpu, word.hva(), value).ok().map(|()| value),
        }
    }

    fn resolve(&self, word: Word, access: Access) -> Result<(), Verdict> {
        let Some((mmu, root)) = self.guest else {
            return self.space.fault_in(word.hva(), access).map(drop).map_err(Verdict::from);
        };
        self.machine.exit(self.cpu);
        let outcome = tests::paging::resolve(self.machine, mmu, self.cpu, (word.gpa(), access));
        self.machine.enter(self.cpu, root);
        match outcome? {
            FaultOutcome::Mapped => Ok(()),
            FaultOutcome::NotRam => Err(Verdict::NotRam),
        }
    }
}

/// The bench's device touches a word through its TLB.
///
/// # Errors
/// The refusal.
pub fn by_device(lab: &Lab, word: Word, touch: Touch) -> Found {
    let tlb = &lab.device(DeviceId(0)).tlb;
    let mut bytes = [0; 8];
    match touch {
        Touch::Load => tlb.read(word.hva(), &mut bytes)?,
        Touch::Store(value) => {
            bytes = value.to_le_bytes();
            tlb.write(word.hva(), &bytes)?;
        }
    }
    Ok(u64::from_le_bytes(bytes))
}

/// What a word is in the end: the guest and Herald on every CPU and the device find the same.
///
/// # Errors
/// The refusal that everybody gets.
///
/// # Panics
/// If anybody finds something else.
pub fn everybody_reads(lab: &Lab, word: Word) -> Found {
    let cpus = || lab.machine.cpus().map(|cpu| cpu.0);
    let guests: Vec<_> = cpus().map(|cpu| Program::guest(lab, cpu).load(word)).collect();
    let herald: Vec<_> = cpus().map(|cpu| Program::herald(lab, cpu).load(word)).collect();
    let device = by_device(lab, word, Touch::Load);
    assert!(
        guests.iter().chain(&herald).all(|found| *found == device),
        "{word:?}: guests find {guests:?}, Herald {herald:?}, the device {device:?}"
    );
    device
}

/// Everything is in order, and ends in order.
///
/// # Panics
/// If the oracle finds something.
pub fn ends_well(lab: Lab) {
    lab.check().unwrap_or_else(|violation| panic!("{violation:?}"));
    lab.finish().unwrap_or_else(|violation| panic!("{violation:?}"));
}

/// Maps private memory on pages of the arena.
///
/// # Panics
/// If it cannot.
pub fn map(space: &AddressSpace<Machine>, first: u64, count: u64) {
    let range = pages(first, count);
    let placement = Placement::Fixed(range.start());
    let kind = VmaKind::Anonymous(PageSize::Size4K);
    let request = MapRequest { placement, len: range.len(), protection: Protection::ReadWrite, kind };
    space.mmap(request).expect("memory for areas and tables");
}

/// The word as it lies in the frame that a page has, whoever caches what. `None` where it has none.
#[must_use]
pub fn in_memory(space: &AddressSpace<Machine>, word: Word) -> Option<u64> {
    let mapping = space.lookup(word.hva())?;
    let frame = mapping.pfn.add(word.hva().offset_in(mapping.size) >> addr::PAGE_SHIFT);
    Some(space.host().peek(frame, word.word as u16))
}

/// A reference on the frame that a page has, for whoever works on the frame.
///
/// # Panics
/// If it has none.
#[must_use]
pub fn frame_of(space: &AddressSpace<Machine>, page_number: u64) -> Held<'_> {
    let mapping = space.lookup(page(page_number)).expect("is resident");
    space.host().frames().meta(mapping.pfn).get();
    Held { space, frame: mapping.pfn }
}

/// A reference on a frame.
pub struct Held<'a> {
    space: &'a AddressSpace<Machine>,
    /// The frame.
    pub frame: Pfn,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let host = self.space.host();
        if host.frames().meta(self.frame).put() {
            host.retire(self.frame, PageSize::Size4K);
        }
    }
}
