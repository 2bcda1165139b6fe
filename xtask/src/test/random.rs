//! Random sequences without end: the program `tests/sequences`, built with every check and fast.

use super::host;
use anyhow::Result;
use std::time::{SystemTime, UNIX_EPOCH};

/// Takes so many steps; the exit status.
///
/// # Errors
/// Cargo cannot be started.
pub(super) fn run(steps: u64, seed: Option<u64>) -> Result<u8> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seed = seed.unwrap_or(now.as_millis() as u64).to_string();
    let run = ["run", "--quiet", "--profile", "search", "--package", "sequences", "--", "--steps"];
    let passed = host::cargo(&[&run[..], &[&steps.to_string(), "--seed", &seed]].concat())?;
    Ok(u8::from(!passed))
}
