//! Code of a guest that no processor without "unrestricted guest" runs, in any state, on a machine that does anything.
//!
//! ```text
//!   state, code ──► run, step by step ─► each step's work is bounded, each access lies in a page, trouble changes nothing
//!            └────► run, all at once  ─► the same end
//! ```
#![no_main]

use addr::{Gpa, Gva};
use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use realmode::{
    Access, Blocking, Control, Fault, Machine, Outcome, Refusal, Segment, State, Table, Trouble, interrupt,
    run,
};

/// Bytes of memory; it repeats.
const MEMORY: usize = 0x2000;
const PAGE: u64 = 4096;
const STEPS: u32 = 48;
/// What a step may ask of the machine: PUSHAD across pages, with each access translated.
const MOST_ACCESSES: u32 = 128;

#[derive(Arbitrary, Clone, Copy, Debug)]
struct SomeSegment {
    selector: u16,
    base: u32,
    limit: u32,
    rights: u32,
}

impl SomeSegment {
    /// Half of them as real mode has them.
    fn build(self) -> Segment {
        if self.rights >> 31 != 0 {
            return Segment::real(self.selector, 0x93);
        }
        let Self { selector, base, limit, rights } = self;
        Segment { selector, base: base.into(), limit, rights: rights & 0x1_ffff }
    }
}

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    general: [u32; 8],
    rip: u16,
    flags: u32,
    mode: u8,
    segments: [SomeSegment; 6],
    ldtr: SomeSegment,
    tables: [(u32, u16); 2],
    whims: u32,
    interrupt: Option<u8>,
    memory: &'a [u8],
}

impl Input<'_> {
    fn state(&self) -> State {
        let mut state = State::started_at(0);
        for (register, value) in state.general.iter_mut().zip(self.general) {
            *register = value.into();
        }
        state.rip = self.rip.into();
        state.rflags = u64::from(self.flags & 0x25_7fd5) | 2;
        state.segments = self.segments.map(SomeSegment::build);
        state.ldtr = self.ldtr.build();
        [state.gdtr, state.idtr] = self.tables.map(|(base, limit)| Table { base: base.into(), limit });
        // Real mode, protected mode, with paging, with long mode.
        state.cr0 |= [0, 1, 1 << 31 | 1, 1 << 31 | 1][usize::from(self.mode % 4)];
        if self.mode % 4 == 3 {
            (state.cr4, state.efer) = (1 << 5, 1 << 8 | 1 << 10);
        }
        state.blocking = [Blocking::None, Blocking::Sti, Blocking::MovSs][usize::from(self.mode / 4 % 3)];
        state
    }

    fn computer(&self) -> Computer {
        let mut memory = vec![0; MEMORY];
        for (byte, given) in memory.iter_mut().zip(self.memory.iter().cycle()) {
            *byte = *given;
        }
        Computer { memory, whims: self.whims, accesses: 0 }
    }
}

/// A machine that refuses, ends and answers as its whims have it.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Computer {
    memory: Vec<u8>,
    whims: u32,
    accesses: u32,
}

/// The machine has ended the guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Ended;

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ended")
    }
}

impl Computer {
    /// One in 32 asked, if the input wants that at all.
    fn has_whim(&mut self) -> bool {
        self.accesses += 1;
        let moody = self.whims & 1 != 0;
        self.whims = self.whims.rotate_left(5).wrapping_mul(0x9e37_79b1) & !1 | u32::from(moody);
        moody && self.whims >> 27 == 0
    }

    fn part(&mut self, gpa: Gpa, bytes: usize) -> &mut [u8] {
        assert!((1..=15).contains(&bytes), "{bytes} bytes");
        assert!(gpa.as_u64() % PAGE + bytes as u64 <= PAGE, "an access across a page at {gpa}");
        let at = gpa.as_u64() as usize % MEMORY;
        &mut self.memory[at..at + bytes]
    }

    fn refusal(&mut self) -> Option<Refusal<Ended>> {
        self.has_whim().then_some(Refusal::Fault(Fault::Protection(0)))
    }
}

impl Machine for Computer {
    type End = Ended;

    fn translate(&mut self, state: &State, linear: Gva, access: Access) -> Result<Gpa, Refusal<Ended>> {
        assert_ne!(state.cr0 >> 31, 0, "there is no paging");
        if self.has_whim() {
            let code = if access == Access::Write { 2 } else { 0 };
            return Err(Refusal::Fault(Fault::Page { address: linear, code }));
        }
        Ok(Gpa::new(linear.as_u64() & 0xffff_ffff ^ PAGE))
    }

    fn read(&mut self, gpa: Gpa, bytes: &mut [u8]) -> Result<(), Ended> {
        if self.has_whim() {
            return Err(Ended);
        }
        bytes.copy_from_slice(self.part(gpa, bytes.len()));
        Ok(())
    }

    fn write(&mut self, gpa: Gpa, bytes: &[u8]) -> Result<(), Ended> {
        assert!(bytes.len() <= 8, "a store of {} bytes", bytes.len());
        if self.has_whim() {
            return Err(Ended);
        }
        self.part(gpa, bytes.len()).copy_from_slice(bytes);
        Ok(())
    }

    fn exchange(&mut self, gpa: Gpa, old: &[u8], new: &[u8]) -> Result<bool, Ended> {
        assert_eq!(old.len(), new.len());
        let faster = self.has_whim();
        let there = self.part(gpa, old.len());
        if faster || there != old {
            return Ok(false);
        }
        there.copy_from_slice(new);
        Ok(true)
    }

    fn port_in(&mut self, port: u16, width: u8) -> Result<u32, Ended> {
        assert!(matches!(width, 1 | 2 | 4));
        if self.has_whim() { Err(Ended) } else { Ok(u32::from(port) * 0x1_0001) }
    }

    fn port_out(&mut self, _port: u16, width: u8, value: u32) -> Result<(), Ended> {
        assert!(width == 4 || value >> (8 * width) == 0, "{value:#x} is wider than {width} bytes");
        if self.has_whim() { Err(Ended) } else { Ok(()) }
    }

    fn cpuid(&mut self, _state: &State, leaf: u32, subleaf: u32) -> [u32; 4] {
        [leaf, subleaf, self.whims, 0]
    }

    fn time(&mut self) -> u64 {
        u64::from(self.whims) << 16
    }

    fn read_msr(&mut self, _state: &State, number: u32) -> Result<u64, Refusal<Ended>> {
        self.refusal().map_or(Ok(u64::from(number) << 8), Err)
    }

    fn write_msr(&mut self, _state: &mut State, _number: u32, _value: u64) -> Result<(), Refusal<Ended>> {
        self.refusal().map_or(Ok(()), Err)
    }

    fn write_control(
        &mut self,
        state: &mut State,
        control: Control,
        value: u64,
    ) -> Result<(), Refusal<Ended>> {
        match self.refusal() {
            Some(refusal) => Err(refusal),
            None => state.set_control(control, value).map_err(Refusal::Fault),
        }
    }

    fn forget(&mut self, _linear: Gva) {}

    fn is_wanted(&mut self) -> bool {
        false
    }
}

fuzz_target!(|input: Input<'_>| {
    let (mut state, mut computer) = (input.state(), input.computer());
    if let Some(vector) = input.interrupt {
        let before = state;
        if interrupt(&mut state, &mut computer, vector, None).is_err() {
            assert_eq!(state, before, "trouble changes nothing");
            return;
        }
    }
    let (mut other, mut other_computer) = (state, computer.clone());
    let slowly = step_by_step(&mut state, &mut computer);
    let at_once = run(&mut other, &mut other_computer, STEPS);
    assert_eq!((slowly, state), (at_once, other), "in steps and at once");
    assert_eq!(computer.memory, other_computer.memory);
});

fn step_by_step(state: &mut State, computer: &mut Computer) -> Result<Outcome, Trouble<Ended>> {
    for _ in 0..STEPS {
        let before = *state;
        computer.accesses = 0;
        let outcome = run(state, computer, 1);
        assert!(computer.accesses <= MOST_ACCESSES, "{} accesses", computer.accesses);
        assert_ne!(state.rflags & 2, 0, "{state:x?}");
        assert_eq!(state.rip >> 32, 0, "{state:x?}");
        match &outcome {
            Ok(Outcome::Spent) => assert!(state.obstacle().is_some(), "{state:x?}"),
            Ok(Outcome::Enterable) => {
                assert_eq!(state.obstacle(), None);
                return outcome;
            }
            Ok(_) => return outcome,
            Err(trouble) => {
                assert!(!trouble.to_string().is_empty());
                assert_eq!(*state, before, "{trouble}");
                return outcome;
            }
        }
    }
    Ok(Outcome::Spent)
}
