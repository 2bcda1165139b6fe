//! Accesses that come late: between the request for a flush and its end every CPU uses what it has cached.
//!
//! ```text
//!   operation:  entries changed ── request ──────────────────── wait: interrupts ── frames freed ── model changes
//!   CPUs:                                 loads and stores                                              ▲
//!                                         through old translations ── log ── absorbed into the model ───┘
//! ```
//!
//! Whatever is accessed that way was allowed before the operation, and comes before it: loads find what was there, and
//! stores are in what the operation keeps. What it copies may have been copied before the store.

use super::paging::{self, is_table};
use super::{World, address};
use crate::lab::Verdict;
use crate::machine::{Cached, Event, Kind, Machine};
use crate::random::Random;
use crate::{Violation, lock};
use addr::{Gpa, Gva, Hva, HvaRange, PAGE_SHIFT, PAGE_SIZE, PageSize, Pfn};
use mm::{Access, CpuIndex};
use mmu::Slot;
use std::collections::BTreeMap;
use std::sync::Arc;

/// When accesses come late.
#[derive(Debug, Default)]
pub enum Late {
    /// Never.
    #[default]
    Never,
    /// At this flush, counted from 0 since it was asked for: all that is cached is loaded, and stored where it may be.
    At(u64),
    /// Now and then, something.
    Sometimes(Random),
}

/// The space that a root belongs to, and what its guest sees.
#[derive(Debug)]
struct Owner {
    id: usize,
    /// `None`: the root is that of the space's own tables.
    slots: Option<Vec<Slot>>,
}

#[derive(Clone, Copy, Debug)]
enum What {
    Load(u64),
    Store(u64),
}

/// An access that came late.
#[derive(Clone, Copy, Debug)]
struct Made {
    id: usize,
    page: u64,
    word: u16,
    what: What,
    kind: Kind,
}

/// A page that a CPU can reach without looking at a table.
#[derive(Clone, Copy, Debug)]
struct Place {
    cpu: CpuIndex,
    kind: Kind,
    address: u64,
    id: usize,
    page: u64,
}

/// When accesses come late, and which did.
#[derive(Debug, Default)]
pub(super) struct Lateness {
    owners: BTreeMap<Pfn, Owner>,
    when: Late,
    /// Flushes since this was asked for.
    flushes: u64,
    log: Vec<Made>,
    /// Loads and stores so far.
    made: (u64, u64),
}

/// Pages of a huge translation that are used: those that tests work on.
const OF_HUGE: [u64; 4] = [0, 3, 95, 511];
/// Flushes at which nothing comes late, for each at which something does.
const PUNCTUAL: u64 = 4;
/// First word that late stores go to where all of them are made; each CPU has its own.
const WORDS: u16 = 64;

impl Lateness {
    pub(super) fn add_space(&mut self, root: Pfn, id: usize) {
        self.owners.insert(root, Owner { id, slots: None });
    }

    pub(super) fn add_guest(&mut self, root: Pfn, id: usize) {
        self.owners.insert(root, Owner { id, slots: Some(Vec::new()) });
    }

    pub(super) fn set_slots(&mut self, root: Pfn, slots: &[Slot]) {
        if let Some(owner) = self.owners.get_mut(&root) {
            owner.slots = Some(slots.to_vec());
        }
    }

    pub(super) fn remove(&mut self, id: usize) {
        self.owners.retain(|_, owner| owner.id != id);
    }

    /// The flushes asked for are about to be done.
    fn wait(&mut self, machine: &Machine) {
        let number = self.flushes;
        self.flushes += 1;
        match &mut self.when {
            Late::At(wanted) if *wanted == number => {
                machine.cpus().for_each(|cpu| self.use_all(machine, cpu));
            }
            Late::Sometimes(random) => {
                if random.below(PUNCTUAL + 1) == 0 {
                    machine.cpus().for_each(|cpu| self.use_some(machine, cpu));
                }
            }
            Late::Never | Late::At(_) => {}
        }
    }

    fn use_all(&mut self, machine: &Machine, cpu: CpuIndex) {
        for translation @ (kind, _, cached) in machine.cached(cpu) {
            let pages = if cached.size == PageSize::Size4K { &OF_HUGE[..1] } else { &OF_HUGE };
            for &page in pages {
                let Some(place) = self.place(machine, cpu, translation, page) else { continue };
                self.load(machine, place, 0);
                if machine.stores_blindly(kind, &cached) && !is_table(place.page) {
                    let value = 0x1a7e_0000 + self.made.1;
                    self.store(machine, place, WORDS + cpu.0 as u16, value);
                }
            }
        }
    }

    fn use_some(&mut self, machine: &Machine, cpu: CpuIndex) {
        let Late::Sometimes(random) = &mut self.when else { return };
        let cached = machine.cached(cpu);
        if cached.is_empty() {
            return;
        }
        let translation @ (kind, _, cached) = cached[random.below(cached.len() as u64) as usize];
        let page = random.below(cached.size.base_pages());
        let (word, value, stores) = (random.below(512) as u16, random.below(1 << 48), random.below(2) == 0);
        let Some(place) = self.place(machine, cpu, translation, page) else { return };
        if stores && machine.stores_blindly(kind, &cached) && !is_table(place.page) {
            self.store(machine, place, word, value);
        } else {
            self.load(machine, place, word);
        }
    }

    /// Where a base page of a translation leads, if that is known.
    fn place(
        &self,
        machine: &Machine,
        cpu: CpuIndex,
        (kind, first, cached): (Kind, u64, Cached),
        page: u64,
    ) -> Option<Place> {
        let root = machine.guest_root(cpu).or_else(|| machine.current_root(cpu)).expect("tables");
        let Some(Owner { id, slots }) = self.owners.get(&root) else {
            panic!("a {kind:?} translation from tables that nobody owns")
        };
        let address = first + page * PAGE_SIZE;
        let page = match slots {
            None => address >> PAGE_SHIFT,
            Some(slots) => {
                let gfn = guest_page(kind, first, &cached)?.add(page * PAGE_SIZE).gfn();
                let slot = slots.iter().find(|slot| slot.gfns().contains(gfn));
                slot.expect("RAM, or it would not be cached").hva_of(gfn).as_u64() >> PAGE_SHIFT
            }
        };
        Some(Place { cpu, kind, address, id: *id, page })
    }

    fn load(&mut self, machine: &Machine, place: Place, word: u16) {
        let Place { cpu, kind, address, id, page } = place;
        let address = address + u64::from(word) * 8;
        let found = match kind {
            Kind::Linear => machine.load_linear(cpu, Hva::new(address)).ok(),
            Kind::GuestPhysical | Kind::Shadow => machine.guest_load(cpu, Gpa::new(address)).ok(),
            Kind::Combined => machine.guest_load_linear(cpu, Gva::new(address)).ok(),
        };
        self.made.0 += 1;
        let what = What::Load(found.expect("a cached translation"));
        self.log.push(Made { id, page, word, what, kind });
    }

    fn store(&mut self, machine: &Machine, place: Place, word: u16, value: u64) {
        let Place { cpu, kind, address, id, page } = place;
        let address = address + u64::from(word) * 8;
        let done = match kind {
            Kind::Linear => machine.store_linear(cpu, Hva::new(address), value).ok(),
            Kind::GuestPhysical | Kind::Shadow => machine.guest_store(cpu, Gpa::new(address), value).ok(),
            Kind::Combined => machine.guest_store_linear(cpu, Gva::new(address), value).ok(),
        };
        done.expect("a cached translation");
        self.made.1 += 1;
        self.log.push(Made { id, page, word, what: What::Store(value), kind });
    }
}

/// Where a guest's translation begins. `None`: under a shadow, by an entry that the guest may have changed.
fn guest_page(kind: Kind, first: u64, cached: &Cached) -> Option<Gpa> {
    match kind {
        Kind::Shadow => paging::frame_of(Gva::new(first)),
        Kind::Linear | Kind::GuestPhysical | Kind::Combined => Some(cached.gpa.unwrap_or(Gpa::new(first))),
    }
}

/// The page of a number.
pub(super) fn page_at(number: u64) -> HvaRange {
    HvaRange::new(address(number), address(number + 1))
}

impl World {
    /// From now on, CPUs use old translations in the middle of flushes.
    pub fn be_late(&mut self, when: Late) {
        let mut late = lock(&self.late);
        (late.when, late.flushes) = (when, 0);
        drop(late);
        // The machine holds its hook: it must not hold the machine.
        let (machine, late) = (Arc::downgrade(&self.machine), Arc::clone(&self.late));
        self.machine.set_hook(move |event| {
            if let (Event::Wait, Some(machine)) = (event, machine.upgrade()) {
                lock(&late).wait(&machine);
            }
        });
    }

    /// From now on, no access comes late.
    pub fn be_punctual(&mut self) {
        lock(&self.late).when = Late::Never;
    }

    /// Flushes since lateness was last asked for.
    #[must_use]
    pub fn flushes(&self) -> u64 {
        lock(&self.late).flushes
    }

    /// Late loads and late stores so far.
    #[must_use]
    pub fn late_accesses(&self) -> (u64, u64) {
        lock(&self.late).made
    }

    /// Puts what came late into the model, which does not know of the operation yet; returns how many stores.
    pub(super) fn absorb(&mut self) -> Result<u64, Violation> {
        let log = std::mem::take(&mut lock(&self.late).log);
        let mut stores = 0;
        for made in log {
            let Made { id, page, word, what, kind } = made;
            let access = if matches!(what, What::Load(_)) { Access::Read } else { Access::Write };
            let expected = self.model.access(id, page, access);
            if expected != Verdict::Done {
                let what = format!("late access {made:?}");
                let (expected, found) = (format!("{expected:?}"), "Done".into());
                return Err(Violation::Answer { what, expected, found });
            }
            match what {
                What::Load(found) => {
                    let learnt = self.model.load(id, page, word, found);
                    let what = || format!("late access {made:?}");
                    learnt.map_err(|expected| Violation::Content { what: what(), expected, found })?;
                }
                What::Store(value) => {
                    self.model.late_store(id, page, word, value);
                    if let (Kind::Linear, Some(living)) = (kind, &self.spaces[id]) {
                        living.space.wrote(page_at(page));
                    }
                    stores += 1;
                }
            }
        }
        Ok(stores)
    }
}
