//! Scenarios with less memory than the guests have.

use super::scenario::{Bound, Console, Scenario};
use super::table::PLAIN;

/// The test guest sweeps over more memory than there is.
macro_rules! sweep {
    ($name:literal, $swap:literal, $rounds:literal $(, $argument:literal)* $(; $bound:expr)?) => {
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
            telemetry: &[Bound::AtLeast("/notifier/invalidate_page", 2000) $(, $bound)?],
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

/// One guest is above its limit, and pays for that alone; the other one loses no page. It is done first: the last record is
/// that of the guest with the limit.
macro_rules! limits {
    ($name:literal $(, $argument:literal)*) => {
        Scenario {
            name: $name,
            args: &["--config", "{one-limited.toml}", "--host-memory", "128M", "--swap", "ram:32M" $(, $argument)*],
            stdout: &["[limited] sweep: ok", "[other] sweep: ok"],
            telemetry: &[
                Bound::AtLeast("/notifier/invalidate_page", 3000),
                Bound::AtMost("/most_resident_frames", 3072),
            ],
            timeout: 400,
            ..PLAIN
        }
    };
}

/// All of them.
pub(super) const OVERCOMMIT: [Scenario; 24] = [
    sweep!("swap-sweep", "ram:32M", "sweep rounds=2 every=16"),
    sweep!("swap-sweep-no-ad", "ram:32M", "sweep rounds=1 every=16", "--no-ept-ad"),
    sweep!("swap-sweep-2-cpus", "ram:32M", "sweep rounds=1 every=16", "--host-cpus", "2"),
    sweep!("swap-sweep-oracle", "ram:32M", "sweep rounds=1 every=16", "--stir", "100", "--oracle"),
    sweep!("disk-sweep", "disk:64M", "sweep rounds=2"),
    sweep!("disk-sweep-2-cpus", "disk:64M", "sweep rounds=1", "--host-cpus", "2", "--no-ept-ad"),
    sweep!("disk-sweep-oracle", "disk:64M", "sweep rounds=1", "--stir", "200", "--oracle"),
    sweep!("both-tiers-sweep-penryn", "ram:2M,disk:64M", "sweep rounds=1 every=16", "--cpu", "penryn"; Bound::AtMost("/ept_violations", 0)),
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
    // Above its limit a guest swaps, though the machine has memory.
    Scenario {
        name: "limited",
        args: &[
            "--kernel",
            "{testguest}",
            "--append",
            "sweep rounds=1",
            "--memory",
            "32M",
            "--memory-max",
            "16M",
            "--host-memory",
            "128M",
            "--swap",
            "ram:32M",
        ],
        stdout: &["sweep: ok"],
        telemetry: &[
            Bound::AtLeast("/notifier/invalidate_page", 3000),
            Bound::AtMost("/most_resident_frames", 4096),
        ],
        timeout: 400,
        ..PLAIN
    },
    limits!("one-of-two-limited"),
    limits!("one-of-two-limited-2-cpus", "--host-cpus", "2"),
    // The last record is the other's: not one page of it has gone.
    Scenario {
        name: "one-of-two-unlimited",
        args: &["--config", "{one-limited-first.toml}", "--host-memory", "128M", "--swap", "ram:32M"],
        stdout: &["[limited] sweep: ok", "[other] sweep: ok"],
        telemetry: &[Bound::AtMost("/notifier/invalidate_page", 0), Bound::AtLeast("/resident_frames", 3500)],
        timeout: 400,
        ..PLAIN
    },
    // Nothing of it can go: it ends, and alone.
    Scenario {
        name: "limited-without-swap",
        args: &["--config", "{one-limited.toml}", "--host-memory", "128M"],
        status: 5,
        stdout: &["[other] sweep: ok"],
        stderr: &["limited: the guest ended abnormally: out of memory"],
        ..PLAIN
    },
    // An idle guest becomes as small as what it uses, though nobody needs memory.
    Scenario {
        name: "proactive",
        args: &["--swap", "ram:64M", "--proactive", "4"],
        console: Console::Pipe("sleep 60; poweroff -f\n"),
        telemetry: &[Bound::AtLeast("/most_resident_frames", 5000), Bound::AtMost("/resident_frames", 1500)],
        timeout: 400,
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
    // What is left beside what does not compress is too little for what the guest needs all the time.
    Scenario {
        name: "one-of-two-stands-still",
        args: &["--config", "{one-stands-still.toml}", "--host-memory", "64M", "--swap", "ram:64M"],
        status: 5,
        stdout: &["[modest] sweep: ok"],
        stderr: &["random: the guest ended abnormally: out of memory, ", "pages of which do not compress"],
        timeout: 400,
        ..PLAIN
    },
    hoards!("one-of-two-hoards"),
    hoards!("one-of-two-hoards-2-cpus", "--host-cpus", "2"),
    // More slots than there is memory for their table.
    Scenario {
        name: "swap-too-large",
        args: &["--kernel", "{testguest}", "--append", "hello", "--host-memory", "64M", "--swap", "disk:64G"],
        status: 2,
        stderr: &["swap slots"],
        ..PLAIN
    },
    Scenario { name: "no-swap-tier", args: &["--swap", "tape:1G"], status: 2, stderr: &["tape"], ..PLAIN },
];
