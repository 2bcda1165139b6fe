//! The lock order (I4), outermost first. `docs/locking.md` says what each lock protects.

/// The place of a lock in the order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Rank {
    /// A guest's devices.
    Board,
    /// Who makes frames free: one CPU at a time.
    Reclaim,
    /// Which pages were found equal.
    Merge,
    /// VMAs of an address space: faults read, mmap and munmap write.
    Mmap,
    /// State of one page.
    Page,
    /// The reverse map of a file.
    FileRmap,
    /// The reverse map of anonymous pages: held while its entries are visited, and while entries move.
    Rmap,
    /// The table of all reverse maps.
    Rmaps,
    /// The book of merged pages: which pages each stands for.
    Book,
    /// Whether somebody may subscribe: range operations that come by a reverse map read, registration writes.
    Registration,
    /// Primary page tables of one address space.
    PageTable,
    /// Pages of one file.
    PageCache,
    /// Use counts of swap slots, and the swap cache.
    Swap,
    /// What a swap device keeps.
    SwapStore,
    /// Subscribers of a notifier chain: callers of the chain read, registration writes.
    NotifierChain,
    /// Slots of one guest: faults and notifiers read, set-up writes.
    Slots,
    /// Secondary tables of one guest.
    Mmu,
    /// Which slots of one guest are logged: whoever notes a page reads, begin and end write. Nobody waits for a flush under it.
    DirtyLog,
    /// The list of all address spaces.
    Spaces,
    /// Huge frames set aside.
    Pool,
    /// A per-CPU cache of free frames.
    FrameCache,
    /// The buddy allocator.
    Buddy,
    /// A CPU's run queue.
    RunQueue,
}
