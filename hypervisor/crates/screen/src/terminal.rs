//! Bytes become cells.

use crate::ScreenMemory;
use crate::geometry::Geometry;

/// Where in an escape sequence the last byte was (ECMA-48, 5.4).
///
/// ```text
///   Text ──ESC──► Escape ──[──► Sequence ──0x40-0x7e──► Text
///                    └──any other──► Text
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Text,
    Escape,
    Sequence,
}

/// A console: a screen and a place on it.
#[derive(Clone, Debug)]
pub struct Terminal {
    geometry: Geometry,
    row: usize,
    column: usize,
    state: State,
}

impl Terminal {
    /// A console that starts at the top of a blank screen.
    #[must_use]
    pub fn new(geometry: Geometry, memory: &mut impl ScreenMemory) -> Self {
        (0..geometry.rows).for_each(|row| geometry.clear(row, memory));
        Self { geometry, row: 0, column: 0, state: State::Text }
    }

    /// Takes a byte.
    pub fn put(&mut self, byte: u8, memory: &mut impl ScreenMemory) {
        self.state = match (self.state, byte) {
            (_, 0x1b) => State::Escape,
            (State::Escape, b'[') => State::Sequence,
            (State::Sequence, ..0x40 | 0x7f..) => State::Sequence,
            (State::Escape | State::Sequence, _) => State::Text,
            (State::Text, _) => {
                self.show(byte, memory);
                State::Text
            }
        };
    }

    fn show(&mut self, byte: u8, memory: &mut impl ScreenMemory) {
        match byte {
            b'\r' => self.column = 0,
            b'\n' => self.next_row(memory),
            0x08 => self.column = self.column.saturating_sub(1),
            b'\t' => self.column = (self.column / 8 + 1) * 8,
            b' '..=b'~' => self.print(byte, memory),
            // The first byte of a character that the font lacks; those that follow it show nothing.
            0xc0.. => self.print(b'?', memory),
            _ => {}
        }
    }

    fn print(&mut self, character: u8, memory: &mut impl ScreenMemory) {
        if self.column >= self.geometry.columns {
            self.column = 0;
            self.next_row(memory);
        }
        self.geometry.draw((self.row, self.column), character, memory);
        self.column += 1;
    }

    fn next_row(&mut self, memory: &mut impl ScreenMemory) {
        let after = |row: usize| (row + 1) % self.geometry.rows;
        self.row = after(self.row);
        self.geometry.clear(self.row, memory);
        if self.geometry.rows > 2 {
            self.geometry.clear(after(self.row), memory);
        }
    }
}
