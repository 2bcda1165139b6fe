//! One guest: its memory, its board, its accounts. Exit handlers work on it; nobody else does while it runs.

use super::console::Console;
use super::end::End;
use super::hostops::{HostOperationError, HostOperations};
use super::memory::{EptFeatures, Memory, NotRam, Notifiers, SetupError};
use super::stir::Stirrer;
use super::ticks::Ticks;
use crate::cpu::tsc;
use crate::exit::Flow;
use crate::link;
use crate::physmem::PhysicalMemory;
use crate::vcpu::Counters;
use abi::config::BootConfig;
use abi::hypercall::HostOperation;
use abi::link::Channel;
use abi::status::Status;
use abi::telemetry::{DeviceTlbUse, NotifierCalls, Telemetry};
use addr::{Gpa, PAGE_SIZE, PageSize};
use alloc::sync::Arc;
use core::fmt;
use devices::{Board, Effect};
use firmware::{Entry, Guest, Ram};
use mm::{Host, Mm};

/// Bytes that a telemetry record takes at most: its numbers in postcard's variable-length form.
const RECORD: usize = 512;

/// Why a guest could not be built.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum VmError {
    /// Its memory could not be mapped.
    Setup(SetupError),
    /// Its image or its size is no good.
    Firmware(firmware::Error),
}

impl VmError {
    /// The exit status of a run that ends so.
    #[must_use]
    pub(crate) const fn status(&self) -> Status {
        match self {
            Self::Setup(SetupError::NoGiganticPages) => Status::HeraldFailed,
            Self::Setup(_) => Status::GuestDied,
            Self::Firmware(error) => error.status(),
        }
    }
}

impl fmt::Display for VmError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Setup(error) => error.fmt(f),
            Self::Firmware(error) => error.fmt(f),
        }
    }
}

/// A guest.
pub(crate) struct Vm {
    /// Guest memory.
    pub memory: Memory<PhysicalMemory>,
    /// Devices.
    pub board: Board,
    /// Where its time goes.
    pub ticks: Ticks,
    /// TSC frequency in Hz, the host's and the guest's.
    pub tsc_hz: u64,
    /// Seconds since 1970 when the TSC was 0.
    pub boot_seconds: u64,
    index: u32,
    console: Console,
    stirrer: Stirrer,
    host_operations: Option<HostOperations<PhysicalMemory>>,
    oracle: bool,
    oracle_checks: u64,
    telemetry_every: u64,
}

/// Time, as all guests of a machine see it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MachineClock {
    /// TSC frequency in Hz.
    pub tsc_hz: u64,
    /// Seconds since 1970 when the TSC was 0.
    pub boot_seconds: u64,
    /// See [`devices::Config`].
    pub shortest_period: u64,
}

/// What the devices have to know of the guest. One processor, until the scheduler comes.
fn board_config(ram: &Ram, clock: MachineClock) -> devices::Config {
    devices::Config {
        vcpus: 1,
        tsc_hz: clock.tsc_hz,
        ram_bytes: ram.bytes(),
        ram_end: ram.ranges().map(|range| range.end().as_u64()).max().unwrap_or(0),
        boot_seconds: clock.boot_seconds,
        shortest_period: clock.shortest_period,
    }
}

impl Vm {
    /// Builds guest `index` and fills its memory. From here on its address space is the current one.
    ///
    /// # Errors
    /// [`VmError`].
    pub(crate) fn new(
        index: u32,
        mm: &Arc<Mm<PhysicalMemory>>,
        boot: &BootConfig<'_>,
        guest: &Guest<'_>,
        ept: EptFeatures,
        clock: MachineClock,
    ) -> Result<(Self, Entry), VmError> {
        let notifiers = if boot.inject.drop_notifiers { Notifiers::Dropped } else { Notifiers::Subscribed };
        let memory = Memory::new(mm, &guest.ram, boot.backing, ept, notifiers).map_err(VmError::Setup)?;
        crate::cpu::space::switch(memory.space());
        let entry = firmware::boot(guest, &mut &memory).map_err(VmError::Firmware)?;
        let vm = Self {
            memory,
            board: Board::new(&board_config(&guest.ram, clock)),
            ticks: Ticks::default(),
            tsc_hz: clock.tsc_hz,
            boot_seconds: clock.boot_seconds,
            index,
            console: Console::new(index as u8),
            stirrer: Stirrer::new(guest.ram, boot.inject.stir),
            host_operations: boot.inject.host_operations.then(HostOperations::default),
            oracle: boot.oracle,
            oracle_checks: 0,
            telemetry_every: boot.telemetry_every,
        };
        Ok((vm, entry))
    }

    /// Does what a device asked for.
    pub(crate) fn apply(&mut self, effect: Effect) -> Flow {
        match effect {
            Effect::None => Flow::Resume,
            Effect::Exit(code) => Flow::End(End::Code(code)),
            Effect::PowerOff => Flow::End(End::PowerOff),
            Effect::Reset => Flow::End(End::Reset),
            Effect::ProtectPage(gpa) => {
                // Outside RAM the test device ignores the write.
                let _ = self.protect(gpa.align_down(PageSize::Size4K), PAGE_SIZE);
                Flow::Resume
            }
        }
    }

    /// `mprotect(PROT_NONE)` and back on guest memory.
    ///
    /// # Errors
    /// [`NotRam`].
    pub(crate) fn protect(&mut self, gpa: Gpa, len: u64) -> Result<(), NotRam> {
        let mut checker = Checker { memory: &self.memory, on: self.oracle, checks: &mut self.oracle_checks };
        self.memory.protect(gpa, len, || checker.check())
    }

    /// `madvise(MADV_DONTNEED)` on guest memory.
    ///
    /// # Errors
    /// [`NotRam`].
    pub(crate) fn discard(&mut self, gpa: Gpa, len: u64) -> Result<(), NotRam> {
        self.memory.discard(gpa, len)?;
        Checker { memory: &self.memory, on: self.oracle, checks: &mut self.oracle_checks }.check();
        Ok(())
    }

    /// A host operation on guest memory that the guest asks for; `None` where it may not ask.
    pub(crate) fn host_operation(
        &mut self,
        operation: HostOperation,
        gpa: Gpa,
        len: u64,
    ) -> Option<Result<u64, HostOperationError>> {
        let result = self.host_operations.as_mut()?.perform(&self.memory, operation, gpa, len);
        Checker { memory: &self.memory, on: self.oracle, checks: &mut self.oracle_checks }.check();
        Some(result)
    }

    /// Between two entries: disturbances and periodic telemetry, where they were asked for.
    pub(crate) fn after_exit(&mut self, counters: &Counters) {
        if self.stirrer.due() {
            let mut checker =
                Checker { memory: &self.memory, on: self.oracle, checks: &mut self.oracle_checks };
            self.stirrer.stir(&self.memory, || checker.check());
        }
        if self.telemetry_every != 0 && counters.exits.total.is_multiple_of(self.telemetry_every) {
            self.send_telemetry(counters);
        }
    }

    /// After the last exit: the last record, and the last check.
    pub(crate) fn finish(&mut self, counters: &Counters) {
        self.drain_console();
        self.console.flush();
        Checker { memory: &self.memory, on: self.oracle, checks: &mut self.oracle_checks }.check();
        self.send_telemetry(counters);
    }

    /// Takes what the guest's UART has sent.
    pub(crate) fn drain_console(&mut self) {
        let console = &mut self.console;
        self.board.console_output(&mut |bytes| bytes.iter().for_each(|byte| console.put(*byte)));
    }

    /// Moves console bytes both ways. Input stays in Herald's ring until the guest's UART has room for it.
    pub(crate) fn service_console(&mut self) {
        self.drain_console();
        self.console.flush();
        while self.board.console_room() != 0
            && let Some(byte) = crate::cpu::serial::get()
        {
            // There is room, so the byte is taken.
            let _ = self.board.console_input(&[byte]);
        }
    }

    fn send_telemetry(&self, counters: &Counters) {
        let mut buffer = [0; RECORD];
        match postcard::to_slice(&self.telemetry(counters), &mut buffer) {
            Ok(record) => link::send(Channel::Telemetry as u8, record),
            Err(error) => log::error!("telemetry: {error}"),
        }
    }

    fn telemetry(&self, counters: &Counters) -> Telemetry {
        let now = tsc();
        let (space, stats) = (self.memory.space(), self.memory.mmu().stats().snapshot());
        let (device, calls) = (self.memory.device_tlb().stats().snapshot(), self.memory.observer().counts());
        let host = space.host();
        Telemetry {
            vm: self.index,
            tsc: now,
            resident_frames: space.resident_frames(),
            free_frames: host.frames().free_count(),
            total_frames: host.frames().total(),
            table_frames: host.table_frames(),
            exits: counters.exits,
            ept_violations: counters.ept_violations,
            fault_retries: stats.retries,
            invept: counters.invept,
            invvpid: counters.invvpid,
            notifier: NotifierCalls {
                invalidate_page: calls.invalidate_page,
                invalidate_range_begin: calls.invalidate_range_begin,
                invalidate_range_end: calls.invalidate_range_end,
                clear_flush_young: calls.clear_flush_young,
                clear_young: calls.clear_young,
                test_young: calls.test_young,
                release: calls.release,
            },
            device_tlb: DeviceTlbUse {
                hits: device.hits,
                misses: device.installed,
                retries: device.retries,
                zapped: device.zapped,
            },
            oracle_checks: self.oracle_checks,
            guest_boot_ticks: self.ticks.boot(),
            outside_guest_ticks: self.ticks.boot_outside(),
            run_ticks: self.ticks.run(now),
            run_outside_ticks: self.ticks.outside(now),
        }
    }
}

/// The coherence oracle, run after host operations where the configuration asks for it.
struct Checker<'a> {
    memory: &'a Memory<PhysicalMemory>,
    on: bool,
    checks: &'a mut u64,
}

impl Checker<'_> {
    fn check(&mut self) {
        if !self.on {
            return;
        }
        if let Err(incoherence) = self.memory.check_coherence() {
            panic!("the coherence oracle: {incoherence}");
        }
        *self.checks += 1;
    }
}
