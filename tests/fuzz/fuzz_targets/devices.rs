//! A guest's drivers go wild: any sequence of port, MMIO and MSR accesses, of time and of the host's own calls, on
//! the board as Herald uses it.
//!
//! ```text
//!   input ─► Board::new ─► step ─► what must hold after any step ─► step ─► ...
//! ```
//!
//! What must hold: a value is no wider than its access; what is pending is what an acknowledge gives, and it is what
//! the local APIC's own registers say or comes from the PIC; timers that were advanced to now are due later; the
//! console takes what it has room for.
#![no_main]

use addr::Gpa;
use arbitrary::{Arbitrary, Unstructured};
use devices::{Board, Config, Ticks, VcpuId};
use libfuzzer_sys::fuzz_target;

/// Most steps of a run.
const STEPS: usize = 400;
/// Frequencies of the guest's time-stamp counter: that of a timer, Bochs', and a real one's.
const TSC_HZ: [u64; 3] = [1_193_182, 50_000_000, 3_000_000_000];
/// A year of the fastest clock: time does not come near its end.
const LAST_TICK: u64 = 1 << 57;
/// First ports of devices, and behind each as many as matter.
const PORTS: [(u16, u16); 16] = [
    (0x20, 2),
    (0x40, 4),
    (0x60, 5),
    (0x70, 2),
    (0x92, 1),
    (0xa0, 2),
    (0xe0, 8),
    (0xf4, 1),
    (0x3f8, 8),
    (0x3f8, 8),
    (0x4d0, 2),
    (0x510, 2),
    (0x600, 12),
    (0xcf8, 4),
    (0x2000, 25),
    (0xfffe, 2),
];
const IO_APIC: u64 = 0xfec0_0000;
const LOCAL_APIC: u64 = 0xfee0_0000;
const APIC_BASE: u32 = 0x1b;
const TSC_DEADLINE: u32 = 0x6e0;
const X2APIC: u32 = 0x800;
/// Registers of the local APIC, by number.
const PPR: u8 = 0x0a;
const ISR: u8 = 0x10;
const IRR: u8 = 0x20;
/// IA32_APIC_BASE: enabled, and as x2APIC.
const ENABLED: u64 = 1 << 11;
const EXTENDED: u64 = 1 << 10;

#[derive(Arbitrary, Debug)]
struct Input {
    vcpus: u8,
    clock: u8,
    ram_bytes: u64,
    boot_seconds: u64,
    steps: Vec<Step>,
}

#[derive(Arbitrary, Debug)]
enum Step {
    PortRead(Port, Width),
    PortWrite(Port, Width, u32),
    MmioRead(Cpu, Address, Width),
    MmioWrite(Cpu, Address, Width, u32),
    MsrRead(Cpu, Msr),
    MsrWrite(Cpu, Msr, u64),
    SetTpr(Cpu, u8),
    Acknowledge(Cpu),
    TakeNmi(Cpu),
    TakeStartup(Cpu),
    Pass(u16),
    PassLong(u32),
    ToDeadline,
    Input(u8, u16),
    Output,
}

#[derive(Debug)]
struct Port(u16);

impl<'a> Arbitrary<'a> for Port {
    fn arbitrary(u: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        if u.ratio(1, 16)? {
            return Ok(Self(u.arbitrary()?));
        }
        let (first, count) = *u.choose(&PORTS)?;
        Ok(Self(first.saturating_add(u.int_in_range(0..=count)?)))
    }
}

/// Of an access; ports have no 8.
#[derive(Debug)]
struct Width(u8);

impl<'a> Arbitrary<'a> for Width {
    fn arbitrary(u: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        u.choose(&[1, 2, 4, 8]).copied().map(Self)
    }
}

#[derive(Debug)]
struct Cpu(u8);

impl<'a> Arbitrary<'a> for Cpu {
    fn arbitrary(u: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        u.int_in_range(0..=3).map(Self)
    }
}

/// Where an access to memory goes.
#[derive(Arbitrary, Debug)]
enum Address {
    /// The I/O APIC's index and data.
    Window(bool),
    IoApic(u16),
    /// A register of the local APIC where it is now.
    Register(u8),
    Local(u16),
    Anywhere(u64),
}

#[derive(Debug)]
struct Msr(u32);

impl<'a> Arbitrary<'a> for Msr {
    fn arbitrary(u: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        Ok(Self(match u.int_in_range(0..=7)? {
            0 | 1 => APIC_BASE,
            2 => TSC_DEADLINE,
            3 => u.arbitrary()?,
            _ => X2APIC + u32::from(u.arbitrary::<u8>()?),
        }))
    }
}

struct Bench {
    board: Board,
    vcpus: u32,
    now: u64,
}

fuzz_target!(|input: Input| {
    let vcpus = u32::from(input.vcpus % 4) + 1;
    let config = Config {
        vcpus,
        tsc_hz: TSC_HZ[usize::from(input.clock) % TSC_HZ.len()],
        ram_bytes: input.ram_bytes,
        ram_end: input.ram_bytes,
        boot_seconds: input.boot_seconds,
        shortest_period: 10_000,
        balloon: None,
    };
    let mut bench = Bench { board: Board::new(&config), vcpus, now: 0 };
    for step in input.steps.iter().take(STEPS) {
        bench.step(step);
        bench.check();
    }
});

impl Bench {
    fn cpu(&self, Cpu(number): &Cpu) -> VcpuId {
        VcpuId(u32::from(*number) % self.vcpus)
    }

    fn time(&self) -> Ticks {
        Ticks(self.now)
    }

    fn step(&mut self, step: &Step) {
        let now = self.time();
        match step {
            Step::PortRead(Port(port), Width(width)) => {
                let width = (*width).min(4);
                let value = self.board.port_read(*port, width, now);
                assert!(fits(value.into(), width), "{value:#x} from a port of {width} bytes");
            }
            Step::PortWrite(Port(port), Width(width), value) => {
                let _ = self.board.port_write(*port, (*width).min(4), *value, now);
            }
            Step::MmioRead(cpu, address, Width(width)) => {
                let (cpu, gpa) = (self.cpu(cpu), self.gpa(cpu, address));
                let value = self.board.mmio_read(cpu, gpa, *width, now);
                assert!(value.is_none_or(|value| fits(value, *width)), "{value:x?} of {width} bytes");
            }
            Step::MmioWrite(cpu, address, Width(width), value) => {
                let (cpu, gpa) = (self.cpu(cpu), self.gpa(cpu, address));
                let _ = self.board.mmio_write(cpu, gpa, *width, (*value).into(), now);
            }
            Step::MsrRead(cpu, Msr(msr)) => {
                let _ = self.board.msr_read(self.cpu(cpu), *msr, now);
            }
            Step::MsrWrite(cpu, Msr(msr), value) => {
                let _ = self.board.msr_write(self.cpu(cpu), *msr, *value, now);
            }
            Step::SetTpr(cpu, cr8) => {
                self.board.set_tpr(self.cpu(cpu), *cr8);
                assert_eq!(self.board.tpr(self.cpu(cpu)), cr8 & 0xf);
            }
            Step::Acknowledge(cpu) => self.acknowledge(self.cpu(cpu)),
            Step::TakeNmi(cpu) => {
                let _ = self.board.take_nmi(self.cpu(cpu));
                assert!(!self.board.take_nmi(self.cpu(cpu)), "an NMI was taken");
            }
            Step::TakeStartup(cpu) => {
                let _ = self.board.take_startup(self.cpu(cpu));
            }
            Step::Pass(ticks) => self.advance(self.now + u64::from(*ticks)),
            Step::PassLong(ticks) => self.advance(self.now + (u64::from(*ticks) << 12)),
            Step::ToDeadline => {
                let deadline = self.next_deadline();
                self.advance(deadline.map_or(self.now, |deadline| deadline.0));
            }
            Step::Input(byte, count) => self.input(*byte, usize::from(*count)),
            Step::Output => self.output(),
        }
    }

    fn gpa(&mut self, cpu: &Cpu, address: &Address) -> Gpa {
        let base = match self.board.msr_read(self.cpu(cpu), APIC_BASE, self.time()) {
            Ok(value) => value & 0x000f_ffff_ffff_f000,
            Err(_) => LOCAL_APIC,
        };
        Gpa::new(match *address {
            Address::Window(data) => IO_APIC + if data { 0x10 } else { 0 },
            Address::IoApic(offset) => IO_APIC + u64::from(offset & 0x10ff),
            Address::Register(number) => base + (u64::from(number) << 4) % 0x1000,
            Address::Local(offset) => base + u64::from(offset & 0xfff),
            Address::Anywhere(gpa) => gpa & ((1 << 52) - 1),
        })
    }

    fn next_deadline(&self) -> Option<Ticks> {
        (0..self.vcpus).filter_map(|cpu| self.board.next_deadline(VcpuId(cpu))).min()
    }

    /// Time passes: what was due is due no longer.
    fn advance(&mut self, to: u64) {
        self.now = to.clamp(self.now, LAST_TICK);
        self.board.advance(self.time());
        let next = self.next_deadline();
        assert!(next.is_none_or(|next| next > self.time()), "at {} due at {next:?} again", self.now);
    }

    /// What is pending is taken; the local APIC puts it in service if it was its own, and else notices nothing.
    fn acknowledge(&mut self, cpu: VcpuId) {
        let (expected, own) = (self.board.pending_interrupt(cpu), self.wanted(cpu));
        let before = (self.vectors(cpu, IRR), self.vectors(cpu, ISR));
        assert_eq!(self.board.acknowledge(cpu), expected);
        let (Some(mut requested), Some(mut served)) = before else { return };
        if let Some(vector) = own {
            let (word, bit) = (usize::from(vector / 32), 1 << (vector % 32));
            requested[word] &= !bit;
            served[word] |= bit;
        }
        let after = (self.vectors(cpu, IRR), self.vectors(cpu, ISR));
        assert_eq!(after, (Some(requested), Some(served)), "of {own:?}");
    }

    fn input(&mut self, byte: u8, count: usize) {
        let room = self.board.console_room();
        let bytes = vec![byte; count % 8192];
        let taken = self.board.console_input(&bytes);
        assert_eq!(taken, bytes.len().min(room), "the console had room for {room}");
    }

    fn output(&mut self) {
        let mut bytes = 0;
        self.board.console_output(&mut |part| bytes += part.len());
        assert!(bytes <= 64 * 1024, "{bytes} bytes from a bounded console");
        self.board.console_output(&mut |part| assert!(part.is_empty(), "bytes that were handed out"));
    }

    /// What holds at all times.
    fn check(&mut self) {
        for cpu in (0..self.vcpus).map(VcpuId) {
            let pending = self.board.pending_interrupt(cpu);
            let Some(wanted) = self.wanted(cpu) else { continue };
            assert_eq!(pending, Some(wanted), "{cpu:?} does not get what its registers ask for");
        }
    }

    /// What a local APIC's registers say that it asks for: the highest vector requested, if it is of a higher class
    /// than the processor's priority (SDM vol. 3A 11.8.3).
    fn wanted(&mut self, cpu: VcpuId) -> Option<u8> {
        let words = self.vectors(cpu, IRR)?;
        let highest =
            (0..=255u8).rev().find(|vector| words[usize::from(vector / 32)] >> (vector % 32) & 1 != 0)?;
        assert!(highest >= 16, "vector {highest} was accepted");
        let priority = self.register(cpu, PPR)? as u8;
        (highest >> 4 > priority >> 4).then_some(highest)
    }

    /// A set of vectors, by words of 32.
    fn vectors(&mut self, cpu: VcpuId, first: u8) -> Option<Vec<u32>> {
        (0..8).map(|word| self.register(cpu, first + word)).collect()
    }

    fn register(&mut self, cpu: VcpuId, number: u8) -> Option<u32> {
        let now = self.time();
        let base = self.board.msr_read(cpu, APIC_BASE, now).ok()?;
        if base & ENABLED == 0 {
            return None;
        }
        if base & EXTENDED != 0 {
            return self.board.msr_read(cpu, X2APIC + u32::from(number), now).ok().map(|value| value as u32);
        }
        let page = base & 0x000f_ffff_ffff_f000;
        // Where the guest has moved its page over the I/O APIC's, that one answers.
        if page == IO_APIC {
            return None;
        }
        self.board.mmio_read(cpu, Gpa::new(page + (u64::from(number) << 4)), 4, now).map(|value| value as u32)
    }
}

/// Whether a value has no bits beyond so many bytes.
fn fits(value: u64, width: u8) -> bool {
    width >= 8 || value >> (8 * width) == 0
}
