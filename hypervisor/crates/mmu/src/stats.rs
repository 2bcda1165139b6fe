//! Counters of one secondary MMU.

use core::sync::atomic::{AtomicU64, Ordering};

macro_rules! stats {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Running counters. Relaxed: they order nothing.
        #[derive(Debug, Default)]
        pub struct Stats {
            $($(#[$doc])* pub(crate) $name: AtomicU64,)*
        }

        /// The counters at one moment.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        pub struct StatsSnapshot {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Stats {
            /// Reads all counters.
            #[must_use]
            pub fn snapshot(&self) -> StatsSnapshot {
                StatsSnapshot { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }
    };
}

stats! {
    /// Entries installed or upgraded by faults.
    installed,
    /// Faults that found an entry which allowed the access.
    spurious,
    /// Faults that found their sequence stale.
    retries,
    /// Entries zapped.
    zapped,
    /// Flushes asked for.
    flushes,
    /// `invalidate_page` calls.
    invalidate_page,
    /// `invalidate_range_begin` calls.
    invalidate_range_begin,
    /// `invalidate_range_end` calls.
    invalidate_range_end,
    /// `clear_flush_young` calls.
    clear_flush_young,
    /// `release` calls.
    release,
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
