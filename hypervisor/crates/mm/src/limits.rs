//! How much memory an address space may have.
//!
//! ```text
//!   limit:   resident ─────────────────► limit - 32: a fault of this space makes room in it, first and by itself
//!                                        limit:      and if nothing of it can go, the fault fails
//!
//!   weight:  share = all that is resident * own weight / all weights
//!            under pressure, whoever has more than his share loses pages that are in use before others do
//! ```
//!
//! What nobody has used for long goes whoever it belongs to (`shrink.rs`): a share is a claim to what is needed, not to what
//! lies idle.

use crate::batch::Neighbours;
use crate::host::Host;
use crate::mm::Mm;
use crate::shrink::{AGES, Attempts, Clock, DIRECT, Shrunk, Wanted, cluster_at};
use crate::space::{AddressSpace, FaultError};
use crate::vma::Access;
use addr::{Hva, HvaRange, PageSize, Pfn};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use mutants::{Mutant, intact};

/// The weight of an address space that was given none.
const WEIGHT: u32 = 100;
/// A space at its limit begins a generation when one part in so many of what it has was replaced.
const TURN: u64 = 4;

/// What an address space may have. Relaxed: these are set before they are needed, and order nothing.
#[derive(Debug)]
pub(crate) struct Allowance {
    /// Most frames.
    limit: AtomicU64,
    weight: AtomicU32,
    /// Where the search for old pages of this space goes on.
    hand: AtomicU64,
    /// Pages that have gone for its limit's sake since it began a generation.
    gone: AtomicU64,
}

impl Allowance {
    pub(crate) const fn new() -> Self {
        let (limit, weight) = (AtomicU64::new(u64::MAX), AtomicU32::new(WEIGHT));
        Self { limit, weight, hand: AtomicU64::new(0), gone: AtomicU64::new(0) }
    }
}

/// Who has no more than his share, when reclaim begins.
#[derive(Debug, Default)]
pub(crate) struct Shares {
    below: Vec<Pfn>,
}

impl Shares {
    /// The shares of these spaces in what they have together.
    pub(crate) fn of<H: Host>(spaces: &[Arc<AddressSpace<H>>]) -> Self {
        let weight = |space: &AddressSpace<H>| u128::from(space.allowance().weight.load(Ordering::Relaxed));
        let resident = |space: &AddressSpace<H>| u128::from(space.resident_frames());
        let all: (u128, u128) =
            spaces.iter().fold((0, 0), |sum, space| (sum.0 + resident(space), sum.1 + weight(space)));
        let is_below = |space: &&Arc<AddressSpace<H>>| resident(space) * all.1 < all.0 * weight(space);
        Self { below: spaces.iter().filter(is_below).map(|space| space.root()).collect() }
    }

    /// Whether pages of this age may be taken from the space.
    pub(crate) fn may_take<H: Host>(&self, space: &AddressSpace<H>, age: u32) -> bool {
        age >= AGES || !self.below.contains(&space.root())
    }

    /// Everybody may be taken from; whether that is anything new.
    pub(crate) fn forget(&mut self) -> bool {
        !core::mem::take(&mut self.below).is_empty()
    }
}

impl<H: Host> AddressSpace<H> {
    /// Sets the most frames that it may have, each counted once for each entry; `None`: no limit. Above it a fault first
    /// makes room in this space, and waits for nobody else's sake. Faults that are under way at the same time may be one
    /// frame each above it where nothing can go any more.
    pub fn set_limit(&self, frames: Option<u64>) {
        self.allowance().limit.store(frames.unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Sets its weight, relative to those of other spaces; 100 is the normal one.
    pub fn set_weight(&self, weight: u32) {
        self.allowance().weight.store(weight.max(1), Ordering::Relaxed);
    }

    /// Before a fault: makes room in this space if it is at its limit. No lock of rank `Reclaim` or later is held.
    ///
    /// # Errors
    /// [`FaultError::OverLimit`]: nothing of it can go, and the page is not there.
    #[inline]
    pub(crate) fn stay_below_limit(&self, address: Hva, access: Access) -> Result<(), FaultError> {
        let limit = self.allowance().limit.load(Ordering::Relaxed);
        if self.is_below(limit) { Ok(()) } else { self.get_below(limit, address, access) }
    }

    fn is_below(&self, limit: u64) -> bool {
        self.resident_frames().saturating_add(DIRECT) <= limit || !intact(Mutant::LimitIgnored)
    }

    /// Pages that it may have beside those that faults ask for.
    pub(crate) fn room_below_limit(&self) -> u64 {
        let limit = self.allowance().limit.load(Ordering::Relaxed);
        let taken = self.resident_frames().saturating_add(DIRECT);
        if intact(Mutant::AheadIgnoresLimit) { limit.saturating_sub(taken) } else { u64::MAX }
    }

    #[inline(never)]
    fn get_below(&self, limit: u64, address: Hva, access: Access) -> Result<(), FaultError> {
        let mut attempts = Attempts::default();
        while self.makes_progress(&mut attempts) {
            if self.is_below(limit) {
                return Ok(());
            }
        }
        if self.resident_frames() < limit || self.has_page(address, access) {
            return Ok(());
        }
        Err(FaultError::OverLimit { frames: limit })
    }

    fn makes_progress(&self, attempts: &mut Attempts) -> bool {
        let (mm, own) = (self.mm(), intact(Mutant::LimitTakesFromOthers));
        attempts
            .try_again(|| mm.make_progress(|| if own { self.make_room(DIRECT) } else { mm.shrink(DIRECT) }))
    }

    /// Reclaims `goal` pages of this space, the oldest first, if it can. The caller holds no lock of rank `Reclaim` or later.
    pub fn make_room(&self, goal: u64) -> Shrunk {
        let Some(this) = self.myself() else { return Shrunk::default() };
        let mm = self.mm();
        let age = |clock: &mut Clock| self.may_age() && mm.age(clock);
        let sweep = |_: &mut Clock, age, shrunk: &mut Shrunk| mm.sweep_space(&this, goal, age, shrunk);
        let shrunk = mm.shrink_by(&mut mm.clock().lock(), goal, age, sweep);
        self.allowance().gone.fetch_add(shrunk.reclaimed, Ordering::Relaxed);
        shrunk
    }

    /// Whether it may begin a generation, which is everybody's: once for so many pages that go. Others would grow old by what
    /// happens here.
    fn may_age(&self) -> bool {
        let Allowance { limit, gone, .. } = self.allowance();
        let turn = limit.load(Ordering::Relaxed).min(self.resident_frames()) / TURN;
        let due = gone.load(Ordering::Relaxed) >= turn;
        if due {
            gone.store(0, Ordering::Relaxed);
        }
        due
    }
}

impl<H: Host> Mm<H> {
    /// One turn over a space, from its hand on, until enough has gone.
    fn sweep_space(&self, space: &Arc<AddressSpace<H>>, goal: u64, age: u32, shrunk: &mut Shrunk) {
        let hand = &space.allowance().hand;
        let start = Hva::new(hand.load(Ordering::Relaxed));
        let blocks = space.blocks_from(start);
        for block in blocks {
            self.sweep_block(space, block, (goal, age), shrunk);
            hand.store(block.end().as_u64(), Ordering::Relaxed);
            if shrunk.reclaimed >= goal {
                return;
            }
        }
    }

    fn sweep_block(
        &self,
        space: &Arc<AddressSpace<H>>,
        block: HvaRange,
        (goal, age): (u64, u32),
        shrunk: &mut Shrunk,
    ) {
        let mut rest = Some(block);
        while let Some(range) = rest.filter(|_| shrunk.reclaimed < goal) {
            let now = self.host().frames().generation();
            let (slotless, patience) = (shrunk.swap_is_full, self.patience(age));
            let wanted = Wanted { age, now, slotless, patience };
            let Some((address, frame)) =
                space.first_old(range, |frame| wanted.is(self.host().frames(), frame))
            else {
                return;
            };
            let place = self.owner_of(frame);
            self.put(frame);
            let cluster = cluster_at(address);
            match place {
                Some((owner, index)) => match owner.of_file() {
                    Some(rmap) => {
                        self.shrink_file_page(rmap, frame, index, shrunk);
                        rest = behind(range, address.add(PageSize::Size4K.bytes()));
                    }
                    None => {
                        let place = Neighbours { space: Arc::clone(space), owner, cluster };
                        self.shrink_around(&place, &wanted, shrunk);
                        rest = behind(range, cluster.end());
                    }
                },
                None => rest = behind(range, cluster.end()),
            }
        }
    }
}

/// What of a range lies from `start` on.
fn behind(range: HvaRange, start: Hva) -> Option<HvaRange> {
    (start < range.end()).then(|| HvaRange::new(start, range.end()))
}
