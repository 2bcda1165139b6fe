//! Sizes for people: read as `startup` reads them, shown in a sentence.

use startup::size::Size;

pub(crate) use startup::size::parse_size;

/// Writes a size with the largest unit that divides it.
pub(crate) fn show_size(bytes: u64) -> String {
    match bytes {
        1 => "1 byte".into(),
        _ if bytes == 0 || !bytes.is_multiple_of(1 << 10) => format!("{bytes} bytes"),
        _ => Size(bytes).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::show_size;

    #[test]
    fn sizes_are_shown_in_their_largest_unit() {
        assert_eq!(show_size(256 << 20), "256M");
        assert_eq!(show_size(3), "3 bytes");
    }
}
