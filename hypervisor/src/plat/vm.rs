//! One guest: its memory, its board, its virtual processors, its accounts. Exit handlers of all its virtual processors work
//! on it at a time.

use super::balloon;
use super::clone::Birth;
use super::console::Console;
use super::control::Control;
use super::end::End;
use super::hostops::{HostOperationError, HostOperations};
use super::input;
use super::memory::{Memory, NotRam, Notifiers, SetupError};
use super::oom::{self, Departure, Told};
use super::part::Snapshots;
use super::pause::Pauses;
use super::reclaim::Reclaimer;
use super::run::{HostMemory, Machine};
use super::stir::Stirrer;
use super::storm::Storm;
use crate::cpu::flush::GuestTag;
use crate::cpu::{serial, tsc};
use crate::exit::Flow;
use crate::physmem::PhysicalMemory;
use crate::sched::{self, Thread};
use crate::vcpu::RunError;
use abi::config::VmConfig;
use abi::hypercall::HostOperation;
use abi::status::Status;
use addr::{Gpa, PAGE_SIZE, PageSize, Pfn};
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use devices::{Board, Effect, Ticks, VcpuId};
use firmware::{Entry, Guest, Ram};
use sync::{Mutex, Rank};

/// Why a guest could not be built.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum VmError {
    /// Its memory could not be mapped.
    Setup(SetupError),
    /// Its image or its size is no good.
    Firmware(firmware::Error),
    /// There are too many guests.
    TooMany,
}

impl VmError {
    /// The exit status of a run that ends so.
    #[must_use]
    pub(crate) const fn status(&self) -> Status {
        match self {
            Self::Setup(SetupError::NoGiganticPages) => Status::HeraldFailed,
            Self::Setup(_) | Self::TooMany => Status::GuestDied,
            Self::Firmware(error) => error.status(),
        }
    }
}

impl fmt::Display for VmError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Setup(error) => error.fmt(f),
            Self::Firmware(error) => error.fmt(f),
            Self::TooMany => f.write_str("there are too many guests"),
        }
    }
}

/// A guest. Locks: the board's has a rank; the others are outermost, and their holders are never waited for by a CPU that
/// they wait for.
pub(crate) struct Vm {
    /// Guest memory.
    pub memory: Memory<PhysicalMemory>,
    /// Its place among those that are told of flushes.
    pub tag: GuestTag,
    /// Its time.
    pub clock: Clock,
    /// Host operations beside it, for tests.
    pub storm: Storm,
    pub(super) machine: &'static Machine,
    pub(super) host: HostMemory,
    pub(super) place: Place,
    pub(super) birth: Birth,
    pub(super) index: u32,
    pub(super) oracle_checks: AtomicU64,
    pub(super) controls: Box<[Control]>,
    started: AtomicU64,
    /// TSC at which the first virtual processor was there.
    pub(super) ready: AtomicU64,
    /// Most frames that it has had.
    pub(super) most_resident: AtomicU64,
    /// Who builds it, and waits for its end.
    supervisor: Arc<Thread>,
    secondary_root: Pfn,
    pub(super) board: Mutex<Board>,
    pub(super) console: spin::Mutex<Console>,
    stirrer: Option<spin::Mutex<Stirrer>>,
    host_operations: Option<spin::Mutex<HostOperations<PhysicalMemory>>>,
    pub(super) oracle: bool,
    pub(super) storms: bool,
    pub(super) pauses: Pauses,
    pub(super) snapshots: Snapshots,
    /// Somebody copies it: whoever comes by leaves its state.
    pub(super) wants_states: AtomicBool,
    ended: AtomicBool,
    end: spin::Mutex<Option<Result<End, RunError>>>,
    pub(super) told: Told,
    /// Dropped last.
    departure: Departure,
}

/// Time, as a guest sees it: the machine's, unless it began on another one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    /// TSC frequency in Hz, the machine's and the guest's.
    pub tsc_hz: u64,
    /// Seconds since 1970 when the guest's TSC was 0.
    pub boot_seconds: u64,
    /// What the guest's TSC is ahead of the machine's.
    pub tsc_offset: i64,
    /// See [`devices::Config`].
    pub shortest_period: u64,
}

impl Clock {
    /// The guest's TSC.
    pub(crate) fn now(&self) -> Ticks {
        Ticks(tsc().wrapping_add_signed(self.tsc_offset))
    }

    /// The machine's TSC at a time of the guest's.
    pub(crate) const fn machine_ticks(&self, time: Ticks) -> u64 {
        time.0.saturating_add_signed(self.tsc_offset.wrapping_neg())
    }
}

/// Which guest of how many.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: Arc<str>,
    /// There are others.
    pub among_others: bool,
    /// How it was configured, or the guest that it is a clone of.
    pub config: &'static VmConfig<'static>,
}

/// What the devices have to know of the guest.
fn board_config(guest: &Guest<'_>, squeezed_to: Option<u64>, clock: Clock) -> devices::Config {
    let ram: &Ram = &guest.ram;
    devices::Config {
        vcpus: guest.vcpus,
        tsc_hz: clock.tsc_hz,
        ram_bytes: ram.bytes(),
        ram_end: ram.ranges().map(|range| range.end().as_u64()).max().unwrap_or(0),
        boot_seconds: clock.boot_seconds,
        shortest_period: clock.shortest_period,
        balloon: guest.balloon.then(|| balloon::target(ram, squeezed_to)),
    }
}

impl Vm {
    /// Builds a guest and fills its memory. The caller is its supervisor.
    ///
    /// # Errors
    /// [`VmError`].
    pub(crate) fn new(
        machine: &'static Machine,
        place: Place,
        host: &HostMemory,
        guest: &Guest<'_>,
    ) -> Result<(Self, Entry), VmError> {
        let (boot, paging) = (machine.config, machine.paging_features(guest.vcpus));
        let memory = Memory::new(&host.mm, &guest.ram, boot.backing, paging, Notifiers::of(boot));
        let mut memory = memory.map_err(VmError::Setup)?;
        memory.obey(place.config).map_err(VmError::Setup)?;
        let entry = firmware::boot(guest, &mut &memory).map_err(VmError::Firmware)?;
        let board = Board::new(&board_config(guest, place.config.balloon, machine.clock));
        let mut vm = Self::of(machine, place, host, (memory, board, machine.clock))?;
        vm.stirrer = Stirrer::new(guest.ram, boot.inject.stir).map(spin::Mutex::new);
        Ok((vm, entry))
    }

    /// A guest with this memory, these devices and this time. The caller is its supervisor.
    ///
    /// # Errors
    /// [`VmError::TooMany`].
    pub(super) fn of(
        machine: &'static Machine,
        place: Place,
        host: &HostMemory,
        (memory, board, clock): (Memory<PhysicalMemory>, Board, Clock),
    ) -> Result<Self, VmError> {
        let secondary_root = memory.mmu().root().expect("nothing has released the address space");
        let name = place.among_others.then_some(&*place.name);
        let inject = &machine.config.inject;
        Ok(Self {
            memory,
            tag: GuestTag::new(secondary_root).ok_or(VmError::TooMany)?,
            clock,
            storm: Storm::default(),
            index: place.index,
            started: AtomicU64::new(0),
            ready: AtomicU64::new(0),
            most_resident: AtomicU64::new(0),
            oracle_checks: AtomicU64::new(0),
            controls: (0..place.config.vcpus).map(|_| Control::default()).collect(),
            supervisor: sched::current(),
            secondary_root,
            board: Mutex::new(Rank::Board, board),
            console: spin::Mutex::new(Console::new(place.index as u8, name)),
            stirrer: None,
            host_operations: inject.host_operations.then(Default::default),
            oracle: machine.config.oracle,
            storms: inject.storm != 0,
            pauses: Pauses::default(),
            snapshots: Snapshots::default(),
            wants_states: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            end: spin::Mutex::new(None),
            told: Told::default(),
            departure: Departure::default(),
            machine,
            host: host.clone(),
            place,
            birth: Birth::default(),
        })
    }

    /// The guest has got memory.
    #[inline]
    pub(crate) fn note_fault(&self) {
        let resident = self.memory.space().resident_frames();
        // Mostly it is not more than there was already.
        if resident > self.most_resident.load(Ordering::Relaxed) {
            self.most_resident.fetch_max(resident, Ordering::Relaxed);
        }
        if let Some(reclaimer) = &self.host.reclaimer
            && reclaimer.is_short()
        {
            self.note_shortage(reclaimer);
        }
    }

    #[inline(never)]
    fn note_shortage(&self, reclaimer: &Reclaimer) {
        if let Some(frames) = reclaimer.look() {
            oom::judge(self, End::Standstill(frames));
        }
    }

    /// A virtual processor is entered for the first time.
    pub(crate) fn note_start(&self, now: u64) {
        let _ = self.started.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Whether it began as a copy of another.
    pub(super) fn is_clone(&self) -> bool {
        self.birth != Birth::default()
    }

    /// A virtual processor is there, and about to look at what it has to do.
    pub(crate) fn note_ready(&self) {
        let _ = self.ready.compare_exchange(0, tsc(), Ordering::Relaxed, Ordering::Relaxed);
    }

    /// TSC at its first instruction.
    pub(crate) fn started(&self) -> u64 {
        self.started.load(Ordering::Relaxed)
    }

    /// What messages call it.
    pub(crate) fn name(&self) -> &str {
        &self.place.name
    }

    /// Root of its EPT, or of the tables that take its place.
    pub(crate) fn secondary_root(&self) -> Pfn {
        self.secondary_root
    }

    /// How many virtual processors it has.
    pub(crate) fn vcpus(&self) -> u32 {
        self.controls.len() as u32
    }

    /// A virtual processor, seen from outside.
    pub(crate) fn control(&self, vcpu: VcpuId) -> &Control {
        &self.controls[vcpu.0 as usize]
    }

    /// Uses the devices on behalf of a virtual processor, which looks at its interrupts before it goes on. Whoever else has
    /// to look is told.
    pub(crate) fn with_board<T>(&self, vcpu: VcpuId, use_it: impl FnOnce(&mut Board) -> T) -> T {
        self.control(vcpu).note_own_news();
        self.with_devices(Some(vcpu), use_it)
    }

    /// Uses the devices. Whoever has to look is told, but not `caller`.
    pub(crate) fn with_devices<T>(&self, caller: Option<VcpuId>, use_it: impl FnOnce(&mut Board) -> T) -> T {
        let (result, news) = {
            let mut board = self.board.lock();
            let result = use_it(&mut board);
            (result, board.take_news())
        };
        if news != 0 {
            for (index, control) in
                self.controls.iter().enumerate().filter(|(index, _)| news >> index & 1 != 0)
            {
                if caller == Some(VcpuId(index as u32)) { control.note_own_news() } else { control.kick() }
            }
        }
        result
    }

    /// Its virtual processors have ended.
    pub(super) fn forget_threads(&self) {
        self.controls.iter().for_each(Control::forget_thread);
    }

    /// Ends the guest; the first call counts. Every virtual processor leaves it, and its supervisor looks.
    pub(crate) fn finish_with(&self, end: Result<End, RunError>) {
        let mut first = self.end.lock();
        if first.is_none() {
            *first = Some(end);
            self.departure.begins();
        }
        drop(first);
        self.ended.store(true, Ordering::SeqCst);
        self.controls.iter().for_each(Control::kick);
        self.supervisor.unpark();
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// How it has ended.
    pub(crate) fn end(&self) -> Option<Result<End, RunError>> {
        *self.end.lock()
    }

    /// Whether a virtual processor that stays out of its guest is to leave its state.
    pub(crate) fn wants_states(&self) -> bool {
        self.wants_states.load(Ordering::SeqCst)
    }

    /// Whether virtual processors have to stay out of their guest for a while.
    pub(crate) fn is_paused(&self) -> bool {
        self.pauses.is_paused()
    }

    /// A virtual processor sleeps that only another one could wake: once all do, that is the guest's end.
    pub(crate) fn fall_asleep_for_good(&self, vcpu: VcpuId) {
        self.control(vcpu).set_asleep_for_good(true);
        if self.controls.iter().all(Control::is_asleep_for_good) {
            self.finish_with(Ok(End::Halted));
        }
    }

    /// Does what a device asked for.
    pub(crate) fn apply(&self, vcpu: VcpuId, effect: Effect) -> Flow {
        match effect {
            Effect::None => Flow::Resume,
            Effect::Exit(code) => Flow::End(End::Code(code)),
            Effect::PowerOff => Flow::End(End::PowerOff),
            Effect::Reset => Flow::End(End::Reset),
            Effect::ProtectPage(gpa) => {
                // Outside RAM the test device ignores the write.
                let _ = self.protect(vcpu, gpa.align_down(PageSize::Size4K), PAGE_SIZE);
                Flow::Resume
            }
            Effect::Balloon => Flow::Serve,
        }
    }

    /// `mprotect(PROT_NONE)` and back on guest memory.
    ///
    /// # Errors
    /// [`NotRam`].
    pub(crate) fn protect(&self, vcpu: VcpuId, gpa: Gpa, len: u64) -> Result<(), NotRam> {
        self.memory.protect(gpa, len, || self.check(Some(vcpu)))
    }

    /// `madvise(MADV_DONTNEED)` on guest memory.
    ///
    /// # Errors
    /// [`NotRam`].
    pub(crate) fn discard(&self, vcpu: VcpuId, gpa: Gpa, len: u64) -> Result<(), NotRam> {
        self.memory.discard(gpa, len)?;
        self.check(Some(vcpu));
        Ok(())
    }

    /// Whether the guest may ask for host operations.
    pub(crate) fn may_ask(&self) -> bool {
        self.host_operations.is_some()
    }

    /// A host operation on guest memory that the guest asks for; `None` where it may not ask.
    pub(crate) fn host_operation(
        &self,
        vcpu: VcpuId,
        operation: HostOperation,
        gpa: Gpa,
        len: u64,
    ) -> Option<Result<u64, HostOperationError>> {
        let operations = self.host_operations.as_ref()?;
        // Whoever is at it may wait for a disk, and the disk for this CPU.
        let mut operations = loop {
            match operations.try_lock() {
                Some(operations) => break operations,
                None => sched::yield_now(),
            }
        };
        let result = operations.perform(&self.memory, operation, gpa, len);
        drop(operations);
        self.check(Some(vcpu));
        Some(result)
    }

    /// Between two entries: disturbances, where they were asked for.
    #[inline]
    pub(crate) fn after_exit(&self, vcpu: VcpuId) {
        if let Some(stirrer) = &self.stirrer {
            self.stir(stirrer, vcpu);
        }
    }

    #[cold]
    fn stir(&self, stirrer: &spin::Mutex<Stirrer>, vcpu: VcpuId) {
        // Whoever stirs may wait for this virtual processor to come out.
        if let Some(mut stirrer) = stirrer.try_lock()
            && stirrer.due()
        {
            stirrer.stir(&self.memory, || self.check(Some(vcpu)));
        }
    }

    /// After the last exit: the last record, and the last check.
    pub(crate) fn finish(&self) {
        self.service_console();
        self.check(None);
        self.send_telemetry();
    }

    /// OUT by a virtual processor. What the guest's UART has sent is taken.
    pub(crate) fn port_write(&self, vcpu: VcpuId, port: u16, width: u8, value: u32, now: Ticks) -> Effect {
        let mut console = self.console.lock();
        self.with_board(vcpu, |board| {
            let effect = board.port_write(port, width, value, now);
            board.console_output(&mut |bytes| console.put_all(bytes, now));
            effect
        })
    }

    /// Sends what the guest has written, also an unfinished line, and lets more input come.
    pub(crate) fn service_console(&self) {
        self.console.lock().flush();
        self.let_input_come();
    }

    /// Input that waits is looked at.
    pub(crate) fn let_input_come(&self) {
        if serial::has_input() {
            input::more();
        }
    }

    /// Ticks from the last byte of input to the last byte of output behind it; 0: there was none.
    pub(super) fn answer_ticks(&self) -> u64 {
        self.console.lock().answer_ticks()
    }

    /// Whether its UART takes a byte of input.
    pub(super) fn console_has_room(&self) -> bool {
        self.with_devices(None, |board| board.console_room() != 0)
    }

    /// A byte of input, for which there is room.
    pub(super) fn console_input(&self, byte: u8) {
        self.console.lock().note_input(self.clock.now());
        // There is room, so the byte is taken.
        let _ = self.with_devices(None, |board| board.console_input(&[byte]));
    }

    /// The coherence oracle, run after host operations where the configuration asks for it.
    pub(super) fn check(&self, caller: Option<VcpuId>) {
        // A storm's thread is none that a pause stops: it looks itself.
        let in_storm = self.storms && caller.is_some();
        // Whoever waits for the end of an upheaval would keep a pause from beginning.
        let others = self.controls.len() > 1 || self.storms;
        if !self.oracle || in_storm || others && self.memory.is_in_upheaval() {
            return;
        }
        let caller = caller.map(|vcpu| vcpu.0 as usize);
        // Whoever copies the guest waits for this virtual processor.
        let outcome = self.pauses.during(
            &self.controls,
            caller,
            || self.wants_states(),
            || self.memory.space().mm().while_calm(|| self.memory.check_coherence()),
        );
        match outcome {
            Some(Ok(_)) => _ = self.oracle_checks.fetch_add(1, Ordering::Relaxed),
            Some(Err(incoherence)) => panic!("the coherence oracle: {incoherence}"),
            None => {}
        }
    }
}
