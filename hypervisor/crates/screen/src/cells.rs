//! One character's place: drawing it, and blanking a row of them.

use crate::ScreenMemory;
use crate::geometry::{GLYPH_HEIGHT, GLYPH_WEIGHT, GLYPH_WIDTH, Geometry};
use noto_sans_mono_bitmap::get_raster;

/// VGA attribute: light grey on black.
const GREY_ON_BLACK: u8 = 0x07;
/// Most bytes of a pixel.
const PIXEL_BYTES: usize = 4;
/// A pixel of a glyph at least this bright is drawn, where pixels have no shades.
const HALF: u8 = 0x60;

impl Geometry {
    /// Draws a printable character.
    pub(crate) fn draw(&self, (row, column): (usize, usize), character: u8, memory: &mut impl ScreenMemory) {
        if self.is_text {
            return memory.write(row * self.pitch + column * 2, &[character, GREY_ON_BLACK]);
        }
        let Some(glyph) = get_raster(char::from(character), GLYPH_WEIGHT, GLYPH_HEIGHT) else { return };
        let first = row * GLYPH_HEIGHT.val() * self.pitch + column * GLYPH_WIDTH * self.cell_bytes;
        for (index, shades) in glyph.raster().iter().enumerate() {
            let mut line = [0; GLYPH_WIDTH * PIXEL_BYTES];
            for (pixel, &shade) in line.chunks_exact_mut(self.cell_bytes).zip(*shades) {
                // All ones is white, whatever the order of colours; two bytes hold no shades of eight bits.
                let lit = if shade >= HALF { 0xff } else { 0 };
                pixel.fill(if self.cell_bytes == 2 { lit } else { shade });
            }
            memory.write(first + index * self.pitch, &line[..GLYPH_WIDTH * self.cell_bytes]);
        }
    }

    /// Blanks a row.
    pub(crate) fn clear(&self, row: usize, memory: &mut impl ScreenMemory) {
        if self.is_text {
            let cells = (0..self.columns).map(|column| row * self.pitch + column * 2);
            return cells.for_each(|at| memory.write(at, &[b' ', GREY_ON_BLACK]));
        }
        let blank = [0; GLYPH_WIDTH * PIXEL_BYTES];
        let cell = GLYPH_WIDTH * self.cell_bytes;
        for line in row * GLYPH_HEIGHT.val()..(row + 1) * GLYPH_HEIGHT.val() {
            for column in 0..self.columns {
                memory.write(line * self.pitch + column * cell, &blank[..cell]);
            }
        }
    }
}
