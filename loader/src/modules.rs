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

/// Modules, in the order in which they were found.
pub type Modules = heapless::Vec<Module, MAX_ENTRIES>;

/// Longest name, in bytes; what is longer is cut, as in a package.
const NAME_BYTES: usize = 40;

/// A file in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    name: heapless::String<NAME_BYTES>,
    range: HpaRange,
}

impl Module {
    /// The module of this name; of a path, the last part counts.
    #[must_use]
    pub fn new(path: &str, range: HpaRange) -> Self {
        let file = path.rsplit(['/', '\\']).next().unwrap_or(path);
        let mut name = heapless::String::new();
        // It fits: cut before.
        let _ = name.push_str(&file[..file.floor_char_boundary(NAME_BYTES)]);
        Self { name, range }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it is.
    #[must_use]
    pub fn range(&self) -> HpaRange {
        self.range
    }

    fn kind(&self) -> Kind {
        match self.name() {
            file_name::HERALD => Kind::Herald,
            file_name::SYMBOLS => Kind::Symbols,
            file_name::SETTINGS => Kind::Settings,
            _ => Kind::File,
        }
    }
}

/// The table of the package that the modules become.
///
/// # Errors
/// Two modules of one name.
pub fn layout(modules: &[Module]) -> Result<Layout, LoadError> {
    for (index, module) in modules.iter().enumerate() {
        if modules[..index].iter().any(|other| other.name == module.name) {
            return Err(LoadError::SameName(module.range));
        }
    }
    let payloads = modules.iter().map(|module| (module.kind(), module.name(), module.range.len()));
    Ok(Layout::new(payloads)?)
}

/// Writes the package into `target`, which is as long as `layout` says; `contents` are those of the modules, in order.
///
/// # Panics
/// If lengths differ from what they were in [`layout`].
pub fn assemble<'a>(layout: &Layout, contents: impl Iterator<Item = &'a [u8]>, target: &mut [u8]) {
    let mut end = 0;
    for byte in layout.table() {
        target[end] = byte;
        end += 1;
    }
    for (entry, bytes) in layout.entries().iter().zip(contents) {
        let start = entry.offset.get() as usize;
        target[end..start].fill(0);
        end = start + bytes.len();
        target[start..end].copy_from_slice(bytes);
    }
    target[end..].fill(0);
}

#[cfg(test)]
mod tests {
    use super::{Module, assemble, layout};
    use abi::package::{Kind, Table};
    use addr::{Hpa, HpaRange};
    use alloc::vec;

    fn module(path: &str, len: u64) -> Module {
        Module::new(path, HpaRange::sized(Hpa::new(0x10_0000), len).expect("a range"))
    }

    #[test]
    fn modules_become_a_package() {
        let modules =
            [module("/boot/herald", 5000), module("\\herald\\herald.toml", 3), module("bzImage", 4096)];
        let contents = [vec![1; 5000], vec![2; 3], vec![3; 4096]];
        let layout = layout(&modules).expect("different names");
        let mut package = vec![0xff; layout.total_len() as usize];
        assemble(&layout, contents.iter().map(|bytes| &bytes[..]), &mut package);
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
    fn names_are_told_apart() {
        assert!(layout(&[module("a/x", 1), module("b/x", 1)]).is_err());
        assert_eq!(module(&"ä".repeat(30), 1).name(), "ä".repeat(20));
    }
}
