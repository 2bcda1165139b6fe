//! The policy of reclaim: which pages go when frames run short.
//!
//! ```text
//!   generation 7   8   9 = now            a pass of aging begins the next generation, and moves into it whatever was
//!   ───────────────────────────           used since the last pass; a frame that is allocated is of the present one
//!   pages     go first ─►
//!
//!   shrink:  pages of age 2 ─► of age 1 ─► a pass, and again ─► whatever there is
//!            anybody's         of those who have more than their share (`limits.rs`); at last, anybody's
//! ```
//!
//! There are no lists: a generation is a number in a frame's metadata, and a hand goes round all frames, as in a clock. So to
//! allocate, to map and to free a page costs nothing, and the frames of one age are found in one turn. From a frame its
//! reverse map leads to an address, and its neighbours there, if they are as old, go with it: they are next to each other in
//! swap as they are in memory. A page of a file goes alone: dropped if it is clean, else written back before.

use crate::batch::{CLUSTER, Few, Neighbours};
use crate::frames::{FrameMeta, Frames, PageFlags};
use crate::host::Host;
use crate::limits::Shares;
use crate::mm::Mm;
use crate::reclaim::Spared;
use crate::rmap::{Owner, Rmap};
use crate::space::Youth;
use crate::swap::{Probe, SwapDevice};
use addr::{Hva, HvaRange, PAGE_SIZE, Pfn};
use core::ops::{ControlFlow, Range};
use mutants::{Mutant, intact};

/// Ages that are told apart; the oldest go first.
pub(crate) const AGES: u32 = 2;
/// Passes of aging before pages go that were used since.
const PASSES: usize = 2;
/// Passes of aging, beyond those that others need, before swap is asked again for a page that it has refused. (It was unmapped then,
/// so one that is mapped was touched since, and may hold something else.)
const PATIENCE: u32 = 32;
/// Frames that a fault makes free which finds none.
pub(crate) const DIRECT: u64 = 32;

/// How often a fault that finds no frame tries again when others have been made free: others may be faster each time.
pub(crate) const ATTEMPTS: usize = 64;

/// Beyond these, how often it waits for room in swap, which was full: many small pages have to move on before a span of memory is free
/// that a large one fits in.
pub(crate) const WAITS: usize = 1 << 14;

/// A fault's patience.
#[derive(Debug)]
pub struct Attempts {
    left: usize,
    waits_left: usize,
}

impl Default for Attempts {
    fn default() -> Self {
        Self { left: ATTEMPTS, waits_left: WAITS }
    }
}

impl Attempts {
    /// Makes one, unless there were enough; whether the fault is to be tried again.
    pub(crate) fn try_again(&mut self, make: impl FnOnce() -> Progress) -> bool {
        if self.left == 0 || self.waits_left == 0 {
            return false;
        }
        let progress = make();
        let counter = match progress {
            Progress::Room if intact(Mutant::RoomWearsPatience) => &mut self.waits_left,
            _ => &mut self.left,
        };
        *counter -= 1;
        progress != Progress::Nothing
    }
}

/// What came of an attempt to make frames free, and room in swap for that.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// Nothing could go.
    Nothing,
    /// Swap was full, and has more room now: nothing was searched for yet.
    Room,
    /// There are more free frames; or nothing could go, though swap had room, and it has more now.
    Made,
}

/// The hand, and how far it has got.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    hand: u64,
    /// Frames that it has seen in search of each age, since the present generation began.
    seen: [u64; AGES as usize + 1],
}

/// What came of an attempt to make frames free.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Shrunk {
    /// Pages that went.
    pub reclaimed: u64,
    /// There was no slot, or no device, for others.
    pub swap_is_full: bool,
    /// There were slots, but the device had no room.
    pub swap_has_no_room: bool,
}

impl Shrunk {
    /// Whether it is enough. What needs no swap is long to search for, and swap may have room again before that ends.
    fn suffices(&self, goal: u64) -> bool {
        let stops = self.swap_has_no_room && intact(Mutant::SearchesOnWithoutRoom);
        self.reclaimed >= goal || stops && self.reclaimed > 0
    }
}

/// What is looked for.
pub(crate) struct Wanted {
    /// No page that is younger.
    pub(crate) age: u32,
    /// The present generation.
    pub(crate) now: u32,
    /// No page that needs a slot of swap: there is none.
    pub(crate) slotless: bool,
    /// How much older a page has to be that swap has refused.
    pub(crate) patience: u32,
}

impl Wanted {
    /// Whether reclaim may think of the frame.
    pub(crate) fn is(&self, frames: &Frames, frame: Pfn) -> bool {
        let meta = frames.meta(frame);
        let least = self.age + if meta.has(PageFlags::REFUSED) { self.patience } else { 0 };
        let is_old = self.now.wrapping_sub(frames.generation_of(frame)) >= least;
        is_old && is_candidate(meta) && !(self.slotless && needs_slot(meta))
    }
}

impl<H: Host> Mm<H> {
    /// Reclaims `goal` pages, the oldest first, if it can. The caller holds no lock of rank `Reclaim` or later.
    pub fn shrink(&self, goal: u64) -> Shrunk {
        let mut clock = self.clock().lock();
        let mut shares = Shares::of(&self.spaces());
        let sweep =
            |clock: &mut Clock, age, shrunk: &mut Shrunk| self.sweep(clock, goal, age, &shares, shrunk);
        let mut shrunk = self.shrink_by(&mut clock, goal, |clock| self.age(clock), sweep);
        // Nobody's share counts any more.
        if !shrunk.suffices(goal) && shares.forget() {
            for age in [1, 0] {
                clock.seen[age as usize] = 0;
                self.sweep(&mut clock, goal, age, &shares, &mut shrunk);
            }
        }
        shrunk
    }

    /// Calls `sweep` for one age after the other, and `age` in between, if it has done anything, until enough has gone.
    pub(crate) fn shrink_by(
        &self,
        clock: &mut Clock,
        goal: u64,
        age: impl Fn(&mut Clock) -> bool,
        sweep: impl Fn(&mut Clock, u32, &mut Shrunk),
    ) -> Shrunk {
        let mut shrunk = Shrunk::default();
        for pass in 0..=PASSES {
            // Where swap is full there is little to be found, and no pass makes it more.
            let last = pass == PASSES || shrunk.swap_is_full || pass > 0 && !age(clock);
            for least in (if last { 0 } else { 1 }..=AGES).rev() {
                sweep(clock, least, &mut shrunk);
                if shrunk.suffices(goal) {
                    return shrunk;
                }
            }
            if last {
                break;
            }
        }
        shrunk
    }

    /// Reclaims, of the frames with these numbers, those that `passes` passes of aging have found unused, whoever has made
    /// them, though nobody asks for frames; how many went. The caller holds no lock of rank `Reclaim` or later.
    pub fn reclaim_idle(&self, passes: u32, frames: Range<u64>) -> u64 {
        let _clock = self.clock().lock();
        let (mut shrunk, everybodys) = (Shrunk::default(), Shares::default());
        let old = (passes, self.patience(passes));
        for frame in frames.start..frames.end.min(self.host().frames().known()) {
            self.look_at(Pfn::new(frame), old, &everybodys, &mut shrunk);
        }
        shrunk.reclaimed
    }

    /// A pass of aging over all address spaces, as [`Self::shrink`] makes them. The caller holds no lock of rank `Reclaim`
    /// or later.
    pub fn age_all(&self) {
        self.age(&mut self.clock().lock());
    }

    /// Runs `look` while nobody reclaims anything. The caller holds no lock of rank `Reclaim` or later.
    pub fn while_calm<T>(&self, look: impl FnOnce() -> T) -> T {
        let _clock = self.clock().lock();
        look()
    }

    /// For a fault that has found no frame, or no table: whether to try again. The caller holds no lock; a device that is
    /// full may take its time to have room again.
    pub fn make_room(&self, attempts: &mut Attempts) -> bool {
        if self.swap().device().is_none() {
            return false;
        }
        attempts.try_again(|| match self.host().frames().spare() {
            DIRECT.. => Progress::Made,
            _ => self.make_progress(|| self.shrink(DIRECT)),
        })
    }

    /// Makes frames free by `shrink`, or, first where there is none, room in swap for that. The caller holds no lock.
    pub fn make_progress(&self, shrink: impl FnOnce() -> Shrunk) -> Progress {
        let was_full = !self.swap_has_room();
        if was_full && self.make_room_in_swap() {
            return Progress::Room;
        }
        let shrunk = shrink();
        // The few pages that could go may be those that a fault has just brought in: with them alone it gets nowhere.
        let is_stuck = shrunk.reclaimed == 0 || shrunk.swap_is_full;
        let has_more_room = is_stuck && !was_full && self.make_room_in_swap();
        if shrunk.reclaimed > 0 || has_more_room { Progress::Made } else { Progress::Nothing }
    }

    /// `true` also where there is no device.
    fn swap_has_room(&self) -> bool {
        self.swap().device().is_none_or(SwapDevice::has_room)
    }

    /// Makes room in swap, where that takes time; whether there is more now. The caller holds no lock.
    fn make_room_in_swap(&self) -> bool {
        self.swap().device().is_some_and(SwapDevice::make_room)
    }

    /// A pass of aging; `true`.
    pub(crate) fn age(&self, clock: &mut Clock) -> bool {
        clock.seen = [0; AGES as usize + 1];
        let generation = self.host().frames().next_generation();
        self.spaces().iter().for_each(|space| space.collect_young(generation));
        true
    }

    /// Moves the hand on until enough has gone, or all frames were seen in search of this age.
    fn sweep(&self, clock: &mut Clock, goal: u64, age: u32, shares: &Shares, shrunk: &mut Shrunk) {
        let (all, old) = (self.host().frames().known(), (age, self.patience(age)));
        while clock.seen[age as usize] < all && !shrunk.suffices(goal) {
            clock.seen[age as usize] += 1;
            clock.hand = (clock.hand + 1) % all;
            self.look_at(Pfn::new(clock.hand), old, shares, shrunk);
        }
        if age == 0 || shrunk.swap_is_full {
            // Whoever comes next begins again: what is young now may not be then, and there may be slots.
            clock.seen[age as usize] = 0;
        }
    }

    /// How long pages that swap has refused are passed over by the search for an age: not by the last one, if swap takes
    /// anything by now.
    pub(crate) fn patience(&self, age: u32) -> u32 {
        let takes_them = age == 0 && self.swap().device().is_some_and(SwapDevice::takes_anything);
        if takes_them { 0 } else { PATIENCE }
    }

    /// Reclaims a frame and its neighbours if they are as old, and older by that patience where swap has refused them.
    fn look_at(&self, frame: Pfn, (age, patience): (u32, u32), shares: &Shares, shrunk: &mut Shrunk) {
        let frames = self.host().frames();
        let now = frames.generation();
        let wanted = Wanted { age, now, slotless: shrunk.swap_is_full, patience };
        if !frames.is_used(frame) || !wanted.is(frames, frame) {
            return;
        }
        if is_stranded(frames.meta(frame)) {
            return self.shrink_stranded(frame, shrunk);
        }
        let Some((owner, index)) = self.owner_of(frame) else { return };
        if let Some(rmap) = owner.of_file() {
            self.shrink_file_page(rmap, frame, index, shrunk);
        } else if let Some(place) = self.neighbours_of(owner, frame, index)
            && shares.may_take(&place.space, age)
        {
            self.shrink_around(&place, &wanted, shrunk);
        }
    }

    /// Writes a page again that swap had no room for when it was unmapped, or drops one that is there.
    fn shrink_stranded(&self, frame: Pfn, shrunk: &mut Shrunk) {
        let swap = self.swap();
        let Some(slot) = self.host().frames().meta(frame).swap_slot() else { return };
        if !swap.device().is_some_and(SwapDevice::takes_anything) {
            return;
        }
        let probe = swap.probe(slot, |cached| self.host().frames().meta(cached).get());
        let Probe::Cached(cached) = probe else { return };
        if cached == frame {
            self.count(frame, self.evict_stranded(frame, slot), shrunk);
        }
        self.put(cached);
    }

    /// Reclaims what is old of a cluster.
    pub(crate) fn shrink_around(&self, place: &Neighbours<H>, wanted: &Wanted, shrunk: &mut Shrunk) {
        let mut pages: Few<(Hva, Pfn)> = Few::new();
        place.space.old_frames(
            place.cluster,
            |frame| wanted.is(self.host().frames(), frame),
            |address, frame| {
                let _ = pages.push((address, frame));
                if pages.is_full() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            },
        );
        if pages.is_empty() {
            return;
        }
        self.reclaim_together(place, (&pages, Youth::Spares), |frame, result| {
            self.count(frame, result, shrunk)
        });
        for (_, frame) in pages {
            self.put(frame);
        }
    }

    /// Reclaims a page of a file, if nobody has used it: dropped where it is clean, else written back before.
    pub(crate) fn shrink_file_page(&self, rmap: &Rmap<H>, frame: Pfn, index: u64, shrunk: &mut Shrunk) {
        let Some(file) = rmap.file().filter(|file| file.hold(index, frame)) else { return };
        let kept = file.store().keeps_pages() || !self.host().frames().meta(frame).is_dirty();
        let result = match kept {
            false => Err(Spared::Unevictable),
            true if self.page_referenced(frame) => Err(Spared::Young),
            true => self.reclaim(frame),
        };
        self.count(frame, result, shrunk);
        self.put(frame);
    }

    fn count(&self, frame: Pfn, result: Result<(), Spared>, shrunk: &mut Shrunk) {
        let frames = self.host().frames();
        match result {
            Ok(()) => shrunk.reclaimed += 1,
            Err(Spared::NoSlot) => {
                shrunk.swap_is_full = true;
                shrunk.swap_has_no_room = !self.swap_has_room();
            }
            // It was used, or cannot go now: not to be looked at again at once.
            Err(spared) => {
                let meta = frames.meta(frame);
                if spared == Spared::Refused {
                    meta.set(PageFlags::REFUSED);
                }
                frames.set_generation(frame, frames.generation());
            }
        }
    }

    /// Where a frame is mapped, the first place of several: the address space, and the cluster there. No lock of rank
    /// `FileRmap` or later is held.
    fn neighbours_of(&self, owner: Owner<H>, frame: Pfn, index: u64) -> Option<Neighbours<H>> {
        let mut place = None;
        let visited = self.each_place(&owner, frame, index, |_, space, address| {
            if !space.maps(address, frame) {
                return ControlFlow::Continue(());
            }
            place = Some((space.root(), address));
            ControlFlow::Break(())
        });
        let (root, address) = place?;
        let space = visited.into_iter().find(|space| space.root() == root)?;
        Some(Neighbours { space, owner, cluster: cluster_at(address) })
    }
}

/// In base pages.
fn is_candidate(meta: &FrameMeta) -> bool {
    meta.owner().is_some() && !meta.has(PageFlags::HUGETLB)
}

/// Nobody maps it, and swap does not have it yet.
fn is_stranded(meta: &FrameMeta) -> bool {
    meta.map_count() == 0 && meta.swap_slot().is_some()
}

/// A page of a file goes back there, one of `MADV_FREE` nowhere, one from swap to the slot that it has.
fn needs_slot(meta: &FrameMeta) -> bool {
    !meta.flags().intersects(PageFlags::FILE | PageFlags::LAZY_FREE) && meta.swap_slot().is_none()
}

pub(crate) fn cluster_at(address: Hva) -> HvaRange {
    let bytes = CLUSTER as u64 * PAGE_SIZE;
    let start = Hva::new(address.as_u64() & !(bytes - 1));
    HvaRange::new(start, start.add(bytes))
}
