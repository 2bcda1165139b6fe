//! The machine as a value: memory, CPUs, and the seams that `mm` and `mmu` see it through.
//!
//! ```text
//!   allocate ──► used ──► retire: nothing may translate to it ──► poisoned, in quarantine ──► free
//! ```
//!
//! Whatever reaches a frame or a table after its retirement is recorded as a [`Violation`].

mod access;
mod cpu;
mod device;
mod format;
mod memory;
mod nested;
mod replay;
mod seams;
mod tlb;

pub use access::Fault;
pub use cpu::{GuestMode, Kind, ShadowRoot};
pub use memory::POISON;
pub use nested::GuestFault;
pub use replay::Sight;
pub use seams::{Event, Failing, Skip};
pub use tlb::{Cached, Context};

pub(crate) use cpu::Cpu;
pub(crate) use format::{COUNTED, Format, Raw, RawLeaf, SHARED, shift};
pub(crate) use tlb::{Key, Structure, Tag};

use crate::{Violation, lock};
use addr::{Gpa, PageSize, Pfn, PfnRange};
use memory::Memory;
use mm::frames::{FrameMeta, Frames};
use mm::{Access, CpuIndex};
use mmu::{AccessedDirty, DeviceTlb};
use paging::EntryRef;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, Weak};

/// Frames below this one are no memory: frame 0 is nobody's.
const FIRST_FRAME: u64 = 32;

/// Accesses to tables after which a program that has not asked for more counts as stuck: a fault that is retried for ever
/// is to end in words, and soon.
const MOST_TABLE_ACCESSES: u64 = 50_000_000;

/// Whether CPUs fetch translations that nobody asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Speculation {
    /// Only accesses and [`Machine::speculate`] fill caches: A bits are exact.
    Off,
    /// After each flush a CPU fetches again all that it lost and the tables still hold.
    AfterFlush,
}

/// What kind of machine.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Base frames of memory.
    pub frames: u64,
    /// CPUs.
    pub cpus: usize,
    /// Base frames that wait in quarantine before they are free again.
    pub quarantine: u64,
    /// Whether EPT entries have A and D bits.
    pub accessed_dirty: AccessedDirty,
    /// Whether CPUs speculate.
    pub speculation: Speculation,
    /// Whether guests are under shadows.
    pub paging: Paging,
}

/// How guests' addresses are translated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Paging {
    /// By an EPT.
    Ept,
    /// By a shadow for each CPU, whose number is that of the virtual processor.
    Shadow,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            frames: 8192,
            cpus: 2,
            quarantine: 1024,
            accessed_dirty: AccessedDirty::Hardware,
            speculation: Speculation::Off,
            paging: Paging::Ept,
        }
    }
}

impl Options {
    /// The same under the paging that was asked for. Under a shadow aging finds A bits in that, and in the ground what faults have set.
    #[must_use]
    pub fn with_chosen_paging(self) -> Self {
        match Paging::chosen() {
            Paging::Ept => self,
            Paging::Shadow => Self { paging: Paging::Shadow, accessed_dirty: AccessedDirty::Absent, ..self },
        }
    }
}

/// What has happened, to show that a test was not idle.
#[derive(Debug)]
pub(crate) struct Counters {
    pub(crate) hits: AtomicU64,
    pub(crate) walks: AtomicU64,
    pub(crate) faults: AtomicU64,
    /// How often frames that were zeroed ahead have become few.
    pub(crate) zeroed_ran_low: AtomicU64,
    /// By the program, not by CPUs.
    table_accesses: AtomicU64,
    /// At so many the program counts as stuck.
    most_table_accesses: AtomicU64,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            hits: AtomicU64::new(0),
            walks: AtomicU64::new(0),
            faults: AtomicU64::new(0),
            zeroed_ran_low: AtomicU64::new(0),
            table_accesses: AtomicU64::new(0),
            most_table_accesses: AtomicU64::new(MOST_TABLE_ACCESSES),
        }
    }
}

/// What a frame is, beside what the allocator knows of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
enum Role {
    /// Free, or used for contents.
    Plain,
    Table,
    Quarantined,
}

/// Retired blocks, oldest first.
#[derive(Debug, Default)]
struct Quarantine {
    blocks: VecDeque<(Pfn, PageSize)>,
    frames: u64,
}

impl Quarantine {
    /// Takes a block in; those that have to go so that at most `room` frames stay.
    fn exchange(&mut self, block: (Pfn, PageSize), room: u64) -> Vec<(Pfn, PageSize)> {
        self.blocks.push_back(block);
        self.frames += block.1.base_pages();
        let mut released = Vec::new();
        while self.frames > room
            && let Some(oldest) = self.blocks.pop_front()
        {
            self.frames -= oldest.1.base_pages();
            released.push(oldest);
        }
        released
    }
}

/// A machine.
pub struct Machine {
    pub(crate) options: Options,
    frames: Frames,
    pub(crate) memory: Memory,
    /// By frame, a [`Role`].
    roles: Box<[AtomicU8]>,
    quarantine: Mutex<Quarantine>,
    cpus: Box<[Mutex<Cpu>]>,
    generation: AtomicU64,
    violations: Mutex<Vec<Violation>>,
    seams: seams::Seams,
    replay: replay::Replay,
    /// Device TLBs, which no frame may be retired under.
    devices: Mutex<Vec<Weak<DeviceTlb<Machine>>>>,
    pub(crate) counters: Counters,
    unaged_guests: AtomicBool,
    /// Where CPUs have set D in an EPT, by root: page-modification logging, whose buffers are never full here.
    writes: Mutex<BTreeSet<(Pfn, Gpa)>>,
    /// By the root that a guest is named by, the shadows of its virtual processors.
    shadows: Mutex<BTreeMap<Pfn, Vec<ShadowRoot>>>,
}

impl Machine {
    /// A CPU has set D for a guest-physical address.
    fn log_write(&self, root: Pfn, address: u64) {
        lock(&self.writes).insert((root, Gpa::new(address)));
    }

    /// Where CPUs have set D below a root since this was last asked.
    pub fn take_logged(&self, root: Pfn) -> Vec<Gpa> {
        let mut writes = lock(&self.writes);
        let own = writes.iter().filter(|(of, _)| *of == root).map(|&(_, gpa)| gpa).collect();
        writes.retain(|(of, _)| *of != root);
        own
    }

    /// A machine just switched on: all CPUs in root mode, without an address space.
    #[must_use]
    pub fn new(options: Options) -> Self {
        let meta = (0..options.frames).map(|_| FrameMeta::reserved()).collect();
        let frames = Frames::new(meta, options.cpus);
        frames.add(PfnRange::new(Pfn::new(FIRST_FRAME), Pfn::new(options.frames)));
        Self {
            options,
            frames,
            memory: Memory::new(options.frames),
            roles: (0..options.frames).map(|_| AtomicU8::new(Role::Plain as u8)).collect(),
            quarantine: Mutex::default(),
            cpus: (0..options.cpus).map(|_| Mutex::default()).collect(),
            generation: AtomicU64::new(0),
            violations: Mutex::default(),
            seams: seams::Seams::default(),
            replay: replay::Replay::default(),
            devices: Mutex::default(),
            counters: Counters::default(),
            unaged_guests: AtomicBool::new(false),
            writes: Mutex::default(),
            shadows: Mutex::default(),
        }
    }

    /// MOV CR3: the CPU, in root mode, uses these tables from now on.
    pub fn load_space(&self, cpu: CpuIndex, root: Option<Pfn>) {
        self.transition(cpu, |state| state.space = root);
    }

    /// VM entry: the CPU runs a guest under this EPT, or under the shadow that it has for this CPU.
    pub fn enter(&self, cpu: CpuIndex, ept: Pfn) {
        let shadow = self.shadow_roots(ept).get(cpu.0).copied();
        self.transition(cpu, |state| (state.ept, state.shadow) = (Some(ept), shadow));
    }

    /// VM exit.
    pub fn exit(&self, cpu: CpuIndex) {
        self.transition(cpu, |state| (state.ept, state.shadow) = (None, None));
    }

    /// The guest of this root is under these shadows, one for each CPU.
    pub fn set_shadows(&self, root: Pfn, shadows: Vec<ShadowRoot>) {
        lock(&self.shadows).insert(root, shadows);
    }

    /// From its next entry on, a virtual processor of the guest of a root begins there.
    pub fn set_shadow(&self, root: Pfn, cpu: CpuIndex, shadow: ShadowRoot) {
        if let Some(shadows) = lock(&self.shadows).get_mut(&root) {
            shadows[cpu.0] = shadow;
        }
    }

    /// The shadows of the guest of a root.
    pub fn shadow_roots(&self, root: Pfn) -> Vec<ShadowRoot> {
        lock(&self.shadows).get(&root).cloned().unwrap_or_default()
    }

    fn transition(&self, cpu: CpuIndex, change: impl FnOnce(&mut Cpu)) {
        sync::switch_point();
        let mut state = self.cpu(cpu);
        let mut dropped = state.pay();
        dropped.extend(state.forget_shadow());
        change(&mut state);
        self.refetch(cpu, &mut state, &dropped);
    }

    /// The EPT that the CPU runs a guest under; `None` in root mode.
    pub fn guest_root(&self, cpu: CpuIndex) -> Option<Pfn> {
        self.cpu(cpu).ept
    }

    /// CPUs of the machine.
    pub fn cpus(&self) -> impl Iterator<Item = CpuIndex> + use<> {
        (0..self.cpus.len()).map(CpuIndex)
    }

    /// Accesses answered from a cached translation.
    pub fn hits(&self) -> u64 {
        self.counters.hits.load(Ordering::Relaxed)
    }

    /// Accesses that faulted.
    pub fn faults(&self) -> u64 {
        self.counters.faults.load(Ordering::Relaxed)
    }

    /// How often frames that were zeroed ahead have become few.
    pub fn zeroed_ran_low(&self) -> u64 {
        self.counters.zeroed_ran_low.load(Ordering::Relaxed)
    }

    /// Table walks.
    pub fn walks(&self) -> u64 {
        self.counters.walks.load(Ordering::Relaxed)
    }

    /// Records a violation; the oracle reports the first.
    pub(crate) fn report(&self, violation: Violation) {
        lock(&self.violations).push(violation);
    }

    pub(crate) fn first_violation(&self) -> Option<Violation> {
        lock(&self.violations).first().cloned()
    }

    pub(crate) fn is_live_table(&self, table: Pfn) -> bool {
        self.has_role(table, Role::Table)
    }

    fn has_role(&self, frame: Pfn, role: Role) -> bool {
        let known = self.roles.get(frame.as_u64() as usize);
        known.is_some_and(|known| known.load(Ordering::Acquire) == role as u8)
    }

    fn set_role(&self, frame: Pfn, size: PageSize, role: Role) {
        let first = frame.as_u64() as usize;
        let roles = &self.roles[first..first + size.base_pages() as usize];
        roles.iter().for_each(|known| known.store(role as u8, Ordering::Release));
    }

    pub(crate) fn is_live_frame(&self, frame: Pfn) -> bool {
        (self.frames.is_used(frame) || self.is_foreign(frame)) && self.has_role(frame, Role::Plain)
    }

    /// Whether the frame is memory that the allocator does not have: what execute-in-place stores are made of.
    pub(crate) const fn is_foreign(&self, frame: Pfn) -> bool {
        frame.as_u64() < FIRST_FRAME
    }

    pub(crate) fn live_tables(&self) -> BTreeSet<Pfn> {
        let numbers = (0..self.options.frames).map(Pfn::new);
        numbers.filter(|&frame| self.has_role(frame, Role::Table)).collect()
    }

    pub(crate) fn quarantined_frames(&self) -> u64 {
        lock(&self.quarantine).frames
    }

    /// Puts a retired block at the end of the quarantine, and frees what has been there long enough.
    fn quarantine(&self, frame: Pfn, size: PageSize) {
        self.set_role(frame, size, Role::Quarantined);
        // Nothing of the machine's own is locked where the product may have to wait: in the allocator.
        let released = lock(&self.quarantine).exchange((frame, size), self.options.quarantine);
        for (oldest, size) in released {
            self.set_role(oldest, size, Role::Plain);
            sync::undisturbed(|| self.frames.free(CpuIndex(0), oldest, size));
        }
    }

    /// Records every CPU that can still reach one of these frames.
    fn check_unreachable(&self, first: Pfn, frames: u64) {
        for cpu in self.cpus() {
            let state = self.cpu(cpu);
            for (kind, tlb) in state.tlbs() {
                for (key, cached) in tlb.reaching(first, frames) {
                    if !state.is_doomed(kind, &key) {
                        let (root, page) = (key.tag.root, key.page);
                        self.report(Violation::FreedWhileTranslated { cpu: cpu.0, kind, root, page, cached });
                    }
                }
            }
            // A guest's tables lie in frames like others.
            for (_, _, Structure { table, .. }) in state.live_structures() {
                if (first..first.add(frames)).contains(&table) {
                    self.report(Violation::FreedWhileWalkable { cpu: cpu.0, table });
                }
            }
        }
    }

    /// Records every CPU that can still walk this table.
    fn check_unwalkable(&self, table: Pfn) {
        for cpu in self.cpus() {
            let state = self.cpu(cpu);
            let mut structures = state.live_structures();
            let named = structures.any(|(_, key, named)| named.table == table || key.tag.root == table);
            let shadow = state.shadow.is_some_and(|shadow| shadow.root == table);
            let current = state.space == Some(table) || state.ept == Some(table) || shadow;
            let tagged = state.live().any(|(_, key, _)| key.tag.root == table);
            if named || current || tagged {
                self.report(Violation::FreedWhileWalkable { cpu: cpu.0, table });
            }
        }
    }

    /// Reads a word of a frame as a device does, past every table.
    pub fn peek(&self, frame: Pfn, word: u16) -> u64 {
        self.memory.load(frame, word)
    }

    /// Writes a word of a frame as a device does, past every table.
    pub fn poke(&self, frame: Pfn, word: u16, value: u64) {
        self.memory.store(frame, word, value);
    }

    /// Changes what a flush drops, for tests of the tests.
    pub fn skip_flushes(&self, skip: Skip) {
        self.seams.skip_flushes(skip);
    }

    /// From now on, entries are written in two halves: the flags, then the frame. For tests of the tests.
    pub fn tear_entries(&self) {
        self.seams.tear_entries();
    }

    /// Flushes asked for so far.
    pub fn flushes(&self) -> u64 {
        self.seams.flushes()
    }

    /// Runs `hook` at each seam that is passed from now on, but not at those that it passes itself.
    pub fn set_hook(&self, hook: impl FnMut(Event) + Send + 'static) {
        self.seams.set_hook(Box::new(hook));
    }

    /// Runs `hook` once, when the table entry `at` is next read, between the reading and what comes of it.
    pub fn set_load_hook(&self, at: EntryRef, hook: impl FnOnce() + Send + 'static) {
        self.seams.set_load_hook(at, Box::new(hook));
    }

    /// Runs no hook any more.
    pub fn clear_hook(&self) {
        self.seams.clear_hook();
    }

    /// Lets the allocation fail that comes after `successes` others, and only that one.
    pub fn fail_allocation_after(&self, successes: u64) {
        self.fail_allocations_after(successes, Failing::Once);
    }

    /// Lets allocations fail after `successes` others.
    pub fn fail_allocations_after(&self, successes: u64, failing: Failing) {
        self.seams.fail_allocation_after(successes, failing);
    }

    /// From now on guest-physical translations may be cached whose A bit is clear: somebody aged without a flush, as
    /// `clear_young` may.
    pub fn excuse_unaged_guests(&self) {
        self.unaged_guests.store(true, Ordering::Relaxed);
    }

    pub(crate) fn excuses_unaged(&self, kind: Kind) -> bool {
        kind != Kind::Linear && self.unaged_guests.load(Ordering::Relaxed)
    }

    /// Whether the failure asked for has not happened yet; it will not any more.
    pub fn cancel_failure(&self) -> bool {
        self.seams.cancel_failure()
    }

    /// Whether a CPU has cached a translation for the address, from tables that it uses now.
    pub fn has_cached(&self, cpu: CpuIndex, kind: Kind, address: u64) -> bool {
        let mut state = self.cpu(cpu);
        let kind = state.used_for(kind);
        let tag = state.tag(kind);
        tag.is_some_and(|tag| state.tlb(kind).find(tag, address, Access::Read).is_some())
    }

    /// Whether the failure asked for has yet to happen.
    pub fn failure_is_pending(&self) -> bool {
        self.seams.failure_is_pending()
    }
}
