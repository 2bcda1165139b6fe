//! Flushes, on this CPU and on all others: the requests that the memory manager makes of the machine (I9, I10).
//!
//! | translations | handshake | dropped by |
//! |---|---|---|
//! | of hvas, by Herald | one, for all address spaces | loading CR3, at each stay in a space (`space`) |
//! | of a guest's EPT | one for each guest | INVEPT, before the guest is entered next |
//!
//! In either case only a CPU that is using the translations now is interrupted and waited for; any other one flushes before
//! it uses them again.

use super::local::MAX_CPUS;
use addr::Pfn;
use alloc::boxed::Box;
use core::sync::atomic::{AtomicU64, Ordering};
use paging::{FlushScope, FlushToken};
use spin::Once;
use sync::{GuestMode, Requested, Stays};
use x86::controlregs::{cr3, cr3_write};

/// Guests that can be told apart at a time: all that may run, and those that are on their way out.
const MOST_GUESTS: usize = abi::config::MAX_GUESTS + abi::config::MAX_VMS;
/// Of a token: the number of its guest and 1 stands above the generation; 0 there: primary.
const TOKEN_SHIFT: u32 = 56;

/// Nobody uses what was asked for: no generation is zero.
const NOTHING: FlushToken = FlushToken(0);

/// CPUs' stays in host address spaces.
static SPACES: Stays<MAX_CPUS> = Stays::new();
/// Made for the first guest: most of it is for clones, and nothing that has to be loaded.
static GUESTS: Once<Box<[Guest]>> = Once::new();

fn guests() -> &'static [Guest] {
    GUESTS.call_once(|| (0..MOST_GUESTS).map(|_| Guest::new()).collect())
}

/// One guest's handshake.
struct Guest {
    /// The frame number of its EPT's root, and 1; 0: nobody's.
    root: AtomicU64,
    mode: GuestMode<MAX_CPUS>,
}

impl Guest {
    const fn new() -> Self {
        Self { root: AtomicU64::new(0), mode: GuestMode::new() }
    }
}

const fn name(root: Pfn) -> u64 {
    root.as_u64() + 1
}

/// This CPU is about to use hvas: it loads CR3, whatever was asked for.
pub(super) fn enter_space(cpu: usize) {
    SPACES.enter(cpu);
}

/// It has loaded Herald's own tables.
pub(super) fn leave_space(cpu: usize) {
    SPACES.exit(cpu);
}

/// This CPU was interrupted: perhaps while it was using hvas.
pub(super) fn acknowledge_primary() {
    // SAFETY: the same tables again; what is not global is dropped, and hvas never are global.
    SPACES.acknowledge(super::index(), || unsafe { cr3_write(cr3()) });
}

/// A guest's place among the handshakes, from before its first entry until after its last.
#[must_use]
pub(crate) struct GuestTag(&'static Guest);

impl GuestTag {
    /// A place for the guest with this EPT. `None`: there are too many guests.
    pub(crate) fn new(root: Pfn) -> Option<Self> {
        let free = |guest: &Guest| {
            guest.root.compare_exchange(0, name(root), Ordering::AcqRel, Ordering::Relaxed).is_ok()
        };
        let guest = guests().iter().find(|guest| free(guest))?;
        // Whoever had the place, or the root, before has left translations: each CPU flushes first.
        let _ = guest.mode.request(super::kick);
        Some(Self(guest))
    }

    /// This CPU is about to enter the guest, with interrupts off: `invept`, if translations have to go.
    pub(crate) fn enter(&self, invept: impl FnOnce()) {
        self.0.mode.enter(super::index(), invept);
    }

    /// It has left the guest.
    pub(crate) fn exit(&self) {
        self.0.mode.exit(super::index());
    }
}

impl Drop for GuestTag {
    fn drop(&mut self) {
        self.0.root.store(0, Ordering::Release);
    }
}

/// Asks for a flush on every CPU. The entries were written before.
pub(crate) fn request(scope: FlushScope) -> FlushToken {
    match scope {
        // Each stay in a space begins with a flush.
        FlushScope::Primary { .. } => {
            SPACES.request(super::kick).map_or(NOTHING, |asked| FlushToken(asked.generation()))
        }
        FlushScope::Secondary { root } => {
            let found = guests().iter().position(|guest| guest.root.load(Ordering::Acquire) == name(root));
            // A guest without a place runs nowhere, and flushes before it ever does.
            let Some(index) = found else { return NOTHING };
            let generation = guests()[index].mode.request(super::kick).generation();
            FlushToken((index as u64 + 1) << TOKEN_SHIFT | generation)
        }
    }
}

/// Returns once no CPU uses what the request covers. This one uses nothing: it is in root mode, and in no space.
pub(crate) fn wait(FlushToken(token): FlushToken) {
    if token == NOTHING.0 {
        return;
    }
    let requested = Requested::of(token & ((1 << TOKEN_SHIFT) - 1));
    match token >> TOKEN_SHIFT {
        0 => SPACES.wait(requested),
        guest => guests()[guest as usize - 1].mode.wait(requested),
    }
}
