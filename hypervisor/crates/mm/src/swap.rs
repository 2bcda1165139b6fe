//! Swap: slots that hold pages, and the swap cache, which holds frames that have the contents of a slot.
//!
//! ```text
//!            reserve (frame cached)         entries become notes           frame unmapped, written: uncache
//!   free ─────────────────────────► cached ─────────────────────► cached ─────────────────────────► held
//!    ▲                                          notes > 0           ▲                                 │
//!    │                                                              └──────────── swap-in: cache ─────┘
//!    └──── no note left, and not cached
//! ```
//!
//! A slot is free when no entry names it and no frame caches it. While a frame caches it, the frame is the truth: a
//! fault takes it from here and never reads an old copy from the device (I14).
//!
//! A frame that was read from a device which keeps copies for nothing goes on caching its slot, unnoted: if nobody writes to the page,
//! it can go again without being written.

use crate::churn::Churn;
use crate::frames::MOST_SLOTS;
use addr::Pfn;
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use mutants::{Mutant, intact};
use sync::{Mutex, Rank};

/// A slot of the device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlotError {
    /// Its number.
    pub slot: u64,
}

impl fmt::Display for SlotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "swap slot {} cannot be read or written", self.slot)
    }
}

/// Why a page was not kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unwritten {
    /// The device failed, or has no room.
    Failed(SlotError),
    /// The page does not compress, and nothing takes it as it is.
    Refused,
}

impl From<SlotError> for Unwritten {
    fn from(error: SlotError) -> Self {
        Self::Failed(error)
    }
}

/// What a swap device keeps, and what it has done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SwapCounts {
    /// Pages in memory.
    pub pages: u64,
    /// Of these, pages of one word.
    pub filled: u64,
    /// Bytes of the others, compressed.
    pub bytes: u64,
    /// Frames that they take.
    pub frames: u64,
    /// Pages refused because they do not compress.
    pub refused: u64,
    /// Pages on disk.
    pub on_disk: u64,
    /// Pages read from disk, ahead of need or not.
    pub reads: u64,
    /// Pages written to disk.
    pub writes: u64,
    /// Requests of several pages each, reads and writes.
    pub requests: u64,
    /// Of these, those that began where the last one had ended.
    pub sequential: u64,
    /// Reads that failed.
    pub read_errors: u64,
    /// Writes that failed.
    pub write_errors: u64,
}

/// What keeps pages that have no frame.
pub trait SwapDevice: Send + Sync {
    /// How many pages it can keep.
    fn slots(&self) -> u64;

    /// Whether it can keep more than it does now. A hint: a write may fail all the same.
    fn has_room(&self) -> bool {
        true
    }

    /// Whether it takes any page now, also one that does not compress. A hint.
    fn takes_anything(&self) -> bool {
        true
    }

    /// Whether a copy that stays behind, while its page is in memory, costs nothing that could be used better.
    fn keeps(&self, _slot: u64) -> bool {
        false
    }

    /// Whether a read of the slot may have to wait for anything. Where it never has, it may be done under the locks of a fault.
    fn waits(&self, _slot: u64) -> bool {
        true
    }

    /// Makes room for more, where that takes time; whether it has. No lock is held.
    fn make_room(&self) -> bool {
        false
    }

    /// What it keeps, and what it has done.
    fn counts(&self) -> SwapCounts {
        SwapCounts::default()
    }

    /// Keeps a copy of the frame, at once: the page lock is held.
    ///
    /// # Errors
    /// [`Unwritten`]: nothing was kept, the page stays.
    fn write(&self, slot: u64, frame: Pfn) -> Result<(), Unwritten>;

    /// Fills the frame with what was kept last, which may take time: no lock is held, unless it never waits.
    ///
    /// # Errors
    /// [`SlotError`]: the page is lost.
    fn read(&self, slot: u64, frame: Pfn) -> Result<(), SlotError>;

    /// What is kept there is not needed any more.
    fn discard(&self, slot: u64);
}

/// A device that several have.
impl<D: SwapDevice + ?Sized> SwapDevice for Arc<D> {
    fn slots(&self) -> u64 {
        (**self).slots()
    }

    fn has_room(&self) -> bool {
        (**self).has_room()
    }

    fn takes_anything(&self) -> bool {
        (**self).takes_anything()
    }

    fn keeps(&self, slot: u64) -> bool {
        (**self).keeps(slot)
    }

    fn waits(&self, slot: u64) -> bool {
        (**self).waits(slot)
    }

    fn make_room(&self) -> bool {
        (**self).make_room()
    }

    fn counts(&self) -> SwapCounts {
        (**self).counts()
    }

    fn write(&self, slot: u64, frame: Pfn) -> Result<(), Unwritten> {
        (**self).write(slot, frame)
    }

    fn read(&self, slot: u64, frame: Pfn) -> Result<(), SlotError> {
        (**self).read(slot, frame)
    }

    fn discard(&self, slot: u64) {
        (**self).discard(slot);
    }
}

/// A number of 32 bits, or none: slots are many, and their table lies in memory that is short.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Link(u32);

impl Link {
    const NONE: Self = Self(u32::MAX);

    /// # Panics
    /// If the number has more bits. Frames have not ([`crate::frames::MAX_FRAMES`]), nor have slots.
    const fn to(number: u64) -> Self {
        assert!(number < u32::MAX as u64, "a number of 32 bits");
        Self(number as u32)
    }

    fn get(self) -> Option<u64> {
        (self != Self::NONE).then_some(self.0.into())
    }
}

#[derive(Clone, Copy)]
struct Slot {
    /// How many entries name it, and whether a frame caches it.
    noted: u32,
    /// How often the slot was reserved, or cached: a page read while this changed is not the page asked for.
    generation: u32,
    /// The frame that caches it; where none does, the shadow of the page: how many pages had been evicted before it.
    frame_or_shadow: u32,
    /// In the list of orphans: the next one; the last one names itself.
    orphan: Link,
}

impl Slot {
    const FREE: Self = Self { noted: 0, generation: 0, frame_or_shadow: 0, orphan: Link::NONE };
    /// Of `noted`: a frame caches the slot.
    const CACHED: u32 = 1 << 31;

    const fn notes(&self) -> u32 {
        self.noted & !Self::CACHED
    }

    fn cached(&self) -> Option<Pfn> {
        (self.noted & Self::CACHED != 0).then(|| Pfn::new(self.frame_or_shadow.into()))
    }

    fn set_cached(&mut self, frame: Pfn) {
        self.noted |= Self::CACHED;
        self.frame_or_shadow = Link::to(frame.as_u64()).0;
    }

    const fn set_evicted(&mut self, shadow: u32) {
        self.noted &= !Self::CACHED;
        self.frame_or_shadow = shadow;
    }

    const fn is_free(&self) -> bool {
        self.noted == 0
    }

    /// Puts the slot into the list of orphans, unless it is there.
    fn make_orphan(&mut self, own: u64, orphans: &mut Option<u64>) {
        if self.orphan == Link::NONE {
            self.orphan = Link::to(orphans.replace(own).unwrap_or(own));
        }
    }
}

/// How a page has come back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Comeback {
    /// With so few more frames as are in use it would not have gone: a refault, it belongs to what is needed now.
    Soon,
    /// It was not missed for long.
    Late,
}

/// Bytes of the table for each slot.
pub const BYTES_PER_SLOT: u64 = size_of::<Slot>() as u64;

const _: () = assert!(BYTES_PER_SLOT == 16);

/// What is known of a slot that a fault has found in an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Probe {
    /// This frame has its contents.
    Cached(Pfn),
    /// The device has them.
    OnDevice {
        /// To be given to [`Swap::cache`].
        generation: u32,
    },
    /// The slot is free: the entry has changed meanwhile.
    Free,
}

struct State {
    slots: Vec<Slot>,
    /// Where the search for a free slot goes on.
    next: usize,
    /// Slots in use.
    used: usize,
    /// First of the slots that may be orphans: cached, when their last note or the last entry of their frame went.
    orphans: Option<u64>,
    /// Pages evicted so far.
    evictions: u32,
    /// Pages that have come back soon.
    refaults: u64,
    churn: Churn,
}

/// The swap of a machine; without a device it has no slot.
pub(crate) struct Swap {
    device: Option<Box<dyn SwapDevice>>,
    state: Mutex<State>,
}

impl Swap {
    /// # Errors
    /// There is no memory for a table of so many slots.
    pub(crate) fn new(device: Option<Box<dyn SwapDevice>>) -> Result<Self, u64> {
        let count = device.as_ref().map_or(0, |device| device.slots().min(MOST_SLOTS));
        let mut slots = Vec::new();
        slots.try_reserve_exact(count as usize).map_err(|_| count)?;
        slots.resize(count as usize, Slot::FREE);
        let state = State {
            slots,
            next: 0,
            used: 0,
            orphans: None,
            evictions: 0,
            refaults: 0,
            churn: Churn::default(),
        };
        Ok(Self { device, state: Mutex::new(Rank::Swap, state) })
    }

    pub(crate) fn device(&self) -> Option<&dyn SwapDevice> {
        self.device.as_deref()
    }

    /// Slots in use.
    pub(crate) fn used(&self) -> u64 {
        self.state.lock().used as u64
    }

    /// Slots in use, and how many entries name each.
    pub(crate) fn notes(&self) -> Vec<(u64, u32)> {
        let state = self.state.lock();
        let used = state.slots.iter().enumerate().filter(|(_, slot)| !slot.is_free());
        used.map(|(index, slot)| (index as u64, slot.notes())).collect()
    }

    /// Frames that cache a slot.
    pub(crate) fn cached_frames(&self) -> Vec<Pfn> {
        self.state.lock().slots.iter().filter_map(Slot::cached).collect()
    }

    /// A free slot, cached by `frame` from now on; the caller has added the cache's reference.
    pub(crate) fn reserve(&self, frame: Pfn) -> Option<u64> {
        self.device().filter(|device| device.has_room())?;
        let mut state = self.state.lock();
        let count = state.slots.len();
        let start = state.next;
        let found = (start..count).chain(0..start).find(|&index| state.slots[index].is_free())?;
        state.slots[found].set_cached(frame);
        state.slots[found].generation = state.slots[found].generation.wrapping_add(1);
        state.next = found + 1;
        state.used += 1;
        Some(found as u64)
    }

    /// One more entry names the slot. The page-table lock is held.
    pub(crate) fn add_note(&self, slot: u64) {
        self.state.lock().slots[slot as usize].noted += 1;
    }

    /// An entry that named the slot was cleared; how many are left. The page-table lock is held. A cached slot
    /// without notes becomes an orphan: see [`Self::take_orphan`].
    pub(crate) fn remove_note(&self, slot: u64) -> u32 {
        let mut state = self.state.lock();
        let State { slots, used, orphans, .. } = &mut *state;
        let entry = &mut slots[slot as usize];
        debug_assert!(entry.notes() > 0, "no entry names slot {slot}");
        entry.noted -= 1;
        let left = *entry;
        if left.is_free() || !intact(Mutant::SlotDiscardedEarly) {
            *used -= usize::from(left.is_free());
            self.discard(slot);
        } else if left.notes() == 0 {
            entry.make_orphan(slot, orphans);
        }
        left.notes()
    }

    /// The frame that caches the slot has lost its last entry. Where no other entry names the slot, it is an orphan.
    pub(crate) fn unmapped(&self, slot: u64) {
        let State { slots, orphans, .. } = &mut *self.state.lock();
        let entry = &mut slots[slot as usize];
        if entry.notes() == 0 && entry.cached().is_some() {
            entry.make_orphan(slot, orphans);
        }
    }

    /// Whether the copy of a page that is only read may stay behind, for the page to go again without being written.
    pub(crate) fn keeps(&self, slot: u64) -> bool {
        let has_room = || {
            let state = self.state.lock();
            state.used * 2 <= state.slots.len()
        };
        self.device().is_some_and(|device| device.keeps(slot)) && has_room()
    }

    /// Where the contents of a slot are. `get` adds the caller's reference to the frame that caches it, under the
    /// lock that keeps the cache's.
    pub(crate) fn probe(&self, slot: u64, get: impl FnOnce(Pfn)) -> Probe {
        let state = self.state.lock();
        let Some(slot) = state.slots.get(slot as usize).filter(|slot| !slot.is_free()) else {
            return Probe::Free;
        };
        match slot.cached().filter(|_| intact(Mutant::SwapCacheSkipped)) {
            Some(frame) => {
                get(frame);
                Probe::Cached(frame)
            }
            None => Probe::OnDevice { generation: slot.generation },
        }
    }

    /// Whether the device still has the contents of a slot that were there when it was probed.
    pub(crate) fn holds(&self, slot: u64, generation: u32) -> bool {
        let slot = self.state.lock().slots[slot as usize];
        slot.notes() > 0 && slot.cached().is_none() && slot.generation == generation
    }

    /// Makes `frame`, which was read from the slot since it was probed, its cache, unless the slot is cached, free or
    /// another page's by now. It has come back soon if no more pages have gone since than there are frames `in_use`.
    pub(crate) fn cache(&self, slot: u64, frame: Pfn, generation: u32, in_use: u64) -> Option<Comeback> {
        let State { slots, evictions, refaults, churn, .. } = &mut *self.state.lock();
        let entry = &mut slots[slot as usize];
        let same = entry.generation == generation || !intact(Mutant::SwapIgnoresGeneration);
        let uncached = entry.cached().is_none() || !intact(Mutant::SwapCacheSkipped);
        if !(uncached && entry.notes() > 0 && same) {
            return None;
        }
        let distance = evictions.wrapping_sub(entry.frame_or_shadow);
        churn.note(*evictions, distance, in_use);
        entry.set_cached(frame);
        // Its page may be written to, and go again to the same slot, before another reader of the old one comes here.
        entry.generation = entry.generation.wrapping_add(u32::from(intact(Mutant::CacheKeepsGeneration)));
        let late = u64::from(distance) > in_use || !intact(Mutant::ShadowIgnored);
        if late && intact(Mutant::EveryComebackSoon) {
            return Some(Comeback::Late);
        }
        *refaults += 1;
        Some(Comeback::Soon)
    }

    /// Pages that have come back soon after they went.
    pub(crate) fn refaults(&self) -> u64 {
        self.state.lock().refaults
    }

    /// Whether what goes comes back at once, and has for long; that is said once, and counted anew.
    pub(crate) fn take_churn(&self) -> bool {
        self.state.lock().churn.take()
    }

    /// The frame does not cache the slot any more; its reference is the caller's to put. The page lock is held.
    pub(crate) fn uncache(&self, slot: u64) {
        self.forget(&mut self.state.lock(), slot);
    }

    fn forget(&self, state: &mut State, slot: u64) {
        let State { slots, used, evictions, .. } = state;
        let entry = &mut slots[slot as usize];
        entry.set_evicted(*evictions);
        if entry.notes() == 0 {
            *used -= 1;
            self.discard(slot);
        } else {
            *evictions = evictions.wrapping_add(1);
        }
    }

    /// As [`Self::uncache`], if `unused` says so, which is asked under the lock that keeps others from finding the
    /// frame.
    pub(crate) fn uncache_if(&self, slot: u64, unused: impl FnOnce() -> bool) -> bool {
        let mut state = self.state.lock();
        let goes = unused();
        if goes {
            self.forget(&mut state, slot);
        }
        goes
    }

    /// Whether no entry names the slot.
    pub(crate) fn is_unnoted(&self, slot: u64) -> bool {
        self.state.lock().slots[slot as usize].notes() == 0
    }

    /// A slot that was cached when its last note, or the last entry of its frame, went; it may have found a new use since.
    pub(crate) fn take_orphan(&self) -> Option<u64> {
        let State { slots, orphans, .. } = &mut *self.state.lock();
        let slot = (*orphans)?;
        let entry = &mut slots[slot as usize];
        let next = core::mem::replace(&mut entry.orphan, Link::NONE).get();
        *orphans = next.filter(|&next| next != slot);
        Some(slot)
    }

    fn discard(&self, slot: u64) {
        if let Some(device) = self.device() {
            device.discard(slot);
        }
    }
}
