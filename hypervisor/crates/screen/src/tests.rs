//! What a person would see.

use crate::{Geometry, ScreenMemory, Terminal};
use abi::handoff::{Screen, ScreenKind};
use alloc::string::String;
use alloc::vec::Vec;

struct Bytes(Vec<u8>);

impl ScreenMemory for Bytes {
    fn write(&mut self, offset: usize, bytes: &[u8]) {
        self.0[offset..offset + bytes.len()].copy_from_slice(bytes);
    }
}

fn text(width: u32, height: u32) -> Screen {
    Screen { width, height, pitch: width * 2, ..Screen::VGA_TEXT }
}

fn pixels(width: u32, height: u32, cell_bytes: u32) -> Screen {
    let (kind, pitch) = (ScreenKind::Pixels as u32, width * cell_bytes + 12);
    Screen { address: 0xe000_0000, kind, pitch, width, height, cell_bytes, reserved: 0 }
}

/// The screen's memory after `bytes` were put on it.
fn shown(screen: &Screen, bytes: &[u8]) -> Bytes {
    let geometry = Geometry::new(screen).expect("sound").expect("a screen");
    let mut memory = Bytes(alloc::vec![0xaa; geometry.bytes() as usize]);
    let mut terminal = Terminal::new(geometry, &mut memory);
    bytes.iter().for_each(|&byte| terminal.put(byte, &mut memory));
    memory
}

fn rows(screen: &Screen, bytes: &[u8]) -> Vec<String> {
    let memory = shown(screen, bytes).0;
    let row = |row: &[u8]| row.chunks(2).map(|cell| char::from(cell[0])).collect::<String>();
    memory.chunks(screen.pitch as usize).map(row).collect()
}

#[test]
fn lines_follow_lines() {
    assert_eq!(rows(&text(6, 3), b"one\r\ntwo"), ["one   ", "two   ", "      "]);
    assert_eq!(rows(&text(4, 4), b"abcdef\tg"), ["abcd", "ef  ", "g   ", "    "]);
    assert_eq!(rows(&text(4, 2), b"ab\x08c\r\xc3\xa4"), ["?c  ", "    "]);
}

#[test]
fn after_the_last_row_comes_the_first() {
    assert_eq!(rows(&text(3, 3), b"1\r\n2\r\n3\r\n4"), ["4  ", "   ", "3  "]);
    assert_eq!(rows(&text(3, 1), b"1\r\n2"), ["2  "]);
}

#[test]
fn escape_sequences_show_nothing() {
    assert_eq!(rows(&text(6, 1), b"a\x1b[1;31mb\x1b[0mc\x1bMd\x1b[\x1b[Ke"), ["abcde "]);
}

#[test]
fn pixels_of_each_size_make_letters() {
    for cell_bytes in 2..=4 {
        let screen = pixels(70, 50, cell_bytes);
        let memory = shown(&screen, b"\r\n|");
        let lit = |row: usize| {
            let start = row * 16 * screen.pitch as usize;
            memory.0[start..start + 16 * screen.pitch as usize]
                .iter()
                .filter(|&&byte| byte > 0x60 && byte != 0xaa)
                .count()
        };
        assert_eq!((lit(0), lit(2)), (0, 0));
        assert!(lit(1) >= 10 * cell_bytes as usize, "a bar is ten pixels at least");
        // Nothing was written past a line's pixels.
        assert_eq!(memory.0[70 * cell_bytes as usize], 0xaa);
    }
}

#[test]
fn screens_that_cannot_be_are_refused() {
    assert_eq!(Geometry::new(&Screen::NONE), Ok(None));
    for screen in [
        Screen { kind: 9, ..Screen::VGA_TEXT },
        Screen { pitch: 159, ..Screen::VGA_TEXT },
        Screen { cell_bytes: 1, ..Screen::VGA_TEXT },
        Screen { height: 0, ..Screen::VGA_TEXT },
        Screen { address: u64::MAX - 100, ..Screen::VGA_TEXT },
        pixels(6, 100, 4),
        pixels(100, 15, 4),
        pixels(1 << 20, 1 << 10, 4),
        Screen { cell_bytes: 5, ..pixels(100, 100, 4) },
    ] {
        let error = Geometry::new(&screen).expect_err("refused");
        assert_eq!(error.0, screen);
    }
}
