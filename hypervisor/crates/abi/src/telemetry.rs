//! Counters that Herald sends over the link; xtask prints each record as one JSON object a line.

use serde::{Deserialize, Serialize};

/// Exit reasons counted apart; the rest are `other`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Exits {
    /// All of them.
    pub total: u64,
    /// External interrupts of the host.
    pub interrupt: u64,
    /// Interrupt and NMI windows.
    pub window: u64,
    /// CPUID.
    pub cpuid: u64,
    /// HLT.
    pub hlt: u64,
    /// VMCALL.
    pub hypercall: u64,
    /// Control-register accesses.
    pub control_register: u64,
    /// IN, OUT and their string forms.
    pub io: u64,
    /// RDMSR.
    pub rdmsr: u64,
    /// WRMSR.
    pub wrmsr: u64,
    /// EPT violations that faulted memory in.
    pub ept_fault: u64,
    /// EPT violations and misconfigurations that were device accesses.
    pub mmio: u64,
    /// Page faults of a guest under a shadow that were the host's.
    pub page_fault: u64,
    /// Those that were its own.
    pub guest_fault: u64,
    /// INVLPG and INVPCID.
    pub invlpg: u64,
    /// No exits, but turns of what interprets real mode.
    pub interpreted: u64,
    /// VMX preemption timer.
    pub preemption_timer: u64,
    /// Everything else.
    pub other: u64,
}

impl Exits {
    /// Adds those of another virtual processor.
    pub fn add(&mut self, other: &Self) {
        let Self {
            total,
            interrupt,
            window,
            cpuid,
            hlt,
            hypercall,
            control_register,
            io,
            rdmsr,
            wrmsr,
            ept_fault,
            mmio,
            page_fault,
            guest_fault,
            invlpg,
            interpreted,
            preemption_timer,
            other: rest,
        } = self;
        *total += other.total;
        *interrupt += other.interrupt;
        *window += other.window;
        *cpuid += other.cpuid;
        *hlt += other.hlt;
        *hypercall += other.hypercall;
        *control_register += other.control_register;
        *io += other.io;
        *rdmsr += other.rdmsr;
        *wrmsr += other.wrmsr;
        *ept_fault += other.ept_fault;
        *mmio += other.mmio;
        *page_fault += other.page_fault;
        *guest_fault += other.guest_fault;
        *invlpg += other.invlpg;
        *interpreted += other.interpreted;
        *preemption_timer += other.preemption_timer;
        *rest += other.other;
    }
}

/// Calls of the notifier, by operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct NotifierCalls {
    /// `invalidate_page`.
    pub invalidate_page: u64,
    /// `invalidate_range_begin`.
    pub invalidate_range_begin: u64,
    /// `invalidate_range_end`.
    pub invalidate_range_end: u64,
    /// `clear_flush_young`.
    pub clear_flush_young: u64,
    /// `clear_young`.
    pub clear_young: u64,
    /// `collect_young`.
    pub collect_young: u64,
    /// `test_young`.
    pub test_young: u64,
    /// `release`.
    pub release: u64,
}

/// Accesses to guest memory by Herald's device models and emulation, page by page.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct DeviceTlbUse {
    /// Accesses that found an entry.
    pub hits: u64,
    /// Accesses that had to fault the page in.
    pub misses: u64,
    /// Misses that found their sequence stale and retried.
    pub retries: u64,
    /// Entries dropped by notifier calls.
    pub zapped: u64,
}

/// What swap keeps for all guests, and what it has done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct HostSwap {
    /// Pages in compressed memory.
    pub pages: u64,
    /// Of these, pages of one word.
    pub filled: u64,
    /// Bytes of the others, compressed.
    pub bytes: u64,
    /// Frames that they take.
    pub frames: u64,
    /// Pages refused because they do not compress.
    pub refused: u64,
    /// Pages on disk.
    pub on_disk: u64,
    /// Pages read from disk.
    pub reads: u64,
    /// Pages written to disk.
    pub writes: u64,
    /// Requests to the disk.
    pub requests: u64,
    /// Of these, those that began where the last one had ended.
    pub sequential: u64,
    /// Reads that failed.
    pub read_errors: u64,
    /// Writes that failed.
    pub write_errors: u64,
}

/// What a guest has in swap, in pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct GuestSwap {
    /// Entries of its host address space that name a swap slot.
    pub pages: u64,
    /// Pages that reclaim has unmapped.
    pub out: u64,
    /// Pages that faults have brought back.
    pub back: u64,
}

/// What merging of equal pages has come to, in all guests that want it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct MergeUse {
    /// Pages looked at.
    pub scanned: u64,
    /// Of these, pages that had changed since the last pass.
    pub changed: u64,
    /// Pages that have become the zero page.
    pub zero: u64,
    /// Pages that have become another.
    pub merged: u64,
    /// Passes over all memory that is to be merged.
    pub passes: u64,
    /// Frames that stand for merged pages now.
    pub shared: u64,
    /// Entries that map them now.
    pub sharing: u64,
    /// Ticks that it has taken.
    pub ticks: u64,
}

/// Memory that a guest has given back, and may have to, in pages of 4 KiB.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct BalloonUse {
    /// Pages that the balloon is to hold.
    pub target: u32,
    /// Pages that it holds, as its driver says.
    pub actual: u32,
    /// Pages put into the balloon, in all.
    pub inflated: u64,
    /// Pages reported as free, in all.
    pub reported: u64,
    /// Ranges that these were discarded in.
    pub ranges: u64,
}

/// One record: totals since the start of the run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Telemetry {
    /// Index of the guest.
    pub vm: u32,
    /// TSC when the record was made.
    pub tsc: u64,
    /// Frames mapped by the guest's host address space.
    pub resident_frames: u64,
    /// Most that there were at once, seen after its EPT violations.
    pub most_resident_frames: u64,
    /// Pages in swap.
    pub swap: GuestSwap,
    /// Frames free in the host.
    pub free_frames: u64,
    /// Frames of the host that were ever allocatable.
    pub total_frames: u64,
    /// What swap keeps.
    pub host_swap: HostSwap,
    /// Frames that hold page tables, primary and secondary.
    pub table_frames: u64,
    /// Frames that processors with nothing else to do have zeroed ahead so far.
    pub zeroed_ahead: u64,
    /// Of these, frames that processors have put into their caches for first touches and tables.
    pub zeroed_taken: u64,
    /// VM exits by reason.
    pub exits: Exits,
    /// EPT violations, all kinds.
    pub ept_violations: u64,
    /// Faults that found their sequence stale and retried.
    pub fault_retries: u64,
    /// INVEPT instructions executed.
    pub invept: u64,
    /// INVVPID instructions executed.
    pub invvpid: u64,
    /// Notifier calls by operation.
    pub notifier: NotifierCalls,
    /// Use of the device TLB.
    pub device_tlb: DeviceTlbUse,
    /// Memory given back.
    pub balloon: BalloonUse,
    /// Equal pages that were merged.
    pub merge: MergeUse,
    /// How often a lock of Herald's was not free at once, on all CPUs and for all guests.
    pub lock_waits: u64,
    /// Checks of the coherence oracle that ran, and found nothing.
    pub oracle_checks: u64,
    /// Ticks from the first guest instruction to /init; 0 before that.
    pub guest_boot_ticks: u64,
    /// Of `guest_boot_ticks`, those spent outside the guest.
    pub outside_guest_ticks: u64,
    /// Ticks from the first guest instruction to this record.
    pub run_ticks: u64,
    /// Ticks that its virtual processors spent outside the guest and not idle.
    pub run_outside_ticks: u64,
    /// Ticks that its virtual processors spent in the guest.
    pub guest_ticks: u64,
    /// Ticks that its virtual processors have waited for memory: from such an exit until it was there.
    pub memory_ticks: u64,
    /// Ticks from the last byte of input on its console to the last byte of output behind it; 0: there was none.
    pub answer_ticks: u64,
    /// Of a clone: ticks that its parent has stood still for it; else 0.
    pub clone_pause_ticks: u64,
    /// Of a clone: ticks from the call until its first virtual processor is there, and can go on; else 0.
    pub clone_ready_ticks: u64,
}
