//! The cases as a program that runs anywhere: each loads its registers, does its instruction, and writes what has become
//! of registers, flags and memory to port 0xe9.
//!
//! ```text
//!   0x2f300 start ─► 0x30000 case, case, … ─► 0x40000 case, … ─► port 0xf4
//!                        │        ▲
//!              exception ▼        │ jmp far [resume]
//!                     0x2b000 handlers
//! ```
//!
//! In code of 32 bits the same offsets are in segments with the same bases.

use super::cases::{Case, WINDOW};
use crate::tests::computer::{CONSOLE, EXIT};
use std::vec;
use std::vec::Vec;

/// Where the image lies.
pub(super) const BASE: usize = 0x2_0000;
/// Where its code begins.
pub(super) const START: u16 = 0xf300;
/// Bytes that a case writes: segment registers, general ones, flags; the window.
pub(super) const REPORT: usize = FRAME + WINDOW_BYTES;

const FRAME: usize = 44;
const WINDOW_BYTES: usize = 64;
const SEGMENT: usize = 0x1_0000;
/// Offsets in the data segment.
const STACK: u32 = 0x8000;
const HANDLERS: usize = 0xb000;
const HANDLER_BYTES: usize = 32;
const RETURN: usize = 0xdf00;
const TEMPLATE: u32 = 0xe000;
const GDT: usize = 0xe100;
const POINTERS: usize = 0xe1e0;
const IDT: usize = 0xe200;
const RESUME: u32 = 0xf000;
const START_32: usize = 0xf380;
/// Of code of 32 bits.
const DATA_SELECTOR: u16 = 0x10;
const FIRST_CODE_SELECTOR: u16 = 0x18;
const EXCEPTIONS: usize = 32;
const SOFTWARE_VECTOR: usize = 0x40;

struct Code {
    bytes: Vec<u8>,
    big: bool,
}

impl Code {
    fn put(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
    }

    /// A constant of the code's size.
    fn native(&mut self, value: u32) {
        let bytes = value.to_le_bytes();
        self.put(&bytes[..if self.big { 4 } else { 2 }]);
    }

    fn wide(&mut self) {
        if !self.big {
            self.put(&[0x66]);
        }
    }

    fn narrow(&mut self) {
        if self.big {
            self.put(&[0x66]);
        }
    }

    /// MOV of the code's size.
    fn set(&mut self, register: u8, value: u32) {
        self.put(&[0xb8 | register]);
        self.native(value);
    }

    /// MOV of 32 bits.
    fn set_wide(&mut self, register: u8, value: u32) {
        self.wide();
        self.put(&[0xb8 | register]);
        self.put(&value.to_le_bytes());
    }

    fn jump_far(&mut self, selector: u16, offset: u32) {
        self.put(&[0xea]);
        self.native(offset);
        self.put(&selector.to_le_bytes());
    }

    /// DS, ES, FS and GS.
    fn load_data(&mut self, selector: u16) {
        self.set(0, selector.into());
        self.put(&[0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xe0, 0x8e, 0xe8]);
    }

    fn copy(&mut self, from: u32, to: u32, bytes: u32) {
        self.set(6, from);
        self.set(7, to);
        self.set(1, bytes);
        self.put(&[0xf3, 0xa4]);
    }

    fn report(&mut self, bytes: usize) {
        self.set(1, bytes as u32);
        self.set(2, CONSOLE.into());
        self.put(&[0xf3, 0x6e]);
    }

    fn finish(&mut self) {
        self.set(2, EXIT.into());
        self.put(&[0xee, 0xf4]);
    }
}

fn data_selector(big: bool) -> u16 {
    if big { DATA_SELECTOR } else { (BASE >> 4) as u16 }
}

fn code_selector(big: bool, segment: usize) -> u16 {
    let number = segment as u16;
    if big { FIRST_CODE_SELECTOR + number * 8 } else { (BASE >> 4) as u16 + (number + 1) * 0x1000 }
}

/// A case at `offset` of its segment.
fn encode(case: &Case, big: bool, offset: usize, selector: u16) -> Vec<u8> {
    let mut code = Code { bytes: Vec::new(), big };
    code.copy(TEMPLATE, WINDOW, WINDOW_BYTES as u32);
    let resume = code.bytes.len() + 2;
    code.put(if big { &[0xc7, 0x05] } else { &[0xc7, 0x06] });
    code.native(RESUME);
    let resume = resume + if big { 4 } else { 2 };
    code.native(0);
    code.narrow();
    code.put(if big { &[0xc7, 0x05] } else { &[0xc7, 0x06] });
    code.native(RESUME + if big { 4 } else { 2 });
    code.put(&selector.to_le_bytes());
    code.set_wide(4, STACK);
    for register in [0, 1, 2, 3, 5, 6, 7] {
        code.set_wide(register, case.registers[usize::from(register)]);
    }
    code.wide();
    code.put(&[0x68]);
    code.put(&case.flags.to_le_bytes());
    code.wide();
    code.put(&[0x9d]);
    code.put(&case.code);
    let here = (offset + code.bytes.len()) as u32;
    let width = if big { 4 } else { 2 };
    code.bytes[resume..resume + width].copy_from_slice(&here.to_le_bytes()[..width]);
    dump(&mut code, case.defined);
    code.bytes
}

/// PUSHFD, PUSHAD, the segment registers; undefined flags are cleared.
fn dump(code: &mut Code, defined: u32) {
    code.wide();
    code.put(&[0x9c]);
    code.wide();
    code.put(&[0x60]);
    for push in [&[0x1e][..], &[0x06], &[0x0f, 0xa0], &[0x0f, 0xa8]] {
        code.narrow();
        code.put(push);
    }
    if !code.big {
        code.put(&[0x67]);
    }
    code.wide();
    code.put(&[0x81, 0x64, 0x24, 40]);
    code.put(&defined.to_le_bytes());
    code.load_data(data_selector(code.big));
    code.put(&[0xfc, 0x89, 0xe6]);
    code.report(FRAME);
    code.set(6, WINDOW);
    code.report(WINDOW_BYTES);
}

/// The image, from [`BASE`] on.
pub(super) fn image(cases: &[Case], big: bool) -> Vec<u8> {
    let mut image = vec![0; SEGMENT];
    data_segment(&mut image, big);
    let mut segment = Code { bytes: Vec::new(), big };
    let mut number = 0;
    for case in cases {
        let bytes = encode(case, big, segment.bytes.len(), code_selector(big, number));
        if segment.bytes.len() + bytes.len() + 16 > SEGMENT {
            number += 1;
            segment.jump_far(code_selector(big, number), 0);
            segment.bytes.resize(SEGMENT, 0);
            image.append(&mut segment.bytes);
            segment.put(&encode(case, big, 0, code_selector(big, number)));
        } else {
            segment.put(&bytes);
        }
    }
    segment.finish();
    image.append(&mut segment.bytes);
    assert!(BASE + image.len() < 0xa_0000, "below the screen");
    image
}

fn data_segment(image: &mut [u8], big: bool) {
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    let template: Vec<u8> = (0..WINDOW_BYTES as u8).map(|byte| byte.wrapping_mul(0x6d) ^ 0xa5).collect();
    put(TEMPLATE as usize, &template);
    for vector in 0..EXCEPTIONS {
        put(HANDLERS + vector * HANDLER_BYTES, &handler(vector as u32, big));
        put(IDT + vector * entry_bytes(big), &entry(HANDLERS + vector * HANDLER_BYTES, big));
    }
    put(RETURN, &[0xcf]);
    put(IDT + SOFTWARE_VECTOR * entry_bytes(big), &entry(RETURN, big));
    put(GDT + 8, &descriptor(BASE, 0x9b));
    put(GDT + usize::from(DATA_SELECTOR), &descriptor(BASE, 0x93));
    for segment in 0..7 {
        let at = GDT + usize::from(code_selector(true, segment));
        put(at, &descriptor(BASE + (segment + 1) * SEGMENT, 0x9b));
    }
    put(POINTERS, &table_pointer(GDT));
    put(POINTERS + 8, &table_pointer(IDT));
    put(usize::from(START), &start(big));
    put(START_32, &start_32());
}

fn handler(vector: u32, big: bool) -> Vec<u8> {
    let mut code = Code { bytes: Vec::new(), big };
    code.set_wide(4, STACK);
    code.set_wide(0, 0xdead_0000 | vector);
    code.put(if big { &[0x2e, 0xff, 0x2d] } else { &[0x2e, 0xff, 0x2e] });
    code.native(RESUME);
    code.bytes
}

fn entry_bytes(big: bool) -> usize {
    if big { 8 } else { 4 }
}

fn entry(offset: usize, big: bool) -> Vec<u8> {
    let offset = (offset as u16).to_le_bytes();
    if big {
        vec![offset[0], offset[1], 8, 0, 0, 0x8e, 0, 0]
    } else {
        let segment = data_selector(false).to_le_bytes();
        vec![offset[0], offset[1], segment[0], segment[1]]
    }
}

/// 64 KiB, of 32 bits.
fn descriptor(base: usize, rights: u8) -> [u8; 8] {
    let base = (base as u32).to_le_bytes();
    [0xff, 0xff, base[0], base[1], base[2], rights, 0x40, base[3]]
}

fn table_pointer(offset: usize) -> [u8; 6] {
    let base = ((BASE + offset) as u32).to_le_bytes();
    [0xff, 0x07, base[0], base[1], base[2], base[3]]
}

fn start(big: bool) -> Vec<u8> {
    let mut code = Code { bytes: vec![0xfa, 0xfc], big: false };
    code.load_data(data_selector(false));
    code.put(&[0x8e, 0xd0]);
    code.set_wide(4, STACK);
    for (at, operation) in [(POINTERS, 0x16), (POINTERS + 8, 0x1e)] {
        code.put(&[0x66, 0x0f, 0x01, operation]);
        code.native(at as u32);
    }
    if big {
        // MOV EAX, CR0; OR AL, 1; MOV CR0, EAX.
        code.put(&[0x0f, 0x20, 0xc0, 0x0c, 1, 0x0f, 0x22, 0xc0, 0x66]);
        code.big = true;
        code.jump_far(8, START_32 as u32);
    } else {
        code.jump_far(code_selector(false, 0), 0);
    }
    code.bytes
}

fn start_32() -> Vec<u8> {
    let mut code = Code { bytes: Vec::new(), big: true };
    code.load_data(DATA_SELECTOR);
    code.put(&[0x8e, 0xd0]);
    code.set_wide(4, STACK);
    code.jump_far(FIRST_CODE_SELECTOR, 0);
    code.bytes
}
