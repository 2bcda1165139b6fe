//! Flushes of this CPU's translations: the primary ones of Herald itself, at once; a guest's, owed until the
//! next entry.

use addr::{HvaRange, Pfn};
use core::sync::atomic::{AtomicU64, Ordering};
use x86::controlregs::{cr3, cr3_write};
use x86::tlb::flush;

/// From this many pages on, reloading CR3 is cheaper than INVLPG for each.
const MOST_PAGES: usize = 32;

static SECONDARY: AtomicU64 = AtomicU64::new(0);

/// Drops the translations of a range below `root`, and all paging-structure entries (SDM vol. 3A 4.10.4.1).
/// Without PCIDs only the tables that CR3 names are cached: loading CR3 has dropped all others.
pub(crate) fn primary(root: Pfn, range: HvaRange) {
    // SAFETY: reads CR3.
    let current = unsafe { cr3() };
    if current & !0xfff != root.base().as_u64() {
        return;
    }
    if range.pages().take(MOST_PAGES + 1).count() > MOST_PAGES {
        // SAFETY: the same tables again; what is not global is dropped, and hvas never are global.
        unsafe { cr3_write(current) };
        return;
    }
    for page in range.pages() {
        // SAFETY: drops a translation; the next use walks the tables.
        unsafe { flush(page.as_u64() as usize) };
    }
}

/// Makes every virtual processor run INVEPT before it enters its guest again. The entries were written before.
pub(crate) fn request_secondary() {
    SECONDARY.fetch_add(1, Ordering::SeqCst);
}

/// How often a secondary flush was asked for.
pub(crate) fn secondary_generation() -> u64 {
    SECONDARY.load(Ordering::SeqCst)
}
