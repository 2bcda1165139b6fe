//! The working set of a restored guest: recorded by the first run that restores the snapshot, read ahead by those that follow.
//!
//! ```text
//!   first run:   faults ─► pages, in their order ─► the guest ends ─► the room that the snapshot has for them
//!   later runs:  the room ─► pages, in the disk's order ─► up to 16 in a request ─► the file's cache, before the faults come
//! ```
//!
//! Only while a quarter of the machine's memory is free: nobody has asked for these pages yet.

use super::restore::Source;
use super::vm::Vm;
use crate::physmem::PhysicalMemory;
use crate::sched::{self, Group, JoinHandle};
use addr::{PageSize, Pfn};
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::mem::take;
use mm::{File, FrameMemory, Host};
use snapshot::{PAGE_BYTES, Page, Place, WORKING_SET_PAGES, WorkingSet};
use spin::Mutex;
use tiers::{BlockDevice, MOST_PAGES};

/// Before guests, which wait for it otherwise.
const WEIGHT: u32 = 400;
/// The part of memory that stays free.
const FREE_PART: u64 = 4;

/// Pages of memory that were asked for, in their order; at most as many as can be kept.
#[derive(Default)]
pub(super) struct Recorder(Mutex<Vec<u32>>);

impl Recorder {
    /// A page was asked for.
    pub(super) fn note(&self, page: u64) {
        let mut pages = self.0.lock();
        if pages.len() < WORKING_SET_PAGES
            && let Ok(page) = u32::try_from(page)
        {
            pages.push(page);
        }
    }
}

/// A file of the guest's memory, and the number of its first page among all.
type Part = (u64, Arc<File<PhysicalMemory>>);

/// What is known of a guest before it runs.
pub(super) struct Ahead {
    source: Arc<Source>,
    files: Vec<Part>,
    /// Where the pages are that it will ask for, by their numbers.
    wanted: Vec<(Place, u64)>,
}

impl Ahead {
    /// Looks whether a working set was recorded. What was read to check the memory is none.
    pub(super) fn new(source: &Arc<Source>, files: Vec<Part>) -> Self {
        source.recorder.0.lock().clear();
        let pages = source.working_set().pages.into_iter().map(u64::from);
        // Sorted, each once; on the heap, since stacks are small here.
        let placed =
            pages.filter_map(|page| source.snapshot.place(page).map(|place| (place.page, (place, page))));
        let wanted = placed.collect::<BTreeMap<_, _>>().into_values().collect();
        Self { source: Arc::clone(source), files, wanted }
    }

    /// Starts a thread that reads ahead, if there is something to read. `None`: there is not, or no memory for a thread, and
    /// the guest runs all the same.
    pub(super) fn start(self: &Arc<Self>, vm: &Arc<Vm>) -> Option<JoinHandle> {
        let (own, vm) = ((!self.wanted.is_empty()).then(|| Arc::clone(self))?, Arc::clone(vm));
        let thread = sched::spawn(&Group::new(WEIGHT), move || {
            let mut count = 0;
            let follow = |one: &(Place, u64), next: &(Place, u64)| one.0.page + 1 == next.0.page;
            for run in own.wanted.chunk_by(follow).flat_map(|run| run.chunks(MOST_PAGES)) {
                if vm.has_ended() || !own.has_room() {
                    break;
                }
                count += own.read(run);
            }
            log::info!("{}: {count} pages of its working set were read ahead", vm.name());
        });
        thread.inspect_err(|error| log::warn!("no reading ahead: {error}")).ok()
    }

    fn has_room(&self) -> bool {
        let frames = self.source.disk.host.frames();
        frames.spare() > frames.total() / FREE_PART
    }

    /// Reads pages that follow each other; how many came. What is no good, the guest finds out itself, if it asks.
    fn read(&self, run: &[(Place, u64)]) -> usize {
        let host = &self.source.disk.host;
        let frames: Vec<Pfn> =
            run.iter().map_while(|_| host.allocate_zeroed(PageSize::Size4K).ok()).collect();
        // Between two chunks lie the checksums of the second: pages that follow each other are of one.
        let sums = frames.first().and_then(|&frame| self.source.sums(&run[0].0, frame).ok());
        let read = sums.filter(|_| self.source.disk.queue.read(run[0].0.page, &frames).is_ok());
        let mut count = 0;
        for (&frame, (place, page)) in frames.iter().zip(run) {
            let file = self.files.iter().rev().find(|(first, _)| first <= page);
            let is_good = |sums: &Arc<Page>| self.source.check(sums, place, frame).is_ok();
            match file.filter(|_| read.as_ref().is_some_and(is_good)) {
                Some((first, file)) => {
                    file.offer(page - first, frame);
                    count += 1;
                }
                None => host.free(frame),
            }
        }
        count
    }

    /// The guest has ended: keeps what it has asked for, unless that was known before.
    pub(super) fn record(&self, name: &str) {
        if !self.wanted.is_empty() {
            return;
        }
        let host = &self.source.disk.host;
        let set = WorkingSet { pages: take(&mut self.source.recorder.0.lock()) };
        let Ok(frame) = host.allocate_zeroed(PageSize::Size4K) else { return };
        let first = self.source.snapshot.working_set_at();
        let kept = (first..).zip(set.encode().chunks(PAGE_BYTES)).try_for_each(|(page, bytes)| {
            host.write_bytes(frame, 0, bytes);
            self.source.disk.queue.write(page, &[frame])
        });
        host.free(frame);
        match kept {
            Ok(()) => log::info!("{name}: a working set of {} pages is recorded", set.pages.len()),
            Err(error) => log::warn!("{name}: no working set: {error}"),
        }
    }
}
