//! Metadata of one frame: 16 bytes, all of it atomic, so that the table needs no lock of its own.

use addr::Pfn;
use core::sync::atomic::{AtomicU32, Ordering};

const STATE: u32 = 0b11;
const DIRTY: u32 = 1 << 2;
const ORDER_SHIFT: u32 = 8;
/// No frame, as a list link.
pub(super) const NIL: u32 = u32::MAX;

/// What a frame is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// Not memory that may be allocated.
    Reserved,
    /// In a CPU's cache, or inside a free block but not its head.
    Free,
    /// Head of a free block of the buddy.
    FreeHead,
    /// Allocated.
    Used,
}

/// What is known of one frame.
///
/// `count` is the number of owners: one for the allocation, more where a frame is shared. A primary entry
/// owns one; a secondary entry owns none (I6). Links are meaningful only for heads of free blocks.
#[derive(Debug, Default)]
pub struct FrameMeta {
    flags: AtomicU32,
    count: AtomicU32,
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
        self.count.store(1, Ordering::Relaxed);
        self.set_state(State::Used, 0);
    }

    /// Used → free.
    #[track_caller]
    pub(super) fn release(&self, frame: Pfn) {
        let (state, count) = (self.state(), self.count());
        assert!(state == State::Used, "{frame} freed while {state:?}");
        assert!(count == 0, "{frame} freed with {count} references left");
        self.set_state(State::Free, 0);
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

    /// Owners.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count.load(Ordering::Acquire)
    }

    /// Adds an owner.
    pub fn get(&self) {
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    /// Drops an owner; `true` where it was the last, and the frame is now the caller's to retire.
    #[must_use = "the last owner retires the frame"]
    pub fn put(&self) -> bool {
        let before = self.count.fetch_sub(1, Ordering::AcqRel);
        assert!(before > 0, "a frame without references lost one");
        before == 1
    }

    /// Notes that the contents may differ from any copy elsewhere (I7).
    pub fn mark_dirty(&self) {
        self.flags.fetch_or(DIRTY, Ordering::Relaxed);
    }

    /// Whether the contents may differ from any copy elsewhere.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        self.flags.load(Ordering::Relaxed) & DIRTY != 0
    }
}
