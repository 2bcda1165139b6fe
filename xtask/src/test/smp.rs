//! Scenarios with several processors and several guests.

use super::scenario::{Console, Scenario};
use super::table::PLAIN;

/// Says how many processors there are, and ends.
const COUNT: Console = Console::Pipe("echo cpus: $(nproc)\npoweroff -f\n");
/// What a storm has to do to a guest's memory.
const STORM: &str = "storm operations=3000";

/// The test guest with these words, which says that it is content.
macro_rules! test_guest {
    ($name:literal, $append:expr, $says:literal, $($argument:literal),*) => {
        Scenario {
            name: $name,
            args: &["--kernel", "{testguest}", "--append", $append, "--memory", "16M", $($argument),*],
            stdout: &[$says],
            ..PLAIN
        }
    };
}

/// All of them.
pub(super) const SMP: [Scenario; 16] = [
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
    test_guest!("storm-1-cpu", STORM, "storm: ok", "--vcpus", "4", "--storm", "100000", "--oracle"),
    test_guest!(
        "storm-2-cpus",
        STORM,
        "storm: ok",
        "--vcpus",
        "4",
        "--storm",
        "100000",
        "--oracle",
        "--host-cpus",
        "2"
    ),
    test_guest!(
        "storm-4-cpus",
        STORM,
        "storm: ok",
        "--vcpus",
        "4",
        "--storm",
        "100000",
        "--oracle",
        "--host-cpus",
        "4"
    ),
    // Killed wherever they are: in the storm's locks, while they fault, while they start.
    test_guest!(
        "kills-under-load",
        "storm operations=300",
        "storm: ok",
        "--vms",
        "2",
        "--vcpus",
        "2",
        "--storm",
        "100000",
        "--kills",
        "10",
        "--host-cpus",
        "2"
    ),
    test_guest!("smp-1-cpu", "smp cpus=4", "smp: ok", "--vcpus", "4"),
    test_guest!("smp-2-cpus", "smp cpus=4", "smp: ok", "--vcpus", "4", "--host-cpus", "2"),
    test_guest!("smp-4-cpus", "smp cpus=4", "smp: ok", "--vcpus", "4", "--host-cpus", "4"),
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
