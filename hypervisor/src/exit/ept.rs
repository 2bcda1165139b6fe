//! EPT violations: memory to fault in, or a device to emulate.

use super::{Flow, misc};
use crate::plat::{self, End, Vm};
use crate::vcpu::{RunError, Vcpu};
use addr::{Gpa, Gva, PAGE_SIZE, PageSize};
use devices::{Effect, VcpuId};
use emulate::{CodeSize, Done, GuestMemory, PagingState};
use mm::{Access, FaultError};
use mmu::{FaultOutcome, MmuError};
use vmxdefs::event::Event;
use vmxdefs::exit::EptViolation;
use vmxdefs::field::{Field, Segment};
use vmxdefs::registers::Registers;

/// Longest instruction, in bytes.
const LONGEST: usize = 15;

/// An EPT violation. The type of the result is its caller's, so that it is not copied.
#[inline(always)]
pub(super) fn handle(vcpu: &mut Vcpu, vm: &Vm, violation: EptViolation) -> Result<Flow, RunError> {
    vcpu.counters.ept_violations += 1;
    let access = if violation.write { Access::Write } else { Access::Read };
    if !vm.memory.passes_log(violation.gpa, access) {
        let outcome = vm.memory.fault_behind_log(violation.gpa, access);
        let Ok(FaultOutcome::Mapped) = outcome else { return Ok(not_mapped(vcpu, vm, violation, outcome)) };
        vm.note_fault();
    }
    vcpu.counters.exits.ept_fault += 1;
    Ok(Flow::Again)
}

#[inline(never)]
fn not_mapped(
    vcpu: &mut Vcpu,
    vm: &Vm,
    violation: EptViolation,
    outcome: Result<FaultOutcome, MmuError>,
) -> Flow {
    match outcome {
        Ok(FaultOutcome::Mapped) => Flow::Again,
        Ok(FaultOutcome::NotRam) => {
            vcpu.counters.exits.mmio += 1;
            device(vcpu, vm, &violation)
        }
        Err(error) => failed(vcpu, vm, error),
    }
}

/// Memory that could not be mapped: the guest's end, unless another one has to make room.
pub(super) fn failed(vcpu: &mut Vcpu, vm: &Vm, error: MmuError) -> Flow {
    if is_short(&error) && plat::judge(vm, End::Memory(error)) == plat::Verdict::TriesAgain {
        vcpu.gives_way = true;
        return Flow::Resume;
    }
    Flow::End(End::Memory(error))
}

/// Whether it is for want of memory.
const fn is_short(error: &MmuError) -> bool {
    matches!(
        error,
        MmuError::Host(FaultError::OutOfFrames(_) | FaultError::OutOfTables(_)) | MmuError::OutOfTables(_)
    )
}

/// Performs the instruction that touched a device, or nothing at all.
pub(super) fn device(vcpu: &mut Vcpu, vm: &Vm, violation: &EptViolation) -> Flow {
    if violation.fetch || violation.walking {
        // Code or page tables in a hole: on a real machine the bus answers all ones, and nothing good follows.
        log::debug!(
            "guest: {} in a hole at {}",
            if violation.fetch { "code" } else { "page table" },
            violation.gpa
        );
        return misc::refuse(vcpu, Event::GENERAL_PROTECTION);
    }
    let mut code = [0; LONGEST];
    let Some(len) = fetch(vcpu, vm, &mut code) else {
        return misc::refuse(vcpu, Event::GENERAL_PROTECTION);
    };
    let mut bus = DeviceBus { vm, vcpu: vcpu.id, effect: Effect::None };
    let size = code_size(vcpu);
    match emulate::emulate(&code[..len], size, &mut VcpuRegisters(vcpu), violation.gpa, &mut bus) {
        Ok(done) => {
            let effect = bus.effect;
            if let Done::Advance(len) = done {
                vcpu.advance(u64::from(len));
            }
            vm.apply(vcpu.id, effect)
        }
        Err(error) => {
            log::error!("guest: {error}, at {}", violation.gpa);
            vcpu.log_registers();
            Flow::End(End::Emulation(error))
        }
    }
}

/// Reads the bytes at RIP; how many there are before a page that is not mapped.
fn fetch(vcpu: &Vcpu, vm: &Vm, code: &mut [u8; LONGEST]) -> Option<usize> {
    let rip = vcpu.vmcs.read(Field::GuestRip);
    // 64-bit code takes the base as 0, whatever the descriptor said; other code wraps at 4 GiB (SDM vol. 1 3.3.7).
    let (base, last) = match code_size(vcpu) {
        CodeSize::Bits64 => (0, u64::MAX),
        CodeSize::Bits16 | CodeSize::Bits32 => (vcpu.vmcs.read(Segment::Cs.fields()[1]), u64::from(u32::MAX)),
    };
    let byte = |index: u64| Gva::try_new(base.wrapping_add(rip).wrapping_add(index) & last);
    let linear = byte(0)?;
    let first = ((PAGE_SIZE - linear.offset_in(PageSize::Size4K)) as usize).min(LONGEST);
    read_linear(vcpu, vm, linear, &mut code[..first]).then_some(())?;
    let rest = byte(first as u64).filter(|_| first < LONGEST);
    match rest {
        Some(rest) if read_linear(vcpu, vm, rest, &mut code[first..]) => Some(LONGEST),
        _ => Some(first),
    }
}

/// Where a linear address of the guest lies now.
pub(super) fn translate(vcpu: &Vcpu, vm: &Vm, linear: Gva) -> Option<Gpa> {
    let Registers { cr0, cr3, cr4, efer, .. } = vcpu.guest_registers();
    let state = PagingState { cr0, cr3, cr4, efer };
    emulate::translate(&vm.memory, &state, linear).inspect_err(|error| log::debug!("guest: {error}")).ok()
}

/// Reads bytes of one page by linear address.
pub(super) fn read_linear(vcpu: &Vcpu, vm: &Vm, linear: Gva, bytes: &mut [u8]) -> bool {
    translate(vcpu, vm, linear).is_some_and(|gpa| vm.memory.read(gpa, bytes))
}

fn code_size(vcpu: &Vcpu) -> CodeSize {
    let rights = vcpu.vmcs.read(Segment::Cs.fields()[3]);
    match (rights & 1 << 13 != 0, rights & 1 << 14 != 0) {
        (true, _) => CodeSize::Bits64,
        (false, true) => CodeSize::Bits32,
        (false, false) => CodeSize::Bits16,
    }
}

/// The board as a bus. What nobody answers reads all ones.
pub(super) struct DeviceBus<'a> {
    pub(super) vm: &'a Vm,
    pub(super) vcpu: VcpuId,
    /// What the last store has led to.
    pub(super) effect: Effect,
}

impl emulate::Bus for DeviceBus<'_> {
    fn read(&mut self, gpa: Gpa, width: u8) -> u64 {
        let (vcpu, now) = (self.vcpu, self.vm.clock.now());
        self.vm.with_board(vcpu, |board| board.mmio_read(vcpu, gpa, width, now)).unwrap_or(u64::MAX)
    }

    fn write(&mut self, gpa: Gpa, width: u8, value: u64) {
        let (vcpu, now) = (self.vcpu, self.vm.clock.now());
        let effect = self.vm.with_board(vcpu, |board| board.mmio_write(vcpu, gpa, width, value, now));
        if let Some(effect) = effect {
            self.effect = effect;
        }
    }
}

/// A virtual processor's registers, by number.
struct VcpuRegisters<'a>(&'a mut Vcpu);

impl emulate::Registers for VcpuRegisters<'_> {
    fn get(&self, index: u8) -> u64 {
        self.0.general(usize::from(index))
    }

    fn set(&mut self, index: u8, value: u64) {
        self.0.set_general(usize::from(index), value);
    }

    fn rflags(&self) -> u64 {
        self.0.vmcs.read(Field::GuestRflags)
    }

    fn set_rflags(&mut self, rflags: u64) {
        self.0.vmcs.write(Field::GuestRflags, rflags);
    }
}
