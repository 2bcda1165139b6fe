//! The policy of reclaim: which pages go when frames run short.
//!
//! ```text
//!   generation 7   8   9 = now            a pass of aging begins the next generation, and moves into it whatever was
//!   ───────────────────────────           used since the last pass; a frame that is allocated is of the present one
//!   pages     go first ─►
//!
//!   shrink:  pages of age 2 ─► of age 1 ─► a pass, and again ─► whatever there is
//! ```
//!
//! There are no lists: a generation is a number in a frame's metadata, and a hand goes round all frames, as in a clock. So to
//! allocate, to map and to free a page costs nothing, and the frames of one age are found in one turn. From a frame its
//! reverse map leads to an address, and its neighbours there, if they are as old, go with it: they are next to each other in
//! swap as they are in memory.

use crate::batch::{CLUSTER, Few, Neighbours};
use crate::frames::{FrameMeta, PageFlags};
use crate::host::Host;
use crate::mm::Mm;
use crate::reclaim::Spared;
use crate::swap::SwapDevice;
use addr::{Hva, HvaRange, PAGE_SIZE, Pfn};
use core::ops::ControlFlow;

/// Ages that are told apart; the oldest go first.
const AGES: u32 = 2;
/// Passes of aging before pages go that were used since.
const PASSES: usize = 2;
/// Frames that a fault makes free which finds none.
const DIRECT: u64 = 32;

/// How often a fault that finds no frame makes room and tries again, before it gives up: others may be faster each time.
pub const ATTEMPTS: usize = 64;

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
}

impl<H: Host> Mm<H> {
    /// Reclaims `goal` pages, the oldest first, if it can. The caller holds no lock of rank `Reclaim` or later.
    pub fn shrink(&self, goal: u64) -> Shrunk {
        let mut clock = self.clock().lock();
        let mut shrunk = Shrunk::default();
        for pass in 0..=PASSES {
            let least = if pass == PASSES { 0 } else { 1 };
            for age in (least..=AGES).rev() {
                self.sweep(&mut clock, goal, age, &mut shrunk);
                if shrunk.reclaimed >= goal || shrunk.swap_is_full {
                    return shrunk;
                }
            }
            if pass < PASSES {
                self.age(&mut clock);
            }
        }
        shrunk
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
    pub fn make_room(&self) -> bool {
        let has_swap = self.swap().device().is_some();
        let has_frames = || self.host().frames().spare() >= DIRECT || self.shrink(DIRECT).reclaimed > 0;
        has_swap && (has_frames() || self.make_room_in_swap())
    }

    /// Makes room in swap, where that takes time; whether there is more now. The caller holds no lock.
    pub fn make_room_in_swap(&self) -> bool {
        self.swap().device().is_some_and(SwapDevice::make_room)
    }

    fn age(&self, clock: &mut Clock) {
        clock.seen = [0; AGES as usize + 1];
        let generation = self.host().frames().next_generation();
        self.spaces().iter().for_each(|space| space.collect_young(generation));
    }

    /// Moves the hand on until enough has gone, or all frames were seen in search of this age.
    fn sweep(&self, clock: &mut Clock, goal: u64, age: u32, shrunk: &mut Shrunk) {
        let frames = self.host().frames();
        let (all, generation) = (frames.known(), frames.generation());
        let is_old =
            |meta: &FrameMeta| generation.wrapping_sub(meta.generation()) >= age && is_candidate(meta);
        while clock.seen[age as usize] < all && shrunk.reclaimed < goal && !shrunk.swap_is_full {
            clock.seen[age as usize] += 1;
            clock.hand = (clock.hand + 1) % all;
            let frame = Pfn::new(clock.hand);
            if frames.is_used(frame) && is_old(frames.meta(frame)) {
                self.shrink_around(frame, &is_old, shrunk);
            }
        }
        if age == 0 {
            // Whoever comes next begins again: what is young now may not be then.
            clock.seen[0] = 0;
        }
    }

    /// Reclaims a page and its neighbours.
    fn shrink_around(&self, frame: Pfn, is_old: &impl Fn(&FrameMeta) -> bool, shrunk: &mut Shrunk) {
        let Some(place) = self.neighbours_of(frame) else { return };
        let mut pages: Few<(Hva, Pfn)> = Few::new();
        place.space.old_frames(place.cluster, is_old, |address, frame| {
            let _ = pages.push((address, frame));
            if pages.is_full() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        if pages.is_empty() {
            return;
        }
        let generation = self.host().frames().generation();
        self.reclaim_together(&place, &pages, |frame, result| match result {
            Ok(()) => shrunk.reclaimed += 1,
            Err(Spared::NoSlot) => shrunk.swap_is_full = true,
            // It was used, or cannot go now: not to be looked at again at once.
            Err(_) => self.host().frames().meta(frame).set_generation(generation),
        });
        for (_, frame) in pages {
            self.put(frame);
        }
    }

    /// Where a frame is mapped, the first place of several: the address space, and the cluster there. No lock of rank
    /// `FileRmap` or later is held.
    fn neighbours_of(&self, frame: Pfn) -> Option<Neighbours<H>> {
        let (rmap, index) = self.rmap_of(frame)?;
        if rmap.is_file() {
            return None;
        }
        let mut place = None;
        let visited = rmap.each_place(index, |space, address| {
            if !space.maps(address, frame) {
                return ControlFlow::Continue(());
            }
            place = Some((space.root(), address));
            ControlFlow::Break(())
        });
        let (root, address) = place?;
        let space = visited.into_iter().find(|space| space.root() == root)?;
        Some(Neighbours { space, rmap, cluster: cluster_at(address) })
    }
}

/// Whether reclaim may think of the frame: an anonymous page in base pages.
fn is_candidate(meta: &FrameMeta) -> bool {
    meta.owner().is_some() && !meta.has(PageFlags::HUGETLB) && meta.map_count() > 0
}

fn cluster_at(address: Hva) -> HvaRange {
    let bytes = CLUSTER as u64 * PAGE_SIZE;
    let start = Hva::new(address.as_u64() & !(bytes - 1));
    HvaRange::new(start, start.add(bytes))
}
