//! The mutant of this process.

use crate::Mutant;
use std::sync::OnceLock;

/// The environment variable that names it.
pub const VARIABLE: &str = "HERALD_MUTANT";

static CHOSEN: OnceLock<Option<Mutant>> = OnceLock::new();

/// Whether the product does what it should here: unless this mistake was chosen.
///
/// # Panics
/// If the variable names no mutant: a run with it would prove nothing.
#[must_use]
pub fn intact(mutant: Mutant) -> bool {
    *CHOSEN.get_or_init(choose) != Some(mutant)
}

fn choose() -> Option<Mutant> {
    let name = std::env::var(VARIABLE).ok()?;
    let mutant = Mutant::all().find(|mutant| mutant.to_string() == name);
    Some(mutant.unwrap_or_else(|| panic!("{VARIABLE}={name} is no mutant")))
}
