//! Scenarios in which equal pages of guests are merged, and part again.

use super::scenario::{Bound, Scenario};
use super::table::PLAIN;

/// Two test guests with 876 pages each that have their likes twice in both, and 124 with zeros; two rounds. If each merged with
/// itself alone, 1,752 pages would become others; if both merge, 2,628 do.
macro_rules! merging {
    ($name:literal, $config:literal $(, $argument:literal)* $(; $bound:expr)?) => {
        Scenario {
            name: $name,
            args: &["--config", $config, "--host-operations" $(, $argument)*],
            stdout: &["merge: 1 has its own", "merge: 2 has its own", "[one] merge: ok", "[two] merge: ok"],
            telemetry: &[Bound::AtLeast("/merge/merged", 2100), Bound::AtLeast("/merge/zero", 490) $(, $bound)?],
            timeout: 400,
            ..PLAIN
        }
    };
}

/// All of them.
pub(super) const MERGING: [Scenario; 7] = [
    merging!("merging", "{two-merge.toml}"),
    merging!("merging-oracle", "{two-merge.toml}", "--oracle"),
    merging!("merging-shadow-oracle", "{two-merge.toml}", "--oracle", "--paging", "shadow"; Bound::AtMost("/ept_violations", 0)),
    merging!("merging-penryn", "{two-merge.toml}", "--cpu", "penryn"; Bound::AtMost("/ept_violations", 0)),
    merging!("merging-no-ad-2-cpus", "{two-merge.toml}", "--no-ept-ad", "--host-cpus", "2"),
    merging!("merging-in-swap", "{two-merge-in-swap.toml}", "--swap", "ram:16M", "--host-memory", "96M"),
    // Clones have their parent's wish: what only they have in their pages stays theirs.
    Scenario {
        name: "merging-of-clones",
        args: &[
            "--kernel",
            "{testguest}",
            "--append",
            "clone clones=3 generations=2 rounds=6 pages=200",
            "--memory",
            "16M",
            "--merge",
            "--merge-share",
            "100",
            "--host-cpus",
            "2",
        ],
        stdout: &["clone: 0 is itself", ".1] clone: 1 is itself", "clone: ok"],
        telemetry: &[Bound::AtLeast("/merge/passes", 1)],
        timeout: 300,
        ..PLAIN
    },
];
