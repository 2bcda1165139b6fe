//! Herald's function symbols, for the back-trace of a panic: [`abi::package::Symbol`] records sorted by
//! address, then the demangled names. And for the profile of `bench`.

use abi::package::Symbol;
use anyhow::{Context, Result};
use object::{Object, ObjectSymbol, SymbolKind};
use zerocopy::IntoBytes;

/// The payload of `Kind::Symbols` for this ELF file.
///
/// # Errors
/// It is no ELF file.
pub(crate) fn payload(elf: &[u8]) -> Result<Vec<u8>> {
    functions(elf).map(|functions| encode(&functions))
}

/// Address, size and name of each function, by address.
///
/// # Errors
/// It is no ELF file.
pub(crate) fn functions(elf: &[u8]) -> Result<Vec<(u64, u64, String)>> {
    let file = object::File::parse(elf).context("Herald's image")?;
    let mut functions: Vec<(u64, u64, String)> = file
        .symbols()
        .filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.address() != 0)
        .filter_map(|symbol| Some((symbol.address(), symbol.size(), demangle(symbol.name().ok()?))))
        .collect();
    functions.sort();
    functions.dedup_by_key(|function| function.0);
    Ok(functions)
}

/// Without the hash that tells apart two instances of one generic function.
fn demangle(name: &str) -> String {
    format!("{:#}", rustc_demangle::demangle(name))
}

fn encode(functions: &[(u64, u64, String)]) -> Vec<u8> {
    let mut bytes = (functions.len() as u32).to_le_bytes().to_vec();
    let mut names = String::new();
    for (address, size, name) in functions {
        let record = Symbol {
            address: (*address).into(),
            size: u32::try_from(*size).unwrap_or(u32::MAX).into(),
            name_offset: (names.len() as u32).into(),
            name_len: (name.len() as u32).into(),
        };
        bytes.extend_from_slice(record.as_bytes());
        names.push_str(name);
    }
    bytes.extend_from_slice(names.as_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::{demangle, encode};
    use abi::package::Symbol;
    use zerocopy::FromBytes;

    #[test]
    fn names_lose_their_hash() {
        assert_eq!(demangle("_ZN6herald4main17h0123456789abcdefE"), "herald::main");
        assert_eq!(demangle("entry"), "entry");
    }

    #[test]
    fn records_point_at_their_names() {
        let bytes = encode(&[(0x1000, 16, "one".into()), (0x2000, 8, "three".into())]);
        assert_eq!(bytes[..4], 2u32.to_le_bytes());
        let (record, _) = Symbol::read_from_prefix(&bytes[4 + size_of::<Symbol>()..]).expect("second record");
        let names = &bytes[4 + 2 * size_of::<Symbol>()..];
        let start = record.name_offset.get() as usize;
        assert_eq!(&names[start..start + record.name_len.get() as usize], b"three");
    }
}
