//! Leaves beside the one that a page fault has derived (KVM: `PTE_PREFETCH_NUM`), in the same page table of the shadow.
//!
//! ```text
//!   guest's table:   A   .   A D  [A D]  P   A        or a large page: all say what its entry says
//!                    │        │     │
//!   ground:          L   L    L     L    L   .        what is there: the ground's own fault has mapped around (`around.rs`)
//!                    │        │     │
//!   shadow:          r-x  .   rwx  [rwx] .   .        A clear, until the processor uses it
//! ```
//!
//! Each is what a fault would derive: rights of the guest's entry, W once D is set and where the ground has it, none where a table is
//! kept. An entry without A would have to get it, and stays away. So a kept table says what the guest's says, whoever derived it.
//!
//! A leaf that was derived unused tells by its own A whether it was used since; of all other use the ground's leaf has A.

use super::format::{Rights, ShadowLeaf};
use super::origin::Step;
use super::rmap::Place;
use super::tables::Part;
use super::walk::{self, DIRTY, GuestPaging};
use super::{Processor, SecondaryMmu};
use crate::secondary::Locked;
use addr::{Gfn, Pfn};
use mm::{Access, Host};
use mutants::{Mutant, intact};

/// Entries that are looked at, around the leaf's own.
const FEW: u16 = 8;
/// The same where the ground has just been mapped around, in a large page.
const MANY: u16 = 64;

/// Where a leaf was derived, and for whom.
pub(super) struct Derivation<'a> {
    pub(super) processor: Processor,
    pub(super) paging: &'a GuestPaging,
    /// The number of the page table.
    pub(super) table: u16,
    /// The ground has just been mapped around.
    pub(super) is_around: bool,
}

/// What an entry beside is derived from.
struct Neighbour {
    gfn: Gfn,
    from: u64,
    rights: Rights,
}

impl Neighbour {
    /// Entry `index` of the guest's table that lies in this frame, or of a part of a page.
    fn read<H: Host>(
        host: &H,
        (paging, part, step): (&GuestPaging, &Part<'_>, &Step),
        (frame, index): (Option<Pfn>, u16),
    ) -> Option<Self> {
        let Some(frame) = frame else {
            let gfn = Gfn::new(part.gfn.as_u64() - u64::from(step.index) + u64::from(index));
            return Some(Self { gfn, from: 0, rights: part.way.rights });
        };
        let from = step.origin.guest_entry(host, frame, index);
        let mut rights = step.origin.rights(from);
        rights.write &= from & DIRTY != 0 || !intact(Mutant::ShadowBesideWritesClean);
        walk::used_page(paging, from).map(|gfn| Self { gfn, from, rights })
    }
}

impl<H: Host> SecondaryMmu<H> {
    /// Derives what is beside a leaf that was just derived; how many.
    pub(super) fn derive_beside(&self, locked: &mut Locked, part: &Part<'_>, to: &Derivation<'_>) -> u64 {
        let (host, step) = (&*self.host, part.way.steps().last());
        let (Some(tdp), Some(step)) = (locked.tdp, step) else { return 0 };
        let is_table = step.origin.is_table();
        // Else rights are those of a whole way, and only pages of one entry have the same. What became the supervisor's by its store
        // is alone in that.
        if !step.origin.is_protected() && (is_table || part.way.is_lent) {
            return 0;
        }
        let frame = tdp.ground(host, step.origin.gfn).map(|leaf| leaf.pfn).filter(|_| is_table);
        if is_table && frame.is_none() {
            return 0;
        }
        let count = if to.is_around && !is_table { MANY } else { FEW };
        let first = step.index & !(count - 1);
        let (mut derived, mut ground) = (0, tdp.grounds(host));
        for index in first..first + count {
            let at = Place::new(to.table, index);
            if locked.shadows[to.processor.0].is_there(at) {
                continue;
            }
            let Some(found) = Neighbour::read(host, (to.paging, part, &step), (frame, index)) else {
                continue;
            };
            let Some(ground) = ground(found.gfn) else { continue };
            let mut leaf = ShadowLeaf::new((ground.pfn, ground.size), found.rights);
            leaf.write &= ground.rights.write && locked.may_write(found.gfn, Access::Read);
            locked.shadows[to.processor.0].derive_unused(host, at, (found.gfn, found.from), leaf);
            derived += 1;
        }
        derived
    }
}
