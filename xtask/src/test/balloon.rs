//! Scenarios in which guests give memory back: what is free, what they are asked for, what they need after all.

use super::scenario::{Bound, Console, Scenario};
use super::table::PLAIN;

/// The shell waits for interrupts of the balloon by their count: each report ends with one.
macro_rules! reports {
    ($name:literal, $memory:literal, $most:literal $(, $argument:literal)*) => {
        Scenario {
            name: $name,
            args: &["--memory", $memory $(, $argument)*],
            console: Console::Pipe(concat!(
                "irqs() { sed -n 's/^ *16: *\\([0-9]*\\) .*virtio0/\\1/p' /proc/interrupts; }\n",
                // Until more have come than `s`, and no more come.
                "settle() { n=$s; m=; until [ \"$m\" = $n -a $n -gt $s ]; do sleep 1; m=$n; n=$(irqs); done; }\n",
                "s=0; settle\n",
                "dd if=/dev/zero of=/tmp/big bs=1M count=48\n",
                "s=$(irqs); rm /tmp/big; settle; echo settled: $((6*7))\n",
                "poweroff -f\n"
            )),
            stdout: &["48+0 records out", "settled: 42"],
            // What the file had is gone, and what the start had left behind: 12,288 pages of the one, and no page of either
            // is discarded alone.
            telemetry: &[
                Bound::AtMost("/resident_frames", $most),
                Bound::AtLeast("/balloon/reported", 30_000),
                Bound::AtMost("/balloon/ranges", 400),
            ],
            ..PLAIN
        }
    };
}

/// All of them.
pub(super) const BALLOON: [Scenario; 4] = [
    reports!("balloon-reports", "128M", 8_000),
    reports!("balloon-reports-checked", "128M", 8_000, "--oracle", "--stir", "500", "--host-cpus", "2"),
    // 96M of 128M are taken, and a program that then wants 64M gets them: nobody is killed, and the guest keeps them.
    Scenario {
        name: "balloon-deflates",
        args: &["--memory", "128M", "--balloon", "32M"],
        console: Console::Pipe(concat!(
            "until grep -q 'balloon_inflate 24576' /proc/vmstat; do sleep 1; done\n",
            "dd if=/dev/zero of=/dev/null bs=64M count=1 && echo alive: $((6*7))\n",
            "poweroff -f\n"
        )),
        stdout: &["1+0 records out", "alive: 42"],
        telemetry: &[
            Bound::AtLeast("/balloon/inflated", 24_576),
            Bound::AtMost("/balloon/ranges", 1_000),
            Bound::AtMost("/balloon/target", 16_384),
        ],
        ..PLAIN
    },
    // What was never touched is in the balloon: the guest is as small as it was asked to be.
    Scenario {
        name: "balloon-squeezes",
        args: &["--balloon", "40M", "--vcpus", "2", "--host-cpus", "2"],
        console: Console::Pipe(concat!(
            "until grep -q 'balloon_inflate 55296' /proc/vmstat; do sleep 1; done\n",
            "echo small: $((6*7))\npoweroff -f\n"
        )),
        stdout: &["small: 42"],
        telemetry: &[Bound::AtLeast("/balloon/target", 55_296), Bound::AtMost("/resident_frames", 10_240)],
        ..PLAIN
    },
];
