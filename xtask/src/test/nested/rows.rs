//! Which scenarios: every way in and out of a guest, the notifiers, and the ways in which Herald fails.

use super::super::scenario::{Bound, Scenario};
use super::super::table::{PLAIN, POWER_OFF, SCENARIOS};

/// From the table of the emulated machine.
const SHARED: [&str; 22] = [
    "tiny",
    "exit-code",
    "triple-fault",
    "notifier-checked",
    "device-checked",
    "hostops",
    "hostops-checked",
    "huge-pages",
    "mmio",
    "timer",
    "timer-x2apic",
    "interrupts",
    "ports",
    "fwcfg",
    "fpu",
    "device-dropped",
    "notifier-dropped",
    "no-vmx",
    "vmx-locked-off",
    "failed-entry",
    "panic",
    "time-out",
];

/// What only QEMU has: an older chipset, a virtio disk, and a reason for choosing it.
const OWN: [Scenario; 6] = [
    Scenario {
        name: "auto-says-why",
        args: &["--kernel", "{testguest}", "--append", "hello"],
        stdout: &["hello: ok"],
        stderr: &["machine kvm: KVM offers VMX to its guests here"],
        ..PLAIN
    },
    Scenario {
        name: "tiny-i440fx",
        args: &["--machine", "kvm", "--chipset", "i440fx"],
        console: POWER_OFF,
        stdout: &["herald:/#"],
        ..PLAIN
    },
    Scenario {
        name: "notifier-i440fx",
        args: &[
            "--machine",
            "kvm",
            "--chipset",
            "i440fx",
            "--kernel",
            "{testguest}",
            "--append",
            "notifier pages=64 steps=300",
        ],
        stdout: &["notifier: ok"],
        telemetry: &[Bound::AtLeast("/notifier/invalidate_range_begin", 3 * 64)],
        ..PLAIN
    },
    Scenario {
        name: "disk-q35",
        args: &[
            "--machine",
            "kvm",
            "--chipset",
            "q35",
            "--kernel",
            "{testguest}",
            "--append",
            "hello",
            "--log",
            "info",
        ],
        stdout: &["hello: ok"],
        stderr: &["64 MiB, Herald's swap of 16383 slots"],
        ..PLAIN
    },
    Scenario {
        name: "disk-i440fx",
        args: &[
            "--machine",
            "kvm",
            "--chipset",
            "i440fx",
            "--kernel",
            "{testguest}",
            "--append",
            "hello",
            "--log",
            "info",
        ],
        stdout: &["hello: ok"],
        stderr: &["64 MiB, Herald's swap of 16383 slots"],
        ..PLAIN
    },
    // Above its limit a guest swaps, to a virtio disk.
    Scenario {
        name: "disk-limited",
        args: &[
            "--machine",
            "kvm",
            "--kernel",
            "{testguest}",
            "--append",
            "sweep rounds=2 every=24",
            "--memory",
            "14M",
            "--memory-max",
            "10M",
            "--host-memory",
            "128M",
            "--swap",
            "disk:64M",
        ],
        stdout: &["sweep: ok"],
        telemetry: &[
            Bound::AtLeast("/host_swap/writes", 500),
            Bound::AtLeast("/host_swap/reads", 500),
            Bound::AtMost("/most_resident_frames", 2560),
        ],
        ..PLAIN
    },
];

/// All of them.
pub(super) fn all() -> impl Iterator<Item = &'static Scenario> {
    let shared = SCENARIOS.iter().copied().flatten().filter(|scenario| SHARED.contains(&scenario.name));
    shared.chain(&OWN)
}

#[cfg(test)]
mod tests {
    use super::{OWN, SHARED, all};

    #[test]
    fn every_name_is_one_of_the_table() {
        assert_eq!(all().count(), SHARED.len() + OWN.len());
    }
}
