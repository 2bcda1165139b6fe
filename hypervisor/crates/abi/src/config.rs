//! Herald's configuration, encoded with postcard in the boot package. Names of variants count only in the file that
//! people write (`startup::config`): postcard has numbers.

use serde::{Deserialize, Serialize};

/// Most guests that one package can start.
pub const MAX_VMS: usize = 16;
/// Most guests at a time, clones among them.
pub const MAX_GUESTS: usize = 128;
/// Percent of one CPU that merging takes at most, where nobody says how much.
pub const MERGE_SHARE: u32 = 10;
/// Most virtual processors that one guest can have.
pub const MAX_VCPUS: u32 = 32;

/// Which tables translate guest memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Paging {
    /// Extended page tables.
    Ept,
    /// Shadow page tables.
    Shadow,
    /// Extended ones where the processor has them, else shadows.
    Auto,
}

/// Most verbose level that Herald's log prints.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogLevel {
    /// Failures of Herald or of a guest.
    Error,
    /// Also what is odd but survivable.
    Warn,
    /// Also the main steps.
    Info,
    /// Also decisions on the way.
    Debug,
    /// Everything.
    Trace,
}

/// Faults injected by tests; all off in any real run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Inject {
    /// Behave as on a CPU without VMX (CPUID.1:ECX.VMX reads 0).
    pub no_vmx: bool,
    /// Behave as if firmware had locked VMX off (IA32_FEATURE_CONTROL reads 1).
    pub vmx_locked_off: bool,
    /// Behave as if VM entry had failed with an invalid guest state.
    pub fail_entry: bool,
    /// Drop every notifier call between the host memory manager and the secondary MMU.
    pub drop_notifiers: bool,
    /// Start as if firmware had left the local APIC in x2APIC mode.
    pub x2apic: bool,
    /// Panic once the guest is about to start.
    pub panic: bool,
    /// Guest exits between two disturbances: mprotect and back, migration, aging, of resident pages of the
    /// guest, picked at random; 0: none.
    pub stir: u64,
    /// Let the guest ask for host operations on its memory.
    pub host_operations: bool,
    /// Slots of a swap in memory; 0: no swap.
    pub swap_slots: u64,
    /// Requests to the swap disk that fail.
    pub swap_faults: SwapFaults,
    /// How often each guest is killed, at a random time, and started again; 0: never.
    pub kills: u32,
    /// Host operations on each guest's memory by a thread of their own, while the guest runs; 0: none.
    pub storm: u64,
}

/// What of the swap disk fails; 0: nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SwapFaults {
    /// Reads of every so manyeth block, alone or with others.
    pub read_every: u32,
    /// Every so manyeth request to write.
    pub write_every: u32,
}

/// What the disk is for that is labelled as a snapshot's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Snapshot {
    /// There is none.
    #[default]
    None,
    /// A guest's snapshot goes there, once somebody asks for it.
    Take,
    /// The first guest goes on from there: its image, its command line and its size are not used.
    Restore,
    /// The same, and its snapshots go there, behind the one that it goes on from.
    RestoreAndTake,
}

impl Snapshot {
    /// Whether the first guest goes on from one.
    #[must_use]
    pub const fn restores(self) -> bool {
        matches!(self, Self::Restore | Self::RestoreAndTake)
    }
}

/// What backs guest memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Backing {
    /// Private anonymous memory.
    Anonymous,
    /// Private anonymous memory in 2 MiB pages (hugetlb).
    HugePages,
    /// The same in 1 GiB pages, where the processor and the machine's memory have them.
    GiganticPages,
    /// A file in memory, mapped shared.
    Shared,
}

/// Where pages go when frames are short, in bytes; 0: there is no such tier.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Swap {
    /// Most memory that compressed pages may take.
    pub ram: u64,
    /// So much of a disk that is at least as large.
    pub disk: u64,
}

/// One guest.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VmConfig<'a> {
    /// Name for messages.
    pub name: &'a str,
    /// Index of its kernel among the package's entries.
    pub kernel: u32,
    /// Index of its initial RAM disk (or multiboot module) among the package's entries.
    pub initrd: Option<u32>,
    /// Kernel command line.
    pub append: &'a str,
    /// Guest RAM in bytes.
    pub memory: u64,
    /// Virtual processors, at most [`MAX_VCPUS`].
    pub vcpus: u32,
    /// Share of a CPU relative to other guests; 100 is the normal one.
    pub weight: u32,
    /// RAM in bytes that it is to make do with, if it has a driver for its balloon; `None`: all.
    pub balloon: Option<u64>,
    /// Most memory of the machine that its RAM may take, in bytes; `None`: no limit.
    pub memory_max: Option<u64>,
    /// Share of the machine's memory relative to other guests, when it is short; 100 is the normal one.
    pub memory_weight: u32,
    /// Pages of its RAM that are equal to others, its own or those of other guests that want it too, are merged.
    pub merge: bool,
}

/// The whole configuration.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BootConfig<'a> {
    /// The guests, started in order.
    #[serde(borrow)]
    pub vms: heapless::Vec<VmConfig<'a>, MAX_VMS>,
    /// Which tables translate guest memory.
    pub paging: Paging,
    /// What backs guest memory.
    pub backing: Backing,
    /// Use EPT A/D bits where the CPU has them.
    pub ept_ad: bool,
    /// Let the CPU deliver guests' interrupts, where it can.
    pub apic_virtualisation: bool,
    /// CPUs that have nothing to do zero free frames ahead.
    pub zero_ahead: bool,
    /// Where pages go when frames are short.
    pub swap: Swap,
    /// What a guest has not used for so many seconds goes to swap, though nobody needs memory; 0: it stays.
    pub proactive: u32,
    /// Most of one CPU's time that merging may take, in percent: 1 to 100.
    pub merge_share: u32,
    /// What the snapshot disk is for.
    pub snapshot: Snapshot,
    /// Threshold of Herald's log.
    pub log: LogLevel,
    /// Check the coherence rule of the whole machine at each host operation (slow; debug aid and tests).
    pub oracle: bool,
    /// Telemetry records of each guest in a second; 0 sends one at the end only.
    pub telemetry_rate: u32,
    /// Faults to inject.
    pub inject: Inject,
    /// TSC frequency in Hz, where the machine's maker knows it (an emulator's clock rate); 0: calibrate.
    pub tsc_hz: u64,
}
