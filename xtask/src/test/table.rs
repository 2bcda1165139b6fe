//! The scenarios.

use super::balloon::BALLOON;
use super::clones::CLONES;
use super::merging::MERGING;
use super::overcommit::OVERCOMMIT;
use super::scenario::{Bound, Console, Scenario};
use super::shadow::SHADOW;
use super::smp::SMP;

/// What a scenario has unless it says otherwise: a headless run without input that ends well.
pub(super) const PLAIN: Scenario = Scenario {
    name: "",
    args: &[],
    console: Console::Pipe(""),
    status: 0,
    stdout: &[],
    stderr: &[],
    telemetry: &[],
    timeout: 120,
};

/// All of them; long ones first, so that two at a time end together.
pub(super) const SCENARIOS: [&[Scenario]; 12] = [
    &LINUX,
    &SMP,
    &CLONES,
    &MERGING,
    &OVERCOMMIT,
    &SHADOW,
    &BALLOON,
    &TEST_GUEST,
    &COHERENCE,
    &HERALD_FAILS,
    &DISKS,
    &BAD_INPUT,
];

/// Ends the shell at once.
pub(super) const POWER_OFF: Console = Console::Pipe("poweroff -f\n");

const LINUX: [Scenario; 13] = [
    Scenario {
        name: "debian",
        args: &["--guest", "debian"],
        console: Console::Pipe("uname -r\npoweroff -f\n"),
        stdout: &["-cloud-amd64"],
        timeout: 400,
        ..PLAIN
    },
    Scenario {
        name: "tiny",
        console: Console::Pipe("uname -a\npoweroff -f\n"),
        stdout: &["-herald", "x86_64"],
        // A quarter of 256M; and every count that the telemetry promises is there.
        telemetry: &[
            Bound::AtMost("/resident_frames", 16384),
            Bound::AtLeast("/resident_frames", 256),
            Bound::AtLeast("/exits/total", 100),
            Bound::AtLeast("/ept_violations", 256),
            Bound::AtLeast("/invept", 0),
            Bound::AtLeast("/notifier/invalidate_range_begin", 0),
            Bound::AtLeast("/notifier/invalidate_page", 0),
            Bound::AtLeast("/device_tlb/hits", 100),
            Bound::AtLeast("/guest_boot_ticks", 1_000_000),
            Bound::AtLeast("/outside_guest_ticks", 1000),
        ],
        ..PLAIN
    },
    Scenario {
        name: "more-memory-than-the-machine",
        args: &["--memory", "2G", "--host-memory", "512M"],
        console: Console::Pipe("grep MemTotal /proc/meminfo\npoweroff -f\n"),
        stdout: &["MemTotal:        20"],
        telemetry: &[Bound::AtMost("/resident_frames", 65536)],
        ..PLAIN
    },
    Scenario {
        name: "early-input-is-kept",
        console: Console::Pipe(concat!(
            "cat > /tmp/f <<E\n",
            "0123456789012345678901234567890123456789012345678901234567890123456789\n",
            "1123456789012345678901234567890123456789012345678901234567890123456789\n",
            "2123456789012345678901234567890123456789012345678901234567890123456789\n",
            "3123456789012345678901234567890123456789012345678901234567890123456789\n",
            "4123456789012345678901234567890123456789012345678901234567890123456789\n",
            "5123456789012345678901234567890123456789012345678901234567890123456789\n",
            "6123456789012345678901234567890123456789012345678901234567890123456789\n",
            "E\n",
            "echo bytes: $(wc -c < /tmp/f)\npoweroff -f\n"
        )),
        stdout: &["bytes: 497"],
        ..PLAIN
    },
    Scenario { name: "reboot", console: Console::Pipe("reboot -f\n"), ..PLAIN },
    Scenario { name: "shell-ends", console: Console::Pipe("exit\n"), ..PLAIN },
    Scenario {
        name: "linux-bzimage-by-hand",
        args: &["--kernel", "{bzimage}", "--append", "console=ttyS0 panic=-1"],
        stdout: &["Linux version", "Kernel panic"],
        // Without an initramfs Linux panics, and with `panic=-1` resets at once.
        ..PLAIN
    },
    Scenario {
        name: "linux-pvh",
        args: &[
            "--kernel",
            "{vmlinux}",
            "--initrd",
            "{initramfs}",
            "--append",
            "console=ttyS0,115200n8r quiet",
        ],
        console: POWER_OFF,
        stdout: &["herald:/#"],
        ..PLAIN
    },
    Scenario {
        name: "sandybridge",
        args: &["--cpu", "sandybridge"],
        console: POWER_OFF,
        stdout: &["herald:/#"],
        ..PLAIN
    },
    Scenario {
        name: "skylake",
        args: &["--cpu", "skylake", "--no-ept-ad"],
        console: POWER_OFF,
        stdout: &["herald:/#"],
        ..PLAIN
    },
    Scenario {
        name: "keys-and-escape",
        console: Console::Terminal(&[("herald:/#", "echo $((6*7))x\r"), ("42x", "\x1d")]),
        status: 130,
        ..PLAIN
    },
    Scenario {
        name: "time-out",
        args: &["--timeout", "3"],
        status: 3,
        stderr: &["time-out after 3 s"],
        ..PLAIN
    },
    Scenario {
        name: "end-of-input-is-not-the-end",
        console: Console::Pipe("sleep 2; echo later; poweroff -f\n"),
        stdout: &["later"],
        ..PLAIN
    },
];

/// The multiboot test guest; its command line names the test.
const TEST_GUEST: [Scenario; 28] = [
    Scenario {
        name: "hello",
        args: &["--kernel", "{testguest}", "--append", "hello"],
        stdout: &["entry multiboot: hello", "hello: ok"],
        ..PLAIN
    },
    Scenario {
        name: "hello-64",
        args: &["--kernel", "{testguest64}", "--append", "hello"],
        stdout: &["entry 64-bit: hello", "RAM gpa:0x100000..gpa:0x10000000", "hello: ok"],
        ..PLAIN
    },
    Scenario {
        name: "by-64-bit-entry",
        // What the bench needs of it, and a second processor.
        args: &[
            "--kernel",
            "{testguest64}",
            "--append",
            "versus pages=64 main=1 cpus=2",
            "--vcpus",
            "2",
            "--host-cpus",
            "2",
            "--host-operations",
            "--swap",
            "ram:16M",
        ],
        stdout: &["entry: 64-bit", "versus: ok"],
        ..PLAIN
    },
    Scenario {
        name: "exit-code",
        args: &["--kernel", "{testguest}", "--append", "no-such-test"],
        status: 1,
        stderr: &["guest exit code 2"],
        ..PLAIN
    },
    Scenario {
        name: "triple-fault",
        args: &["--kernel", "{testguest}", "--append", "triplefault"],
        status: 5,
        stderr: &["triple fault", "rip"],
        ..PLAIN
    },
    Scenario {
        name: "notifier",
        args: &["--kernel", "{testguest}", "--append", "notifier"],
        stdout: &["notifier: ok"],
        // 4096 pages lose their mapping at least three times each, and every next touch faults.
        telemetry: &[
            Bound::AtLeast("/notifier/invalidate_range_begin", 3 * 4096),
            Bound::AtLeast("/exits/ept_fault", 3 * 4096),
            Bound::AtLeast("/invept", 4096),
        ],
        ..PLAIN
    },
    Scenario {
        name: "notifier-checked",
        args: &["--kernel", "{testguest}", "--append", "notifier pages=256 steps=1000", "--oracle"],
        stdout: &["notifier: ok"],
        telemetry: &[Bound::AtLeast("/oracle_checks", 1000)],
        ..PLAIN
    },
    Scenario {
        name: "device-checked",
        args: &["--kernel", "{testguest}", "--append", "device", "--oracle"],
        stdout: &["device: ok"],
        // Half of the steps take the page from the device, and every step has it used again.
        telemetry: &[
            Bound::AtLeast("/device_tlb/hits", 10_000),
            Bound::AtLeast("/device_tlb/zapped", 500),
            Bound::AtLeast("/oracle_checks", 1000),
        ],
        ..PLAIN
    },
    Scenario {
        name: "hostops",
        args: &[
            "--kernel",
            "{testguest}",
            "--append",
            "hostops",
            "--host-operations",
            "--swap-slots",
            "4096",
        ],
        stdout: &["hostops: ok", "64 of 64 pages went out"],
        telemetry: &[
            Bound::AtLeast("/notifier/invalidate_page", 1000),
            Bound::AtLeast("/notifier/clear_flush_young", 1000),
        ],
        ..PLAIN
    },
    Scenario {
        name: "hostops-checked",
        args: &[
            "--kernel",
            "{testguest}",
            "--append",
            "hostops pages=128 steps=1500",
            "--host-operations",
            "--swap-slots",
            "256",
            "--oracle",
            "--no-ept-ad",
        ],
        stdout: &["hostops: ok"],
        telemetry: &[Bound::AtLeast("/oracle_checks", 1000)],
        ..PLAIN
    },
    Scenario {
        name: "hostops-on-a-shared-file",
        args: &[
            "--kernel",
            "{testguest}",
            "--append",
            "hostops shared=1",
            "--host-operations",
            "--backing",
            "shared",
            "--memory",
            "16M",
        ],
        stdout: &["hostops: ok"],
        telemetry: &[Bound::AtLeast("/notifier/invalidate_page", 1000)],
        ..PLAIN
    },
    Scenario {
        name: "dirty-log",
        args: &[
            "--kernel",
            "{testguest}",
            "--append",
            "dirtylog",
            "--oracle",
            "--host-operations",
            "--swap-slots",
            "4096",
        ],
        stdout: &["dirtylog: ok", "100 rounds"],
        ..PLAIN
    },
    Scenario {
        name: "dirty-log-by-processor",
        args: &[
            "--cpu",
            "skylake",
            "--kernel",
            "{testguest}",
            "--append",
            "dirtylog",
            "--oracle",
            "--host-operations",
            "--swap-slots",
            "4096",
        ],
        stdout: &["dirtylog: ok", "100 rounds"],
        ..PLAIN
    },
    Scenario {
        name: "costs",
        args: &["--kernel", "{testguest}", "--append", "costs", "--host-operations", "--swap-slots", "4096"],
        stdout: &["cost: refault ", "costs: ok"],
        ..PLAIN
    },
    Scenario {
        name: "huge-pages",
        args: &["--kernel", "{testguest}", "--append", "bigmem", "--backing", "huge-pages"],
        stdout: &["bigmem: ok"],
        // 256 MiB in 2 MiB pages: an entry, and a violation, for each.
        telemetry: &[Bound::AtMost("/exits/ept_fault", 140), Bound::AtLeast("/resident_frames", 65000)],
        ..PLAIN
    },
    Scenario {
        name: "gigantic-pages",
        args: &[
            "--kernel",
            "{testguest}",
            "--append",
            "bigmem",
            "--backing",
            "gigantic-pages",
            "--memory",
            "1G",
            "--host-memory",
            "4G",
        ],
        stdout: &["bigmem: ok"],
        telemetry: &[Bound::AtMost("/exits/ept_fault", 4), Bound::AtLeast("/resident_frames", 262_144)],
        timeout: 240,
        ..PLAIN
    },
    Scenario {
        name: "no-gigantic-pages",
        args: &[
            "--kernel",
            "{testguest}",
            "--append",
            "hello",
            "--backing",
            "gigantic-pages",
            "--cpu",
            "sandybridge",
        ],
        status: 4,
        stderr: &["this processor has no 1 GiB pages"],
        ..PLAIN
    },
    Scenario {
        name: "mmio",
        args: &["--kernel", "{testguest}", "--append", "mmio"],
        stdout: &["mmio: ok"],
        ..PLAIN
    },
    Scenario {
        name: "timer",
        args: &["--kernel", "{testguest}", "--append", "timer"],
        stdout: &["timer: ok"],
        ..PLAIN
    },
    Scenario {
        name: "timer-x2apic",
        args: &["--kernel", "{testguest}", "--append", "timer", "--inject", "x2apic", "--log", "info"],
        stdout: &["timer: ok"],
        stderr: &["local APIC in x2APIC mode"],
        ..PLAIN
    },
    Scenario {
        name: "interrupts",
        args: &["--kernel", "{testguest}", "--append", "interrupts"],
        stdout: &["interrupts: ok"],
        ..PLAIN
    },
    Scenario {
        name: "interrupts-virtual",
        args: &["--kernel", "{testguest}", "--append", "interrupts x2apic=1", "--apic-virtualisation"],
        stdout: &["interrupts: ok"],
        ..PLAIN
    },
    Scenario {
        name: "interrupts-x2apic",
        args: &["--kernel", "{testguest}", "--append", "interrupts x2apic=1"],
        stdout: &["interrupts: ok"],
        ..PLAIN
    },
    Scenario {
        name: "ports",
        args: &["--kernel", "{testguest}", "--append", "ports"],
        stdout: &["ports: ok"],
        ..PLAIN
    },
    Scenario {
        name: "fwcfg",
        args: &["--kernel", "{testguest}", "--append", "fwcfg"],
        stdout: &["fwcfg: ok"],
        ..PLAIN
    },
    Scenario {
        name: "fpu",
        args: &["--kernel", "{testguest}", "--append", "fpu"],
        stdout: &["fpu: ok"],
        ..PLAIN
    },
    Scenario {
        name: "bigmem",
        args: &["--kernel", "{testguest}", "--append", "bigmem", "--memory", "2G", "--host-memory", "512M"],
        stdout: &["bigmem: ok"],
        ..PLAIN
    },
    Scenario {
        name: "out-of-memory",
        args: &[
            "--kernel",
            "{testguest}",
            "--append",
            "bigmem pages=1000000",
            "--memory",
            "1G",
            "--host-memory",
            "256M",
        ],
        status: 5,
        stderr: &["the guest ended abnormally: out of memory"],
        ..PLAIN
    },
];

/// The coherence oracle passes a boot that is disturbed, and fails the same boot without notifier calls.
const COHERENCE: [Scenario; 4] = [
    Scenario {
        name: "disturbed-boot",
        args: &["--oracle", "--stir", "100"],
        console: POWER_OFF,
        telemetry: &[Bound::AtLeast("/oracle_checks", 10)],
        timeout: 240,
        ..PLAIN
    },
    Scenario {
        name: "disturbed-boot-without-notifiers",
        args: &["--oracle", "--stir", "100", "--inject", "drop-notifiers"],
        console: POWER_OFF,
        status: 4,
        stderr: &["missing notifier call"],
        timeout: 240,
        ..PLAIN
    },
    Scenario {
        name: "device-dropped",
        args: &["--kernel", "{testguest}", "--append", "device", "--oracle", "--inject", "drop-notifiers"],
        status: 4,
        // The device TLB is checked before the EPT, which is as stale.
        stderr: &["of a device", "missing notifier call"],
        ..PLAIN
    },
    Scenario {
        name: "notifier-dropped",
        args: &["--kernel", "{testguest}", "--append", "notifier", "--oracle", "--inject", "drop-notifiers"],
        status: 4,
        stderr: &["missing notifier call"],
        ..PLAIN
    },
];

const HERALD_FAILS: [Scenario; 5] = [
    Scenario {
        name: "no-vmx",
        args: &["--kernel", "{testguest}", "--append", "hello", "--inject", "no-vmx"],
        status: 4,
        stderr: &["this processor has no VMX"],
        ..PLAIN
    },
    Scenario {
        name: "vmx-locked-off",
        args: &["--kernel", "{testguest}", "--append", "hello", "--inject", "vmx-locked-off"],
        status: 4,
        stderr: &["firmware has locked VMX off"],
        ..PLAIN
    },
    Scenario {
        name: "no-ept",
        args: &["--kernel", "{testguest}", "--append", "hello", "--cpu", "penryn", "--paging", "ept"],
        status: 4,
        stderr: &["EPT"],
        ..PLAIN
    },
    Scenario {
        name: "failed-entry",
        args: &["--kernel", "{testguest}", "--append", "hello", "--inject", "fail-entry"],
        status: 4,
        stderr: &["entry"],
        ..PLAIN
    },
    Scenario {
        name: "panic",
        args: &["--kernel", "{testguest}", "--append", "hello", "--inject", "panic"],
        status: 4,
        // A back-trace with names.
        stderr: &["panic", "herald::"],
        ..PLAIN
    },
];

/// A machine without VMX: Herald looks at its disks, whatever they are, and goes on to say that there is none.
const DISKS: [Scenario; 10] = [
    Scenario {
        name: "disk-ata",
        args: &[
            "--machine",
            "tcg",
            "--chipset",
            "i440fx",
            "--disk",
            "ata",
            "--kernel",
            "{testguest}",
            "--log",
            "info",
        ],
        status: 4,
        stderr: &["ATA disk 0-0 at 00:01.1, 64 MiB, Herald's swap of 16383 slots", "no VMX"],
        ..PLAIN
    },
    Scenario {
        name: "disk-on-q35",
        args: &["--machine", "tcg", "--chipset", "q35", "--kernel", "{testguest}", "--log", "info"],
        status: 4,
        stderr: &["64 MiB, Herald's swap of 16383 slots", "no VMX"],
        ..PLAIN
    },
    Scenario {
        name: "disk-on-i440fx",
        args: &["--machine", "tcg", "--chipset", "i440fx", "--kernel", "{testguest}", "--log", "info"],
        status: 4,
        stderr: &["64 MiB, Herald's swap of 16383 slots", "no VMX"],
        ..PLAIN
    },
    Scenario {
        name: "disk-behind-a-bridge",
        args: &["--machine", "tcg", "--disk", "bridged", "--kernel", "{testguest}", "--log", "info"],
        status: 4,
        stderr: &["01:03.0, 64 MiB, Herald's swap of 16383 slots", "no VMX"],
        ..PLAIN
    },
    Scenario {
        name: "disk-of-somebody",
        args: &["--machine", "tcg", "--disk", "blank", "--kernel", "{testguest}", "--log", "info"],
        status: 4,
        stderr: &["not labelled as Herald's", "left alone", "no VMX"],
        ..PLAIN
    },
    Scenario {
        name: "disk-of-no-size",
        args: &["--machine", "tcg", "--disk", "empty", "--kernel", "{testguest}", "--log", "info"],
        status: 4,
        stderr: &["0 sectors are no size of a disk: not used", "no VMX"],
        ..PLAIN
    },
    Scenario {
        name: "disk-read-only",
        args: &["--machine", "tcg", "--disk", "read-only", "--kernel", "{testguest}", "--log", "info"],
        status: 4,
        stderr: &["labelled as Herald's, but read-only: not used", "no VMX"],
        ..PLAIN
    },
    Scenario {
        name: "disk-fails-to-read",
        args: &["--machine", "tcg", "--disk", "failing", "--kernel", "{testguest}", "--log", "info"],
        status: 4,
        stderr: &["a read of sector 0 failed: I/O error: not used", "no VMX"],
        ..PLAIN
    },
    Scenario {
        name: "disk-fails-to-write",
        args: &["--machine", "tcg", "--disk", "failing-writes", "--kernel", "{testguest}", "--log", "info"],
        status: 4,
        stderr: &["a write of sector 8 failed: I/O error: not used", "no VMX"],
        ..PLAIN
    },
    Scenario {
        name: "disk-silent",
        args: &["--machine", "tcg", "--disk", "silent", "--kernel", "{testguest}", "--log", "info"],
        status: 4,
        stderr: &["no answer to a read of sector 0: not used", "no VMX"],
        ..PLAIN
    },
];

const BAD_INPUT: [Scenario; 9] = [
    Scenario { name: "truncated-bzimage", args: &["--kernel", "{truncated}"], status: 2, ..PLAIN },
    Scenario {
        name: "truncated-elf64",
        args: &["--kernel", "{truncated64}"],
        status: 2,
        stderr: &["ELF"],
        ..PLAIN
    },
    Scenario { name: "no-kernel", args: &["--kernel", "{text}"], status: 2, ..PLAIN },
    Scenario {
        name: "segment-outside-memory",
        args: &["--kernel", "{far}"],
        status: 2,
        stderr: &["0xb01"],
        ..PLAIN
    },
    Scenario {
        name: "empty-file",
        args: &["--kernel", "{empty}"],
        status: 2,
        stderr: &["the file is empty"],
        ..PLAIN
    },
    Scenario {
        name: "missing-file",
        args: &["--kernel", "{no-such-file}"],
        status: 2,
        stderr: &["no-such-file: No such file or directory"],
        ..PLAIN
    },
    Scenario {
        name: "three-bytes-of-memory",
        args: &["--memory", "3"],
        status: 2,
        stderr: &["--memory: 3 bytes is too little, a guest needs at least 4M"],
        ..PLAIN
    },
    Scenario { name: "unknown-option", args: &["--no-such-option"], status: 2, ..PLAIN },
    Scenario {
        name: "kernel-larger-than-guest",
        args: &["--kernel", "{bzimage}", "--memory", "4M"],
        status: 2,
        ..PLAIN
    },
];
