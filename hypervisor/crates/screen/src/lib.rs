//! A console on a screen of characters (VGA text) or pixels: bytes in, writes to the screen's memory out.
//!
//! ```text
//!   byte ─► escape sequences dropped ─► cell (row, column) ─► glyph ─► writes of whole scan lines of a cell
//! ```
//!
//! Reading a screen's memory is slow and nothing here does it: there is no scrolling. After the last row comes the first,
//! and the row after the newest is always blank.
#![no_std]
#![forbid(unsafe_code)]

mod cells;
mod geometry;
mod terminal;

pub use geometry::{Geometry, ScreenError};
pub use terminal::Terminal;

/// A screen's memory.
pub trait ScreenMemory {
    /// Writes `bytes` from byte `offset` on; both lie within [`Geometry::bytes`].
    fn write(&mut self, offset: usize, bytes: &[u8]);
}

#[cfg(test)]
extern crate alloc;
#[cfg(test)]
mod tests;
