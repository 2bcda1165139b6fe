//! Modules, each for itself in memory, become one boot package. What a module is, its name tells:
//!
//! | name | what |
//! |---|---|
//! | `herald` | Herald's ELF image |
//! | `herald.sym` | its symbols |
//! | `herald.toml` | the settings |
//! | any other | an image that the settings may name |

use crate::error::LoadError;
use abi::package::{Kind, Layout, MAX_ENTRIES, file_name};
use addr::HpaRange;
use core::fmt;

/// Modules, in the order in which they were found.
pub type Modules = heapless::Vec<Module, MAX_ENTRIES>;

/// Longest name, in bytes; what is longer is cut, as in a package.
const NAME_BYTES: usize = 40;

/// A module's name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Name {
    /// Text, then zeros.
    bytes: [u8; NAME_BYTES],
    len: usize,
}

impl Name {
    /// The last part of a path, cut to fit at a character's boundary.
    #[must_use]
    pub fn new(path: &str) -> Self {
        let file = path.rsplit(['/', '\\']).next().unwrap_or(path);
        let len = file.floor_char_boundary(NAME_BYTES);
        let mut bytes = [0; NAME_BYTES];
        bytes[..len].copy_from_slice(&file.as_bytes()[..len]);
        Self { bytes, len }
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        core::str::from_utf8(&self.bytes[..self.len]).unwrap_or_default()
    }

    fn kind(&self) -> Kind {
        match self.as_str() {
            file_name::HERALD => Kind::Herald,
            file_name::SYMBOLS => Kind::Symbols,
            file_name::SETTINGS => Kind::Settings,
            _ => Kind::File,
        }
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

impl fmt::Display for Name {
    /// Without control characters: it may go to a terminal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.as_str().escape_debug())
    }
}

/// A file in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    name: Name,
    range: HpaRange,
}

impl Module {
    /// The module of this name; of a path, the last part counts.
    #[must_use]
    pub fn new(path: &str, range: HpaRange) -> Self {
        Self { name: Name::new(path), range }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> Name {
        self.name
    }

    /// Where it is.
    #[must_use]
    pub fn range(&self) -> HpaRange {
        self.range
    }
}

/// The table of the package that files of these names and lengths, in bytes, become.
///
/// # Errors
/// Two of one name, too many, or too long.
pub fn layout(files: impl Iterator<Item = (Name, u64)> + Clone) -> Result<Layout, LoadError> {
    for (index, (name, _)) in files.clone().enumerate() {
        if files.clone().take(index).any(|(other, _)| other == name) {
            return Err(LoadError::SameName(name));
        }
    }
    let files: heapless::Vec<_, { MAX_ENTRIES + 1 }> = files.take(MAX_ENTRIES + 1).collect();
    Ok(Layout::new(files.iter().map(|(name, len)| (name.kind(), name.as_str(), *len)))?)
}

/// Writes the package into `target`, which is as long as `layout` says; `fill` writes the contents of the file of that index.
///
/// # Errors
/// Those of `fill`.
///
/// # Panics
/// If the target is shorter.
pub fn assemble<E>(
    layout: &Layout,
    target: &mut [u8],
    mut fill: impl FnMut(usize, &mut [u8]) -> Result<(), E>,
) -> Result<(), E> {
    let mut end = 0;
    for byte in layout.table() {
        target[end] = byte;
        end += 1;
    }
    for (index, entry) in layout.entries().iter().enumerate() {
        let start = entry.offset.get() as usize;
        target[end..start].fill(0);
        end = start + entry.len.get() as usize;
        fill(index, &mut target[start..end])?;
    }
    target[end..].fill(0);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Name, assemble, layout};
    use crate::LoadError;
    use abi::package::{Kind, PackageError, Table};
    use alloc::string::ToString;
    use alloc::vec;
    use alloc::vec::Vec;

    #[test]
    fn modules_become_a_package() {
        let files = [("/boot/herald", 5000), ("\\herald\\herald.toml", 3), ("bzImage", 4096)];
        let contents = [vec![1; 5000], vec![2; 3], vec![3; 4096]];
        let layout =
            layout(files.iter().map(|(path, len)| (Name::new(path), *len))).expect("different names");
        let mut package = vec![0xff; layout.total_len() as usize];
        let fill = |index: usize, target: &mut [u8]| {
            target.copy_from_slice(&contents[index]);
            Ok::<_, LoadError>(())
        };
        assemble(&layout, &mut package, fill).expect("nothing fails");
        let table = Table::parse(&package).expect("a package");
        assert_eq!(table.total_len(), package.len() as u64);
        for ((entry, kind), bytes) in
            table.entries().iter().zip([Kind::Herald, Kind::Settings, Kind::File]).zip(&contents)
        {
            assert_eq!((entry.kind(), entry.payload(&package)), (Some(kind), Some(&bytes[..])));
        }
        assert!(package[5000 + 4096..8192 + 4096].iter().all(|&byte| byte == 0));
    }

    #[test]
    fn a_file_that_cannot_be_read_ends_it() {
        let layout = layout([("a", 1), ("b", 1)].iter().map(|(path, len)| (Name::new(path), *len)));
        let mut package = vec![0; 3 * 4096];
        let outcome = assemble(&layout.expect("different names"), &mut package, |index, _| Err(index));
        assert_eq!(outcome, Err(0));
    }

    #[test]
    fn names_are_told_apart() {
        let files = ["a/x", "b/x"].map(|path| (Name::new(path), 1));
        let refused = layout(files.into_iter()).expect_err("the same name");
        assert_eq!(refused.to_string(), "two modules have the name x");
        assert_eq!(Name::new(&"ä".repeat(30)).as_str(), "ä".repeat(20));
    }

    #[test]
    fn as_many_as_a_package_holds() {
        let files: Vec<_> = (0..63).map(|index: u32| (Name::new(&index.to_string()), 1)).collect();
        assert!(layout(files[..62].iter().copied()).is_ok());
        let refused = layout(files.into_iter()).expect_err("one too many");
        assert_eq!(refused, LoadError::Package(PackageError::Count(63)));
    }

    #[test]
    fn a_name_does_not_speak_to_the_terminal() {
        assert_eq!(Name::new("a\u{1b}[2Jb").to_string(), "a\\u{1b}[2Jb");
    }
}
