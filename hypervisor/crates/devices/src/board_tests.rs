//! The board as a whole: who answers where, what reaches the host, and that nothing a guest does panics.

use super::{Board, Config, Effect, VcpuId};
use crate::Ticks;
use addr::Gpa;
use alloc::vec::Vec;

const T0: Ticks = Ticks(0);

fn board(vcpus: u32) -> Board {
    let ram = 256 << 20;
    Board::new(&Config { vcpus, tsc_hz: 1_000_000, ram_bytes: ram, ram_end: ram, boot_seconds: 0 })
}

#[test]
fn ports_without_a_device_read_all_ones() {
    let mut board = board(1);
    assert_eq!(board.port_read(0x60, 1, T0), 0xff);
    assert_eq!(board.port_read(0x64, 1, T0), 0xff);
    assert_eq!(board.port_read(0x1234, 2, T0), 0xffff);
    assert_eq!(board.port_read(0xcf8, 4, T0) | 0xff00, u32::MAX);
    assert_eq!(board.port_read(0xffff, 4, T0), u32::MAX);
    assert_eq!(board.port_write(0xffff, 4, 0, T0), Effect::None);
    assert_eq!(board.port_write(0xcf8, 4, 0x8000_0600, T0), Effect::None);
}

#[test]
fn effects_reach_the_host() {
    let cases = [
        (0xf4, 1, 0x1_07, Effect::Exit(7)),
        (0xf4, 4, 0x12345, Effect::Exit(0x12345)),
        (0xe4, 4, 0x9_1234, Effect::ProtectPage(Gpa::new(0x9_1234))),
        (0x604, 2, 0x3401, Effect::PowerOff),
        (0xcf9, 1, 6, Effect::Reset),
        (0x64, 1, 0xfe, Effect::Reset),
        (0x92, 1, 1, Effect::Reset),
        (0x80, 1, 1, Effect::None),
    ];
    for (port, width, value, effect) in cases {
        assert_eq!(board(1).port_write(port, width, value, T0), effect, "{port:#x}");
    }
}

#[test]
fn scratch_and_fw_cfg() {
    let mut board = board(3);
    assert_eq!(board.port_write(0xe0, 4, 0x1234_5678, T0), Effect::None);
    assert_eq!(board.port_write(0xe1, 1, 0xff, T0), Effect::None);
    assert_eq!(board.port_read(0xe0, 4, T0), 0x1234_ff78);
    assert_eq!(board.port_read(0xe2, 2, T0), 0x1234);
    assert_eq!(board.port_write(0x510, 2, 5, T0), Effect::None);
    assert_eq!(board.port_read(0x511, 1, T0), 3);
}

#[test]
fn lines_and_the_timer_interrupt() {
    let mut board = board(1);
    let cpu = VcpuId(0);
    assert_eq!(board.port_write(0x21, 1, 0xde, T0), Effect::None);
    assert_eq!(board.port_write(0x2005, 1, 1, T0), Effect::None);
    assert_eq!(board.acknowledge(cpu), Some(13));
    assert_eq!(board.port_write(0x2005, 1, 0, T0), Effect::None);
    assert_eq!(board.port_write(0x20, 1, 0x20, T0), Effect::None);
    for (port, value) in [(0x43, 0x34), (0x40, 0), (0x40, 0)] {
        assert_eq!(board.port_write(port, 1, value, T0), Effect::None);
    }
    let due = board.next_deadline().unwrap();
    for round in 1..4 {
        board.advance(Ticks(due.0 * round));
        assert_eq!(board.acknowledge(cpu), Some(8));
        assert_eq!(board.port_write(0x20, 1, 0x20, T0), Effect::None);
        assert_eq!(board.pending_interrupt(cpu), None);
    }
}

#[test]
fn console_bytes_go_both_ways() {
    let mut board = board(1);
    assert_eq!(board.port_write(0x3f8, 1, 0x41, T0), Effect::None);
    let mut out = Vec::new();
    board.console_output(&mut |bytes| out.extend_from_slice(bytes));
    assert_eq!(out, b"A");
    for (port, value) in [(0x21, 0xef), (0x3fc, 8), (0x3f9, 1)] {
        assert_eq!(board.port_write(port, 1, value, T0), Effect::None);
    }
    assert_eq!(board.console_input(b"z"), 1);
    assert_eq!(board.acknowledge(VcpuId(0)), Some(12));
    assert_eq!(board.port_read(0x3f8, 1, T0), 0x7a);
}

/// xorshift64*: enough chance for a test, and the same every time.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[(self.next() >> 33) as usize % all.len()]
    }
}

fn port(chance: &mut Chance) -> u16 {
    const BASES: [u16; 16] = [
        0x20, 0xa0, 0x40, 0x60, 0x70, 0x3f8, 0x3f8, 0x4d0, 0x510, 0x600, 0x608, 0xcf8, 0xe0, 0x2000, 0xf0,
        0xfffc,
    ];
    if chance.next() >> 60 == 0 {
        return chance.next() as u16;
    }
    chance.of(&BASES).saturating_add((chance.next() >> 61) as u16)
}

fn value(chance: &mut Chance) -> u64 {
    let bits = chance.next();
    bits >> (chance.next() >> 58)
}

fn step(board: &mut Board, chance: &mut Chance, now: Ticks) {
    let vcpu = VcpuId(chance.of(&[0, 1, 2, u32::MAX]));
    let width = chance.of(&[1, 2, 4, 8, 0]);
    let page = chance.of(&[0xfee0_0000, 0xfec0_0000, 0xfee0_0000, 0x1000]);
    let offset = chance.of(&[0xfff, 0x3f0, 0x10]) & chance.next();
    let gpa = Gpa::new(page + offset);
    let x2apic = 0x800 | (chance.next() as u32 & 0xff);
    let msr = chance.of(&[0x1b, 0x6e0, x2apic, 0x83f]);
    match chance.next() >> 61 {
        0 | 1 => {
            let _ = board.port_write(port(chance), width, value(chance) as u32, now);
        }
        2 => {
            let _ = board.port_read(port(chance), width, now);
        }
        3 => {
            let _ = board.mmio_write(vcpu, gpa, width, value(chance), now);
        }
        4 => {
            let _ = board.mmio_read(vcpu, gpa, width, now);
        }
        5 => {
            let _ = board.msr_write(vcpu, msr, value(chance), now);
        }
        6 => {
            let _ = board.msr_read(vcpu, msr, now);
        }
        _ => {
            let _ = board.console_input(&[0; 17]);
            board.set_tpr(vcpu, chance.next() as u8);
            let _ = board.take_nmi(vcpu);
        }
    }
    board.advance(now);
    assert!(board.next_deadline().is_none_or(|due| due > now || now.0 > u64::MAX / 2));
    let pending = board.pending_interrupt(vcpu);
    assert_eq!(board.acknowledge(vcpu), pending);
}

#[test]
fn no_access_panics() {
    for seed in 1..=40 {
        let (mut board, mut chance) = (board(3), Chance(seed));
        let mut now = if seed % 4 == 0 { u64::MAX - 1_000_000 } else { 0 };
        for _ in 0..20_000 {
            let pause = value(&mut chance) >> 44;
            now = u64::saturating_add(now, pause);
            step(&mut board, &mut chance, Ticks(now));
        }
        let mut bytes = 0;
        board.console_output(&mut |part| bytes += part.len());
        assert!(bytes <= 1 << 16);
    }
}
