//! A turn of the interpreter, where an entry cannot be: what surrounds it is what exits lead to, and so is the policy.
//!
//! ```text
//!   take the state ─► deliver what was chosen ─► so many steps at most ─► put it back ─► as after an exit
//!                        realmode::interrupt        realmode::run
//! ```
//!
//! The virtual processor counts as out of its guest: no handshake waits for it, and who kicks it is heeded before the next instruction. While
//! something waits until the guest can take it, a turn is one instruction, since there is no exit when that is so.

use super::ept::DeviceBus;
use super::{Flow, cpuid, ept, io, misc, msr, shadow};
use crate::plat::{End, Vm};
use crate::vcpu::{Activity, Vcpu};
use addr::{Gpa, Gva};
use devices::Effect;
use emulate::{Bus, GuestMemory};
use mm::Access as HostAccess;
use mmu::{FaultOutcome, LinearAccess, LinearFault, MmuError, PageFault};
use realmode::{Access, Control, Fault, Machine, Outcome, Refusal, SegmentName, State, Trouble};
use vmxdefs::cpuid::Registers;
use vmxdefs::event::EventKind;
use vmxdefs::msr::is_legal;
use vmxdefs::registers::Refused;

/// Most instructions of a turn: a small part of what a turn on a CPU lasts.
const STEPS: u32 = 256;
const RFLAGS_AC: u64 = 1 << 18;
const TSC: u32 = 0x10;
const FS_BASE: u32 = 0xc000_0100;
const GS_BASE: u32 = 0xc000_0101;

/// Runs a virtual processor that cannot be entered, for a while.
pub(crate) fn interpret(vcpu: &mut Vcpu, vm: &Vm) -> Flow {
    vcpu.counters.exits.interpreted += 1;
    let mut state = vcpu.to_interpret();
    let steps = if vcpu.vmcs.awaits_window() { 1 } else { STEPS };
    let mut around = Surroundings { vcpu, vm, serves: false };
    let outcome = deliver(&mut state, &mut around).and_then(|alive| match alive {
        true => realmode::run(&mut state, &mut around, steps),
        false => Ok(Outcome::Shutdown),
    });
    let serves = around.serves;
    vcpu.interpreted(&state);
    vcpu.look_for_obstacle();
    // Interrupts may be on now, and what waits for that is on the board.
    vm.control(vcpu.id).note_own_news();
    let resumes = misc::host_interrupt(vm);
    let flow = match outcome {
        Ok(Outcome::Enterable | Outcome::Spent | Outcome::Wanted) => resumes,
        Ok(Outcome::Halted) => {
            vcpu.activity = Activity::Halted;
            resumes
        }
        Ok(Outcome::Shutdown) => misc::triple_fault(vcpu),
        Err(trouble) => trouble.ended().unwrap_or_else(|trouble| {
            vcpu.log_registers();
            Flow::End(End::Interpretation(trouble))
        }),
    };
    if serves && flow == Flow::Resume { Flow::Serve } else { flow }
}

/// Delivers what was chosen for the next entry. `false`: a triple fault.
fn deliver(state: &mut State, around: &mut Surroundings<'_>) -> Result<bool, Trouble<Flow>> {
    let Some(event) = around.vcpu.chosen() else { return Ok(true) };
    // An INT that an exit has cut short is executed anew.
    let alive = event.needs_length()
        || realmode::interrupt(state, around, event.vector, event.error_code.map(|code| code as u16))?;
    if event.kind == EventKind::Nmi {
        state.nmis_blocked = true;
    }
    around.vcpu.note_delivered();
    Ok(alive)
}

/// The machine around a virtual processor. What ends a run is what comes after it; where the guest goes on, the
/// instruction is executed anew.
struct Surroundings<'a> {
    vcpu: &'a mut Vcpu,
    vm: &'a Vm,
    /// The balloon is to be served.
    serves: bool,
}

impl Surroundings<'_> {
    /// Goes on, or ends the run.
    fn follow(&mut self, flow: Flow) -> Result<(), Flow> {
        match flow {
            Flow::Resume | Flow::Again => Ok(()),
            Flow::Serve => {
                self.serves = true;
                Ok(())
            }
            Flow::End(_) => Err(flow),
        }
    }

    /// Memory that could not be mapped.
    fn failed(&mut self, error: MmuError) -> Flow {
        ept::failed(self.vcpu, self.vm, error)
    }

    /// Whether there is RAM, which could not be used a moment ago.
    fn has_ram(&mut self, gpa: Gpa, access: HostAccess) -> Result<bool, Flow> {
        match self.vm.memory.fault(gpa, access) {
            Ok(FaultOutcome::NotRam) => Ok(false),
            Ok(FaultOutcome::Mapped) => Ok(true),
            Err(error) => Err(self.failed(error)),
        }
    }

    fn bus(&self) -> DeviceBus<'_> {
        DeviceBus { vm: self.vm, vcpu: self.vcpu.id, effect: Effect::None }
    }

    /// The guest's registers are those of `state` for what follows, and `state` has what becomes of them.
    fn with_registers<T>(
        &mut self,
        state: &mut State,
        work: impl FnOnce(&mut Vcpu, &Vm) -> Result<T, Refused>,
    ) -> Result<T, Refusal<Flow>> {
        self.vcpu.interpreted(state);
        let done = work(self.vcpu, self.vm).map_err(|Refused| Refusal::Fault(Fault::Protection(0)))?;
        let registers = self.vcpu.guest_registers();
        (state.cr0, state.cr3, state.cr4, state.efer) =
            (registers.cr0, registers.cr3, registers.cr4, registers.efer);
        Ok(done)
    }
}

/// Devices take 1, 2, 4 or 8 bytes; other accesses find nothing.
const fn is_width(bytes: usize) -> bool {
    matches!(bytes, 1 | 2 | 4 | 8)
}

impl Machine for Surroundings<'_> {
    type End = Flow;

    fn translate(&mut self, state: &State, linear: Gva, access: Access) -> Result<Gpa, Refusal<Flow>> {
        let (write, fetch) = (access == Access::Write, access == Access::Fetch);
        let passes_smap = state.rflags & RFLAGS_AC != 0;
        let access = LinearAccess { write, fetch, user: false, passes_smap };
        self.vcpu.load_root(self.vm);
        let paging = self.vcpu.guest_paging();
        match self.vm.memory.fault_linear(self.vcpu.processor(), &paging, linear.as_u64(), access) {
            // Where the guest has changed its tables meanwhile: once more.
            Ok(LinearFault::Mapped) => {
                ept::translate(self.vcpu, self.vm, linear).ok_or(Refusal::End(Flow::Resume))
            }
            Ok(LinearFault::NotRam(gpa)) => Ok(gpa),
            Ok(LinearFault::Guest(PageFault { code })) => {
                Err(Refusal::Fault(Fault::Page { address: linear, code: code as u16 }))
            }
            Err(error) => Err(Refusal::End(self.failed(error))),
        }
    }

    fn read(&mut self, gpa: Gpa, bytes: &mut [u8]) -> Result<(), Flow> {
        if self.vm.memory.read(gpa, bytes) {
            return Ok(());
        }
        if self.has_ram(gpa, HostAccess::Read)? {
            return Err(Flow::Resume);
        }
        let len = bytes.len();
        let value = if is_width(len) { self.bus().read(gpa, len as u8) } else { u64::MAX };
        bytes.fill(0xff);
        bytes.iter_mut().zip(value.to_le_bytes()).for_each(|(byte, value)| *byte = value);
        Ok(())
    }

    fn write(&mut self, gpa: Gpa, bytes: &[u8]) -> Result<(), Flow> {
        if self.vm.memory.write(gpa, bytes).is_ok() {
            return Ok(());
        }
        if self.has_ram(gpa, HostAccess::Write)? {
            return Err(Flow::Resume);
        }
        if !is_width(bytes.len()) {
            return Ok(());
        }
        let mut value = [0; 8];
        value.iter_mut().zip(bytes).for_each(|(value, byte)| *value = *byte);
        let mut bus = self.bus();
        bus.write(gpa, bytes.len() as u8, u64::from_le_bytes(value));
        let effect = bus.effect;
        let flow = self.vm.apply(self.vcpu.id, effect);
        self.follow(flow)
    }

    /// A device is one processor's at a time, and a lock of eight bytes is the most that there is.
    fn exchange(&mut self, gpa: Gpa, old: &[u8], new: &[u8]) -> Result<bool, Flow> {
        let is_one_word = gpa.as_u64() % 8 + old.len() as u64 <= 8;
        let done = match is_one_word {
            true => self.vm.memory.exchange(gpa, old, new).map_err(|error| self.failed(error))?,
            false => None,
        };
        match done {
            Some(done) => Ok(done),
            None => self.write(gpa, new).map(|()| true),
        }
    }

    fn port_in(&mut self, port: u16, width: u8) -> Result<u32, Flow> {
        Ok(io::read(self.vcpu.id, self.vm, (port, width)))
    }

    fn port_out(&mut self, port: u16, width: u8, value: u32) -> Result<(), Flow> {
        let flow = io::write(self.vcpu.id, self.vm, (port, width), value);
        self.follow(flow)
    }

    fn cpuid(&mut self, _state: &State, leaf: u32, subleaf: u32) -> [u32; 4] {
        let Registers { eax, ebx, ecx, edx } = cpuid::answer_to(self.vcpu, self.vm, leaf, subleaf);
        [eax, ebx, ecx, edx]
    }

    fn time(&mut self) -> u64 {
        self.vm.clock.now().0
    }

    fn read_msr(&mut self, state: &State, number: u32) -> Result<u64, Refusal<Flow>> {
        let own = match number {
            TSC => Some(self.time()),
            FS_BASE => Some(state.segments[SegmentName::Fs].base),
            GS_BASE => Some(state.segments[SegmentName::Gs].base),
            number => self.vcpu.passed_msr(number),
        };
        own.or_else(|| msr::value(self.vcpu, self.vm, number).ok())
            .ok_or(Refusal::Fault(Fault::Protection(0)))
    }

    fn write_msr(&mut self, state: &mut State, number: u32, value: u64) -> Result<(), Refusal<Flow>> {
        match number {
            FS_BASE | GS_BASE if !is_legal(number, value) => {
                return Err(Refusal::Fault(Fault::Protection(0)));
            }
            FS_BASE => state.segments[SegmentName::Fs].base = value,
            GS_BASE => state.segments[SegmentName::Gs].base = value,
            number if self.vcpu.set_passed_msr(number, value) => {}
            number => {
                let flow = self.with_registers(state, |vcpu, vm| {
                    msr::set(vcpu, vm, number, value).map_err(|_| Refused)
                })?;
                self.follow(flow).map_err(Refusal::End)?;
            }
        }
        Ok(())
    }

    fn write_control(
        &mut self,
        state: &mut State,
        control: Control,
        value: u64,
    ) -> Result<(), Refusal<Flow>> {
        let number = match control {
            Control::Cr0 => 0,
            Control::Cr2 => {
                state.cr2 = value;
                return Ok(());
            }
            Control::Cr3 => 3,
            Control::Cr4 => 4,
        };
        self.with_registers(state, |vcpu, vm| shadow::set_control(vcpu, vm, number, value))
    }

    fn forget(&mut self, linear: Gva) {
        self.vcpu.load_root(self.vm);
        self.vm.memory.mmu().invalidate_linear(self.vcpu.processor(), linear.as_u64());
    }

    fn is_wanted(&mut self) -> bool {
        self.vm.control(self.vcpu.id).has_news() || self.vm.has_ended() || self.vm.is_paused()
    }
}
