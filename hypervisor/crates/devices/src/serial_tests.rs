//! The UART as Linux's driver and a polling guest use it.

use super::{POLLS, Serial};
use alloc::vec::Vec;
use proptest::prelude::{Strategy, any, prop_assert_eq, prop_oneof, proptest};

fn output(uart: &mut Serial) -> Vec<u8> {
    let mut all = Vec::new();
    uart.output(&mut |bytes| all.extend_from_slice(bytes));
    all
}

#[test]
fn writes_come_out_and_thre_interrupts() {
    let mut uart = Serial::new();
    uart.write(4, 8);
    uart.write(0, b'A');
    assert_eq!(output(&mut uart), b"A");
    assert!(!uart.line());
    uart.write(1, 2);
    assert!(uart.line());
    assert_eq!(uart.read(2) & 0xf, 2);
    assert!(!uart.line(), "reading IIR acknowledges");
    uart.write(1, 0);
    uart.write(1, 2);
    assert_eq!(uart.read(2) & 0xf, 2, "enabling raises it again");
}

/// What Linux's 8250 driver does from its probe to an open terminal (drivers/tty/serial/8250): each step a
/// register and the value written, or a read.
const LINUX_STARTS: &[(u16, Option<u8>)] = &[
    // Probe: does IER keep its bits, loop-back, FIFO type.
    (1, Some(0)),
    (1, Some(0xf)),
    (1, None),
    (1, Some(0)),
    (4, Some(0x1a)),
    (6, None),
    (4, Some(0)),
    (3, Some(0xbf)),
    (2, Some(0)),
    (3, Some(0)),
    (2, Some(1)),
    (2, None),
    (4, Some(0)),
    (2, Some(1)),
    (2, Some(7)),
    (2, Some(0)),
    (0, None),
    (1, Some(0)),
    // Open: clear all, with reads of what may be pending.
    (2, Some(1)),
    (2, Some(7)),
    (2, Some(0)),
    (5, None),
    (0, None),
    (2, None),
    (6, None),
    (3, Some(3)),
    // Two tests of the transmitter's interrupt.
    (1, Some(2)),
    (2, None),
    (1, Some(0)),
    (1, Some(2)),
    (2, None),
    (1, Some(0)),
    (4, Some(8)),
    (1, Some(2)),
    (5, None),
    (2, None),
    (1, Some(0)),
    // Again, then listen.
    (5, None),
    (0, None),
    (2, None),
    (6, None),
    (1, Some(5)),
    // Line settings.
    (4, Some(0xb)),
    (3, Some(0x83)),
    (0, Some(1)),
    (1, Some(0)),
    (3, Some(3)),
    (2, Some(1)),
    (2, Some(0x81)),
];

fn read_all(uart: &mut Serial) -> Vec<u8> {
    core::iter::from_fn(|| (uart.read(5) & 1 != 0).then(|| uart.read(0))).collect()
}

#[test]
fn linux_loses_no_early_input() {
    let input = b"typed before the guest had started\n";
    // Input comes at once, or at any step of the driver.
    for early in 0..=LINUX_STARTS.len() {
        let mut uart = Serial::new();
        for (step, access) in LINUX_STARTS.iter().enumerate() {
            if step == early {
                assert_eq!(uart.input(input), input.len());
            }
            match *access {
                (offset, Some(value)) => uart.write(offset, value),
                (offset, None) => {
                    uart.read(offset);
                }
            }
        }
        if early == LINUX_STARTS.len() {
            assert_eq!(uart.input(input), input.len());
        }
        assert!(uart.line(), "input at step {early}");
        assert_eq!(read_all(&mut uart), input, "input at step {early}");
        assert!(!uart.line());
    }
}

#[test]
fn a_console_write_between_does_not_disturb() {
    let mut uart = Serial::new();
    uart.write(2, 1);
    uart.write(4, 0xb);
    uart.write(1, 5);
    uart.input(b"abc");
    // The console takes IER away for a message of its own.
    uart.write(1, 0);
    for byte in *b"message" {
        assert_eq!(uart.read(5) & 0x20, 0x20);
        uart.write(0, byte);
    }
    uart.write(1, 5);
    assert_eq!(output(&mut uart), b"message");
    assert_eq!(read_all(&mut uart), b"abc");
}

#[test]
fn a_lowered_rts_pauses_the_input() {
    let mut uart = Serial::new();
    uart.write(4, 0xb);
    uart.write(1, 1);
    uart.write(4, 9);
    uart.input(b"later");
    assert_eq!(uart.read(5) & 1, 0);
    uart.write(4, 0xb);
    assert_eq!(read_all(&mut uart), b"later");
}

#[test]
fn a_full_fifo_interrupts_at_its_trigger_and_then_by_time_out() {
    let mut uart = Serial::new();
    uart.write(2, 0x81);
    uart.write(1, 1);
    uart.input(&[7; 20]);
    assert_eq!(uart.rx.len(), 16);
    for _ in 0..12 {
        assert_eq!(uart.read(2), 0xc4);
        uart.read(0);
    }
    assert_eq!((uart.rx.len(), uart.read(2)), (8, 0xc4));
    uart.read(0);
    assert_eq!(uart.read(2), 0xcc, "seven bytes, below the trigger of eight");
}

/// One thing that happens to a UART.
#[derive(Clone, Copy, Debug)]
enum Event {
    Read(u16),
    Write(u16, u8),
    Input(u8),
    /// Reads of LSR.
    Poll(u8),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (0u16..8).prop_map(Event::Read),
        (0u16..8, any::<u8>()).prop_map(|(offset, value)| Event::Write(offset, value)),
        (1u8..40).prop_map(Event::Input),
        any::<u8>().prop_map(Event::Poll),
    ]
}

proptest! {
    /// Whatever a guest does to the registers: what it reads is the input, in order, each byte once.
    #[test]
    fn no_byte_is_lost_or_comes_twice(events in proptest::collection::vec(event(), 0..300)) {
        let mut uart = Serial::new();
        let (mut sent, mut seen) = (0u32, 0u32);
        for event in events {
            match event {
                Event::Read(0) if uart.lcr & super::LCR_DLAB == 0 && !uart.looped() => {
                    if let Some(byte) = uart.rx.front().copied() {
                        prop_assert_eq!(byte, seen as u8);
                        seen += 1;
                    }
                    uart.read(0);
                }
                Event::Read(offset) => {
                    uart.read(offset);
                }
                Event::Write(offset, value) => uart.write(offset, value),
                Event::Input(count) => {
                    let bytes: Vec<u8> = (0..u32::from(count)).map(|byte| (sent + byte) as u8).collect();
                    sent += uart.input(&bytes) as u32;
                }
                Event::Poll(count) => (0..count).for_each(|_| {
                    uart.read(5);
                }),
            }
        }
        for (offset, value) in [(4, 2), (3, 3), (2, 1), (1, 1)] {
            uart.write(offset, value);
        }
        for byte in read_all(&mut uart) {
            prop_assert_eq!(byte, seen as u8);
            seen += 1;
        }
        prop_assert_eq!(seen, sent);
    }
}

#[test]
fn a_polling_guest_gets_input() {
    let mut uart = Serial::new();
    uart.input(b"xy");
    for _ in 1..POLLS {
        assert_eq!(uart.read(5) & 1, 0);
    }
    assert_eq!(uart.read(5) & 1, 1);
    assert_eq!(uart.read(0), b'x');
    uart.write(0, b'x');
    assert_eq!(uart.read(5) & 1, 1);
    assert_eq!(uart.read(0), b'y');
}

#[test]
fn queues_are_bounded() {
    let mut uart = Serial::new();
    assert_eq!(uart.input(&[0; 5000]), 4096);
    assert_eq!(uart.input(&[0; 1]), 0);
    for _ in 0..70_000 {
        uart.write(0, 1);
    }
    assert_eq!(uart.read(5) & 0x60, 0, "THRE says wait");
    uart.write(4, 8);
    uart.write(1, 2);
    uart.read(2);
    assert!(!uart.line());
    assert_eq!(output(&mut uart).len(), 65536);
    assert!(uart.line(), "a driver that waits goes on");
    assert_eq!(uart.read(5) & 0x60, 0x60);
}

#[test]
fn loop_back_never_becomes_input() {
    let mut uart = Serial::new();
    uart.input(b"k");
    uart.write(1, 1);
    for _ in 0..1000 {
        for (offset, value) in [(2, 1), (4, 0x10), (0, b'x'), (0, b'x'), (4, 0), (2, 3)] {
            uart.write(offset, value);
        }
    }
    assert_eq!((uart.read(0), uart.read(5) & 1), (b'k', 0));
}

#[test]
fn is_found_as_a_16550a() {
    let mut uart = Serial::new();
    uart.write(1, 0xff);
    assert_eq!(uart.read(1), 0xf);
    uart.write(1, 0);
    uart.write(4, 0x1a);
    assert_eq!(uart.read(6) & 0xf0, 0x90);
    uart.write(0, 0x5a);
    assert_eq!(uart.read(0), 0x5a, "loop-back");
    uart.write(4, 0);
    uart.write(2, 1);
    assert_eq!(uart.read(2) >> 6, 3);
    uart.write(3, 0x83);
    uart.write(0, 12);
    assert_eq!(uart.read(0), 12);
    uart.write(3, 3);
    uart.write(7, 0xa5);
    assert_eq!(uart.read(7), 0xa5);
}
