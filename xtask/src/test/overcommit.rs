//! Scenarios with less memory than the guests have.

use super::scenario::{Bound, Scenario};
use super::table::PLAIN;

/// The test guest sweeps over more memory than there is.
macro_rules! sweep {
    ($name:literal $(, $argument:literal)*) => {
        Scenario {
            name: $name,
            args: &[
                "--kernel",
                "{testguest}",
                "--append",
                "sweep",
                "--memory",
                "64M",
                "--host-memory",
                "64M",
                "--swap",
                "ram:32M",
                $($argument),*
            ],
            stdout: &["sweep: ok"],
            telemetry: &[Bound::AtLeast("/notifier/invalidate_page", 4000)],
            ..PLAIN
        }
    };
}

/// All of them.
pub(super) const OVERCOMMIT: [Scenario; 7] = [
    sweep!("swap-sweep"),
    sweep!("swap-sweep-no-ad", "--no-ept-ad"),
    sweep!("swap-sweep-2-cpus", "--host-cpus", "2"),
    sweep!("swap-sweep-oracle", "--stir", "50", "--oracle"),
    // What is left is not enough for what does not compress.
    Scenario {
        name: "swap-too-small",
        args: &[
            "--kernel",
            "{testguest}",
            "--append",
            "sweep",
            "--memory",
            "96M",
            "--host-memory",
            "64M",
            "--swap",
            "ram:2M",
        ],
        status: 5,
        stderr: &["out of memory"],
        ..PLAIN
    },
    // The one that has most ends; the other one has its memory, and not a wrong byte in it.
    Scenario {
        name: "one-of-two-hoards",
        args: &["--config", "{one-hoards.toml}", "--host-memory", "64M", "--swap", "ram:8M"],
        status: 5,
        stdout: &["[modest] sweep: ok"],
        stderr: &["hoards: the guest ended abnormally: out of memory"],
        ..PLAIN
    },
    Scenario { name: "no-swap-tier", args: &["--swap", "tape:1G"], status: 2, stderr: &["tape"], ..PLAIN },
];
