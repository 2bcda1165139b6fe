//! All mutants. The text of each says what goes wrong.

use crate::{PageSite, RangeSite, YoungSite};
use core::fmt;

macro_rules! mutants {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// A mistake.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Mutant {
            /// `invalidate_range_begin` is not called, the end is.
            NoBegin(RangeSite),
            /// `invalidate_range_end` is not called, the begin was.
            NoEnd(RangeSite),
            /// The flush of the primary translations is left out.
            NoFlush(RangeSite),
            /// `contents_changed` is not called: the dirty log loses what is zapped.
            NoContentsChanged(RangeSite),
            /// `invalidate_page` is not called.
            NoInvalidatePage(PageSite),
            /// `clear_flush_young` is not called.
            NoClearFlushYoung(YoungSite),
            $($(#[doc = $doc])+ $name,)+
        }

        const PLAIN: &[Mutant] = &[$(Mutant::$name,)+];

        impl Mutant {
            /// What goes wrong.
            #[must_use]
            pub const fn describe(self) -> (&'static str, &'static str) {
                match self {
                    Self::NoBegin(site) => ("no `invalidate_range_begin`: ", site.describe()),
                    Self::NoEnd(site) => ("no `invalidate_range_end`: ", site.describe()),
                    Self::NoFlush(site) => ("no flush of primary translations: ", site.describe()),
                    Self::NoContentsChanged(site) => ("dirty log: a zap is not logged: ", site.describe()),
                    Self::NoInvalidatePage(site) => ("no `invalidate_page`: ", site.describe()),
                    Self::NoClearFlushYoung(site) => ("no `clear_flush_young`: ", site.describe()),
                    $(Self::$name => ("", concat!($($doc),+).trim_ascii()),)+
                }
            }
        }
    };
}

mutants! {
    // The chain.
    /// `release` is not called
    NoRelease,
    /// subscribers are unlinked before `release` is called
    ReleaseUnlinksFirst,
    /// the first subscriber that says "young" is the last that is asked
    YoungShortCircuits,
    /// `clear_young` is not called
    NoClearYoung,
    /// `test_young` is not called
    NoTestYoung,
    /// aging: subscribers are not asked which blocks may have been used
    NoFindUsed,
    /// split: what was used is not found by the A bits above it
    SplitLosesUse,
    /// mremap: what was used is not found by the A bits above it
    MoveLosesUse,
    /// aging: a secondary MMU with shadows says that no block was used
    ShadowsUseNoBlock,
    /// aging: a device TLB says that no block was used
    DeviceUsesNoBlock,
    /// `collect_young` is not called
    NoCollectYoung,
    /// `flush_young` is not called
    NoFlushYoung,
    /// without A bits, the entries that a collection of young pages takes are not flushed
    NoFlushOfCollected,
    /// registration does not keep out range operations on areas
    RegisterWithoutMmapLock,
    /// registration does not keep out range operations that come by a reverse map
    RegisterWithoutRegistrationLock,
    /// the end of a subscription does not keep them out
    UnregisterWithoutRegistrationLock,

    // Order.
    /// discard, munmap: entries are flushed after the page-table lock was dropped, when others have found them empty
    FlushesAfterLock,
    /// an operation's frames and tables are freed before they are flushed (I6)
    FreesBeforeFlush,
    /// frames: what somebody holds is freed with the others
    FreesWhatIsHeld,
    /// frames: of those that are freed together the last run is lost
    RunsLoseLast,
    /// copy-on-write: a copy of the zero page is not counted as resident
    CopyOfZeroUncounted,
    /// frames zeroed ahead: they are not zeroed (I15)
    ZeroingSkipped,
    /// frames zeroed ahead: others can have them meanwhile
    ZeroingTakesNothing,
    /// frames zeroed ahead: those that there was no time for are lost
    ZeroingLosesRest,
    /// frames zeroed ahead: they are taken though hardly any are left
    ZeroingTakesLast,
    /// frames zeroed ahead: nobody gets one who does not want zeros
    ZeroedLeftBehind,
    /// frames zeroed ahead: huge pages that are set aside go without them
    HugeLeavesZeroed,
    /// frames zeroed ahead: no CPU hears that they have become few
    RunsLowUnheard,
    /// swap-out: the page is written before it is unmapped (I14)
    SwapWritesFirst,
    /// swap-out of neighbours: they are written before the flush of the batch (I14)
    BatchWritesFirst,
    /// `MADV_PAGEOUT`: pages that were used lately stay
    PageOutSparesYoung,
    /// `MADV_PAGEOUT`: of a cluster all pages go, those outside of the range, too
    PageOutTakesCluster,
    /// `MADV_PAGEOUT`: one cluster of an area goes, and no other
    PageOutStopsEarly,
    /// write-back: the page is written before its entries are write-protected
    WriteBackWritesFirst,
    /// collapse: entries stay writable while the pages are copied
    CollapseCopiesWritable,

    // Flushes of primary translations, each entry of its own.
    /// an entry that is cleared alone is not flushed
    NoFlushOfCleared,
    /// entries of neighbours that are cleared at once are not flushed
    NoFlushOfBatch,
    /// discard, munmap, mprotect: of the pages of a table that have changed the first is flushed, the others not
    TouchesFirstOfTable,
    /// aging does not flush the primary translation
    NoFlushOfAged,
    /// `MADV_COLD` does not flush the primary translations
    NoFlushOfCold,
    /// collapse does not flush between write-protecting and copying
    NoFlushBeforeCollapse,

    // The handshake of flushes with processors in guest mode.
    /// a processor acknowledges a flush that it has not made
    AcknowledgesWithoutFlush,
    /// a flush of what is dropped at each entry asks nobody, also where a processor is in there
    AsksNobody,
    /// a processor on its way into a guest takes the generation before the last for the last
    EntersOneBehind,
    /// whoever asks for a flush takes the generation before his own for his own
    WaitsForOneBehind,
    /// whoever asks for a flush does not wait for the acknowledgements
    WaitsForNobody,
    /// a processor that enters a guest for the first time is not looked at
    VisitorIsNotNoted,

    // How a virtual processor is made to look.
    /// whoever takes news does not look whether there is a pause or an end
    NewsHidesPause,

    // The short way round the run loop.
    /// an event whose delivery was interrupted is not taken up again
    ShortWayLosesEvent,
    /// the short way is taken though a timer's time has come, or the turn's end
    ShortWayOverstays,
    /// the short way is taken though there is news
    ShortWayDeafToNews,
    /// the short way is taken though others wait for the CPU
    ShortWayKeepsCpu,

    // Flushes of secondary translations.
    /// zapped EPT entries are not flushed: invalidation, release, slot removal
    NoFlushOfZapped,
    /// EPT entries aged by `clear_flush_young` are not flushed
    NoFlushOfYoung,
    /// EPT entries zapped by `clear_young`, for want of A bits, are not flushed
    NoFlushOfClearedYoung,
    /// the tables of an MMU are freed without a last flush
    NoFlushOfDroppedTables,

    // The invalidation sequence.
    /// a fault does not test "in progress"
    NoInProgressTest,
    /// a fault does not compare the sequence
    NoSequenceTest,
    /// a begin does not count as in progress
    BeginDoesNotCount,
    /// the first of several ends clears the range of all
    EndClearsHull,
    /// a second begin replaces the range of the first
    HullDoesNotGrow,
    /// an end does not raise the sequence
    NoRaiseOnEnd,
    /// EPT: `invalidate_page` does not raise the sequence
    NoRaiseOnPage,
    /// device TLB: `invalidate_page` does not raise the sequence
    NoRaiseOnDevicePage,
    /// the removal of a slot does not raise the sequence
    NoRaiseOnSlotRemoval,
    /// EPT: the sequence is read after the frame was resolved
    SnapshotAfterResolve,
    /// EPT: a fault that has copied a page takes the sequence as it is then, whoever has raised it
    CopyTrustsSequence,
    /// device TLB: the sequence is read after the frame was resolved
    DeviceSnapshotAfterResolve,
    /// a huge EPT leaf is checked for one of its base pages only
    HugeLeafCheckedInPart,

    // Two CPUs in the tables of one guest.
    /// EPT: an entry is stored, not exchanged for what was seen there
    InstallStores,
    /// EPT: an entry is aged by a store, not exchanged for what was seen there
    AgeStores,
    /// a pass of aging clears A by a store of what it has seen, not in the entry as it is
    CollectStores,
    /// a new table is linked by a store, not exchanged for what was seen there
    GrowthStores,
    /// a table that another CPU was faster to link is lost
    GrowthLosesTable,

    // Zaps.
    /// EPT: begin zaps nothing
    BeginZapsNothing,
    /// EPT: `invalidate_page` zaps nothing
    PageZapsNothing,
    /// EPT: release zaps nothing
    ReleaseZapsNothing,
    /// EPT: a fault may install after release
    ReleaseLeavesRoot,
    /// EPT: removing a slot zaps nothing
    SlotRemovalZapsNothing,
    /// EPT: a slot is out of sight before its entries are gone
    SlotRemovedBeforeZap,
    /// shadow: what stands on a leaf that is zapped stays
    ZapLeavesShadow,
    /// shadow: what stands on a leaf that the dirty log narrows stays writable
    LogLeavesShadow,
    /// shadow: what stands on pages that were all written stays writable when that is harvested
    HarvestOfAllLeavesShadow,
    /// shadow: a leaf that the guest's tables let it write may be written, whatever it stands on
    ShadowAllowsMore,
    /// shadow: an entry that names a table allows everything, whatever the guest's forbids
    ShadowTableAllowsAll,
    /// shadow: parts of a table of 32-bit entries are taken for each other
    ShadowRoleWithoutPart,
    /// shadow: a table of 32-bit entries is the same with and without pages of 4 MiB
    ShadowRoleWithoutPse,
    /// shadow: aging leaves A in shadows' leaves: what was used once is young for ever
    ShadowAgeLeavesUsed,
    /// shadow: a flush does not look at tables that were written
    ShadowTableKeptUnseen,
    /// shadow: a table that is known to say what the guest's says may be written by the guest
    ShadowTableUnprotected,
    /// shadow: what another processor may write by what it has cached is not flushed before a table is compared
    ShadowProtectUnflushed,
    /// shadow: what another processor writes to a table until its flush is not looked at
    ShadowComparedOnce,
    /// shadow: directories crowd page tables out
    ShadowCrowdedOut,
    /// shadow: where there is no room, the newest page table goes
    ShadowNewestGoes,
    /// shadow: a table that is reached by one more way is not looked at
    ShadowNewWayUncompared,
    /// shadow: a table whose way has other rights by now is not looked at
    ShadowRenamedWayUncompared,
    /// shadow: a PCID that has not had this root is not compared
    ShadowStrangerUncompared,
    /// shadow: what other PCIDs have derived since is not compared for one that comes back
    ShadowPcidHasEntriesOfOthers,
    /// shadow: tables that new ways of other PCIDs lead to are not compared for one that comes back
    ShadowPcidHasWaysOfOthers,
    /// shadow: a PCID that was flushed while others were loaded is still known
    ShadowPcidFlushedInVain,
    /// shadow: INVLPG leaves a global page to other PCIDs
    ShadowGlobalOfOthersStays,
    /// shadow: an implicit access of the supervisor is taken for an explicit one
    ShadowImplicitUnseen,
    /// shadow: a table that is written again and again, and not used, stays
    ShadowFloodIgnored,
    /// shadow: a store to a table that is kept goes unnoticed
    ShadowTableWrittenUnseen,
    /// shadow: a guest's table is read and written without the mmu lock
    GuestTableWrittenUnlocked,
    /// shadow: what devices write to tables goes unnoticed
    ShadowTableDeafToDevices,
    /// shadow: a table is kept where the host has taken away what it lies in
    ShadowTableOutlivesGround,
    /// shadow: a large leaf that may be written is derived where tables lie
    ShadowLargeOverTable,
    /// shadow: a large leaf is derived where the host has base pages
    ShadowLargeOnSmallGround,
    /// shadow: a large leaf is derived where single pages may be lent to the supervisor
    ShadowLargeLent,
    /// shadow: a table is kept although a large leaf lets it be written
    ShadowProtectMissesLarge,
    /// shadow: large leaves stay where part of what they map goes
    ShadowForgetMissesLarge,
    /// shadow: aging does not look at large leaves
    ShadowAgeMissesLarge,
    /// shadow: a pass of aging looks at one leaf of each page
    ShadowAgeSeesFirst,
    /// EPT without A bits: aging does not zap
    AgingWithoutBitsZapsNothing,
    /// device TLB: begin zaps nothing
    DeviceBeginZapsNothing,
    /// device TLB: `invalidate_page` zaps nothing
    DevicePageZapsNothing,
    /// device TLB: release drops nothing
    DeviceReleaseDropsNothing,
    /// device TLB: aging does not clear the used flags
    DeviceAgingClearsNothing,

    // Dirty transfers (I7).
    /// EPT: a writable entry is installed over a frame that is not marked dirty
    NoDirtyOnInstall,
    /// device TLB: the same
    NoDirtyOnDeviceInstall,
    /// EPT: a read fault installs writable although the frame is clean
    ReadInstallsWritable,
    /// device TLB: the same
    DeviceReadInstallsWritable,
    /// reclaim does not look at D of the entry it cleared
    NoDirtyOnUnmap,
    /// fork does not look at D of the parent's entry
    NoDirtyOnFork,
    /// the copy of a shared table does not look at D of its entries
    NoDirtyOnOwn,
    /// a frame that gets a swap slot is not dirty
    NoDirtyOnSlot,
    /// a frame that leaves the swap cache is not dirty
    NoDirtyOnLeavingSwap,
    /// a write fault on a present page of a shared file does not mark the frame
    NoDirtyOnWriteShared,
    /// a write fault on an absent page of a shared file does not mark the frame
    NoDirtyOnMapShared,
    /// a fresh anonymous page is not dirty
    NoDirtyOnFresh,
    /// an anonymous page that is reused for a write is not dirty
    NoDirtyOnReuse,
    /// the pages of a fresh huge page are not dirty
    NoDirtyOnHuge,
    /// collapse does not mark the huge page's frames
    NoDirtyOnCollapse,
    /// a page whose write-back failed is clean
    NoDirtyOnFailedWrite,
    /// migration does not pass "dirty" on
    NoDirtyOnMigrate,
    /// migration takes D from before the entry was cleared
    MigrateTakesOldEntry,
    /// a page is merged though somebody works on it
    MergeIgnoresReferences,
    /// merging believes what it has seen before the page was taken from its writers
    MergeComparesWritable,
    /// merging sets the new entry before the secondaries have lost the old page (I8)
    MergeReplacesFirst,
    /// where there are more candidates for a merge than there is room for, all come in each pass, and none has its turn
    MergeHasOneClass,
    /// the reverse map of an area is not noted as one that may have pages
    OwnLeavesUnused,
    /// two areas become one, with the reverse map of the first, though only the second one's has pages
    JoinTakesUnused,
    /// fork gives the child the reverse map of an area that no page has yet.
    ForkSharesUnused,
    /// merging: a page is not noted as one that the merged page stands for
    BookForgetsSharer,
    /// merging: where a merged page stands for more pages than its first chunk has room for, nobody finds the rest
    BookLosesChunk,
    /// merging: what finds a merged page is forgotten at the end of a pass, though it still is mapped
    BookForgetsMapped,
    /// merging: what was noted of merged pages that have gone stays
    BookKeepsGone,
    /// merging: a page is noted as one that the merged page stands for when it has become it
    BookAddsLate,
    /// merging: pages of one checksum lose their entries before anybody has compared them
    MergeGuesses,
    /// merging: a candidate that only looks like a page is none any more
    MergeForgetsLookalikes,
    /// merging: a page whose sample is zeros has the checksum of zeros
    MergeSamplesZeros,
    /// a page that swap has for several is mapped where its reverse map does not lead
    SwapInIgnoresOwner,
    /// a split loses D
    SplitLosesDirty,
    /// mremap loses D
    MoveLosesDirty,
    /// write-back leaves the entry writable
    MkcleanLeavesWritable,
    /// write-back leaves D in the entry
    MkcleanLeavesDirty,
    /// `MADV_FREE` leaves D in the entry
    FreeLeavesDirty,
    /// a clean page of a shared file is mapped writable
    SharedMappedWritable,
    /// mprotect gives write permission back on the word of a frame whose write-back may be under way
    MprotectTrustsDirty,

    // Map-around: pages beside the one that has faulted.
    /// map-around: pages are mapped although they are in a range that is in progress
    AroundUnchecked,
    /// map-around: pages count as used
    AroundCountsAsUse,
    /// map-around: pages are mapped where there are no A bits to tell whether they were used
    AroundWithoutBits,
    /// map-around: pages are writable although their frames are clean
    AroundWritesClean,
    /// map-around: pages are writable although they are logged
    AroundUnlogged,
    /// map-around: pages are mapped beyond the end of the slot
    AroundLeavesSlot,
    /// what lies beside a page is read in a shared table, too, which allows less than it says (I18)
    AroundReadsShared,

    /// a fresh page is mapped although another fault has mapped one meanwhile
    FreshMapsUnseen,

    // Fault-ahead: fresh pages behind the one that is touched.
    /// a swap device that waits is read under the locks of a fault
    SwapInWaitsLocked,
    /// fault-ahead: pages are brought beyond the end of the area
    AheadBeyondArea,
    /// fault-ahead: pages are brought beyond the limit of the address space
    AheadIgnoresLimit,
    /// fault-ahead: pages are brought where few frames are left
    AheadTakesLastFrames,
    /// fault-ahead: pages that nobody has touched are as young as others
    AheadIsYoung,
    /// fault-ahead: a page is mapped although another fault has mapped one meanwhile
    AheadMapsUnseen,
    /// fault-ahead: the first fault anywhere brings pages, with no stream before it
    AheadAtOnce,
    /// fault-ahead: more pages are brought than are wanted beside the one that is touched, beyond the slot or the guest's page table
    AheadUnwanted,

    // The same under shadows.
    /// leaves of a shadow that are derived beside another stand on the page table where the last one was found
    GroundsInOneTable,
    /// a leaf of a shadow that is derived beside another counts as used
    ShadowBesideCountsAsUse,
    /// a leaf of a shadow that is derived beside another may be written although the guest's entry has no D
    ShadowBesideWritesClean,
    /// aging does not look at the leaves of shadows
    ShadowUseUnseen,
    /// what a fault wants of a shadow's ground is not noted as used there
    GroundUseUnseen,

    // The dirty log of a guest's slots.
    /// a write fault on a logged page is not logged
    NoLogOnInstall,
    /// a read fault on a logged page makes it writable
    LogReadInstallsWritable,
    /// a page that was only read can be written after a fault that the host does not hear of
    LogGivesWhatItDidNotTake,
    /// a fault on a logged page maps a huge one
    LogKeepsHuge,
    /// what Herald writes into guest memory is not logged
    NoLogOfOwnWrites,
    /// a page that reclaim drops after `MADV_FREE` is not logged
    NoLogOfFreed,
    /// pages that come by a mapping or a move are not logged
    NoLogOfMapped,
    /// what can be written when the log begins stays so
    LogProtectsNothing,
    /// when the log begins, entries are write-protected without a flush
    NoFlushOfLogBegin,
    /// the harvest leaves the pages that it has counted writable
    HarvestProtectsNothing,
    /// the harvest write-protects without a flush
    NoFlushOfHarvest,

    // Snapshots that build on others.
    /// a page that an earlier part has, too, is restored as it was there
    RestoresOlderPage,
    /// a page that was written since the base, and holds zeros now, is left out
    ZerosAreTheBases,
    /// what was written before a snapshot that failed is left out of the next one
    FailedPartForgetsPages,

    // Copy-on-write.
    /// fork leaves the frame exclusive
    ForkLeavesExclusive,
    /// fork leaves the parent's entry writable
    ForkLeavesWritable,
    /// a page table that fork shares can be written through
    SharedTableStaysWritable,
    /// the way to a shared table is not flushed where a copy takes its place
    OwnWithoutFlush,
    /// a page stays exclusive that somebody holds on to who shared its table
    TakesBackHeld,
    /// the copy of a shared table leaves its frames exclusive
    OwnLeavesExclusive,
    /// mprotect and others change entries of a shared table
    ModifiesShared,
    /// the area that was found last is taken for the one of any address, also where it is gone or another one
    LastAreaUnasked,
    /// a page with several references is reused for a write (CVE-2020-29374)
    ReuseIgnoresReferences,
    /// copy-on-write maps its copy although the page has become exclusive since
    CopyIgnoresExclusive,
    /// copy-on-write: whether a frame is counted is asked before the lock under which its entry keeps it
    CopyAsksUnlocked,
    /// a frame that goes to swap stays exclusive
    UnmapLeavesExclusive,
    /// swap-in: a slot that cannot be read is a lost page, also where somebody else has brought it in
    SwapInBelievesError,
    /// a page that comes back from swap becomes exclusive under a reference of somebody else
    SwapInIgnoresReferences,

    // Pages that are kept as a few words.
    /// of a page with too many words for it the first ones are kept
    SparseCutsOff,
    /// the words are put into whatever is in the frame
    SparseKeepsOldWords,
    /// the last word is not kept
    SparseLosesLast,

    // Slots of swap.
    /// a slot's copy is given up with the first of its notes, not with the last
    SlotDiscardedEarly,
    /// a fault reads a page from its slot although a frame caches it (I14)
    SwapCacheSkipped,

    // Which pages go.
    /// nobody looks at the shadow of a page that comes back: it has come late, however soon it is needed again
    ShadowIgnored,
    /// a page that comes back counts as needed, however long it was not missed
    EveryComebackSoon,
    /// the access that brings a page in late counts as use
    LateComebackIsUse,
    /// a space has what it asks for, whatever its limit
    LimitIgnored,
    /// a space at its limit makes room wherever there is something old
    LimitTakesFromOthers,
    /// reclaim searches all frames for what needs no swap while swap has no room
    SearchesOnWithoutRoom,
    /// a fault that waits for room in swap gives up after so many batches that went down
    RoomWearsPatience,

    // Races with caches.
    /// a page read from swap is cached although its slot has changed hands
    SwapIgnoresGeneration,
    /// a slot looks the same to whoever began to read it before a frame cached it, and went again
    CacheKeepsGeneration,
    /// a page read from a file is cached although pages were evicted meanwhile
    FileIgnoresEvictions,
    /// a page whose store has to be waited for is read under the locks of the fault
    WaitsUnderLocks,
    /// a page that had to be waited for, and was copied for a write, stays in the cache
    ReadPageStays,
    /// a page that had to be waited for leaves the cache when its fault has ended, though it is mapped
    ReadPageGoesMapped,
    /// a page that was read takes the place of the one that somebody else has cached meanwhile
    ReadReplacesCached,
    /// a page that leaves the cache of a file whose store has to be waited for makes all that are being read be read again
    WaitedReadsUndone,
    /// a page of a file is mapped although truncation has taken it
    MapIgnoresTruncation,
    /// truncation looks for private copies only once
    TruncateZapsOnce,
    /// a fault maps a huge page while an operation splits its range
    HugeIgnoresBar,

    // Contents.
    /// a huge frame from a pool is not zeroed (I15)
    NoZeroOfPooled,
}

impl Mutant {
    /// Why no test can notice it, where that is proved.
    #[must_use]
    pub const fn equivalent(self) -> Option<&'static str> {
        match self {
            Self::HugeLeafCheckedInPart => Some(
                "what works on a part of a huge primary page splits it first, which raises the sequence: a huge leaf \
                 that was resolved lies in a range in progress with all its pages or with none",
            ),
            Self::NoDirtyOnSlot => Some(
                "an anonymous frame without a slot is dirty: from its birth, from the moment it left its last slot, or, \
                 after `MADV_FREE`, because only a dirty one is not dropped",
            ),
            Self::NoDirtyOnMapShared => Some(
                "a clean frame is installed read-only, and the fault goes on as one on a present page, which marks it",
            ),
            _ => None,
        }
    }

    /// Every mutant.
    pub fn all() -> impl Iterator<Item = Self> {
        let ranges = RangeSite::ALL.iter();
        let ranges = ranges.flat_map(|&site| {
            let flush = site.owes_flush().then_some(Self::NoFlush(site));
            let log = site.changes_contents().then_some(Self::NoContentsChanged(site));
            [Some(Self::NoBegin(site)), Some(Self::NoEnd(site)), flush, log].into_iter().flatten()
        });
        let pages = PageSite::ALL.iter().map(|&site| Self::NoInvalidatePage(site));
        let young = YoungSite::ALL.iter().map(|&site| Self::NoClearFlushYoung(site));
        ranges.chain(pages).chain(young).chain(PLAIN.iter().copied())
    }
}

/// The name by which a mutant is chosen.
impl fmt::Display for Mutant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
