//! The seams that `mm` and `mmu` see the machine through, and what a test can hang onto them: hooks that run
//! code in the middle of an operation, allocations that fail, flushes that do not happen.

use super::cpu::Owed;
use super::memory::POISON;
use super::{CpuIndex, Machine, Role};
use crate::{Violation, lock};
use addr::{PAGE_SHIFT, PageSize, Pfn};
use mm::frames::Frames;
use mm::{FrameMemory, Host, OutOfFrames};
use paging::{EachAlone, EntryRef, FlushScope, FlushToken, OutOfTables, Shootdown, TableMemory};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use sync::{switch_point, undisturbed};

/// A seam that is being passed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// A table is about to be allocated.
    AllocateTable,
    /// A frame is about to be allocated for a fault.
    AllocateFrame(PageSize),
    /// A flush is about to be asked for.
    Request(FlushScope),
    /// The flushes asked for are about to be done. Until then CPUs use what they have cached.
    Wait,
    /// The flushes asked for are done.
    Flushed,
    /// A page is about to be copied.
    Copy,
    /// Bytes of a frame are about to be moved for a device, under its TLB's lock.
    Transfer(Pfn),
    /// An entry is about to be changed, after it was looked at.
    Change(EntryRef),
}

/// Flushes that a test leaves out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Skip {
    /// None.
    Nothing,
    /// Those of linear translations.
    Primary,
    /// Those of guest-physical and combined translations.
    Secondary,
    /// Those of combined translations: the guest-physical ones go.
    Combined,
    /// The one with this number, counted from 0 since the machine was made.
    Number(u64),
}

type Hook = Box<dyn FnMut(Event) + Send>;
type LoadHook = Box<dyn FnOnce() + Send>;
/// Bits of an entry that are no part of the frame's number.
const FLAGS: u64 = 0xfff0_0000_0000_0fff;
/// No failure is asked for.
const NEVER: u64 = u64::MAX;
/// The failure has come, and lasts.
const STILL: u64 = u64::MAX - 1;

/// How long allocations fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failing {
    /// One does.
    Once,
    /// All from then on do, until the failure is cancelled.
    FromThenOn,
}

pub(super) struct Seams {
    hook: Mutex<Option<Hook>>,
    /// Apart from the other hook: loads are many, and other threads' seams must not be missed for them.
    load_hook: Mutex<Option<(EntryRef, LoadHook)>>,
    skip: Mutex<Skip>,
    flushes: AtomicU64,
    /// Entries are written in two halves.
    tears: AtomicBool,
    /// Allocations that succeed before the one that fails.
    successes_left: Mutex<u64>,
    lasting: AtomicBool,
}

impl Default for Seams {
    fn default() -> Self {
        Self {
            hook: Mutex::default(),
            load_hook: Mutex::default(),
            skip: Mutex::new(Skip::Nothing),
            flushes: AtomicU64::new(0),
            tears: AtomicBool::new(false),
            successes_left: Mutex::new(NEVER),
            lasting: AtomicBool::new(false),
        }
    }
}

impl Seams {
    pub(super) fn set_hook(&self, hook: Hook) {
        *lock(&self.hook) = Some(hook);
    }

    pub(super) fn set_load_hook(&self, at: EntryRef, hook: LoadHook) {
        *lock(&self.load_hook) = Some((at, hook));
    }

    pub(super) fn clear_hook(&self) {
        *lock(&self.hook) = None;
        *lock(&self.load_hook) = None;
    }

    pub(super) fn skip_flushes(&self, skip: Skip) {
        *lock(&self.skip) = skip;
    }

    pub(super) fn tear_entries(&self) {
        self.tears.store(true, Ordering::Relaxed);
    }

    fn tears(&self) -> bool {
        self.tears.load(Ordering::Relaxed)
    }

    pub(super) fn flushes(&self) -> u64 {
        self.flushes.load(Ordering::Relaxed)
    }

    pub(super) fn fail_allocation_after(&self, successes: u64, failing: Failing) {
        self.lasting.store(failing == Failing::FromThenOn, Ordering::Relaxed);
        *lock(&self.successes_left) = successes;
    }

    pub(super) fn cancel_failure(&self) -> bool {
        std::mem::replace(&mut *lock(&self.successes_left), NEVER) < STILL
    }

    pub(super) fn failure_is_pending(&self) -> bool {
        *lock(&self.successes_left) != NEVER
    }

    /// Counts a flush, and tells whether it must not happen.
    pub(super) fn skips(&self, scope: FlushScope) -> bool {
        let number = self.flushes.fetch_add(1, Ordering::Relaxed);
        match *lock(&self.skip) {
            Skip::Nothing | Skip::Combined => false,
            Skip::Primary => matches!(scope, FlushScope::Primary { .. }),
            Skip::Secondary => matches!(scope, FlushScope::Secondary { .. }),
            Skip::Number(skipped) => number == skipped,
        }
    }

    fn spares_combined(&self) -> bool {
        *lock(&self.skip) == Skip::Combined
    }

    /// Runs the hook, taken out of its place meanwhile: it may pass seams itself.
    pub(super) fn pass(&self, event: Event) {
        let Some(mut hook) = lock(&self.hook).take() else { return };
        hook(event);
        lock(&self.hook).get_or_insert(hook);
    }

    /// Runs the load hook if this is its entry.
    fn loaded(&self, at: EntryRef) {
        let hook = lock(&self.load_hook).take_if(|(wanted, _)| *wanted == at);
        if let Some((_, hook)) = hook {
            hook();
        }
    }

    fn allocation_fails(&self) -> bool {
        let mut left = lock(&self.successes_left);
        match *left {
            NEVER => false,
            STILL => true,
            0 => {
                *left = if self.lasting.load(Ordering::Relaxed) { STILL } else { NEVER };
                true
            }
            _ => {
                *left -= 1;
                false
            }
        }
    }
}

impl TableMemory for Machine {
    type Entries<'m> = EachAlone<'m, Self>;

    fn entries(&self, table: Pfn) -> Self::Entries<'_> {
        EachAlone(self, table)
    }

    fn load(&self, at: EntryRef) -> u64 {
        switch_point();
        self.count_table_access();
        self.check_table(at.table());
        let value = self.memory.load(at.table(), at.index());
        self.seams.loaded(at);
        value
    }

    fn store(&self, at: EntryRef, value: u64) {
        switch_point();
        self.count_table_access();
        self.check_table(at.table());
        self.seams.pass(Event::Change(at));
        self.write_entry(at, value);
    }

    fn compare_exchange(&self, at: EntryRef, old: u64, new: u64) -> Result<(), u64> {
        switch_point();
        self.count_table_access();
        self.check_table(at.table());
        self.seams.pass(Event::Change(at));
        self.memory.compare_exchange(at.table(), at.index(), old, new)?;
        self.wrote_entry(at, old, new);
        Ok(())
    }

    fn allocate_table(&self) -> Result<Pfn, OutOfTables> {
        self.seams.pass(Event::AllocateTable);
        if self.seams.allocation_fails() {
            return Err(OutOfTables);
        }
        let table = self.take_fresh().map_err(|_| OutOfTables)?;
        self.set_role(table, PageSize::Size4K, Role::Table);
        Ok(table)
    }

    fn free_table(&self, table: Pfn) {
        self.frees_table(table);
        self.check_unwalkable(table);
        if !self.is_live_table(table) {
            self.report(Violation::NotATable { table });
            return;
        }
        if self.frames.meta(table).put() {
            self.retire(table, PageSize::Size4K);
        }
    }
}

impl Machine {
    fn write_entry(&self, at: EntryRef, value: u64) {
        let old = self.memory.load(at.table(), at.index());
        let halves = [old & !FLAGS | value & FLAGS, value];
        let mut before = old;
        for now in halves.into_iter().skip(usize::from(!self.seams.tears())) {
            self.memory.store(at.table(), at.index(), now);
            self.wrote_entry(at, before, now);
            before = now;
        }
    }

    fn fill_block(&self, first: Pfn, size: PageSize, word: u64) {
        for frame in (0..size.base_pages()).map(|index| first.add(index)) {
            self.fill_frame(frame, || self.memory.fill(frame, word));
        }
    }

    /// What the program, or a store for it, does to the contents of a frame.
    pub(crate) fn fill_frame(&self, frame: Pfn, fill: impl FnOnce()) {
        self.fills_frame(frame);
        fill();
        self.filled_frame(frame);
    }

    /// A frame from the allocator. One step of a model: its locks are leaves, and nobody else looks inside.
    fn take(&self, size: PageSize) -> Result<Pfn, OutOfFrames> {
        switch_point();
        undisturbed(|| self.frames.allocate(self.current_cpu(), size))
    }

    /// The same with zeros in it.
    fn take_fresh(&self) -> Result<Pfn, OutOfFrames> {
        switch_point();
        let (frame, fresh) = undisturbed(|| self.frames.allocate_fresh(self.current_cpu()))?;
        self.fill_fresh(&[frame], fresh);
        Ok(frame)
    }

    fn count_table_access(&self) {
        let before = self.counters.table_accesses.fetch_add(1, Ordering::Relaxed);
        assert!(
            before < self.counters.most_table_accesses.load(Ordering::Relaxed),
            "the program goes round in circles"
        );
    }

    /// Accesses to tables by the program so far.
    pub fn table_accesses(&self) -> u64 {
        self.counters.table_accesses.load(Ordering::Relaxed)
    }

    /// Panics when the program has made `count` more accesses to tables.
    pub fn limit_table_accesses(&self, count: u64) {
        self.counters.most_table_accesses.store(self.table_accesses() + count, Ordering::Relaxed);
    }

    fn check_table(&self, table: Pfn) {
        if !self.is_live_table(table) {
            self.report(Violation::NotATable { table });
        }
    }
}

impl FrameMemory for Machine {
    fn zero(&self, frame: Pfn, size: PageSize) {
        self.fill_block(frame, size, 0);
    }

    fn copy(&self, from: Pfn, to: Pfn) {
        switch_point();
        self.seams.pass(Event::Copy);
        if from == to || !self.is_live_frame(from) {
            self.report(Violation::DeadFrameCopied { frame: from });
        }
        self.fill_frame(to, || self.memory.copy(from, to));
    }

    fn poison(&self, frame: Pfn, size: PageSize) {
        self.fill_block(frame, size, POISON);
    }

    fn read_bytes(&self, frame: Pfn, offset: usize, bytes: &mut [u8]) {
        self.transfer(frame, offset, bytes.len());
        self.memory.read_bytes(frame, offset, bytes);
    }

    fn write_bytes(&self, frame: Pfn, offset: usize, bytes: &[u8]) {
        self.transfer(frame, offset, bytes.len());
        self.memory.write_bytes(frame, offset, bytes);
    }

    fn load_word(&self, frame: Pfn, word: u16) -> u64 {
        self.transfer(frame, usize::from(word) * 8, 8);
        self.memory.load(frame, word)
    }

    fn exchange_word(&self, frame: Pfn, word: u16, old: u64, new: u64) -> Result<(), u64> {
        self.transfer(frame, usize::from(word) * 8, 8);
        self.memory.compare_exchange(frame, word, old, new)
    }
}

impl Shootdown for Machine {
    fn request(&self, scope: FlushScope) -> FlushToken {
        switch_point();
        self.seams.pass(Event::Request(scope));
        let generation = self.generation.fetch_add(1, Ordering::SeqCst) + 1;
        if !self.seams.skips(scope) {
            let owed = Owed { generation, scope, spares_combined: self.seams.spares_combined() };
            self.cpus().for_each(|cpu| self.cpu(cpu).owe(owed));
        }
        FlushToken(generation)
    }

    fn wait(&self, FlushToken(generation): FlushToken) {
        self.seams.pass(Event::Wait);
        switch_point();
        for cpu in self.cpus() {
            let mut state = self.cpu(cpu);
            let dropped = state.interrupt(generation);
            self.refetch(cpu, &mut state, &dropped);
        }
        self.seams.pass(Event::Flushed);
    }
}

impl Host for Machine {
    fn frames(&self) -> &Frames {
        &self.frames
    }

    /// Only the allocator's caches ask; any CPU is right.
    fn current_cpu(&self) -> CpuIndex {
        CpuIndex(0)
    }

    fn retire(&self, frame: Pfn, size: PageSize) {
        self.check_unreachable(frame, size.bytes() >> PAGE_SHIFT);
        self.check_no_device_holds(frame, size.base_pages());
        self.poison(frame, size);
        self.quarantine(frame, size);
    }

    fn retire_pages(&self, frames: &[Pfn]) {
        frames.iter().for_each(|&frame| self.retire(frame, PageSize::Size4K));
    }

    fn allocate_zeroed(&self, size: PageSize) -> Result<Pfn, OutOfFrames> {
        self.seams.pass(Event::AllocateFrame(size));
        if self.seams.allocation_fails() {
            return Err(OutOfFrames { size });
        }
        if size == PageSize::Size4K {
            return self.take_fresh();
        }
        let frame = self.take(size)?;
        self.zero(frame, size);
        Ok(frame)
    }

    fn zeroed_run_low(&self) {
        self.counters.zeroed_ran_low.fetch_add(1, Ordering::Relaxed);
    }

    fn allocate_few_zeroed(&self, places: &mut [Pfn]) -> usize {
        let frames =
            places.iter_mut().map_while(|place| Some((place, self.allocate_zeroed(PageSize::Size4K).ok()?)));
        frames.map(|(place, frame)| *place = frame).count()
    }

    fn allocate_to_fill(&self) -> Result<Pfn, OutOfFrames> {
        let size = PageSize::Size4K;
        self.seams.pass(Event::AllocateFrame(size));
        if self.seams.allocation_fails() {
            return Err(OutOfFrames { size });
        }
        let frame = self.take(size)?;
        self.poison(frame, size);
        Ok(frame)
    }

    fn allocate_copy(&self, of: Pfn) -> Result<Pfn, OutOfFrames> {
        let size = PageSize::Size4K;
        self.seams.pass(Event::AllocateFrame(size));
        if self.seams.allocation_fails() {
            return Err(OutOfFrames { size });
        }
        let frame = self.take(size)?;
        self.copy(of, frame);
        Ok(frame)
    }
}
