//! The seam to the CPUs that cache translations.
//!
//! ```text
//!   entries changed ──► request(scope) ──► token ──► wait(token) ──► frames may be reused
//! ```
//!
//! Between request and wait other requests may be made: a batch pays once (I10).

use addr::{HvaRange, Pfn};

/// What must no longer be translated from a cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FlushScope {
    /// Linear translations of a host address space, named by its root, in a range; and all its cached
    /// paging-structure entries, as INVLPG drops them (SDM vol. 3A 4.10.4.1).
    Primary {
        /// Root of the primary tables.
        root: Pfn,
        /// Addresses whose translations go.
        range: HvaRange,
    },
    /// Guest-physical and combined translations derived from an EPT root: INVEPT, single-context (I9).
    Secondary {
        /// Root of the EPT.
        root: Pfn,
    },
}

/// A flush that was asked for and may not have completed.
#[must_use = "a flush not waited for may not have happened (I6)"]
#[derive(Debug)]
pub struct FlushToken(pub u64);

/// The CPUs of a machine, as caches of translations.
pub trait Shootdown {
    /// Asks every CPU that may cache translations in the scope to drop them. The entries have been written
    /// before; the implementation fences (I10).
    fn request(&self, scope: FlushScope) -> FlushToken;

    /// Returns once no CPU can use what the request covers.
    fn wait(&self, token: FlushToken);

    /// Request and wait.
    fn flush(&self, scope: FlushScope) {
        let token = self.request(scope);
        self.wait(token);
    }
}
