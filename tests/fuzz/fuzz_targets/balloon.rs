//! A driver of the balloon goes wild: registers of virtio over MMIO, rings and descriptors in memory, in any order, also
//! while the device works on a queue.
//!
//! ```text
//!   input ─► Board with a driver that has set a queue up ─► step ─► what must hold after any ─► ... ─► reset ─► works
//! ```
//!
//! What must hold: the work on a chain is bounded; what is discarded are whole pages of RAM; a device that
//! needs a reset does nothing; and after a reset a good driver is served.
#![no_main]

use addr::{Gpa, GpaRange};
use arbitrary::{Arbitrary, Unstructured};
use devices::{BALLOON_BASE, Board, Config, Effect, Memory, Ticks, VcpuId};
use libfuzzer_sys::fuzz_target;
use std::cell::{Cell, RefCell};

/// Most steps of a run.
const STEPS: usize = 200;
const PAGE: u64 = 4096;
const PAGES: u64 = 64;
const SIZE: u16 = 16;
/// Where the driver has its queue, and a buffer.
const DESCRIPTORS: u64 = 0x1000;
const AVAILABLE: u64 = 0x2000;
const USED: u64 = 0x3000;
const BUFFER: u64 = 0x4000;
/// Registers.
const NOTIFY: u64 = 0x50;
const STATUS: u64 = 0x70;
const NEEDS_RESET: u64 = 1 << 6;
const CPU: VcpuId = VcpuId(0);
const NOW: Ticks = Ticks(0);
/// Most accesses to memory for a chain: descriptors, page numbers, rings.
const MOST_ACCESSES: u64 = 128 + 4096 / 128 + 128 + 8;

#[derive(Arbitrary, Debug)]
enum Step {
    Register(Register, u32),
    Memory(u16, u16),
    Describe(Near, Place, u32, u8, Near),
    Offer(Near),
    Notify(u8),
    /// A chain is served, and a register written meanwhile by another processor.
    Across(Register, u32),
}

/// A register's offset.
#[derive(Debug)]
struct Register(u64);

impl<'a> Arbitrary<'a> for Register {
    fn arbitrary(u: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        Ok(Self(u64::from(u.int_in_range(0..=0x43u8)?) * 4))
    }
}

/// A number near those that a queue has.
#[derive(Debug)]
struct Near(u16);

impl<'a> Arbitrary<'a> for Near {
    fn arbitrary(u: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        Ok(Self(if u.ratio(1, 32)? { u.arbitrary()? } else { u.int_in_range(0..=SIZE)? }))
    }
}

/// Where a buffer is: mostly in RAM.
#[derive(Debug)]
struct Place(u64);

impl<'a> Arbitrary<'a> for Place {
    fn arbitrary(u: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        Ok(Self(match u.int_in_range(0..=7)? {
            0 => u.arbitrary()?,
            1..4 => u.int_in_range(0..=PAGES * PAGE)?,
            _ => u.int_in_range(0..=PAGES)? * PAGE,
        }))
    }
}

struct Ram {
    bytes: RefCell<Vec<u8>>,
    accesses: Cell<u64>,
    discarded: RefCell<Vec<GpaRange>>,
}

impl Ram {
    fn part(&self, at: u64, len: u64) -> Option<std::ops::Range<usize>> {
        self.accesses.set(self.accesses.get() + 1);
        let end = at.checked_add(len).filter(|end| *end <= PAGES * PAGE)?;
        Some(at as usize..end as usize)
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        let _ = self.write(Gpa::new(at), bytes);
    }

    fn offer(&self, head: u16) {
        let mut index = [0; 2];
        let _ = self.read(Gpa::new(AVAILABLE + 2), &mut index);
        let index = u16::from_le_bytes(index);
        self.put(AVAILABLE + 4 + 2 * u64::from(index % SIZE), &head.to_le_bytes());
        self.put(AVAILABLE + 2, &index.wrapping_add(1).to_le_bytes());
    }

    fn describe(&self, number: u16, gpa: u64, len: u32, flags: u8, next: u16) {
        let at = DESCRIPTORS + 16 * u64::from(number);
        self.put(at, &gpa.to_le_bytes());
        self.put(at + 8, &len.to_le_bytes());
        self.put(at + 12, &u16::from(flags & 7).to_le_bytes());
        self.put(at + 14, &next.to_le_bytes());
    }
}

impl Memory for Ram {
    fn read(&self, gpa: Gpa, bytes: &mut [u8]) -> bool {
        let Some(part) = self.part(gpa.as_u64(), bytes.len() as u64) else { return false };
        bytes.copy_from_slice(&self.bytes.borrow()[part]);
        true
    }

    fn write(&self, gpa: Gpa, bytes: &[u8]) -> bool {
        let Some(part) = self.part(gpa.as_u64(), bytes.len() as u64) else { return false };
        self.bytes.borrow_mut()[part].copy_from_slice(bytes);
        true
    }

    fn discard(&self, range: GpaRange) -> bool {
        assert!(!range.is_empty() && (range.start().as_u64() | range.len()).is_multiple_of(PAGE));
        let is_ram = self.part(range.start().as_u64(), range.len()).is_some();
        if is_ram {
            self.discarded.borrow_mut().push(range);
        }
        is_ram
    }
}

struct Bench {
    board: Board,
    ram: Ram,
}

fuzz_target!(|input: (u8, Vec<Step>)| {
    let config = Config {
        vcpus: 1,
        tsc_hz: 1_000_000,
        ram_bytes: PAGES * PAGE,
        ram_end: PAGES * PAGE,
        boot_seconds: 0,
        shortest_period: 10_000,
        balloon: Some(17),
    };
    let bytes = RefCell::new(vec![0; (PAGES * PAGE) as usize]);
    let ram = Ram { bytes, accesses: Cell::new(0), discarded: RefCell::default() };
    let mut bench = Bench { board: Board::new(&config), ram };
    let (queue, steps) = input;
    bench.drive(u32::from(queue) % 3);
    for step in steps.iter().take(STEPS) {
        bench.step(step);
        bench.serve(None);
    }
    bench.drive(0);
    bench.ram.discarded.take();
    bench.ram.put(BUFFER, &9u32.to_le_bytes());
    bench.ram.describe(0, BUFFER, 4, 0, 0);
    bench.ram.offer(0);
    assert_eq!(bench.write(NOTIFY, 0), Some(Effect::Balloon));
    bench.serve(None);
    let page = GpaRange::new(Gpa::new(9 * PAGE), Gpa::new(10 * PAGE));
    assert_eq!(bench.ram.discarded.take(), [page], "a good driver is served");
});

impl Bench {
    fn write(&mut self, offset: u64, value: u32) -> Option<Effect> {
        self.board.mmio_write(CPU, Gpa::new(BALLOON_BASE + offset), 4, value.into(), NOW)
    }

    /// As drivers begin.
    fn drive(&mut self, queue: u32) {
        self.ram.put(AVAILABLE, &[0; 64]);
        let features =
            [(STATUS, 0), (STATUS, 3), (0x24, 0), (0x20, 0x24), (0x24, 1), (0x20, 1), (STATUS, 0xb)];
        let places = [(0x80, DESCRIPTORS), (0x84, 0), (0x90, AVAILABLE), (0x94, 0), (0xa0, USED), (0xa4, 0)];
        let queue = [(0x30, queue), (0x38, SIZE.into())];
        let places = places.map(|(offset, gpa)| (offset, gpa as u32));
        for (offset, value) in
            features.into_iter().chain(queue).chain(places).chain([(0x44, 1), (STATUS, 0xf)])
        {
            assert_eq!(self.write(offset, value), Some(Effect::None));
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Register(Register(offset), value) => {
                let _ = self.write(offset, value);
            }
            Step::Memory(at, value) => {
                self.ram.put(DESCRIPTORS + u64::from(at % 0x3000), &value.to_le_bytes())
            }
            Step::Describe(Near(number), Place(gpa), len, flags, Near(next)) => {
                self.ram.describe(number, gpa, len, flags, next);
            }
            Step::Offer(Near(head)) => self.ram.offer(head),
            Step::Notify(queue) => {
                let _ = self.write(NOTIFY, u32::from(queue % 8));
            }
            Step::Across(Register(offset), value) => self.serve(Some((offset, value))),
        }
    }

    /// Serves all that waits; a register is written in the middle of the first chain.
    fn serve(&mut self, mut meanwhile: Option<(u64, u32)>) {
        while let Some(mut work) = self.board.lend_balloon() {
            let needs_reset = self.status() & NEEDS_RESET;
            assert_eq!(needs_reset, 0, "it works, though it needs a reset");
            assert!(self.board.lend_balloon().is_none(), "one at a time");
            self.ram.accesses.set(0);
            work.perform(&self.ram);
            assert!(self.ram.accesses.get() <= MOST_ACCESSES + 4096, "unbounded work");
            if let Some((offset, value)) = meanwhile.take() {
                let _ = self.write(offset, value);
            }
            self.board.return_balloon(&work);
        }
    }

    fn status(&mut self) -> u64 {
        self.board.mmio_read(CPU, Gpa::new(BALLOON_BASE + STATUS), 4, NOW).expect("a device")
    }
}
