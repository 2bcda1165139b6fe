//! The real kernel as the oracle: the same operations are run against Linux and against `mm`, and compared.
//!
//! ```text
//!   random steps ──► Bench ──┬──► Herald: mm on the simulated machine        (its oracle looks, too)
//!                            └──► Kernel ── socket ──► puppets: processes whose address spaces are the subjects
//!   compared after each step: answer or errno, contents, areas, presence where it is defined
//! ```
//!
//! Everything lies at the same addresses on both sides: in the arena, and in the annex where `mm` puts what names no
//! address. What a kernel lacks is left out, and said (`probe`); what differs on purpose is left out, counted, and
//! written down in `docs/CAVEATS.md` (`deviations`).
#![forbid(unsafe_code)]

mod answer;
mod areas;
mod bench;
mod deviations;
mod herald;
mod kernel;
mod probe;
mod step;
pub mod wire;

pub use answer::{Answer, Errno};
pub use areas::{Area, Backed};
pub use bench::{Bench, Difference, Report};
pub use deviations::Deviation;
pub use herald::{Herald, Presence};
pub use kernel::Kernel;
pub use probe::Abilities;
pub use step::{Advised, Aside, Backing, Place, Range, Raw, Step, To, What};

use addr::PAGE_SIZE;
use tests::lab::ARENA;

/// Most spaces at a time.
pub const SPACES: usize = 3;
/// The file whose pages nobody keeps but the page cache; on Linux, of a memfd.
pub const SHARED: usize = 0;
/// A file that has contents from the start.
pub const STORED: usize = 1;
/// Pages of these files at first.
pub const FILE_PAGES: [u64; 2] = [24, 24];
/// Where `mm` starts to look for room for what names no address.
pub const ANNEX: u64 = 0x10_0000_0000;
/// First address that neither side has anything of the test's at.
pub(crate) const END: u64 = 1 << 44;
/// First number that is no address of a mapping, on both sides.
pub const TASK_SIZE: u64 = 0x7fff_ffff_f000;

/// The address of a page of the arena.
#[must_use]
pub const fn page(index: u64) -> u64 {
    ARENA.as_u64() + index * PAGE_SIZE
}

/// The first word of a page of [`STORED`] at first; the others are zeros.
pub(crate) const fn first_word(index: u64) -> u64 {
    0xf11e_0000 + index
}
