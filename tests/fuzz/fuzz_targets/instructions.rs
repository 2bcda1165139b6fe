//! Instructions on a device: any bytes at RIP, and forms built on purpose whose effect is calculated a second time.
//!
//! ```text
//!   any bytes ─────► emulate ─► at most one load and one store, both at the address; a refusal changes nothing
//!   a built form ──► emulate ─► registers, flags and store are those of `reference`
//! ```
#![no_main]

#[path = "instructions/form.rs"]
mod form;
#[path = "instructions/reference.rs"]
mod reference;

use addr::Gpa;
use arbitrary::Arbitrary;
use emulate::{Bus, CodeSize, Done, Registers, emulate};
use form::Form;
use libfuzzer_sys::fuzz_target;

/// Longest instruction, in bytes.
const LONGEST: usize = 15;

/// The processor's registers.
#[derive(Arbitrary, Clone, Copy, PartialEq, Eq, Debug)]
struct Cpu {
    general: [u64; 16],
    rflags: u64,
}

impl Registers for Cpu {
    fn get(&self, index: u8) -> u64 {
        self.general[usize::from(index)]
    }

    fn set(&mut self, index: u8, value: u64) {
        self.general[usize::from(index)] = value;
    }

    fn rflags(&self) -> u64 {
        self.rflags
    }

    fn set_rflags(&mut self, rflags: u64) {
        self.rflags = rflags;
    }
}

/// A device that answers one value and keeps what happens.
struct Device {
    gpa: Gpa,
    answer: u64,
    loads: Vec<u8>,
    stores: Vec<(u8, u64)>,
}

impl Device {
    fn check(&self, gpa: Gpa, width: u8) {
        assert_eq!(gpa, self.gpa, "an access elsewhere");
        assert!(matches!(width, 1 | 2 | 4 | 8), "an access of {width} bytes");
    }
}

impl Bus for Device {
    fn read(&mut self, gpa: Gpa, width: u8) -> u64 {
        self.check(gpa, width);
        self.loads.push(width);
        self.answer
    }

    fn write(&mut self, gpa: Gpa, width: u8, value: u64) {
        self.check(gpa, width);
        assert!(width == 8 || value >> (8 * width) == 0, "{value:#x} is wider than {width} bytes");
        self.stores.push((width, value));
    }
}

#[derive(Arbitrary, Debug)]
enum What<'a> {
    Any { size: u8, bytes: &'a [u8] },
    Built(Form),
}

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    cpu: Cpu,
    answer: u64,
    gpa: u64,
    what: What<'a>,
}

fuzz_target!(|input: Input<'_>| {
    let gpa = Gpa::new(input.gpa & ((1 << 52) - 1));
    let device = Device { gpa, answer: input.answer, loads: Vec::new(), stores: Vec::new() };
    match input.what {
        What::Any { size, bytes } => {
            let size = [CodeSize::Bits16, CodeSize::Bits32, CodeSize::Bits64][usize::from(size % 3)];
            any(&bytes[..bytes.len().min(LONGEST)], size, input.cpu, device);
        }
        What::Built(form) => built(&form, input.cpu, device),
    }
});

fn any(code: &[u8], size: CodeSize, before: Cpu, mut device: Device) {
    let mut cpu = before;
    let gpa = device.gpa;
    match emulate(code, size, &mut cpu, gpa, &mut device) {
        Ok(Done::Advance(len)) => {
            assert!((1..=code.len()).contains(&usize::from(len)), "{len} of {} bytes", code.len());
        }
        Ok(Done::Again) => assert_ne!(cpu, before, "a repetition that gets nowhere"),
        Err(error) => {
            assert!(!error.to_string().is_empty());
            assert_eq!((cpu, device.loads.len(), device.stores.len()), (before, 0, 0), "{error}");
        }
    }
    assert!(device.loads.len() <= 1 && device.stores.len() <= 1, "more than one access");
}

fn built(form: &Form, before: Cpu, mut device: Device) {
    let Some(code) = form.encode() else { return };
    let (mut cpu, gpa) = (before, device.gpa);
    let done = emulate(&code, form.size(), &mut cpu, gpa, &mut device);
    let wanted = reference::perform(form, before, device.answer);
    let at = format!("{form:?} {code:02x?}");
    assert_eq!(done, Ok(wanted.done(code.len())), "{at}");
    assert_eq!(cpu.general, wanted.cpu.general, "{at}");
    assert_eq!(cpu.rflags, wanted.cpu.rflags, "flags, {at}");
    assert_eq!(device.stores, Vec::from_iter(wanted.store), "{at}");
    assert_eq!(device.loads.len(), usize::from(wanted.loads), "{at}");
}
