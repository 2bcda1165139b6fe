//! Mistakes that the product can be told to make, to see whether a test notices: the mutation kit.
//!
//! ```text
//!   product:  if intact(Mutant::NoRaiseOnEnd) { the step }        kit off: a constant, the step always
//!                        ▲
//!   HERALD_MUTANT=NoRaiseOnEnd, read once                         kit on: the step, unless it is chosen
//! ```
//!
//! A mutant that no test kills is a missing test, unless it is listed as equivalent, with the proof
//! (`docs/mutants.md`). One mutant is chosen for a whole process.
#![cfg_attr(not(feature = "kit"), no_std)]
#![forbid(unsafe_code)]

#[cfg(feature = "kit")]
mod chosen;
mod list;
mod site;

#[cfg(feature = "kit")]
pub use chosen::{VARIABLE, intact};
pub use list::Mutant;
pub use site::{PageSite, RangeSite, YoungSite};

/// Whether the product does what it should here: always, in a build without the kit.
#[cfg(not(feature = "kit"))]
#[inline(always)]
#[must_use]
pub const fn intact(_: Mutant) -> bool {
    true
}
