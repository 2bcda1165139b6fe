//! The run loop of a virtual processor.

use super::{Activity, Vcpu};
use crate::cpu::{self, tsc};
use crate::exit::{self, Flow};
use crate::plat::{Control, End, Vm};
use crate::sched::{self, Turn};
use crate::vmx::{EntryError, VmcsError};
use core::fmt;
use devices::{Startup, VcpuId};
use sync::Changes;
use vmxdefs::check::{Rules, Violations, explain};
use vmxdefs::controls::Pin;
use vmxdefs::exit::{EntryFailure, Exit};
use vmxdefs::field::Field;

/// The virtual processor that firmware would start.
const FIRST: VcpuId = VcpuId(0);

/// The part of a second after which a guest with interrupts off has to exit.
const DEAF_PART: u64 = 1000;

/// A failure of Herald's own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum RunError {
    /// VMLAUNCH or VMRESUME refused controls or host state.
    Refused(EntryError),
    /// The entry began and failed.
    Failed(EntryFailure),
    /// An exit that Herald's controls cannot cause.
    Unexpected(Exit),
    /// There is no virtual processor.
    Setup(VmcsError),
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(error) => error.fmt(f),
            Self::Failed(EntryFailure::GuestState) => f.write_str("VM entry failed: invalid guest state"),
            Self::Failed(failure) => write!(f, "VM entry failed: {failure:?}"),
            Self::Setup(error) => error.fmt(f),
            Self::Unexpected(exit) => write!(f, "unexpected VM exit {exit:?}"),
        }
    }
}

/// Runs a virtual processor until its guest ends, whoever ends it.
pub(crate) fn run(vcpu: &mut Vcpu, vm: &Vm) {
    let residing = vcpu.reside();
    vm.note_ready();
    // What the board of a clone holds for it is not news to anybody else.
    vm.control(vcpu.id).note_own_news();
    vm.control(vcpu.id).set_busy(true);
    while !vm.has_ended() {
        if let Err(end) = step(vcpu, vm) {
            vm.finish_with(end);
        }
    }
    vm.control(vcpu.id).set_busy(false);
    vm.control(vcpu.id).publish(&vcpu.counters, &vcpu.ticks);
    vcpu.leave_cpu();
    drop(residing);
}

/// Waits, or looks at what there is to do; or runs, until there is something to look at.
///
/// # Errors
/// How the guest has ended.
fn step(vcpu: &mut Vcpu, vm: &Vm) -> Result<(), Result<End, RunError>> {
    let control = vm.control(vcpu.id);
    if !vcpu.prepare(vm, control).map_err(Ok)? {
        return Ok(());
    }
    let mut now = tsc();
    loop {
        vcpu.set_timer(vm, now);
        if !vcpu.enter(vm, control).map_err(|error| Err(RunError::Refused(error)))? {
            return Ok(());
        }
        let interrupted = vcpu.save_interrupted_event();
        match exit::handle(vcpu, vm) {
            Ok(Flow::Again) => {}
            outcome => return vcpu.follow(vm, control, outcome.map_err(Err)?).map_err(Ok),
        }
        now = tsc();
        vcpu.counters.memory_ticks += vcpu.ticks.since_exit(now);
        vcpu.leave_off(vm, control);
        let changes = Changes {
            interrupted,
            is_due: now >= vcpu.due,
            has_news: || control.has_news(),
            is_alone: sched::is_left_alone,
        };
        if changes.are_any() {
            return Ok(());
        }
    }
}

impl Vcpu {
    /// Does all that comes before an entry. `false`: it did something else, and has to look again.
    ///
    /// # Errors
    /// How the guest has ended.
    #[inline(never)]
    fn prepare(&mut self, vm: &Vm, control: &Control) -> Result<bool, End> {
        if vm.is_paused() {
            if vm.wants_states() {
                control.deposit(self.state());
            }
            self.wait(vm, || sched::park(None));
            return Ok(false);
        }
        let gives_way = core::mem::take(&mut self.gives_way) && sched::others_wait();
        let turn_ends = match sched::turn() {
            Turn::GoesOn(end) if !gives_way => end,
            _ => {
                self.wait(vm, sched::yield_now);
                return Ok(false);
            }
        };
        if self.serves {
            self.serves = vm.serve_balloon(self.id);
            return Ok(false);
        }
        self.take_cpu();
        self.look(vm, control)?;
        if self.activity != Activity::Active {
            self.sleep(vm);
            return Ok(false);
        }
        if self.has_obstacle() {
            let flow = exit::interpret(self, vm);
            return self.follow(vm, control, flow).map(|()| false);
        }
        self.load_root(vm);
        let device = self.deadline.map_or(u64::MAX, |deadline| vm.clock.machine_ticks(deadline));
        self.due = device.min(turn_ends.unwrap_or(u64::MAX));
        Ok(true)
    }

    /// Does what comes after an exit.
    #[inline(never)]
    fn follow(&mut self, vm: &Vm, control: &Control, flow: Flow) -> Result<(), End> {
        if let Flow::End(end) = flow {
            return Err(end);
        }
        self.serves = matches!(flow, Flow::Serve);
        self.leave_off(vm, control);
        Ok(())
    }

    /// An exit was handled: what others may want between two entries.
    fn leave_off(&self, vm: &Vm, control: &Control) {
        vm.after_exit(self.id);
        if control.is_asked() {
            control.publish(&self.counters, &self.ticks);
        }
    }

    /// Looks at the board, if there is news or a timer is due; chooses what the next entry delivers.
    fn look(&mut self, vm: &Vm, control: &Control) -> Result<(), End> {
        let now = vm.clock.now();
        let due = self.deadline.is_some_and(|deadline| deadline <= now);
        if !control.take_news(|| vm.is_paused() || vm.has_ended()) && !due {
            self.deliver_pending();
            return Ok(());
        }
        let id = self.id;
        let startup = vm.with_devices(Some(id), |board| {
            board.advance(now);
            let startup = board.take_startup(id);
            self.lend_apic(board);
            self.deadline = board.next_deadline(id);
            if startup.is_none() && self.activity == Activity::Halted && self.is_woken(board) {
                self.activity = Activity::Active;
            }
            if startup.is_none() && self.activity == Activity::Active {
                self.inject(board);
            }
            startup
        });
        match startup {
            // The first processor begins where firmware would: the machine is reset.
            Some(Startup::Init) if id == FIRST => return Err(End::Reset),
            Some(startup) => {
                self.obey(startup);
                // There may be more.
                control.note_own_news();
            }
            None => {}
        }
        Ok(())
    }

    /// Halted, or not started: waits until there is news.
    fn sleep(&mut self, vm: &Vm) {
        let control = vm.control(self.id);
        let for_good = self.activity == Activity::AwaitsStartup || !self.accepts_interrupts();
        let deadline = self.deadline.map(|deadline| vm.clock.machine_ticks(deadline));
        control.publish(&self.counters, &self.ticks);
        vm.service_console();
        if for_good {
            vm.fall_asleep_for_good(self.id);
        }
        self.wait(vm, || {
            if !control.has_news() {
                sched::park(deadline);
            }
        });
        control.set_asleep_for_good(false);
    }

    /// Lets others have the CPU. It may come back when its guest is to be left alone.
    fn wait(&mut self, vm: &Vm, wait: impl FnOnce()) {
        let since = tsc();
        self.leave_cpu();
        vm.control(self.id).set_busy(false);
        wait();
        vm.control(self.id).set_busy(true);
        self.ticks.idle(since, tsc());
    }

    /// Enters the guest, unless there is news, as there is of a pause and of the guest's end (`Control`); whether it did.
    fn enter(&mut self, vm: &Vm, control: &Control) -> Result<bool, EntryError> {
        control.enters();
        let (mut flushed, vmcs) = (0, &self.vmcs);
        vm.tag.enter(|| flushed = vmcs.drop_translations());
        self.counters.invept += flushed;
        // What was chosen for delivery before stays: the entry comes later.
        let enters = !control.has_news();
        let mut entered = Ok(());
        if enters {
            cpu::set_fault_address(self.registers.cr2);
            let now = tsc();
            if self.ticks.enter(now) {
                vm.note_start(now);
            }
            entered = self.vmcs.enter(&mut self.registers);
            self.ticks.exit(tsc());
            self.registers.cr2 = cpu::fault_address();
            // Before the guest counts as left: whoever has it leave wants to know what it has written.
            self.vmcs.drain_log(|pages| vm.memory.mmu().note_logged(pages));
        }
        vm.tag.exit();
        control.has_left();
        entered.map(|()| enters)
    }

    /// Makes the guest exit when it has something to look at.
    fn set_timer(&mut self, vm: &Vm, now: u64) {
        let deadline = self.due.min(self.deaf_until(vm, now).unwrap_or(u64::MAX));
        let is_never = deadline == u64::MAX;
        if is_never && self.timer_rests {
            return;
        }
        if !self.vmcs.controls().has_pin(Pin::PREEMPTION_TIMER) {
            cpu::timer::arm(Some(deadline).filter(|_| !is_never));
            return;
        }
        self.timer_rests = is_never;
        // The timer counts in units of 2^shift ticks; rounded up, so that it is due when it fires.
        let shift = self.vmcs.capabilities().misc.preemption_timer_shift();
        let left = deadline.saturating_sub(now);
        let units = (left >> shift).saturating_add(1).min(u64::from(u32::MAX));
        self.vmcs.write(Field::PreemptionTimer, units);
    }

    /// When a guest with interrupts off has to exit, where other CPUs may want this one. A processor lets an interrupt end
    /// its stay whatever RFLAGS.IF is (SDM vol. 3C 26.2); Bochs 2.7 does not, where RFLAGS.IF is 0 from the entry on.
    fn deaf_until(&self, vm: &Vm, now: u64) -> Option<u64> {
        let may_be_wanted = sched::online() > 1 && !self.has_interrupts_on();
        may_be_wanted.then(|| now + vm.clock.tsc_hz / DEAF_PART)
    }

    /// Tells what is wrong with the guest state, rule by rule.
    pub(crate) fn explain_failed_entry(&self) {
        let capabilities = self.vmcs.capabilities();
        let rules = Rules { cr0: capabilities.cr0, cr4: capabilities.cr4 };
        let count = explain(rules, |field| self.vmcs.read(field), |line| log::error!("  {line}"));
        log::error!("VM entry: {}", Violations(count));
        self.log_registers();
    }
}
