//! Scenarios of guests under shadows, on a processor that has an EPT and on one that has none.

use super::scenario::{Bound, Console, Scenario};
use super::smp::COUNT;
use super::table::{PLAIN, POWER_OFF};

/// What the conformance guest says there with `every=31`, however it is paged.
const ON_SKYLAKE: [&str; 6] = [
    "conformance: Long: 26208 accesses",
    "conformance: Pae: 13536 accesses",
    "conformance: Narrow { large: true }: 5040 accesses",
    "conformance: Narrow { large: false }: 3600 accesses",
    "conformance: Off: 432 accesses",
    "conformance: ok",
];

/// What the guest of PCIDs says where it has them.
const PCIDS: [&str; 3] = ["pcid: PCIDs true, INVPCID true", "pcid: 45 cases", "pcid: ok"];

/// The test guest with a second virtual processor that stays in real mode.
macro_rules! real_mode {
    ($name:literal, $append:literal, $paging:literal) => {
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
                "2",
                "--paging",
                $paging,
            ],
            ..PLAIN
        }
    };
}

/// All of them.
pub(super) const SHADOW: [Scenario; 24] = [
    // Unmodified: it has much that the tiny one has not.
    Scenario {
        name: "penryn-debian",
        args: &["--guest", "debian", "--cpu", "penryn"],
        console: COUNT,
        stdout: &["cpus: 1"],
        telemetry: &[Bound::AtMost("/ept_violations", 0)],
        timeout: 600,
        ..PLAIN
    },
    Scenario {
        name: "penryn-debian-4-vcpus",
        args: &["--guest", "debian", "--cpu", "penryn", "--vcpus", "4"],
        console: COUNT,
        stdout: &["cpus: 4"],
        telemetry: &[Bound::AtLeast("/exits/interpreted", 3), Bound::AtMost("/ept_violations", 0)],
        timeout: 600,
        ..PLAIN
    },
    Scenario {
        name: "penryn-tiny",
        args: &["--cpu", "penryn"],
        console: POWER_OFF,
        telemetry: &[Bound::AtLeast("/exits/page_fault", 1000), Bound::AtMost("/ept_violations", 0)],
        ..PLAIN
    },
    // In protected mode without paging, and through swap; the coherence oracle looks after each disturbance.
    Scenario {
        name: "shadow-sweep-oracle",
        args: &[
            "--paging",
            "shadow",
            "--kernel",
            "{testguest}",
            "--append",
            "sweep rounds=1 every=16",
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
    // Their start-up code is in real mode, which is interpreted; IPIs and flushes between them.
    Scenario {
        name: "shadow-smp",
        args: &[
            "--paging",
            "shadow",
            "--kernel",
            "{testguest}",
            "--append",
            "smp cpus=4",
            "--memory",
            "16M",
            "--vcpus",
            "4",
            "--host-cpus",
            "2",
            "--oracle",
        ],
        stdout: &["smp: ok"],
        telemetry: &[Bound::AtLeast("/exits/interpreted", 3), Bound::AtMost("/ept_violations", 0)],
        ..PLAIN
    },
    Scenario {
        name: "shadow-tiny-4-vcpus",
        args: &["--paging", "shadow", "--memory", "64M", "--vcpus", "4", "--host-cpus", "2"],
        console: COUNT,
        stdout: &["cpus: 4"],
        telemetry: &[Bound::AtLeast("/exits/interpreted", 3), Bound::AtMost("/ept_violations", 0)],
        timeout: 400,
        ..PLAIN
    },
    // It has neither an EPT nor a VPID, unrestricted guests, the preemption timer, switches for IA32_PAT and IA32_EFER.
    Scenario {
        name: "penryn-tiny-4-vcpus",
        args: &["--cpu", "penryn", "--memory", "64M", "--vcpus", "4", "--log", "info"],
        console: COUNT,
        stdout: &["cpus: 4"],
        stderr: &["the processor has no EPT"],
        telemetry: &[Bound::AtLeast("/exits/interpreted", 3), Bound::AtMost("/invvpid", 0)],
        timeout: 400,
        ..PLAIN
    },
    // The permission matrix, in each way that a processor translates: what it and what the shadow allow, against the SDM. SMAP is Skylake's; on
    // Penryn there is little of all.
    Scenario {
        name: "conformance",
        args: &["--kernel", "{testguest}", "--append", "conformance every=3", "--memory", "16M"],
        stdout: &[
            "conformance: Long: 33120 accesses",
            "conformance: Pae: 14256 accesses",
            "conformance: Narrow { large: true }: 2688 accesses",
            "conformance: Narrow { large: false }: 2304 accesses",
            "conformance: Off: 144 accesses",
            "conformance: ok",
        ],
        ..PLAIN
    },
    // As there, what SMAP has to do, and an EPT's guest gets.
    Scenario {
        name: "conformance-skylake",
        args: &[
            "--cpu",
            "skylake",
            "--kernel",
            "{testguest}",
            "--append",
            "conformance every=31",
            "--memory",
            "16M",
        ],
        stdout: &ON_SKYLAKE,
        ..PLAIN
    },
    Scenario {
        name: "shadow-conformance",
        args: &[
            "--paging",
            "shadow",
            "--kernel",
            "{testguest}",
            "--append",
            "conformance every=31",
            "--memory",
            "16M",
        ],
        stdout: &[
            "conformance: Long: 8736 accesses",
            "conformance: Pae: 4512 accesses",
            "conformance: Narrow { large: true }: 1680 accesses",
            "conformance: Narrow { large: false }: 1200 accesses",
            "conformance: Off: 144 accesses",
            "conformance: ok",
        ],
        telemetry: &[Bound::AtLeast("/exits/guest_fault", 5000), Bound::AtMost("/ept_violations", 0)],
        ..PLAIN
    },
    Scenario {
        name: "shadow-conformance-skylake",
        args: &[
            "--paging",
            "shadow",
            "--cpu",
            "skylake",
            "--kernel",
            "{testguest}",
            "--append",
            "conformance every=31 apart=1",
            "--memory",
            "16M",
        ],
        stdout: &ON_SKYLAKE,
        telemetry: &[Bound::AtLeast("/exits/guest_fault", 10_000), Bound::AtMost("/ept_violations", 0)],
        ..PLAIN
    },
    Scenario {
        name: "penryn-conformance",
        args: &["--cpu", "penryn", "--kernel", "{testguest}", "--append", "conformance", "--memory", "16M"],
        stdout: &[
            "conformance: Long: 5688 accesses",
            "conformance: Pae: 3216 accesses",
            "conformance: Narrow { large: true }: 936 accesses",
            "conformance: Narrow { large: false }: 720 accesses",
            "conformance: Off: 72 accesses",
            "conformance: ok",
        ],
        telemetry: &[Bound::AtLeast("/exits/guest_fault", 1000)],
        ..PLAIN
    },
    // PCIDs and INVPCID: an EPT leaves them to the processor, a shadow has none of its own, Penryn neither.
    Scenario {
        name: "pcid",
        args: &["--paging", "ept", "--kernel", "{testguest}", "--append", "pcid", "--memory", "16M"],
        stdout: &PCIDS,
        ..PLAIN
    },
    Scenario {
        name: "shadow-pcid",
        args: &[
            "--paging",
            "shadow",
            "--kernel",
            "{testguest}",
            "--append",
            "pcid",
            "--memory",
            "16M",
            "--oracle",
        ],
        stdout: &PCIDS,
        telemetry: &[
            Bound::AtLeast("/exits/invlpg", 20),
            Bound::AtLeast("/exits/control_register", 50),
            Bound::AtMost("/ept_violations", 0),
        ],
        ..PLAIN
    },
    // The LDT on a user's page, with RFLAGS.AC: whatever the processor makes of it, the guest gets on.
    Scenario {
        name: "implicit-skylake",
        args: &["--paging", "ept", "--cpu", "skylake", "--kernel", "{testguest}", "--append", "implicit"],
        stdout: &["implicit: ok"],
        ..PLAIN
    },
    Scenario {
        name: "shadow-implicit-skylake",
        args: &["--paging", "shadow", "--cpu", "skylake", "--kernel", "{testguest}", "--append", "implicit"],
        stdout: &["implicit: ok"],
        ..PLAIN
    },
    Scenario {
        name: "penryn-pcid",
        args: &["--cpu", "penryn", "--kernel", "{testguest}", "--append", "pcid", "--memory", "16M"],
        stdout: &["pcid: PCIDs false, INVPCID false", "pcid: ok"],
        ..PLAIN
    },
    // Two processors that rewrite their tables, with the oracle, while the host does things to the pages.
    Scenario {
        name: "shadow-rewrite",
        args: &[
            "--paging",
            "shadow",
            "--kernel",
            "{testguest}",
            "--append",
            "rewrite ops=6000",
            "--memory",
            "16M",
            "--vcpus",
            "2",
            "--host-cpus",
            "2",
            "--stir",
            "100",
            "--oracle",
        ],
        stdout: &["rewrite: ok"],
        telemetry: &[
            Bound::AtLeast("/exits/guest_fault", 500),
            Bound::AtLeast("/exits/invlpg", 500),
            Bound::AtLeast("/oracle_checks", 50),
            Bound::AtMost("/ept_violations", 0),
        ],
        ..PLAIN
    },
    // Its own pages of 2 MiB are the host's, too; other tables lie in memory that it maps by such pages.
    Scenario {
        name: "shadow-rewrite-huge",
        args: &[
            "--paging",
            "shadow",
            "--kernel",
            "{testguest}",
            "--append",
            "rewrite ops=6000",
            "--memory",
            "16M",
            "--backing",
            "huge-pages",
            "--vcpus",
            "2",
            "--host-cpus",
            "2",
            "--storm",
            "600",
            "--oracle",
        ],
        stdout: &["rewrite: ok"],
        telemetry: &[
            Bound::AtLeast("/exits/guest_fault", 500),
            Bound::AtLeast("/notifier/invalidate_range_begin", 30),
            Bound::AtMost("/ept_violations", 0),
        ],
        ..PLAIN
    },
    // 256 MiB: a large leaf for each 2 MiB.
    Scenario {
        name: "shadow-huge-pages",
        args: &[
            "--paging",
            "shadow",
            "--kernel",
            "{testguest}",
            "--append",
            "bigmem",
            "--backing",
            "huge-pages",
        ],
        stdout: &["bigmem: ok"],
        telemetry: &[Bound::AtMost("/exits/page_fault", 200), Bound::AtLeast("/resident_frames", 65000)],
        ..PLAIN
    },
    // The processor's real mode and the interpreter's are the same.
    Scenario { stdout: &["realmode: ok"], ..real_mode!("real-mode-of-the-processor", "realmode", "ept") },
    Scenario {
        stdout: &["realmode: ok"],
        telemetry: &[Bound::AtLeast("/exits/interpreted", 5)],
        ..real_mode!("shadow-real-mode", "realmode", "shadow")
    },
    Scenario {
        status: 5,
        stderr: &["no emulation of the instruction at 0900:", "[db, e3]"],
        ..real_mode!("shadow-unknown-instruction", "realmode unknown=1", "shadow")
    },
];
