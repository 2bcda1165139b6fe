//! Scenarios with several processors and several guests.

use super::scenario::{Bound, Console, Scenario};
use super::table::PLAIN;

/// Says how many processors there are, and ends.
pub(super) const COUNT: Console = Console::Pipe("echo cpus: $(nproc)\npoweroff -f\n");
/// The test guest with four virtual processors, which says that it is content.
macro_rules! on_cpus {
    ($name:literal, $cpus:literal, $append:literal, $says:literal $(, $argument:literal)*) => {
        Scenario {
            name: $name,
            args: &[
                "--kernel",
                "{testguest}",
                "--append",
                $append,
                "--memory",
                "16M",
                "--vcpus",
                "4",
                "--host-cpus",
                $cpus,
                $($argument),*
            ],
            stdout: &[$says],
            ..PLAIN
        }
    };
}

/// In a storm of host operations, looked at by the oracle.
macro_rules! storm {
    ($name:literal, $cpus:literal) => {
        on_cpus!($name, $cpus, "storm operations=3000", "storm: ok", "--storm", "100000", "--oracle")
    };
}

const KILLS: [&str; 18] = [
    "--kernel",
    "{testguest}",
    "--append",
    "storm operations=300",
    "--memory",
    "16M",
    "--vms",
    "2",
    "--vcpus",
    "2",
    "--host-cpus",
    "2",
    "--storm",
    "100000",
    "--kills",
    "10",
    "--log",
    "debug",
];

/// All of them.
pub(super) const SMP: [Scenario; 17] = [
    Scenario {
        name: "debian-4-vcpus",
        args: &["--guest", "debian", "--vcpus", "4", "--host-cpus", "2"],
        console: COUNT,
        stdout: &["cpus: 4"],
        timeout: 600,
        ..PLAIN
    },
    Scenario {
        name: "four-guests",
        args: &["--vms", "4", "--vcpus", "2", "--host-cpus", "2"],
        console: Console::Pipe(concat!(
            "echo first: $(nproc)\npoweroff -f\n",
            "\x1c2echo second: $(nproc)\npoweroff -f\n",
            "\x1c3echo third: $(nproc)\npoweroff -f\n",
            "\x1c4echo fourth: $(nproc)\npoweroff -f\n",
        )),
        stdout: &["first: 2", "[tiny-2] ", "second: 2", "third: 2", "fourth: 2"],
        timeout: 300,
        ..PLAIN
    },
    nproc("nproc-1-cpu", &["--vcpus", "4"]),
    nproc("nproc-2-cpus", &["--vcpus", "4", "--host-cpus", "2"]),
    nproc("nproc-4-cpus", &["--vcpus", "4", "--host-cpus", "4"]),
    storm!("storm-1-cpu", "1"),
    storm!("storm-2-cpus", "2"),
    storm!("storm-4-cpus", "4"),
    on_cpus!("smp-1-cpu", "1", "smp cpus=4", "smp: ok"),
    on_cpus!("smp-2-cpus", "2", "smp cpus=4", "smp: ok"),
    on_cpus!("smp-4-cpus", "4", "smp cpus=4", "smp: ok"),
    // Killed wherever they are: in the storm's locks, while they fault, while they start.
    Scenario {
        name: "kills-under-load",
        args: &KILLS,
        stdout: &["storm: ok"],
        stderr: &["the guest was killed"],
        ..PLAIN
    },
    // More than is zeroed before the guest begins: the idle processor hears that there is less.
    Scenario {
        name: "zeroed-ahead",
        args: &[
            "--kernel",
            "{testguest}",
            "--append",
            "versus main=1 pages=4096",
            "--memory",
            "32M",
            "--host-memory",
            "128M",
            "--host-cpus",
            "2",
            "--host-operations",
            "--swap",
            "ram:32M",
        ],
        stdout: &["versus: ok"],
        telemetry: &[Bound::AtLeast("/zeroed_ahead", 1024), Bound::AtLeast("/zeroed_taken", 768)],
        ..PLAIN
    },
    // One dies; the other lives on, and the worse end counts.
    Scenario {
        name: "one-of-two-dies",
        args: &["--config", "{one-dies.toml}", "--host-cpus", "2"],
        stdout: &["[lives] spin: ok"],
        stderr: &["dies: ", "triple fault"],
        status: 5,
        ..PLAIN
    },
    Scenario { name: "too-many-vcpus", args: &["--vcpus", "33"], status: 2, stderr: &["33"], ..PLAIN },
    Scenario { name: "no-vcpus", args: &["--vcpus", "0"], status: 2, stderr: &["--vcpus"], ..PLAIN },
    Scenario { name: "too-many-host-cpus", args: &["--host-cpus", "9"], status: 2, stderr: &["9"], ..PLAIN },
];

const fn nproc(name: &'static str, args: &'static [&'static str]) -> Scenario {
    Scenario { name, args, console: COUNT, stdout: &["cpus: 4"], ..PLAIN }
}
