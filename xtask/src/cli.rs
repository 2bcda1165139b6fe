//! The command line. Its options are an interface: programs outside the tree rely on them.

use crate::bochs;
use crate::fuzz;
use crate::size::parse_size;
use crate::swap::{self, Tiers};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Builds, runs, tests and checks Herald.
#[derive(Parser)]
#[command(name = "cargo xtask", version, about, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Start a guest on Herald
    Run(Box<RunArgs>),
    /// Build Herald, its loader and its guest programs, and nothing else
    Build,
    /// Run tests
    Test(TestArgs),
    /// Search for inputs that break what guests and files can reach
    Fuzz(FuzzArgs),
    /// Measure Herald
    Bench(BenchArgs),
    /// Run one stress program
    Stress(StressArgs),
    /// Write a bootable image
    Image(ImageArgs),
    /// Tell what is here, what would be installed, and which machine `auto` picks
    Doctor,
    /// Check the house rules
    Tidy(TidyArgs),
    /// tidy, format, clippy and all tests
    Ci,
}

/// A guest's images and its RAM.
#[derive(Args, Clone)]
pub(crate) struct GuestArgs {
    /// Guest to start, if there is no --kernel
    #[arg(long, value_enum, default_value_t = Guest::Tiny, conflicts_with = "kernel")]
    pub(crate) guest: Guest,
    /// Guest kernel: Linux bzImage, PVH ELF, multiboot-1 ELF32, or an ELF64 entered in 64-bit mode
    #[arg(long, value_name = "FILE")]
    pub(crate) kernel: Option<PathBuf>,
    /// Initial RAM disk, or the one multiboot module
    #[arg(long, value_name = "FILE", requires = "kernel")]
    pub(crate) initrd: Option<PathBuf>,
    /// Kernel command line (with --guest: appended to its own)
    #[arg(long, value_name = "TEXT")]
    pub(crate) append: Option<String>,
    /// Guest RAM (suffixes K, M, G; none: bytes)
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = parse_size)]
    pub(crate) memory: u64,
}

#[derive(Args, Clone)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) guest: GuestArgs,
    /// Virtual processors of each guest
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) vcpus: u32,
    /// Guests, all of the same kind; Ctrl-\ and its number gives a guest the console's input
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) vms: u32,
    /// Guests from a file (docs/running.md), with their memory, vcpus and weight
    #[arg(long, value_name = "FILE.toml", conflicts_with_all = ["guest", "kernel", "append", "memory", "vcpus", "vms"])]
    pub(crate) config: Option<PathBuf>,
    /// Most memory of the machine that each guest may have
    #[arg(long, value_name = "SIZE", value_parser = parse_size, conflicts_with = "config")]
    pub(crate) memory_max: Option<u64>,
    /// Merge pages of guests that are equal, copied again by who writes
    #[arg(long, conflicts_with = "config")]
    pub(crate) merge: bool,
    /// Most of one processor's time that merging takes, in percent; else: 10
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) merge_share: Option<u32>,
    /// RAM that each guest is to make do with, if it has a driver for its balloon
    #[arg(long, value_name = "SIZE", value_parser = parse_size, conflicts_with = "config")]
    pub(crate) balloon: Option<u64>,
    /// What to run on
    #[arg(long, value_enum, default_value_t = MachineKind::Auto)]
    pub(crate) machine: MachineKind,
    /// Chipset of a kvm machine (bochs has an i440FX)
    #[arg(long, value_enum, default_value_t = Chipset::Q35)]
    pub(crate) chipset: Chipset,
    /// Processor model of an emulated machine
    #[arg(long, value_enum, default_value_t = Cpu::Haswell)]
    pub(crate) cpu: Cpu,
    /// RAM of the machine
    #[arg(long, value_name = "SIZE", default_value = "1G", value_parser = parse_size)]
    pub(crate) host_memory: u64,
    /// Processors of the machine
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) host_cpus: u32,
    /// Tables that translate guest memory: an EPT where the processor has one (auto), or these
    #[arg(long, value_enum, default_value_t = Paging::Auto)]
    pub(crate) paging: Paging,
    /// Leave EPT accessed and dirty bits off
    #[arg(long)]
    pub(crate) no_ept_ad: bool,
    /// Let the processor deliver interrupts to guests, where it can (not under Bochs: docs/CAVEATS.md)
    #[arg(long)]
    pub(crate) apic_virtualisation: bool,
    /// Zero memory when a guest first touches it, and not before, when processors have nothing to do
    #[arg(long)]
    pub(crate) no_zero_ahead: bool,
    /// Swap tiers of the host: ram or disk, with their sizes
    #[arg(long, value_name = "TIER:SIZE[,TIER:SIZE]", value_parser = swap::parse)]
    pub(crate) swap: Option<Tiers>,
    /// What a guest has not used for so many seconds goes to swap, though nobody needs memory
    #[arg(long, value_name = "SECONDS", default_value_t = 0, requires = "swap")]
    pub(crate) proactive: u32,
    /// Where snapshots go, once the guest or Ctrl-\ and s asks for one; each later one adds what was written since the one
    /// before. With --restore: behind that one, in a copy, or in the same file
    #[arg(long, value_name = "FILE")]
    pub(crate) snapshot: Option<PathBuf>,
    /// Go on from the last snapshot in a file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["guest", "kernel", "initrd", "append", "memory", "vcpus", "vms", "balloon", "config"])]
    pub(crate) restore: Option<PathBuf>,
    /// Standard input and output are the guest's console; Herald's log goes to standard error
    #[arg(long)]
    pub(crate) headless: bool,
    /// Also write the guest's console to a file
    #[arg(long, value_name = "FILE")]
    pub(crate) console: Option<PathBuf>,
    /// Write counters to a file, one JSON object a line
    #[arg(long, value_name = "FILE")]
    pub(crate) telemetry: Option<PathBuf>,
    /// Counters so many times a second of the machine's time, and not at the end only
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) telemetry_rate: u32,
    /// End the run after so many seconds of wall time, with status 3
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    pub(crate) timeout: Option<f64>,
    /// Threshold of Herald's log
    #[arg(long, value_enum, default_value_t = LogLevel::Warn)]
    pub(crate) log: LogLevel,
    /// Instructions, and so ticks, a second of an emulated machine's time (bench)
    #[arg(long, value_name = "N", default_value_t = bochs::IPS, hide = true)]
    pub(crate) ips: u64,
    /// Inject a fault (tests)
    #[arg(long, value_enum, hide = true)]
    pub(crate) inject: Vec<Inject>,
    /// Check the coherence rule at every host operation (tests)
    #[arg(long, hide = true)]
    pub(crate) oracle: bool,
    /// Disturb the guest's memory every so many exits (tests)
    #[arg(long, value_name = "EXITS", default_value_t = 0, hide = true)]
    pub(crate) stir: u64,
    /// Let the guest ask for host operations on its memory (tests)
    #[arg(long, hide = true)]
    pub(crate) host_operations: bool,
    /// Slots of a swap in memory, without reclaim (tests)
    #[arg(long, value_name = "N", default_value_t = 0, hide = true)]
    pub(crate) swap_slots: u64,
    /// Kill each guest so often, at random, and start it again (tests)
    #[arg(long, value_name = "N", default_value_t = 0, hide = true)]
    pub(crate) kills: u32,
    /// Host operations on each guest's memory, beside the running guest (tests)
    #[arg(long, value_name = "N", default_value_t = 0, hide = true)]
    pub(crate) storm: u64,
    /// What backs guest memory (tests)
    #[arg(long, value_enum, default_value_t = Backing::Anonymous, hide = true)]
    pub(crate) backing: Backing,
    /// The disk of a QEMU machine (tests)
    #[arg(long, value_enum, default_value_t = Disk::Labelled, hide = true)]
    pub(crate) disk: Disk,
}

/// The disk of a QEMU machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Disk {
    /// Labelled as Herald's, transitional
    Labelled,
    /// The same, modern, in blocks of 4 KiB, behind a bridge
    Bridged,
    /// An ATA disk (i440fx), labelled as Herald's
    Ata,
    /// All zeros
    Blank,
    /// No sectors
    Empty,
    /// Labelled, and cannot be written to
    ReadOnly,
    /// Reads end with an error
    Failing,
    /// Writes end with an error
    FailingWrites,
    /// Reads do not end
    Silent,
    /// None at all
    None,
}

/// What backs guest memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Backing {
    /// Private anonymous memory
    Anonymous,
    /// The same in 2 MiB pages
    HugePages,
    /// The same in 1 GiB pages
    GiganticPages,
    /// A file in memory, mapped shared
    Shared,
}

#[derive(Args)]
pub(crate) struct TestArgs {
    /// Which tests
    #[arg(value_enum, default_value_t = Suite::All)]
    pub(crate) suite: Suite,
    /// Only machine scenarios, or mutants, whose name contains this
    #[arg(long, value_name = "TEXT")]
    pub(crate) only: Option<String>,
    /// `mutants`: write the list in docs/mutants.md anew
    #[arg(long)]
    pub(crate) list: bool,
    /// `machine`: all guests under shadows, in scenarios that do not say how their guests are paged
    #[arg(long)]
    pub(crate) shadow: bool,
    /// Steps of `random`, in all (suffixes K, M, G: powers of 1000)
    #[arg(long, value_name = "N", default_value = "10M", value_parser = parse_count)]
    pub(crate) steps: u64,
    /// Seed of the first case of `random`; without it: from the clock
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
}

#[derive(Args, Default)]
pub(crate) struct TidyArgs {
    /// Write the files in `docs` that are made from the sources
    #[arg(long)]
    pub(crate) bless: bool,
}

#[derive(Args)]
pub(crate) struct FuzzArgs {
    /// The target; without it: all of them in turn
    #[arg(value_parser = fuzz::names())]
    pub(crate) target: Option<String>,
    /// Seconds a target; what it finds interesting is kept for the next time
    #[arg(long, value_name = "N")]
    pub(crate) seconds: Option<u64>,
    /// Runs a target; without --seconds: as many as the tests make, and the same ones each time
    #[arg(long, value_name = "N")]
    pub(crate) runs: Option<u64>,
    /// Seed of the search
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) seed: u32,
    /// Try one input instead
    #[arg(long, value_name = "FILE", requires = "target", conflicts_with_all = ["seconds", "runs"])]
    pub(crate) input: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct BenchArgs {
    /// Compare with another hypervisor: the same guest on both, under Bochs
    #[arg(long, value_enum)]
    pub(crate) vs: Option<Rival>,
    /// With --vs: processor model of the emulated machine
    #[arg(long, value_enum, default_value_t = Cpu::Haswell, requires = "vs", conflicts_with_all = ["linux", "counts"])]
    pub(crate) cpu: Cpu,
    /// Fewer pages; with --vs: one run of each side instead of two
    #[arg(long)]
    pub(crate) quick: bool,
    /// Only a Linux guest's boot and its own work, under an EPT and under shadow page tables; with --vs: on both
    #[arg(long, conflicts_with_all = ["profile", "quick", "html"])]
    pub(crate) linux: bool,
    /// Only the main events, at 4 MiB, 64 MiB and 1 GiB of guest memory and with 1, 10 and 100 address spaces
    #[arg(long, conflicts_with_all = ["vs", "profile", "quick", "html", "linux"])]
    pub(crate) scaling: bool,
    /// Only what main events take beyond ticks: VMREADs, VMWRITEs, flushes, locked instructions, cache lines; with --vs: on both
    #[arg(long, conflicts_with_all = ["profile", "quick", "html", "linux", "scaling"])]
    pub(crate) counts: bool,
    /// Say in which of Herald's functions the time of each event goes, by samples of the emulated processor
    #[arg(long, conflicts_with = "vs")]
    pub(crate) profile: bool,
    /// Write the results to a file; with --vs, without it: target/bench/vs-kvm.json
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Write the results' tables to a file, as docs/performance.md has them
    #[arg(long, value_name = "FILE", conflicts_with = "profile")]
    pub(crate) markdown: Option<PathBuf>,
    /// With --vs: write the page with bars to this file; without it: target/bench/vs-kvm.html
    #[arg(long, value_name = "FILE", requires = "vs")]
    pub(crate) html: Option<PathBuf>,
}

/// A stress program.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Stress {
    /// A guest verifies its memory while the host protects, moves, forks, ages and discards it at random
    Storm,
    /// Two guests in such a storm are killed and started again, at random
    Kills,
    /// A guest sweeps over three times the machine's memory, and looks at each word
    Swapstorm,
    /// Linux guests with more memory than the machine run stress-ng, and verify what they have written
    Overcommit,
    /// Ten idle Linux guests are squeezed, and one is woken
    Idle,
    /// A guest over its hard limit of memory suffers alone
    Limits,
    /// Equal Linux guests merge to little more than one, and part again
    Merge,
    /// A Linux guest is cloned, and each clone works
    Clone,
    /// A swap disk that fails to write, fails to read, or is full
    FaultyDisk,
}

impl std::fmt::Display for Stress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Storm => "storm",
            Self::Kills => "kills",
            Self::Swapstorm => "swapstorm",
            Self::Overcommit => "overcommit",
            Self::Idle => "idle",
            Self::Limits => "limits",
            Self::Merge => "merge",
            Self::Clone => "clone",
            Self::FaultyDisk => "faulty-disk",
        })
    }
}

#[derive(Args, Clone)]
pub(crate) struct StressArgs {
    /// The program
    #[arg(value_enum)]
    pub(crate) name: Stress,
    /// Operations (storm), kills of each guest, or rounds (swapstorm)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub(crate) count: Option<u64>,
    /// The short form: minutes at most
    #[arg(long)]
    pub(crate) quick: bool,
    /// With overcommit: throughput as guests' memory grows over the machine's
    #[arg(long)]
    pub(crate) ratio: bool,
    /// With a program that swaps: on one processor and two, with EPT accessed and dirty bits and without, with swap in memory,
    /// on a disk and in both
    #[arg(long, conflicts_with_all = ["ratio", "host_cpus", "no_ept_ad", "swap", "cpu", "paging"])]
    pub(crate) matrix: bool,
    /// Virtual processors of a guest
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=32))]
    pub(crate) vcpus: Option<u32>,
    /// Processors of the machine
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=8))]
    pub(crate) host_cpus: Option<u32>,
    /// Swap tiers of the host
    #[arg(long, value_name = "TIER:SIZE[,TIER:SIZE]", value_parser = swap::parse)]
    pub(crate) swap: Option<Tiers>,
    /// Leave EPT accessed and dirty bits off
    #[arg(long)]
    pub(crate) no_ept_ad: bool,
    /// Processor model of the emulated machine
    #[arg(long, value_enum, default_value_t = Cpu::Haswell)]
    pub(crate) cpu: Cpu,
    /// Tables that translate guest memory
    #[arg(long, value_enum, default_value_t = Paging::Auto)]
    pub(crate) paging: Paging,
    /// Write the results to this file, and the page with plots beside it; without it: target/stress/NAME.json
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct ImageArgs {
    /// Kind of image
    #[arg(long, value_enum)]
    pub(crate) format: ImageFormat,
    /// Output file; without it: target/images/herald.FORMAT
    #[arg(short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) guest: GuestArgs,
    /// Threshold of Herald's log
    #[arg(long, value_enum, default_value_t = LogLevel::Info)]
    pub(crate) log: LogLevel,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Guest {
    /// Our own small Linux
    Tiny,
    /// Debian's cloud kernel, unmodified
    Debian,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum MachineKind {
    /// The first of kvm and bochs that works
    Auto,
    /// QEMU with KVM and nested VMX
    Kvm,
    /// The Bochs emulator
    Bochs,
    /// QEMU without VMX: start-up only (tests)
    #[value(hide = true)]
    Tcg,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Chipset {
    Q35,
    I440fx,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Cpu {
    Haswell,
    Sandybridge,
    Penryn,
    Skylake,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Paging {
    Auto,
    Ept,
    Shadow,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Inject {
    NoVmx,
    VmxLockedOff,
    FailEntry,
    DropNotifiers,
    X2apic,
    Panic,
    SwapReadErrors,
    SwapWriteErrors,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Suite {
    /// Unit and property tests, on this machine
    Host,
    /// Scenarios on an emulated machine
    Machine,
    /// Random sequences on the simulated machine, more than `host` takes
    Random,
    /// Mutants that the tests must kill
    Mutants,
    /// Herald under another hypervisor
    Nested,
    /// Host and machine
    All,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Rival {
    /// Linux' KVM, in Debian's kernel
    Kvm,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum ImageFormat {
    /// A CD that BIOS and UEFI boot, by GRUB
    Iso,
    /// A disk or USB stick that BIOS and UEFI boot
    Raw,
    /// A disk that UEFI boots, without GRUB
    Uefi,
}

/// A count, in thousands, millions or thousands of millions if it says so.
fn parse_count(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is no count");
    let (digits, unit) = match text.char_indices().last() {
        Some((at, 'K')) => (&text[..at], 1_000),
        Some((at, 'M')) => (&text[..at], 1_000_000),
        Some((at, 'G')) => (&text[..at], 1_000_000_000),
        _ => (text, 1),
    };
    digits.parse::<u64>().ok().and_then(|count| count.checked_mul(unit)).ok_or_else(wrong)
}

fn parse_seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds.is_finite() => Ok(seconds),
        _ => Err(format!("`{text}` is no positive number of seconds")),
    }
}
