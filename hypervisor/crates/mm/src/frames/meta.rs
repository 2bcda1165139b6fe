//! Metadata of one frame: 32 bytes, all of it atomic, so that the table needs no lock of its own.
//!
//! | field | meaning |
//! |---|---|
//! | `count` | owners: the page cache, the swap cache, each primary entry, whoever works on the page; 0 frees it |
//! | `map_count` | primary entries, those of a shared table once; never more than `count`. Of a shared table, the entries that name it |
//! | `owner`, `index` | which reverse map finds those entries, and the page's place in it; of a merged page, its number in the book of these |
//! | `slot` | the swap slot with the same contents, while the frame is in the swap cache |
//! | flags | what is true of the frame; above them the order of a free block, or of a frame in use a checksum |
//! | links | the buddy's, while the frame heads a free block; of a frame in use, `previous` is the first generation in which use counts (`generations.rs`) |
//!
//! A secondary entry owns nothing and is not counted (I6). Whoever raises `map_count` holds the page-table lock of
//! the entry. The frames of a huge page are counted one by one: a split changes no metadata.

use crate::rmap::RmapId;
use addr::Pfn;
use bitflags::bitflags;
use mutants::{Mutant, intact};
use sync::atomic::{AtomicU32, AtomicU64, Ordering};
use sync::{Held, Rank};

const STATE: u32 = 0b11;
const ORDER_SHIFT: u32 = 16;
/// Of a frame in use: 16 bits of a checksum, where a free one has its order.
const CHECKSUM_SHIFT: u32 = 16;
const CHECKSUM_OFF: u32 = (1 << CHECKSUM_SHIFT) - 1;
/// Frames of a huge page that are gone over together: a loop's own instructions are a third of what there is to do.
pub(crate) const GROUP: usize = 8;
/// No frame, as a list link.
pub(super) const NIL: u32 = u32::MAX;
/// Bits of `place` that hold the index, and of a sharer in the book of merged pages: 2^36 pages are more than a lower half.
pub(crate) const INDEX_BITS: u32 = 36;
/// Most swap slots: what is left of a word has room for their numbers, and for none.
pub(crate) const MOST_SLOTS: u64 = (1 << (u64::BITS - INDEX_BITS)) - 1;
const INDEX: u64 = (1 << INDEX_BITS) - 1;

bitflags! {
    /// What is true of a frame in use.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct PageFlags: u32 {
        /// The contents may differ from any copy elsewhere (I7).
        const DIRTY = 1 << 2;
        /// Anonymous, and no other address space has or will have an entry for it without asking: a write may
        /// reuse the frame. Cleared by fork, set by the fault that created or copied it (CVE-2020-29374).
        const EXCLUSIVE = 1 << 3;
        /// Somebody works on the page: the page lock.
        const LOCKED = 1 << 4;
        /// `MADV_FREE`: while it stays clean, reclaim may drop it.
        const LAZY_FREE = 1 << 5;
        /// Of a hugetlb area: mapped whole, never split, never reclaimed.
        const HUGETLB = 1 << 6;
        /// First frame of a huge page that belongs to a pool: it goes back there.
        const POOL = 1 << 7;
        /// A page of a file's cache.
        const FILE = 1 << 8;
        /// Swap has refused the page for what it holds: it is not asked again before the page has become much older.
        const REFUSED = 1 << 9;
        /// Several anonymous pages that were equal (`merge`): nobody writes to it, its owner is a number in the book that names them.
        const MERGED = 1 << 10;
    }
}

/// What a frame is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// Not memory that may be allocated.
    Reserved,
    /// In a CPU's cache, or inside a free block but not its head; or it holds zeros, or will, and `next` is the next one that does.
    Free,
    /// Head of a free block of the buddy.
    FreeHead,
    /// Allocated.
    Used,
}

/// What is known of one frame.
#[derive(Debug, Default)]
pub struct FrameMeta {
    flags: AtomicU32,
    count: AtomicU32,
    map_count: AtomicU32,
    owner: AtomicU32,
    /// Index in the owner; above it, the swap slot plus one.
    place: AtomicU64,
    previous: AtomicU32,
    next: AtomicU32,
}

const _: () = assert!(size_of::<FrameMeta>() <= 32);

impl FrameMeta {
    /// A reserved frame.
    #[must_use]
    pub const fn reserved() -> Self {
        Self {
            flags: AtomicU32::new(0),
            count: AtomicU32::new(0),
            map_count: AtomicU32::new(0),
            owner: AtomicU32::new(0),
            place: AtomicU64::new(0),
            previous: AtomicU32::new(NIL),
            next: AtomicU32::new(NIL),
        }
    }

    pub(super) fn state(&self) -> State {
        match self.flags.load(Ordering::Acquire) & STATE {
            0 => State::Reserved,
            1 => State::Free,
            2 => State::FreeHead,
            _ => State::Used,
        }
    }

    fn set_state(&self, state: State, order: u8) {
        let bits = match state {
            State::Reserved => 0,
            State::Free => 1,
            State::FreeHead => 2,
            State::Used => 3,
        };
        self.flags.store(bits | u32::from(order) << ORDER_SHIFT, Ordering::Release);
    }

    pub(super) fn release_reserved(&self) -> bool {
        let reserved = self.state() == State::Reserved;
        if reserved {
            self.set_state(State::Free, 0);
        }
        reserved
    }

    /// Free → used, one owner.
    pub(super) fn take(&self) {
        self.owner.store(0, Ordering::Relaxed);
        self.place.store(0, Ordering::Relaxed);
        // Pairs with `try_get`: who gets a reference sees that the frame has no owner any more.
        self.count.store(1, Ordering::Release);
        self.set_state(State::Used, 0);
    }

    /// Used → free.
    #[inline]
    #[track_caller]
    pub(super) fn release(&self, frame: Pfn) {
        if !Self::try_release_all(core::array::from_ref(self)) {
            self.refuse_release(frame);
        }
    }

    /// The same of several, if it is right: all, or none; whether it was.
    #[inline]
    pub(super) fn try_release_all<const N: usize>(metas: &[Self; N]) -> bool {
        let (mut used, mut owned) = (STATE, 0);
        for meta in metas {
            used &= meta.flags.load(Ordering::Acquire);
            if intact(Mutant::FreesWhatIsHeld) {
                owned |= meta.count() | meta.map_count();
            }
        }
        let right = used == STATE && owned == 0;
        if right {
            metas.iter().for_each(|meta| meta.set_state(State::Free, 0));
        }
        right
    }

    #[cold]
    #[inline(never)]
    #[track_caller]
    fn refuse_release(&self, frame: Pfn) -> ! {
        let (state, count, entries) = (self.state(), self.count(), self.map_count());
        assert!(state == State::Used, "{frame} freed while {state:?}");
        assert!(count == 0, "{frame} freed with {count} references left");
        panic!("{frame} freed with {entries} primary entries left");
    }

    /// The order of the free block that this frame heads.
    pub(super) fn head_order(&self) -> Option<u8> {
        let flags = self.flags.load(Ordering::Relaxed);
        (flags & STATE == 2).then_some((flags >> ORDER_SHIFT) as u8)
    }

    pub(super) fn make_head(&self, order: u8, previous: u32, next: u32) {
        self.previous.store(previous, Ordering::Relaxed);
        self.next.store(next, Ordering::Relaxed);
        self.set_state(State::FreeHead, order);
    }

    pub(super) fn unmake_head(&self) {
        self.set_state(State::Free, 0);
    }

    pub(super) fn links(&self) -> (u32, u32) {
        (self.previous.load(Ordering::Relaxed), self.next.load(Ordering::Relaxed))
    }

    pub(super) fn set_previous(&self, previous: u32) {
        self.previous.store(previous, Ordering::Relaxed);
    }

    pub(super) fn set_next(&self, next: u32) {
        self.next.store(next, Ordering::Relaxed);
    }

    /// The generation from which on use counts; of a frame in use.
    pub(super) fn counts_from(&self) -> u32 {
        self.previous.load(Ordering::Relaxed)
    }

    pub(super) fn set_counts_from(&self, generation: u32) {
        self.previous.store(generation, Ordering::Relaxed);
    }

    /// Whether that is what the last look at the contents has made of them, as the next one will find it; of a frame in use.
    /// Another's checksum does no harm.
    pub(crate) fn is_checksum(&self, checksum: u16) -> bool {
        let mut old = self.flags.load(Ordering::Relaxed);
        while (old >> CHECKSUM_SHIFT) as u16 != checksum {
            let new = old & CHECKSUM_OFF | u32::from(checksum) << CHECKSUM_SHIFT;
            match self.flags.compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return false,
                Err(now) => old = now,
            }
        }
        true
    }

    /// Owners.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count.load(Ordering::Acquire)
    }

    /// Adds an owner. The caller is one, or holds a lock that keeps one.
    pub fn get(&self) {
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    /// Adds an owner, if there is one: the frame may be free, or another page's, by now.
    pub(crate) fn try_get(&self) -> bool {
        let mut count = self.count.load(Ordering::Relaxed);
        while count > 0 {
            match self.count.compare_exchange(count, count + 1, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => count = now,
            }
        }
        false
    }

    /// Drops an owner; `true` where it was the last, and the frame is now the caller's to retire.
    #[must_use = "the last owner retires the frame"]
    pub fn put(&self) -> bool {
        let before = self.count.fetch_sub(1, Ordering::AcqRel);
        assert!(before == 1 || before > 0, "a frame without references lost one");
        before == 1
    }

    /// Drops two owners; as [`Self::put`].
    #[must_use = "the last owner retires the frame"]
    pub(crate) fn put_both(&self) -> bool {
        let before = self.count.fetch_sub(2, Ordering::AcqRel);
        assert!(before >= 2, "a frame with {before} references lost two");
        before == 2
    }

    /// Primary entries that map the frame.
    #[must_use]
    pub fn map_count(&self) -> u32 {
        self.map_count.load(Ordering::Acquire)
    }

    /// A primary entry now maps the frame. The page-table lock is held, and so is a reference for the entry.
    pub(crate) fn add_entry(&self) {
        self.map_count.fetch_add(1, Ordering::Relaxed);
    }

    /// A primary entry that mapped the frame was cleared; how many are left. Its reference is the caller's to put after the
    /// flush.
    pub(crate) fn remove_entry(&self) -> u32 {
        let before = self.map_count.fetch_sub(1, Ordering::AcqRel);
        // One is what it mostly is: looked at first.
        assert!(before == 1 || before > 0, "a frame without entries lost one");
        before - 1
    }

    /// Entries of upper tables that name this page table, which several address spaces share.
    #[must_use]
    pub fn shares(&self) -> u32 {
        self.map_count.load(Ordering::Acquire)
    }

    /// So many entries more name this page table from now on. The caller holds the page-table lock of one that does.
    pub(crate) fn add_shares(&self, count: u32) {
        self.map_count.fetch_add(count, Ordering::Relaxed);
    }

    /// The table is its last sharer's own.
    pub(crate) fn end_sharing(&self) {
        self.map_count.store(0, Ordering::Relaxed);
    }

    /// An entry names the table no more, and no CPU reaches it from there; how many are left. Whoever finds himself alone
    /// also sees what the others have done to it.
    #[must_use = "the last one frees the table"]
    pub(crate) fn remove_share(&self) -> u32 {
        let before = self.map_count.fetch_sub(1, Ordering::AcqRel);
        assert!(before > 0, "a table that nobody shares lost a sharer");
        before - 1
    }

    /// Makes the frame findable: page `index` of a reverse map. Before its first entry exists.
    pub(crate) fn set_owner(&self, owner: RmapId, index: u64) {
        debug_assert!(index <= INDEX, "page index {index:#x}");
        self.owner.store(owner.get(), Ordering::Relaxed);
        self.place.store(index, Ordering::Relaxed);
    }

    /// The reverse map that finds the frame's entries, and its place there; of a merged page its number in the book, and 0.
    #[must_use]
    pub(crate) fn owner(&self) -> Option<(RmapId, u64)> {
        let owner = RmapId::new(self.owner.load(Ordering::Relaxed))?;
        Some((owner, self.place.load(Ordering::Relaxed) & INDEX))
    }

    /// The frame is no page of anything, and nothing is known of it, but its reference stays: it is set aside.
    pub(crate) fn forget(&self) {
        self.clear_owner();
        self.place.store(0, Ordering::Relaxed);
        self.set_state(State::Used, 0);
    }

    /// The frame is no page of anything any more: truncated.
    pub(crate) fn clear_owner(&self) {
        self.owner.store(0, Ordering::Relaxed);
    }

    /// The swap slot that the frame caches. Stable under the page lock.
    #[must_use]
    pub fn swap_slot(&self) -> Option<u64> {
        (self.place.load(Ordering::Acquire) >> INDEX_BITS).checked_sub(1)
    }

    /// Enters or leaves the swap cache. The page lock is held.
    pub(crate) fn set_swap_slot(&self, slot: Option<u64>) {
        let index = self.place.load(Ordering::Relaxed) & INDEX;
        let bits = slot.map_or(0, |slot| (slot + 1) << INDEX_BITS);
        self.place.store(index | bits, Ordering::Release);
    }

    /// The flags.
    #[must_use]
    pub fn flags(&self) -> PageFlags {
        PageFlags::from_bits_truncate(self.flags.load(Ordering::Acquire))
    }

    /// Whether all of these are set.
    #[must_use]
    pub fn has(&self, flags: PageFlags) -> bool {
        self.flags().contains(flags)
    }

    /// Whether it is in use, and exclusive.
    pub(super) fn is_exclusive(&self) -> bool {
        let wanted = STATE | PageFlags::EXCLUSIVE.bits();
        self.flags.load(Ordering::Acquire) & wanted == wanted
    }

    /// Whether it is in use, and dirty.
    #[inline]
    pub(super) fn is_used_and_dirty(&self) -> bool {
        let wanted = STATE | PageFlags::DIRTY.bits();
        self.flags.load(Ordering::Acquire) & wanted == wanted
    }

    pub(crate) fn set(&self, flags: PageFlags) {
        self.flags.fetch_or(flags.bits(), Ordering::AcqRel);
    }

    pub(crate) fn clear(&self, flags: PageFlags) {
        self.flags.fetch_and(!flags.bits(), Ordering::AcqRel);
    }

    /// Notes that the contents may differ from any copy elsewhere (I7).
    pub fn mark_dirty(&self) {
        self.set(PageFlags::DIRTY);
    }

    /// Whether the contents may differ from any copy elsewhere.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        self.has(PageFlags::DIRTY)
    }

    /// Waits for the page lock. The caller holds a reference.
    #[track_caller]
    pub(crate) fn lock(&self) -> PageLock<'_> {
        let held = Held::acquire(Rank::Page);
        while self.flags.fetch_or(PageFlags::LOCKED.bits(), Ordering::Acquire) & PageFlags::LOCKED.bits() != 0
        {
            sync::relax();
        }
        PageLock { meta: self, _held: held }
    }

    /// Takes the page lock if it is free. The caller holds a reference, or keeps an entry that has one.
    pub(crate) fn try_lock<'a>(&'a self, _turn: &'a PageTurn) -> Option<TriedLock<'a>> {
        let before = self.flags.fetch_or(PageFlags::LOCKED.bits(), Ordering::Acquire);
        (before & PageFlags::LOCKED.bits() == 0).then(|| TriedLock { meta: self })
    }
}

/// Holds the place of page locks in the lock order, for whoever takes several. They have no order among themselves: each is
/// tried, and none is waited for.
#[must_use]
#[derive(Debug)]
pub(crate) struct PageTurn {
    _held: Held,
}

impl PageTurn {
    /// Takes the place.
    #[track_caller]
    pub(crate) fn take() -> Self {
        Self { _held: Held::acquire(Rank::Page) }
    }
}

/// A page lock that was tried, and was free.
#[must_use]
#[derive(Debug)]
pub(crate) struct TriedLock<'a> {
    meta: &'a FrameMeta,
}

impl Drop for TriedLock<'_> {
    fn drop(&mut self) {
        self.meta.flags.fetch_and(!PageFlags::LOCKED.bits(), Ordering::Release);
    }
}

/// Holds the lock of one page: its place in the page cache or swap cache does not change, and nobody else
/// unmaps, migrates or writes it back.
#[must_use]
#[derive(Debug)]
pub(crate) struct PageLock<'a> {
    meta: &'a FrameMeta,
    _held: Held,
}

impl Drop for PageLock<'_> {
    fn drop(&mut self) {
        self.meta.flags.fetch_and(!PageFlags::LOCKED.bits(), Ordering::Release);
    }
}
