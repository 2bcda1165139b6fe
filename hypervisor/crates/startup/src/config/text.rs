//! Text from the file that knows its line, for errors that only show when the whole file was read.

use alloc::borrow::ToOwned;
use alloc::string::String;
use core::fmt::{self, Write};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use toml::Spanned;

/// A name in the file. Equal is what reads the same, wherever it stands.
#[derive(Clone, Debug, Default)]
pub struct Text {
    text: String,
    place: Place,
}

#[derive(Clone, Copy, Debug, Default)]
enum Place {
    /// Made by a program.
    #[default]
    Nowhere,
    /// Bytes from the start of the file: all that the parser tells.
    Byte(usize),
    /// From 1.
    Line(usize),
}

impl Text {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// The line that it stands in, from 1.
    #[must_use]
    pub fn line(&self) -> Option<usize> {
        match self.place {
            Place::Line(line) => Some(line),
            Place::Nowhere | Place::Byte(_) => None,
        }
    }

    /// From the byte to the line.
    pub(super) fn locate(&mut self, source: &[u8]) {
        if let Place::Byte(offset) = self.place {
            self.place = Place::Line(line_of(source, offset));
        }
    }
}

/// The line, from 1, of a byte of the source.
pub(super) fn line_of(source: &[u8], offset: usize) -> usize {
    source.iter().take(offset).filter(|&&byte| byte == b'\n').count() + 1
}

/// Text for a log: control characters are escaped.
pub(super) struct Printable<'a>(pub(super) &'a str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .chars()
            .try_for_each(|c| if c.is_control() { c.escape_default().fmt(f) } else { f.write_char(c) })
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Printable(&self.text).fmt(f)
    }
}

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Text {}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self { text, place: Place::Nowhere }
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<String>::deserialize(deserializer)?;
        let place = Place::Byte(spanned.span().start);
        Ok(Self { text: spanned.into_inner(), place })
    }
}
