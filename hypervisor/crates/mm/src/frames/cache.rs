//! A CPU's own stack of free base frames: most allocations and frees touch no shared lock.

use addr::Pfn;

/// Frames that a cache can hold.
const CAPACITY: usize = 32;
/// Frames moved between a cache and the buddy at a time.
pub(super) const BATCH: usize = 16;

/// Most frames that a CPU has for itself, and others cannot have; but for those that it zeroes, while an eighth of all are free.
pub const MOST_CACHED: u64 = (CAPACITY + BATCH) as u64;

/// Free base frames of one CPU.
#[derive(Debug)]
pub(super) struct CpuFrames {
    /// Whatever is in them.
    pub(super) any: FrameCache,
    /// They hold zeros; a batch at most.
    pub(super) zeroed: FrameCache,
    /// At the last refill frames that hold zeros were few, and nobody zeroed any.
    pub(super) run_low: bool,
}

impl CpuFrames {
    pub(super) const fn new() -> Self {
        Self { any: FrameCache::new(), zeroed: FrameCache::new(), run_low: false }
    }
}

/// Some of them, last freed first.
#[derive(Debug)]
pub(super) struct FrameCache {
    frames: [Pfn; CAPACITY],
    len: usize,
}

impl FrameCache {
    pub(super) const fn new() -> Self {
        Self { frames: [Pfn::ZERO; CAPACITY], len: 0 }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) const fn is_full(&self) -> bool {
        self.len == CAPACITY
    }

    pub(super) const fn room(&self) -> usize {
        CAPACITY - self.len
    }

    pub(super) fn push(&mut self, frame: Pfn) {
        self.frames[self.len] = frame;
        self.len += 1;
    }

    pub(super) fn pop(&mut self) -> Option<Pfn> {
        self.len = self.len.checked_sub(1)?;
        Some(self.frames[self.len])
    }

    /// An empty one takes a batch from `source`, which is asked for so many in a row at most, or what it has. What came first goes first:
    /// what is touched in the order of its addresses lies so, and is freed as runs.
    pub(super) fn refill(&mut self, mut source: impl FnMut(usize) -> Option<(Pfn, usize)>) {
        while self.len < BATCH {
            let Some((first, count)) = source(BATCH - self.len) else { break };
            (0..count as u64).for_each(|index| self.push(first.add(index)));
        }
        self.frames[..self.len].reverse();
    }

    /// A full one gives a batch to `sink`.
    pub(super) fn spill(&mut self, sink: impl FnOnce(&[Pfn])) {
        self.len -= BATCH;
        sink(&self.frames[self.len..][..BATCH]);
    }
}
