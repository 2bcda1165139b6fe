//! Clones of a running guest: one call, and a copy runs beside it.
//!
//! ```text
//!   who asks: a virtual processor (hypercall), a person (Ctrl-\ c)
//!     └─► pause: each virtual processor leaves its state, and waits ─┐
//!           address space forked, board copied                       ├─ the guest's whole pause
//!         pause ends: the guest goes on ─────────────────────────────┘
//!     └─► a supervisor: its own EPT, empty ─► a thread for each virtual processor, which goes on from the state left
//! ```
//!
//! Memory is copied on write, by whoever writes first; what either writes, only that one sees. All timers are those of the
//! machine's TSC, which both see, so that none is lost and none comes twice.

use super::input;
use super::memory::{Memory, Notifiers, SetupError, can_be_cloned};
use super::run::GuestError;
use super::vm::{Place, Vm};
use crate::cpu::tsc;
use crate::physmem::PhysicalMemory;
use crate::sched::{self, Group};
use crate::vcpu::{Start, VcpuState, register};
use alloc::boxed::Box;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::Ordering;
use devices::{Board, VcpuId};
use mm::OutOfFrames;

/// Why there is no clone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum CloneError {
    /// Its memory is shared with whoever has the file, or has to stay where it is.
    NotPrivate,
    /// A storm changes its memory all the time.
    Storm,
    /// As many guests as there can be.
    TooMany,
    /// No memory for tables.
    Setup(SetupError),
    /// No memory for a thread.
    NoMemory(OutOfFrames),
    /// The guest has ended meanwhile.
    Ended,
    /// Somebody else has paused the guest: the virtual processor is to ask again.
    Paused,
}

impl fmt::Display for CloneError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotPrivate => f.write_str("its memory is of a kind that cannot be copied on write"),
            Self::Storm => f.write_str("a storm of host operations is under way"),
            Self::TooMany => write!(f, "there are {} guests already", abi::config::MAX_GUESTS),
            Self::Setup(error) => error.fmt(f),
            Self::NoMemory(error) => error.fmt(f),
            Self::Ended => f.write_str("it has ended"),
            Self::Paused => f.write_str("it is paused"),
        }
    }
}

/// What a clone has cost; nothing for who is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Birth {
    /// TSC at the call.
    pub(super) asked: u64,
    /// Ticks that the parent has stood still.
    pub(super) pause: u64,
}

impl Birth {
    /// Ticks from the call until then; 0 for who is no clone.
    pub(super) const fn until(&self, then: u64) -> u64 {
        if self.asked == 0 { 0 } else { then.saturating_sub(self.asked) }
    }
}

/// What a clone begins with.
pub(super) struct Twin {
    pub(super) birth: Birth,
    pub(super) memory: Memory<PhysicalMemory>,
    pub(super) board: Board,
    pub(super) starts: Vec<Start>,
}

/// A virtual processor that asks, and what it was when it did.
pub(crate) struct Asker {
    /// Which one.
    pub vcpu: VcpuId,
    /// Its state, behind the call.
    pub state: Box<VcpuState>,
}

impl Vm {
    /// Clones the guest; the clone's number.
    ///
    /// # Errors
    /// [`CloneError`]; the guest has lost nothing.
    pub(crate) fn clone_guest(&self, asker: Option<Asker>) -> Result<u32, CloneError> {
        self.prepare_copy()?;
        let index = input::expect(|index| format!("{}.{index}", self.name()).into());
        let index = index.ok_or(CloneError::TooMany)?;
        let cloned = self.copy(index, asker, || ()).and_then(|(twin, ())| {
            let (pause, mut twin) = (twin.birth.pause, twin);
            twin.memory.obey(self.place.config).map_err(CloneError::Setup)?;
            self.start(index, twin).map(|()| pause)
        });
        match &cloned {
            Ok(pause) => {
                log::info!("{}.{index} is a clone of {0}, which stood still for {pause} ticks", self.name());
            }
            Err(_) => input::remove(index as usize),
        }
        cloned.map(|_| index)
    }

    /// Makes room for a copy, if it can have one.
    pub(super) fn prepare_copy(&self) -> Result<(), CloneError> {
        if !can_be_cloned(self.machine.config.backing) {
            return Err(CloneError::NotPrivate);
        }
        if self.storms {
            return Err(CloneError::Storm);
        }
        self.host.make_room();
        Ok(())
    }

    /// Copies it, while none of its virtual processors does anything; then also does something else. A virtual processor that
    /// has asked finds `answer` in the copy.
    pub(super) fn copy<T>(
        &self,
        answer: u32,
        asker: Option<Asker>,
        also: impl FnOnce() -> T,
    ) -> Result<(Twin, T), CloneError> {
        let asked = tsc();
        let caller = asker.as_ref().map(|asker| asker.vcpu.0 as usize);
        let twin = self.pauses.during(
            &self.controls,
            caller,
            || caller.is_some() || self.has_ended(),
            || {
                self.wants_states.store(true, Ordering::SeqCst);
                let states = self.collect_states(answer, asker);
                self.wants_states.store(false, Ordering::SeqCst);
                let starts = states?;
                let (machine, board) = (self.machine, self.board.lock().clone());
                let memory =
                    self.memory.copy(machine.paging_features(self.vcpus()), Notifiers::of(machine.config));
                let memory = memory.map_err(CloneError::Setup)?;
                Ok((Twin { birth: Birth { asked, pause: 0 }, memory, board, starts }, also()))
            },
        );
        let gave_up = if caller.is_some() { CloneError::Paused } else { CloneError::Ended };
        let (mut twin, result) = twin.unwrap_or(Err(gave_up))?;
        twin.birth.pause = tsc() - asked;
        Ok((twin, result))
    }

    /// What each virtual processor has left. None of them does anything for its guest once it has: it looks at the pause
    /// before anything else.
    fn collect_states(&self, answer: u32, asker: Option<Asker>) -> Result<Vec<Start>, CloneError> {
        // What somebody has left twice for another clone is old by now.
        self.controls.iter().for_each(|control| _ = control.take_deposit());
        let mut asker = asker;
        (0..self.vcpus())
            .map(VcpuId)
            .map(|id| {
                if let Some(mut asker) = asker.take_if(|asker| asker.vcpu == id) {
                    asker.state.set_general(register::RAX, u64::from(answer));
                    return Ok(Start::Resume(asker.state));
                }
                let control = self.control(id);
                control.kick();
                loop {
                    match control.take_deposit() {
                        Some(state) => return Ok(Start::Resume(state)),
                        None if self.has_ended() => return Err(CloneError::Ended),
                        None => sched::yield_now(),
                    }
                }
            })
            .collect()
    }

    /// Starts the clone's supervisor.
    fn start(&self, index: u32, twin: Twin) -> Result<(), CloneError> {
        let (machine, config, host, clock) = (self.machine, self.place.config, self.host.clone(), self.clock);
        let handle = sched::spawn(&Group::new(super::run::SUPERVISOR_WEIGHT), move || {
            let name = input::name(index as usize);
            let place = Place { index, name: Arc::clone(&name), among_others: true, config };
            let Twin { memory, board, starts, birth } = twin;
            let vm = Self::of(machine, place, &host, (memory, board, clock)).map_err(GuestError::Vm);
            let end = vm.and_then(|mut vm| {
                vm.birth = birth;
                machine.supervise(Arc::new(vm), Vec::new(), starts, None)
            });
            machine.note(index as usize, Some(&name), end);
        });
        machine.joins(handle.map_err(CloneError::NoMemory)?);
        self.console.lock().name_lines(self.name());
        Ok(())
    }
}
