//! The run loop of a virtual processor.

use super::Vcpu;
use crate::cpu::{self, tsc};
use crate::exit::{self, Flow};
use crate::plat::{End, Vm};
use crate::vmx::{EntryError, invept_single};
use core::fmt;
use devices::Ticks;
use vmxdefs::check::{Rules, Violations, explain};
use vmxdefs::controls::Pin;
use vmxdefs::exit::{EntryFailure, Exit};
use vmxdefs::field::Field;

/// A failure of Herald's own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum RunError {
    /// VMLAUNCH or VMRESUME refused controls or host state.
    Refused(EntryError),
    /// The entry began and failed.
    Failed(EntryFailure),
    /// An exit that Herald's controls cannot cause.
    Unexpected(Exit),
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(error) => error.fmt(f),
            Self::Failed(EntryFailure::GuestState) => f.write_str("VM entry failed: invalid guest state"),
            Self::Failed(failure) => write!(f, "VM entry failed: {failure:?}"),
            Self::Unexpected(exit) => write!(f, "unexpected VM exit {exit:?}"),
        }
    }
}

/// Runs the guest on this virtual processor until it ends.
///
/// # Errors
/// [`RunError`]: Herald, not the guest, has failed; the reasons are in the log.
pub(crate) fn run(vcpu: &mut Vcpu, vm: &mut Vm) -> Result<End, RunError> {
    loop {
        prepare(vcpu, vm);
        cpu::set_fault_address(vcpu.registers.cr2);
        vm.ticks.enter(tsc());
        let entered = vcpu.vmcs.enter(&mut vcpu.registers);
        vm.ticks.exit(tsc());
        vcpu.registers.cr2 = cpu::fault_address();
        entered.map_err(RunError::Refused)?;
        vcpu.save_interrupted_event();
        let exit = Exit::decode(|field| vcpu.vmcs.read(field));
        vcpu.counters.exits.total += 1;
        match exit::handle(vcpu, vm, exit)? {
            Flow::Resume => vm.after_exit(&vcpu.counters),
            Flow::End(end) => return Ok(end),
        }
    }
}

/// All that has to happen before an entry.
fn prepare(vcpu: &mut Vcpu, vm: &mut Vm) {
    let now = Ticks(tsc());
    vm.board.advance(now);
    vcpu.inject(&mut vm.board);
    vcpu.pay_flush_debt(vm);
    vcpu.set_timer(vm, now);
}

impl Vcpu {
    /// Drops what this CPU may have cached of the guest's EPT, if anybody asked for it since (I10). The
    /// requester has written its entries before it raised the generation.
    fn pay_flush_debt(&mut self, vm: &Vm) {
        let generation = cpu::flush::secondary_generation();
        if self.flushed == Some(generation) {
            return;
        }
        let Some(root) = vm.memory.mmu().root() else { return };
        if let Err(error) = invept_single(self.vmcs.ept_pointer(root)) {
            panic!("INVEPT failed: {error}");
        }
        self.counters.invept += 1;
        self.flushed = Some(generation);
    }

    /// Makes the guest exit when the next device timer is due.
    fn set_timer(&mut self, vm: &Vm, now: Ticks) {
        let deadline = vm.board.next_deadline();
        if !self.vmcs.controls().has_pin(Pin::PREEMPTION_TIMER) {
            cpu::timer::arm(deadline.map(|ticks| ticks.0));
            return;
        }
        // The timer counts in units of 2^shift ticks; rounded up, so that it is due when it fires.
        let shift = self.vmcs.capabilities().misc.preemption_timer_shift();
        let left = deadline.map_or(u64::MAX, |deadline| deadline.0.saturating_sub(now.0));
        let units = (left >> shift).saturating_add(1).min(u64::from(u32::MAX));
        self.vmcs.write(Field::PreemptionTimer, units);
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
