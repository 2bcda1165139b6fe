//! Scenarios with clones of a running guest.

use super::scenario::{Bound, Console, Scenario};
use super::table::PLAIN;

/// The test guest, which has clones and says that each is itself.
macro_rules! clones {
    ($name:literal, $append:literal, $telemetry:expr $(, $argument:literal)*) => {
        Scenario {
            name: $name,
            args: &["--kernel", "{testguest}", "--append", $append $(, $argument)*],
            stdout: &["clone: 0 is itself", ".1] clone: 1 is itself", "clone: ok"],
            telemetry: $telemetry,
            timeout: 300,
            ..PLAIN
        }
    };
}

/// All of them.
pub(super) const CLONES: [Scenario; 9] = [
    clones!("clone-oracle", "clone", &[], "--memory", "16M", "--oracle"),
    clones!("clone-shadow-oracle", "clone", &[], "--memory", "16M", "--oracle", "--paging", "shadow"),
    clones!("clone-no-ad", "clone pages=600", &[], "--memory", "16M", "--no-ept-ad"),
    clones!(
        "clones-of-clones",
        "clone clones=4 generations=2 rounds=2 pages=100",
        &[],
        "--memory",
        "16M",
        "--host-cpus",
        "2"
    ),
    clones!(
        "clones-of-clones-penryn",
        "clone clones=3 generations=2 rounds=2 pages=100",
        &[Bound::AtMost("/ept_violations", 0)],
        "--memory",
        "16M",
        "--cpu",
        "penryn"
    ),
    clones!(
        "clones-in-swap",
        "clone clones=3 rounds=2 pages=3500",
        &[Bound::AtLeast("/notifier/invalidate_page", 500)],
        "--memory",
        "20M",
        "--host-memory",
        "64M",
        "--swap",
        "ram:8M,disk:64M"
    ),
    // Its virtual processors are at work while it is cloned, and go on in both.
    Scenario {
        name: "clone-of-linux",
        args: &["--vcpus", "2", "--host-cpus", "2", "--log", "info"],
        console: Console::Terminal(&[
            ("herald:/# ", "(sleep 3; echo woke $((3 * 3))) & while :; do :; done & echo busy $((1 + 1))\n"),
            ("busy 2", "\x1c+"),
            ("is a clone of tiny, which stood still for ", ""),
            // Nobody has typed anything: its own timer.
            ("[tiny.1] woke 9", "\x1cnecho clone $((40 + 2)) $(nproc)\n"),
            ("clone 42 2", "poweroff -f\n"),
            ("tiny.1: the guest powered off", "echo parent $((40 + 3)) $(nproc)\n"),
            ("parent 43 2", "poweroff -f\n"),
        ]),
        stdout: &["[tiny.1] clone 42 2"],
        timeout: 300,
        ..PLAIN
    },
    // What all would write to has no copies.
    Scenario {
        name: "clone-of-shared-memory",
        args: &[
            "--kernel",
            "{testguest}",
            "--append",
            "clone",
            "--memory",
            "16M",
            "--backing",
            "shared",
            "--log",
            "debug",
        ],
        stdout: &["clone: FAILED: result of the call"],
        stderr: &["no clone: its memory is of a kind that cannot be copied on write"],
        status: 1,
        ..PLAIN
    },
    // One after the other: numbers of those that have ended are used again, and nothing of them is left.
    clones!("many-clones", "clone clones=200 rounds=0 pages=4", &[], "--memory", "8M"),
];
