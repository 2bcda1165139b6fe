//! Sizes in bytes, as people write them: `4096`, `64K`, `256M`, `1G` (powers of 1024).

use alloc::borrow::ToOwned;
use alloc::string::String;
use core::fmt;

/// Text that is no size.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SizeError {
    /// Not a number with a unit.
    NoSize(String),
    /// More bytes than 64 bits can count.
    TooLarge(String),
}

impl fmt::Display for SizeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSize(text) => {
                write!(f, "`{text}` is no size; write a number of bytes, or one with K, M or G behind it")
            }
            Self::TooLarge(text) => write!(f, "`{text}` is more than 64 bits can count"),
        }
    }
}

impl core::error::Error for SizeError {}

/// Reads a size.
///
/// # Errors
/// [`SizeError`] quotes the text.
pub fn parse_size(text: &str) -> Result<u64, SizeError> {
    let bad = || SizeError::NoSize(text.to_owned());
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match &text[digits.len()..] {
        "" => 0,
        "K" | "k" | "KiB" => 10,
        "M" | "m" | "MiB" => 20,
        "G" | "g" | "GiB" => 30,
        "T" | "t" | "TiB" => 40,
        _ => return Err(bad()),
    };
    let number: u64 = digits.parse().map_err(|_| bad())?;
    number.checked_mul(1 << shift).ok_or_else(|| SizeError::TooLarge(text.to_owned()))
}

/// A number of bytes that is shown as [`parse_size`] reads it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Size(pub u64);

/// With the largest unit that divides it.
impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(bytes) = *self;
        let unit = [(30, "G"), (20, "M"), (10, "K")]
            .into_iter()
            .find(|(shift, _)| bytes != 0 && bytes.is_multiple_of(1 << shift));
        match unit {
            Some((shift, unit)) => write!(f, "{}{unit}", bytes >> shift),
            None => bytes.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Size, parse_size};
    use alloc::string::ToString;

    #[test]
    fn sizes_have_units_or_are_bytes() {
        assert_eq!(parse_size("3"), Ok(3));
        assert_eq!(parse_size("64k"), Ok(65536));
        assert_eq!(parse_size("256M"), Ok(256 << 20));
        assert_eq!(parse_size("2GiB"), Ok(2 << 30));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "M", "-1", "1.5G", "12Q", "99999999999G", "12ä"] {
            let error = parse_size(text).expect_err(text);
            assert!(error.to_string().contains(text));
        }
    }

    #[test]
    fn sizes_are_shown_as_they_are_read() {
        for text in ["256M", "3", "0", "5G", "1025K", "2048G"] {
            assert_eq!(Size(parse_size(text).expect(text)).to_string(), text);
        }
    }
}
