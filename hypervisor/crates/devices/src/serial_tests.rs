//! The UART as Linux's driver and a polling guest use it.

use super::{POLLS, Serial};
use alloc::vec::Vec;

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

#[test]
fn a_driver_start_up_loses_no_input() {
    let mut uart = Serial::new();
    assert_eq!(uart.input(b"early"), 5);
    for value in [1, 7, 0] {
        uart.write(2, value);
    }
    for offset in [5, 0, 2, 6] {
        uart.read(offset);
    }
    uart.write(2, 0xc1);
    uart.write(4, 8);
    uart.write(1, 5);
    assert!(uart.line());
    assert_eq!(uart.read(2) & 0xf, 0xc);
    uart.write(2, 0xc7);
    let read: Vec<u8> = core::iter::from_fn(|| (uart.read(5) & 1 != 0).then(|| uart.read(0))).collect();
    assert_eq!(read, b"early");
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
