//! What the hand-off says of the screen, checked before a byte is written by it.

use abi::handoff::{Screen, ScreenKind};
use core::fmt;
use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster_width};

/// Height of a character in pixels.
pub(crate) const GLYPH_HEIGHT: RasterHeight = RasterHeight::Size16;
/// Weight of its strokes.
pub(crate) const GLYPH_WEIGHT: FontWeight = FontWeight::Regular;
/// Width of a character in pixels.
pub(crate) const GLYPH_WIDTH: usize = get_raster_width(GLYPH_WEIGHT, GLYPH_HEIGHT);
/// Most bytes of a screen: 8 K by 4 K pixels. Its tables must fit into those that Herald starts with.
const MOST_BYTES: u64 = 1 << 27;

/// A screen that cannot be written to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ScreenError(pub Screen);

impl fmt::Display for ScreenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Screen { address, kind, pitch, width, height, cell_bytes, .. } = self.0;
        write!(
            f,
            "no use for the screen of kind {kind} at {address:#x}: {width} by {height} cells of {cell_bytes} bytes, \
             {pitch} bytes a line"
        )
    }
}

/// A screen of at least one character.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    pub(crate) is_text: bool,
    pub(crate) pitch: usize,
    pub(crate) cell_bytes: usize,
    /// Columns of characters.
    pub(crate) columns: usize,
    /// Rows of characters.
    pub(crate) rows: usize,
    bytes: u64,
}

impl Geometry {
    /// Checks what the loader says; `None` where there is no screen.
    ///
    /// # Errors
    /// [`ScreenError`].
    pub fn new(screen: &Screen) -> Result<Option<Self>, ScreenError> {
        let refused = Err(ScreenError(*screen));
        let (is_text, sizes) = match screen.kind {
            kind if kind == ScreenKind::None as u32 => return Ok(None),
            kind if kind == ScreenKind::Text as u32 => (true, 2..=2),
            kind if kind == ScreenKind::Pixels as u32 => (false, 2..=4),
            _ => return refused,
        };
        let (glyph_width, glyph_height) = if is_text { (1, 1) } else { (GLYPH_WIDTH, GLYPH_HEIGHT.val()) };
        let line = u64::from(screen.width) * u64::from(screen.cell_bytes);
        let bytes = u64::from(screen.pitch) * u64::from(screen.height);
        let fits = sizes.contains(&screen.cell_bytes)
            && line <= u64::from(screen.pitch)
            && bytes <= MOST_BYTES
            && screen.address.checked_add(bytes).is_some_and(|end| end <= 1 << 52);
        let (columns, rows) = (screen.width as usize / glyph_width, screen.height as usize / glyph_height);
        if !fits || columns == 0 || rows == 0 {
            return refused;
        }
        let (pitch, cell_bytes) = (screen.pitch as usize, screen.cell_bytes as usize);
        Ok(Some(Self { is_text, pitch, cell_bytes, columns, rows, bytes }))
    }

    /// Bytes of the screen's memory.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}
