//! Snapshots: runs that follow each other, and what happens to the file between them.

use super::fixtures::Fixtures;
use super::scenario::{Bound, Console, Scenario};
use super::table::PLAIN;
use anyhow::{Context, Result};

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Snapshots {
    pub(super) name: &'static str,
    steps: &'static [Step],
}

/// What happens.
#[derive(Clone, Copy, Debug)]
enum Step {
    Run(Scenario),
    /// The second file becomes what is made of the first one.
    Change(&'static str, &'static str, fn(&mut Vec<u8>)),
    /// There must be no such file.
    None(&'static str),
}

/// A page of the file.
const PAGE: usize = 4096;

impl Snapshots {
    /// Takes all steps.
    ///
    /// # Errors
    /// What differed, with the output.
    pub(super) fn run(&self, fixtures: &Fixtures) -> Result<()> {
        self.steps.iter().enumerate().try_for_each(|(index, step)| {
            step.take(fixtures).with_context(|| format!("step {} of {}", index + 1, self.steps.len()))
        })
    }
}

impl Step {
    fn take(&self, fixtures: &Fixtures) -> Result<()> {
        match self {
            Self::Run(scenario) => scenario.run(fixtures),
            Self::Change(from, to, change) => {
                let mut bytes = std::fs::read(fixtures.expand(from)).context(*from)?;
                change(&mut bytes);
                std::fs::write(fixtures.expand(to), bytes).context(*to)
            }
            Self::None(file) => {
                let path = fixtures.expand(file);
                anyhow::ensure!(!std::path::Path::new(&path).exists(), "{path} is there");
                Ok(())
            }
        }
    }
}

/// The test guest takes a snapshot of itself, and goes on; arguments of the run behind it.
macro_rules! taken {
    ($name:literal, $file:literal, $append:literal, $telemetry:expr $(, $argument:literal)*) => {
        Step::Run(Scenario {
            name: $name,
            args: &["--kernel", "{testguest}", "--append", $append, "--snapshot", $file $(, $argument)*],
            stdout: &["snapshot: taken", "snapshot: ok"],
            telemetry: $telemetry,
            timeout: 400,
            ..PLAIN
        })
    };
}

/// It is restored.
macro_rules! restored {
    ($name:literal, $file:literal, $stderr:expr $(, $argument:literal)*) => {
        Step::Run(Scenario {
            name: $name,
            args: &["--restore", $file $(, $argument)*],
            stdout: &["snapshot: restored", "snapshot: ok"],
            stderr: $stderr,
            timeout: 400,
            ..PLAIN
        })
    };
}

/// It is not.
macro_rules! refused {
    ($file:literal, $status:literal, $stderr:literal $(, $argument:literal)*) => {
        Step::Run(Scenario {
            name: "refused",
            args: &["--restore", $file, "--host-memory", "128M" $(, $argument)*],
            status: $status,
            stderr: &[$stderr],
            ..PLAIN
        })
    };
}

/// Another CPU writes all the time, and finds in the restored guest what its registers say.
const LOAD: [Step; 3] = [
    taken!(
        "taken",
        "{load.snapshot}",
        "snapshot pages=1500",
        &[],
        "--memory",
        "16M",
        "--host-memory",
        "128M",
        "--vcpus",
        "2",
        "--host-cpus",
        "2",
        "--oracle"
    ),
    restored!(
        "restored",
        "{load.snapshot}",
        &["the oracle sees the memory of the instant"],
        "--host-memory",
        "128M",
        "--host-cpus",
        "2",
        "--oracle",
        "--log",
        "info"
    ),
    restored!("restored, its TSC elsewhere", "{load.snapshot}", &[], "--host-memory", "192M", "--no-ept-ad"),
];

/// Two instants of one life, one of the next: each part has what was written since the one before, and whoever goes on finds all of
/// the last instant. A part whose base is not as it was is refused.
const CHAIN: [Step; 5] = [
    Step::Run(Scenario {
        name: "taken-twice",
        args: &[
            "--kernel",
            "{testguest}",
            "--append",
            "snapshot pages=1200 load=100 instants=2 again=1",
            "--snapshot",
            "{chain.snapshot}",
            "--memory",
            "16M",
            "--host-memory",
            "128M",
            "--vcpus",
            "2",
            "--host-cpus",
            "2",
            "--oracle",
        ],
        stdout: &["snapshot: taken, instant 0", "snapshot: taken, instant 1", "snapshot: ok"],
        stderr: &["2 instants, of which it is the last"],
        timeout: 400,
        ..PLAIN
    }),
    Step::Run(Scenario {
        name: "restored-and-taken",
        args: &[
            "--restore",
            "{chain.snapshot}",
            "--snapshot",
            "{longer.snapshot}",
            "--host-memory",
            "128M",
            "--host-cpus",
            "2",
            "--oracle",
            "--log",
            "info",
        ],
        stdout: &["snapshot: restored, instant 1", "snapshot: taken, instant 2", "snapshot: ok"],
        stderr: &["the oracle sees the memory of the instant", "3 instants, of which it is the last"],
        timeout: 400,
        ..PLAIN
    }),
    Step::Run(Scenario {
        name: "restored-again",
        args: &["--restore", "{longer.snapshot}", "--host-memory", "128M", "--oracle", "--log", "info"],
        stdout: &["snapshot: restored, instant 2", "snapshot: ok"],
        stderr: &["the oracle sees the memory of the instant"],
        timeout: 400,
        ..PLAIN
    }),
    Step::Change("{longer.snapshot}", "{bad.snapshot}", |bytes| {
        let base = base(bytes);
        bytes[base..][..512].fill(0);
    }),
    refused!("{bad.snapshot}", 2, "it builds on its instant 1, which is missing"),
];

/// Where the newest part has the header of the one before.
fn base(bytes: &[u8]) -> usize {
    u64::from_le_bytes(bytes[120..128].try_into().expect("eight bytes")) as usize * PAGE
}

/// More than half of it is in swap at the instant, and again once it is restored.
const SWAPPED: [Step; 2] = [
    taken!(
        "taken-from-swap",
        "{swapped.snapshot}",
        "snapshot pages=4000 load=400",
        &[Bound::AtLeast("/swap/out", 2000)],
        "--memory",
        "24M",
        "--memory-max",
        "8M",
        "--host-memory",
        "96M",
        "--swap",
        "ram:4M,disk:64M",
        "--vcpus",
        "2"
    ),
    restored!(
        "restored",
        "{swapped.snapshot}",
        &[],
        "--memory-max",
        "8M",
        "--host-memory",
        "96M",
        "--swap",
        "ram:4M,disk:64M"
    ),
];

/// A person asks; a timer that was set before goes off behind.
const LINUX: [Step; 3] = [
    Step::Run(Scenario {
        name: "taken",
        args: &["--snapshot", "{linux.snapshot}", "--log", "info"],
        console: Console::Terminal(&[
            ("herald:/# ", "x=$((40 + 1)); (sleep 5; echo woke $((3 * 3))) & echo ready $((1 + 1))\n"),
            ("ready 2", "\x1cs"),
            ("the snapshot is complete", "poweroff -f\n"),
        ]),
        stderr: &[],
        timeout: 300,
        ..PLAIN
    }),
    Step::Run(Scenario {
        name: "restored",
        args: &["--restore", "{linux.snapshot}", "--log", "info"],
        console: Console::Terminal(&[
            ("goes on from a snapshot", "echo x is $x\n"),
            ("x is 41", ""),
            ("woke 9", "poweroff -f\n"),
            ("pages is recorded", ""),
        ]),
        timeout: 300,
        ..PLAIN
    }),
    Step::Run(Scenario {
        name: "read ahead",
        args: &["--restore", "{linux.snapshot}", "--log", "info"],
        console: Console::Terminal(&[
            ("of its working set were read ahead", "echo x is $x\n"),
            ("x is 41", "poweroff -f\n"),
        ]),
        timeout: 300,
        ..PLAIN
    }),
];

/// Whatever is wrong with a file, or with the machine, is said.
const REFUSALS: [Step; 15] = [
    taken!("taken", "{good.snapshot}", "snapshot", &[], "--memory", "16M", "--host-memory", "128M"),
    Step::Change("{good.snapshot}", "{bad.snapshot}", |bytes| bytes.truncate(bytes.len() - 1)),
    refused!("{bad.snapshot}", 2, "truncated: "),
    Step::Change("{good.snapshot}", "{bad.snapshot}", |bytes| bytes[20] ^= 1),
    refused!("{bad.snapshot}", 2, "corrupt: the header's checksum is "),
    Step::Change("{good.snapshot}", "{bad.snapshot}", |bytes| bytes[8] = 99),
    refused!("{bad.snapshot}", 2, "a snapshot of version 99, this build reads 2"),
    Step::Change("{good.snapshot}", "{bad.snapshot}", |bytes| {
        let machine = u64::from_le_bytes(bytes[40..48].try_into().expect("eight bytes")) as usize;
        bytes[machine * PAGE + 5] ^= 1;
    }),
    refused!("{bad.snapshot}", 2, "corrupt: the checksum of its machine is "),
    // The first page of a chunk holds checksums, the others memory, which is looked at when the guest wants it.
    Step::Change("{good.snapshot}", "{bad.snapshot}", |bytes| bytes[2 * PAGE..200 * PAGE].fill(0x5a)),
    refused!("{bad.snapshot}", 5, "of memory: corrupt: its checksum is "),
    refused!("{good.snapshot}", 2, "has seen what this processor lacks: FMA, ", "--cpu", "sandybridge"),
    Step::Run(Scenario {
        name: "none-taken",
        args: &["--kernel", "{testguest}", "--append", "hello", "--snapshot", "{none.snapshot}"],
        stderr: &["the run has ended without a snapshot; nothing was written"],
        ..PLAIN
    }),
    Step::None("{none.snapshot}"),
    Step::Run(Scenario {
        name: "no-disk",
        args: &["--kernel", "{testguest}", "--append", "snapshot", "--log", "debug"],
        stdout: &["snapshot: FAILED: result of the call"],
        stderr: &["no snapshot: there is no disk for one"],
        status: 1,
        ..PLAIN
    }),
];

/// All of them.
pub(super) const SNAPSHOTS: [Snapshots; 5] = [
    Snapshots { name: "snapshot-in-swap", steps: &SWAPPED },
    Snapshots { name: "snapshot-of-changes", steps: &CHAIN },
    Snapshots { name: "snapshot-under-load", steps: &LOAD },
    Snapshots { name: "snapshot-of-linux", steps: &LINUX },
    Snapshots { name: "snapshot-refusals", steps: &REFUSALS },
];
