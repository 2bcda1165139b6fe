//! Telemetry: what a guest has cost, over the link: at its end, and from time to time before, also while it is idle.

use super::vm::Vm;
use crate::cpu::tsc;
use crate::link;
use crate::sched;
use abi::link::Channel;
use abi::telemetry::{BalloonUse, DeviceTlbUse, GuestSwap, HostSwap, NotifierCalls, Telemetry};
use core::sync::atomic::Ordering;
use mm::{Host, SwapCounts};

/// Bytes that a telemetry record takes at most: its numbers in postcard's variable-length form.
const RECORD: usize = 1024;

impl Vm {
    /// Sends so many records a second, until the guest ends or TSC `deadline`. Its supervisor calls it.
    pub(crate) fn watch(&self, rate: u32, deadline: Option<u64>) {
        let period = (rate != 0).then(|| self.clock.tsc_hz / u64::from(rate));
        let mut due = period.map(|period| tsc() + period);
        while let Some(next) = [due, deadline].into_iter().flatten().min()
            && !self.has_ended()
            && deadline.is_none_or(|deadline| tsc() < deadline)
        {
            sched::park(Some(next));
            if due.is_some_and(|due| due <= tsc()) {
                self.send_telemetry();
                due = period.map(|period| tsc() + period);
            }
        }
    }

    /// Sends a record of what its virtual processors have published.
    pub(crate) fn send_telemetry(&self) {
        let mut buffer = [0; RECORD];
        match postcard::to_slice(&self.telemetry(), &mut buffer) {
            Ok(record) => link::send(Channel::Telemetry as u8, record),
            Err(error) => log::error!("telemetry: {error}"),
        }
    }

    fn telemetry(&self) -> Telemetry {
        let now = tsc();
        let (space, stats) = (self.memory.space(), self.memory.mmu().stats().snapshot());
        let (device, calls) = (self.memory.device_tlb().stats().snapshot(), self.memory.observer().counts());
        let (host, swapped, balloon) = (space.host(), space.swapped_pages(), self.balloon());
        let zeroed = host.frames().zeroed_counts();
        let mut record = Telemetry {
            vm: self.index,
            tsc: now,
            resident_frames: space.resident_frames(),
            most_resident_frames: self.most_resident.load(Ordering::Relaxed),
            swap: GuestSwap { pages: swapped.now, out: swapped.out, back: swapped.back },
            free_frames: host.frames().free_count(),
            total_frames: host.frames().total(),
            table_frames: host.table_frames(),
            zeroed_ahead: zeroed.ahead,
            zeroed_taken: zeroed.taken,
            host_swap: host_swap(&space.mm().swap_counts()),
            fault_retries: stats.retries,
            notifier: NotifierCalls {
                invalidate_page: calls.invalidate_page,
                invalidate_range_begin: calls.invalidate_range_begin,
                invalidate_range_end: calls.invalidate_range_end,
                clear_flush_young: calls.clear_flush_young,
                clear_young: calls.clear_young,
                collect_young: calls.collect_young,
                test_young: calls.test_young,
                release: calls.release,
            },
            device_tlb: DeviceTlbUse {
                hits: device.hits,
                misses: device.installed,
                retries: device.retries,
                zapped: device.zapped,
            },
            balloon: BalloonUse {
                target: balloon.target,
                actual: balloon.actual,
                inflated: balloon.given.inflated,
                reported: balloon.given.reported,
                ranges: balloon.given.ranges,
            },
            merge: self.host.merger.as_ref().map(|merger| merger.uses()).unwrap_or_default(),
            lock_waits: sync::lock_waits(),
            oracle_checks: self.oracle_checks.load(Ordering::Relaxed),
            answer_ticks: self.answer_ticks(),
            clone_pause_ticks: self.birth.pause,
            clone_ready_ticks: self.birth.until(self.ready.load(Ordering::Relaxed)),
            ..Telemetry::default()
        };
        self.add_accounts(&mut record, now);
        record
    }

    /// The sums over all virtual processors.
    fn add_accounts(&self, record: &mut Telemetry, now: u64) {
        for (counters, ticks) in self.controls.iter().map(|control| control.accounts()) {
            record.exits.add(&counters.exits);
            record.ept_violations += counters.ept_violations;
            record.invept += counters.invept;
            record.invvpid += counters.invvpid;
            record.guest_boot_ticks = record.guest_boot_ticks.max(ticks.boot());
            record.outside_guest_ticks = record.outside_guest_ticks.max(ticks.boot_outside());
            record.run_ticks = record.run_ticks.max(ticks.run(now));
            record.run_outside_ticks += ticks.outside();
            record.guest_ticks += ticks.guest();
            record.memory_ticks += counters.memory_ticks;
        }
    }
}

fn host_swap(counts: &SwapCounts) -> HostSwap {
    HostSwap {
        pages: counts.pages,
        filled: counts.filled,
        bytes: counts.bytes,
        frames: counts.frames,
        refused: counts.refused,
        on_disk: counts.on_disk,
        reads: counts.reads,
        writes: counts.writes,
        requests: counts.requests,
        sequential: counts.sequential,
        read_errors: counts.read_errors,
        write_errors: counts.write_errors,
    }
}
