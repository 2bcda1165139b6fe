//! Scenarios of guests under shadows, on a processor that has an EPT.

use super::scenario::{Bound, Console, Scenario};
use super::table::PLAIN;

/// All of them.
pub(super) const SHADOW: [Scenario; 2] = [
    // In protected mode without paging, and through swap; the coherence oracle looks after each disturbance.
    Scenario {
        name: "shadow-sweep-oracle",
        args: &[
            "--paging",
            "shadow",
            "--kernel",
            "{testguest}",
            "--append",
            "sweep rounds=1",
            "--memory",
            "64M",
            "--host-memory",
            "64M",
            "--swap",
            "ram:32M",
            "--stir",
            "200",
            "--oracle",
        ],
        stdout: &["sweep: ok"],
        telemetry: &[
            Bound::AtLeast("/notifier/invalidate_page", 2000),
            Bound::AtLeast("/exits/page_fault", 10_000),
            Bound::AtMost("/ept_violations", 0),
            Bound::AtMost("/invept", 0),
        ],
        timeout: 400,
        ..PLAIN
    },
    // In long mode, with processes, page faults of its own and its own flushes.
    Scenario {
        name: "shadow-tiny",
        args: &["--paging", "shadow", "--memory", "64M"],
        console: Console::Pipe("uname -a\npoweroff -f\n"),
        stdout: &["-herald", "x86_64"],
        telemetry: &[
            Bound::AtLeast("/exits/guest_fault", 100),
            Bound::AtLeast("/exits/invlpg", 10),
            Bound::AtMost("/ept_violations", 0),
        ],
        timeout: 400,
        ..PLAIN
    },
];
