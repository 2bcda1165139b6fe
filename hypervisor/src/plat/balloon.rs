//! The balloon's work: pages that the guest gives back are discarded from its host address space.
//!
//! ```text
//!   driver: notify ──► exit ──► Flow::Serve ──► loop's top ─► one chain ─► loop's top ─► ... ─► nothing waits ─► guest
//!                                                               │
//!                                  board: lend ──► no lock: queue read, ranges discarded, queue written ──► board: return
//! ```
//!
//! The virtual processor that has notified the device does it, a chain each time around its loop, where it gives way to
//! others, pauses and ends like any other.

use super::memory::Memory;
use super::vm::Vm;
use addr::{Gpa, GpaRange, PAGE_SHIFT};
use devices::{BalloonState, Board, VcpuId};
use emulate::GuestMemory;
use firmware::{Ram, layout};
use mm::Host;

const _: () = assert!(
    devices::BALLOON_BASE == layout::BALLOON as u64
        && devices::BALLOON_BYTES == layout::BALLOON_BYTES as u64
        && devices::BALLOON_IRQ as u32 == layout::BALLOON_PIN,
    "the tables tell of another balloon"
);

/// Pages of 4 KiB that a balloon is to hold, for the guest to make do with `bytes`; none where that is not said.
pub(super) fn target(ram: &Ram, bytes: Option<u64>) -> u32 {
    let spared = bytes.map_or(0, |bytes| ram.bytes().saturating_sub(bytes));
    u32::try_from(spared >> PAGE_SHIFT).unwrap_or(u32::MAX)
}

impl Vm {
    /// Serves one chain, if one waits; whether it did.
    pub(crate) fn serve_balloon(&self, vcpu: VcpuId) -> bool {
        let Some(mut work) = self.with_board(vcpu, Board::lend_balloon) else { return false };
        work.perform(&self.memory);
        self.with_board(vcpu, |board| board.return_balloon(&work));
        if work.has_given() {
            self.check(Some(vcpu));
        }
        true
    }

    pub(super) fn balloon(&self) -> BalloonState {
        self.with_devices(None, |board| board.balloon_state())
    }
}

impl<H: Host + 'static> devices::Memory for Memory<H> {
    fn read(&self, gpa: Gpa, bytes: &mut [u8]) -> bool {
        GuestMemory::read(self, gpa, bytes)
    }

    fn write(&self, gpa: Gpa, bytes: &[u8]) -> bool {
        Memory::write(self, gpa, bytes).is_ok()
    }

    fn discard(&self, range: GpaRange) -> bool {
        Memory::discard(self, range.start(), range.len()).is_ok()
    }
}
