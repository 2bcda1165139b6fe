//! When something was measured, and of which Herald.

use crate::workspace;
use anyhow::{Context, Result};
use std::process::Command;

/// The day, and Herald's version with its commit.
///
/// # Errors
/// There is no `date`.
pub(super) fn own() -> Result<Vec<(&'static str, String)>> {
    let day = Command::new("date").arg("+%F").output().context("date")?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    let commit = Command::new("git")
        .args(["describe", "--always", "--dirty"])
        .current_dir(workspace::root())
        .output()
        .ok()
        .filter(|output| output.status.success());
    let commit = commit.map(|output| format!(" ({})", text(&output.stdout))).unwrap_or_default();
    Ok(vec![("date", text(&day.stdout)), ("Herald", format!("{}{commit}", env!("CARGO_PKG_VERSION")))])
}
