//! From the boot package to the end of the run: builds each guest that the configuration names, and runs it.
//!
//! ```text
//!   main thread ─► a supervisor for each guest ─► a thread for each of its virtual processors
//!        joins ◄── says how it has ended, frees it ◄── joins
//! ```

use super::end::End;
use super::input;
use super::memory::{PagingFeatures, can_be_given_back};
use super::merge::Merger;
use super::oom;
use super::reclaim::{Pace, Reclaimer};
use super::restore::RestoreError;
use super::store::FrameStore;
use super::storm;
use super::swap::SwapSystem;
use super::vm::{Clock, Place, Vm, VmError};
use crate::boot;
use crate::cpu::{stacks, tsc};
use crate::io::{DiskQueue, Disks, lost_frames};
use crate::physmem::PhysicalMemory;
use crate::sched::{self, Group, JoinHandle};
use crate::vcpu::{self, RunError, Start, Vcpu};
use crate::vmx::{Translation, VmcsConfig, Vmx};
use abi::config::{BootConfig, Paging, Snapshot, SwapFaults, VmConfig};
use abi::package::Table;
use abi::status::Status;
use addr::{PAGE_SHIFT, PageSize};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::AtomicBool;
use devices::VcpuId;
use firmware::{Guest, Ram};
use mm::{Attempts, Host, Mm, NewError, OutOfFrames, SwapDevice};
use mmu::{AccessedDirty, LogBy, Processor};
use spin::Mutex;
use vmxdefs::capability::EptVpid;
use vmxdefs::controls::Secondary;

/// Supervisors mostly sleep; while they build a guest nobody waits for theirs alone.
pub(super) const SUPERVISOR_WEIGHT: u32 = 100;
/// Frames that a guest takes while it is set up: roots, VMCS, bitmaps, stacks.
const SETUP_FRAMES: u64 = 32;

/// How a run ended, for the link's last frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Outcome {
    /// Exit status.
    pub status: Status,
    /// The guest's exit code.
    pub code: u32,
}

/// Why a guest did not run to its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum GuestError {
    /// An image that the package does not hold.
    NoImage(u32),
    /// Not even one frame, or no stack.
    NoMemory(OutOfFrames),
    /// No memory for what swap needs.
    Swap(tiers::NewError),
    /// No disk of Herald's with so many slots.
    NoDisk(u64),
    Mm(NewError),
    Vm(VmError),
    /// Its snapshot is no good, or not for this machine.
    Restore(RestoreError),
    Run(RunError),
}

impl GuestError {
    const fn status(&self) -> Status {
        match self {
            Self::NoImage(_) | Self::Swap(_) | Self::NoDisk(_) | Self::Mm(NewError::NoTable { .. }) => {
                Status::Usage
            }
            Self::Restore(_) => Status::Usage,
            Self::Vm(error) => error.status(),
            Self::Run(_) | Self::NoMemory(_) | Self::Mm(NewError::OutOfFrames(_)) => Status::HeraldFailed,
        }
    }
}

impl fmt::Display for GuestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMemory(error) => error.fmt(f),
            Self::NoImage(index) => write!(f, "the boot package has no entry {index}"),
            Self::Swap(error) => error.fmt(f),
            Self::NoDisk(slots) => write!(f, "no disk labelled as Herald's has {slots} swap slots"),
            Self::Mm(error) => error.fmt(f),
            Self::Vm(error) => error.fmt(f),
            Self::Restore(error) => error.fmt(f),
            Self::Run(error) => error.fmt(f),
        }
    }
}

impl From<OutOfFrames> for GuestError {
    fn from(error: OutOfFrames) -> Self {
        Self::NoMemory(error)
    }
}

/// The machine's memory, as a guest gets it.
#[derive(Clone)]
pub(crate) struct HostMemory {
    pub(super) mm: Arc<Mm<PhysicalMemory>>,
    /// Who keeps frames free, where there is swap.
    pub(super) reclaimer: Option<Arc<Reclaimer>>,
    /// Who merges equal pages, where a guest wants it.
    pub(super) merger: Option<Arc<Merger>>,
}

/// What guests under shadows do not have.
const OF_EPT: Secondary = Secondary::EPT
    .union(Secondary::UNRESTRICTED)
    .union(Secondary::VPID)
    .union(Secondary::PAGE_MODIFICATION_LOG);

/// What a run works with, for as long as Herald runs.
pub(crate) struct Machine {
    /// All memory.
    pub host: &'static Arc<PhysicalMemory>,
    /// VMX, switched on.
    pub vmx: &'static Vmx,
    /// The configuration.
    pub config: &'static BootConfig<'static>,
    /// The boot package.
    pub package: &'static [u8],
    /// Its entries.
    pub table: &'static Table<'static>,
    /// Time.
    pub clock: Clock,
    /// Disks that are Herald's.
    pub disks: &'static Mutex<Disks>,
    /// Who serves the disk for snapshots. Clones of a restored guest may need it for longer than the guest.
    pub snapshot_queue: Mutex<Option<(Arc<DiskQueue>, JoinHandle)>>,
    /// A guest has it for its own snapshots.
    pub snapshot_claimed: AtomicBool,
    /// How the guests have gone.
    pub family: Mutex<Family>,
}

/// Guests that run, and those that have ended.
#[derive(Default)]
pub(crate) struct Family {
    supervisors: Vec<JoinHandle>,
    worst: Outcome,
}

impl HostMemory {
    /// Frames for what a guest needs before its first fault, which makes room itself.
    pub(super) fn make_room(&self) {
        while self.mm.host().frames().spare() < SETUP_FRAMES && self.mm.make_room(&mut Attempts::default()) {}
    }
}

/// Runs the configured guests to their ends; says in the log how each has ended. The worst counts.
pub(crate) fn run(machine: &'static Machine) -> Outcome {
    machine.run().unwrap_or_else(|error| error.outcome(None))
}

impl Outcome {
    const SUCCESS: Self = Self { status: Status::Success, code: 0 };

    fn or_worse(self, other: Self) -> Self {
        if other.status as u8 > self.status as u8 { other } else { self }
    }
}

impl Default for Outcome {
    fn default() -> Self {
        Self::SUCCESS
    }
}

/// "NAME: ", where there are several.
struct Prefix<'a>(Option<&'a str>);

impl fmt::Display for Prefix<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |name| write!(f, "{name}: "))
    }
}

impl GuestError {
    /// Says it in the log.
    fn outcome(&self, name: Option<&str>) -> Outcome {
        log::error!("{}{self}", Prefix(name));
        Outcome { status: self.status(), code: 0 }
    }
}

impl End {
    /// Says it in the log.
    fn outcome(&self, name: Option<&str>) -> Outcome {
        match self.status() {
            Status::Success => log::info!("{}{self}", Prefix(name)),
            _ => log::error!("{}{self}", Prefix(name)),
        }
        Outcome { status: self.status(), code: self.code() }
    }
}

impl Machine {
    fn run(&'static self) -> Result<Outcome, GuestError> {
        input::start(self.config.vms.iter().map(|vm| vm.name))?;
        self.make_room_for_shadows();
        let before = self.frames_accounted_for();
        if self.has_shadows() && self.config.paging == Paging::Auto {
            log::info!("the processor has no EPT as guests need it: they are under shadows");
        }
        let faults = (self.clock.tsc_hz, self.config.inject.swap_faults);
        let swap = SwapSystem::start(self.host, self.config.swap, self.disks, faults)?;
        self.serve_snapshot_disk()?;
        let mm = Mm::new(Arc::clone(self.host), self.swap_device(swap.as_ref())).map_err(GuestError::Mm)?;
        let pace = Pace { tsc_hz: self.clock.tsc_hz, idle_seconds: self.config.proactive };
        let start = |swap: &SwapSystem| Reclaimer::start(&mm, swap.writer.clone(), pace);
        let reclaimer = swap.as_ref().map(start).transpose()?;
        let merger = self.merger(&mm)?;
        assert!(!self.config.inject.panic, "a panic, as the configuration asks for");
        let several = self.config.vms.len() > 1;
        for (index, config) in self.config.vms.iter().enumerate() {
            let mm = Arc::clone(&mm);
            let reclaimer = reclaimer.as_ref().map(|(reclaimer, _)| Arc::clone(reclaimer));
            let merger = merger.as_ref().map(|(merger, _)| Arc::clone(merger));
            self.joins(sched::spawn(&Group::new(SUPERVISOR_WEIGHT), move || {
                let name = config.name.into();
                let place = Place { index: index as u32, name, among_others: several, config };
                let end = self.run_guest(&place, &HostMemory { mm, reclaimer, merger });
                self.note(index, several.then_some(config.name), end);
            })?);
        }
        self.join_all();
        if let Some((merger, handle)) = merger {
            merger.stop();
            handle.join();
        }
        let served = self.snapshot_queue.lock().take();
        if let Some((queue, thread)) = served {
            queue.stop();
            thread.join();
        }
        if let Some((reclaimer, handle)) = reclaimer {
            reclaimer.stop();
            handle.join();
        }
        let worst = self.family.lock().worst;
        drop(mm);
        swap.into_iter().for_each(SwapSystem::stop);
        let after = self.frames_accounted_for();
        if after != before {
            log::error!("of {before} frames {after} are left: Herald leaks memory");
            return Ok(Outcome { status: Status::HeraldFailed, code: 0 });
        }
        Ok(worst)
    }

    /// Starts to serve the disk for snapshots, if there is one that this run wants.
    fn serve_snapshot_disk(&self) -> Result<(), GuestError> {
        let wanted = self.config.snapshot != Snapshot::None;
        if let Some(disk) = wanted.then(|| self.disks.lock().snapshot.take()).flatten() {
            let served =
                DiskQueue::start(disk.into_share(), self.host, self.clock.tsc_hz, SwapFaults::default())?;
            *self.snapshot_queue.lock() = Some(served);
        }
        Ok(())
    }

    /// The disk for snapshots, if there is one.
    pub(super) fn snapshot_disk(&self) -> Option<Arc<DiskQueue>> {
        self.snapshot_queue.lock().as_ref().map(|(queue, _)| Arc::clone(queue))
    }

    /// Somebody supervises a guest from now on, or is about to make one.
    pub(super) fn joins(&self, supervisor: JoinHandle) {
        let mut family = self.family.lock();
        // Of those that have come and gone nothing stays, however many there are.
        family.supervisors.retain(|supervisor| !supervisor.is_over());
        family.supervisors.push(supervisor);
    }

    /// Waits until all guests have ended, those among them that have come meanwhile.
    fn join_all(&self) {
        loop {
            let Some(supervisor) = self.family.lock().supervisors.pop() else { return };
            supervisor.join();
        }
    }

    /// A guest has ended for good.
    pub(super) fn note(&self, index: usize, name: Option<&str>, end: Result<End, GuestError>) {
        let outcome = match end {
            Ok(end) => end.outcome(name),
            Err(error) => error.outcome(name),
        };
        input::remove(index);
        let worst = &mut self.family.lock().worst;
        *worst = worst.or_worse(outcome);
    }

    /// Herald has not done what it was asked for.
    pub(super) fn note_failure(&self) {
        let worst = &mut self.family.lock().worst;
        *worst = worst.or_worse(Outcome { status: Status::HeraldFailed, code: 0 });
    }

    /// Frames that are free, or Herald's own for ever.
    fn frames_accounted_for(&self) -> u64 {
        let frames = self.host.frames().free_count() + self.host.table_frames();
        frames + stacks::frames() + lost_frames()
    }

    /// Runs one guest to its end, as often as it is killed; a life that ends badly before is the last one.
    fn run_guest(&'static self, place: &Place, host: &HostMemory) -> Result<End, GuestError> {
        for killed in 0..self.config.inject.kills {
            let deadline = tsc() + self.random_life(place.index, killed);
            let end = self.run_once(place, host, Some(deadline))?;
            log::debug!("{}: {end}", place.name);
            if end.status() != Status::Success {
                return Ok(end);
            }
        }
        self.run_once(place, host, None)
    }

    /// Ticks that a guest lives which is to be killed: a twentieth of a second to one and a half.
    fn random_life(&self, index: u32, killed: u32) -> u64 {
        let mixed =
            (u64::from(index) << 32 | u64::from(killed)).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let part = mixed >> 40;
        let (least, most) = (self.clock.tsc_hz / 20, self.clock.tsc_hz * 3 / 2);
        least + (most - least) * part / (1 << 24)
    }

    /// Runs one guest to its end, or until TSC `deadline`.
    fn run_once(
        &'static self,
        place: &Place,
        host: &HostMemory,
        deadline: Option<u64>,
    ) -> Result<End, GuestError> {
        host.make_room();
        if self.config.snapshot.restores() && place.index == 0 {
            let (vm, starts, ahead) = self.restore(place, host)?;
            let (vm, ahead) = (Arc::new(vm), Arc::new(ahead));
            let reader = ahead.start(&vm);
            let end = self.supervise(vm, reader.into_iter().collect(), starts, deadline);
            ahead.record(&place.name);
            return end;
        }
        let guest = self.guest(place.config)?;
        let (vm, entry) = Vm::new(self, place.clone(), host, &guest).map_err(GuestError::Vm)?;
        let vm = Arc::new(vm);
        log::info!("guest {} starts at {:#x}", place.name, entry.rip);
        let others = (1..guest.vcpus).map(|_| Start::Reset);
        let starts = core::iter::once(Start::Entry(entry)).chain(others).collect();
        let storm = self.storm(&vm, &guest.ram);
        self.supervise(vm, storm, starts, deadline)
    }

    /// Runs a guest from these states to its end, or until TSC `deadline`. The caller is its supervisor.
    pub(super) fn supervise(
        &'static self,
        vm: Arc<Vm>,
        beside: Vec<JoinHandle>,
        starts: Vec<Start>,
        deadline: Option<u64>,
    ) -> Result<End, GuestError> {
        let index = vm.index as usize;
        input::add(index, &vm);
        oom::add(&vm);
        let threads = self.start_vcpus(&vm, starts);
        vm.watch(self.config.telemetry_rate, deadline);
        if deadline.is_some() {
            vm.finish_with(Ok(End::Killed));
        }
        threads.into_iter().chain(beside).for_each(JoinHandle::join);
        vm.forget_threads();
        input::suspend(index);
        vm.finish();
        vm.end().expect("its virtual processors end when it has ended").map_err(GuestError::Run)
    }

    /// Starts all virtual processors; if there is not enough memory, the guest has ended.
    fn start_vcpus(&'static self, vm: &Arc<Vm>, starts: Vec<Start>) -> Vec<JoinHandle> {
        let group = Group::new(vm.place.config.weight);
        let mut threads = Vec::new();
        for (id, start) in (0..).map(VcpuId).zip(starts) {
            let shared = Arc::clone(vm);
            match sched::spawn(&group, move || self.run_vcpu(id, &shared, start)) {
                Ok(thread) => threads.push(thread),
                Err(error) => {
                    vm.finish_with(Ok(End::OutOfMemory(error)));
                    break;
                }
            }
        }
        threads
    }

    /// Starts a storm, where the configuration asks for one.
    fn storm(&self, vm: &Arc<Vm>, ram: &Ram) -> Vec<JoinHandle> {
        let operations = self.config.inject.storm;
        if operations == 0 {
            return Vec::new();
        }
        let (vm, ram) = (Arc::clone(vm), *ram);
        let storm = sched::spawn(&Group::new(SUPERVISOR_WEIGHT), move || storm::whip(&vm, ram, operations));
        storm.inspect_err(|error| log::error!("no storm: {error}")).into_iter().collect()
    }

    fn run_vcpu(&self, id: VcpuId, vm: &Vm, start: Start) {
        // Before it looks at anything: whoever finds no thread has said what there is to say before that.
        vm.control(id).set_thread(sched::current());
        let config = VmcsConfig {
            translation: match self.has_shadows() {
                true => Translation::Shadow,
                false => Translation::Ept { root: vm.secondary_root(), accessed_dirty: self.config.ept_ad },
            },
            // What the interpreter delivers comes from the model.
            virtual_apic: self.config.apic_virtualisation && !self.has_shadows(),
            pause_exits: vm.is_clone()
                || self.config.vms.iter().map(|vm| vm.vcpus as usize).sum::<usize>() > sched::online(),
            tsc_offset: vm.clock.tsc_offset,
            fail_entry: self.config.inject.fail_entry,
        };
        let pointers = vm.memory.mmu().shadow_pointers(Processor(id.0 as usize));
        match Vcpu::new(id, self.vmx, self.host, &config, pointers, start) {
            Ok(vcpu) => vcpu::run(&mut Box::new(vcpu), vm),
            // The guest wants more than there is: its own end, and nobody else's.
            Err(error) if error.is_short() => vm.finish_with(Ok(End::Setup(error))),
            Err(error) => vm.finish_with(Err(RunError::Setup(error))),
        }
    }

    /// Where pages go when frames are short; or, for tests of the mechanism, to other frames, which saves nothing.
    fn swap_device(&self, swap: Option<&SwapSystem>) -> Option<Box<dyn SwapDevice>> {
        let slots = self.config.inject.swap_slots;
        if slots > 0 {
            return Some(Box::new(FrameStore::with_slots(Arc::clone(self.host), slots)));
        }
        swap.map(|swap| Box::new(Arc::clone(&swap.device)) as _)
    }

    /// Who merges equal pages, where a guest wants it.
    fn merger(&self, mm: &Arc<Mm<PhysicalMemory>>) -> Result<Option<(Arc<Merger>, JoinHandle)>, OutOfFrames> {
        let asked = self.config.vms.iter().any(|vm| vm.merge);
        let wanted = asked && can_be_given_back(self.config.backing);
        if asked && !wanted {
            log::warn!("no pages are merged: guests' memory is huge pages, or shared, or has to stay");
        }
        wanted.then(|| Merger::start(mm, self.clock.tsc_hz, self.config.merge_share)).transpose()
    }

    fn guest(&self, config: &VmConfig<'static>) -> Result<Guest<'static>, GuestError> {
        let image = |index: u32| {
            let entry = self.table.entries().get(index as usize).ok_or(GuestError::NoImage(index))?;
            entry.payload(self.package).ok_or(GuestError::NoImage(index))
        };
        let ram = Ram::new(config.memory).map_err(|error| GuestError::Vm(VmError::Firmware(error)))?;
        Ok(Guest {
            kernel: image(config.kernel)?,
            initrd: config.initrd.map(image).transpose()?,
            append: config.append,
            ram,
            vcpus: config.vcpus,
            balloon: can_be_given_back(self.config.backing),
        })
    }

    /// What belongs to the tables of shadows is on the heap, and one part in so many of memory is to be theirs.
    fn make_room_for_shadows(&self) {
        const PART: u64 = 16;
        if self.has_shadows() {
            boot::extend_heap(self.host, (self.host.frames().total() << PAGE_SHIFT) / PART);
        }
    }

    /// Whether guests are under shadows.
    fn has_shadows(&self) -> bool {
        match self.config.paging {
            Paging::Ept => false,
            Paging::Shadow => true,
            Paging::Auto => !self.vmx.capabilities.has_ept(),
        }
    }

    /// Whether guests have a secondary control.
    pub(super) fn offers(&self, control: Secondary) -> bool {
        let wanted = !self.has_shadows() || !OF_EPT.intersects(control);
        wanted && self.vmx.capabilities.secondary.offers(control.bits())
    }

    /// How the addresses of a guest with so many virtual processors are translated. No processor walks what shadows stand on, so no A bits
    /// are set there but by faults; shadows have their own.
    pub(super) fn paging_features(&self, vcpus: u32) -> PagingFeatures {
        if self.has_shadows() {
            return PagingFeatures {
                accessed_dirty: AccessedDirty::Absent,
                largest_page: PageSize::Size1G,
                log_by: LogBy::WriteFault,
                shadows: vcpus as usize,
            };
        }
        let offers = |feature| self.vmx.capabilities.ept_vpid.contains(feature);
        let tracked = offers(EptVpid::ACCESSED_DIRTY) && self.config.ept_ad;
        let logs = self.vmx.capabilities.secondary.offers(Secondary::PAGE_MODIFICATION_LOG.bits());
        PagingFeatures {
            accessed_dirty: if tracked { AccessedDirty::Hardware } else { AccessedDirty::Absent },
            largest_page: match (offers(EptVpid::PAGES_1G), offers(EptVpid::PAGES_2M)) {
                (true, _) => PageSize::Size1G,
                (false, true) => PageSize::Size2M,
                (false, false) => PageSize::Size4K,
            },
            log_by: if tracked && logs { LogBy::Processor } else { LogBy::WriteFault },
            shadows: 0,
        }
    }
}
