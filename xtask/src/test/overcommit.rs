//! Scenarios with less memory than the guests have.

use super::scenario::{Bound, Scenario};
use super::table::PLAIN;

/// The test guest sweeps over more memory than there is.
macro_rules! sweep {
    ($name:literal, $swap:literal, $rounds:literal $(, $argument:literal)*) => {
        Scenario {
            name: $name,
            args: &[
                "--kernel",
                "{testguest}",
                "--append",
                $rounds,
                "--memory",
                "64M",
                "--host-memory",
                "64M",
                "--swap",
                $swap,
                $($argument),*
            ],
            stdout: &["sweep: ok"],
            telemetry: &[Bound::AtLeast("/notifier/invalidate_page", 2000)],
            timeout: 400,
            ..PLAIN
        }
    };
}

/// The one that has most ends; the other one has its memory, and not a wrong byte in it.
macro_rules! hoards {
    ($name:literal $(, $argument:literal)*) => {
        Scenario {
            name: $name,
            args: &["--config", "{one-hoards.toml}", "--host-memory", "64M", "--swap", "ram:8M" $(, $argument)*],
            status: 5,
            stdout: &["[modest] sweep: ok"],
            stderr: &["hoards: the guest ended abnormally: out of memory"],
            timeout: 400,
            ..PLAIN
        }
    };
}

/// All of them.
pub(super) const OVERCOMMIT: [Scenario; 15] = [
    sweep!("swap-sweep", "ram:32M", "sweep rounds=2"),
    sweep!("swap-sweep-no-ad", "ram:32M", "sweep rounds=1", "--no-ept-ad"),
    sweep!("swap-sweep-2-cpus", "ram:32M", "sweep rounds=1", "--host-cpus", "2"),
    sweep!("swap-sweep-oracle", "ram:32M", "sweep rounds=1", "--stir", "50", "--oracle"),
    sweep!("disk-sweep", "disk:64M", "sweep rounds=2"),
    sweep!("disk-sweep-2-cpus", "disk:64M", "sweep rounds=1", "--host-cpus", "2", "--no-ept-ad"),
    sweep!("both-tiers-sweep", "ram:2M,disk:64M", "sweep rounds=2"),
    // What cannot be written stays in memory, and is written elsewhere later.
    sweep!("disk-fails-some-writes", "ram:8M,disk:64M", "sweep rounds=1", "--inject", "swap-write-errors"),
    // Whoever needs the page that is lost ends, and says why; Herald and the other guest go on.
    Scenario {
        name: "disk-fails-some-reads",
        args: &[
            "--config",
            "{one-hoards.toml}",
            "--host-memory",
            "64M",
            "--swap",
            "disk:128M",
            "--inject",
            "swap-read-errors",
        ],
        status: 5,
        stderr: &["the guest ended abnormally", "swap slot"],
        timeout: 400,
        ..PLAIN
    },
    Scenario {
        name: "no-swap-disk",
        args: &[
            "--machine",
            "tcg",
            "--disk",
            "blank",
            "--kernel",
            "{testguest}",
            "--append",
            "hello",
            "--swap",
            "disk:64M",
        ],
        status: 4,
        stderr: &["no VMX"],
        ..PLAIN
    },
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
    hoards!("one-of-two-hoards"),
    hoards!("one-of-two-hoards-2-cpus", "--host-cpus", "2"),
    // More slots than there is memory for their table.
    Scenario {
        name: "swap-too-large",
        args: &["--kernel", "{testguest}", "--append", "hello", "--host-memory", "64M", "--swap", "ram:1G"],
        status: 2,
        stderr: &["swap slots"],
        ..PLAIN
    },
    Scenario { name: "no-swap-tier", args: &["--swap", "tape:1G"], status: 2, stderr: &["tape"], ..PLAIN },
];
