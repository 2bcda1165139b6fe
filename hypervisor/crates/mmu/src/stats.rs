//! Counters of the subscribers, one set each.

use core::sync::atomic::{AtomicU64, Ordering};

macro_rules! stats {
    (
        $(#[$running_doc:meta])* $vis:vis $running:ident,
        $(#[$snapshot_doc:meta])* $snapshot:ident:
        $($(#[$doc:meta])* $name:ident),* $(,)?
    ) => {
        $(#[$running_doc])*
        #[derive(Debug, Default)]
        $vis struct $running {
            $($(#[$doc])* pub(crate) $name: AtomicU64,)*
        }

        $(#[$snapshot_doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        pub struct $snapshot {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl $running {
            /// Reads all counters.
            #[must_use]
            $vis fn snapshot(&self) -> $snapshot {
                $snapshot { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }
    };
}

stats! {
    /// Running counters of a secondary MMU. Relaxed: they order nothing.
    pub Stats,
    /// A secondary MMU's counters at one moment.
    StatsSnapshot:
    /// Entries installed or upgraded by faults.
    installed,
    /// Entries of their neighbours, installed with them.
    mapped_around,
    /// Leaves of shadows, derived beside those of faults.
    derived_beside,
    /// Large leaves of shadows, derived by faults.
    derived_large,
    /// Faults that found an entry which allowed the access.
    spurious,
    /// Faults that found their sequence stale.
    retries,
    /// Entries zapped.
    zapped,
    /// Flushes asked for.
    flushes,
}

stats! {
    /// Running counters of a device TLB. Relaxed: they order nothing.
    pub DeviceStats,
    /// A device TLB's counters at one moment.
    DeviceStatsSnapshot:
    /// Accesses to a page that found its entry.
    hits,
    /// Entries installed or upgraded after a miss.
    installed,
    /// Misses that found their sequence stale.
    retries,
    /// Entries dropped by notifier calls.
    zapped,
}

stats! {
    /// Running counters of an observer. Relaxed: they order nothing.
    pub(crate) CallStats,
    /// Notifier calls so far, by operation.
    CallCounts:
    /// `invalidate_page` calls.
    invalidate_page,
    /// `invalidate_range_begin` calls.
    invalidate_range_begin,
    /// `invalidate_range_end` calls.
    invalidate_range_end,
    /// `clear_flush_young` calls.
    clear_flush_young,
    /// `clear_young` calls.
    clear_young,
    /// `collect_young` calls.
    collect_young,
    /// `test_young` calls.
    test_young,
    /// `release` calls.
    release,
}

pub(crate) fn count(counter: &AtomicU64) {
    add(counter, 1);
}

pub(crate) fn add(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}
