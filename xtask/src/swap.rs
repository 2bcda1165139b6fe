//! `--swap`: the tiers that pages go to, and how large each is.

use crate::size::{parse_size, show_size};
use abi::config;
use abi::swapdisk::{self, Label};
use std::fmt;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use zerocopy::IntoBytes;

/// Least size of a tier: a few pages more would not help anybody.
const LEAST: u64 = 1 << 20;

/// Makes an image of a disk that is Herald's: sparse, of `bytes` for slots and room for the label, in whole `units`.
///
/// # Errors
/// The file cannot be written.
pub(crate) fn make_disk(path: &Path, bytes: u64, unit: u64) -> std::io::Result<u64> {
    let slots = bytes.div_ceil(swapdisk::SLOT_BYTES);
    let len = swapdisk::slot_at(slots).next_multiple_of(unit);
    let mut file = File::create(path)?;
    file.set_len(len)?;
    file.write_all(Label::new(slots).as_bytes())?;
    Ok(len)
}

/// What was asked for, in bytes; 0: not this one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Tiers {
    /// Compressed memory, at most so much.
    pub(crate) ram: u64,
    /// A disk of this size.
    pub(crate) disk: u64,
}

impl Tiers {
    /// What Herald is told.
    pub(crate) const fn config(self) -> config::Swap {
        config::Swap { ram: self.ram, disk: self.disk }
    }
}

impl fmt::Display for Tiers {
    /// As [`parse`] reads it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tiers = [("ram", self.ram), ("disk", self.disk)].into_iter().filter(|(_, size)| *size != 0);
        let texts: Vec<String> = tiers.map(|(name, size)| format!("{name}:{size}")).collect();
        f.write_str(&texts.join(","))
    }
}

/// Reads `ram:256M,disk:2G`, or one of the two.
///
/// # Errors
/// One sentence.
pub(crate) fn parse(text: &str) -> Result<Tiers, String> {
    let mut tiers = Tiers::default();
    for part in text.split(',') {
        let (name, size) = part.split_once(':').ok_or_else(|| format!("`{part}` is no TIER:SIZE"))?;
        let size = parse_size(size).map_err(|error| error.to_string())?;
        if size < LEAST {
            return Err(format!("`{part}`: a tier has at least {}", show_size(LEAST)));
        }
        let tier = match name {
            "ram" => &mut tiers.ram,
            "disk" => &mut tiers.disk,
            _ => return Err(format!("`{name}` is no tier: there are ram and disk")),
        };
        if core::mem::replace(tier, size) != 0 {
            return Err(format!("`{name}` is there twice"));
        }
    }
    Ok(tiers)
}

#[cfg(test)]
mod tests {
    use super::{Tiers, parse};

    #[test]
    fn tiers() {
        assert_eq!(parse("ram:256M"), Ok(Tiers { ram: 256 << 20, disk: 0 }));
        let both = Tiers { ram: 1 << 20, disk: 2 << 30 };
        assert_eq!(parse("disk:2G,ram:1M"), Ok(both));
        assert_eq!(parse(&both.to_string()), Ok(both));
    }

    #[test]
    fn mistakes_are_named() {
        for (text, said) in [
            ("", "no TIER:SIZE"),
            ("ram", "no TIER:SIZE"),
            ("tape:1G", "`tape` is no tier"),
            ("ram:", "size"),
            ("ram:4K", "at least 1M"),
            ("ram:1G,ram:2G", "twice"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
