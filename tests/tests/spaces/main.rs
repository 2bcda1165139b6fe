//! Several address spaces at once: forks, files, swap, huge pages, guests in each. After every step of the bench the
//! oracle looks at everything, and the model at what was read.

mod by_hand;
mod combined;
mod exhaustion;
mod late;
mod like_linux;
mod random;
mod regressions;
mod replays;
mod scenes;
mod sparse;
mod threads;

use addr::PageSize;
use mm::CpuIndex;
use tests::Violation;
use tests::machine::Options;
use tests::worlds::{Backing, With, World};

type Outcome = Result<(), Violation>;

const CPU0: CpuIndex = CpuIndex(0);
/// Private memory in small pages.
const SMALL: Backing = Backing::Anonymous(PageSize::Size4K);

/// A world with one space and its guest.
fn world() -> Result<World, Violation> {
    world_with_slots(20)
}

/// The same, with a swap device of so many slots.
fn world_with_slots(slots: u64) -> Result<World, Violation> {
    let mut world = World::new(Options { cpus: 4, ..Options::default() }.with_chosen_paging(), slots);
    world.spawn(0, With::Guest)?;
    Ok(world)
}
