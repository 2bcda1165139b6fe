//! The boot package: Herald, its configuration and its guests' images in one file.
//!
//! ```text
//!  0        PackageHeader   magic, version, count, total length, CRC-32 of header and entries
//!  64       Entry × count   kind, name, offset, length
//!  4096·n   payloads        each page-aligned, in the order of the entries
//! ```
//!
//! On a BIOS disk the package starts at [`DISK_LBA`]; under PVH it is the one module (`-initrd`). From files,
//! the loader puts it together itself.
//! All numbers are little-endian; offsets count bytes from the start of the package.

use crate::crc::crc32;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// First bytes of a package.
pub const MAGIC: [u8; 8] = *b"HERALDPK";
/// Layout version; raised with every change of this file.
pub const VERSION: u32 = 1;
/// Entries a package can hold.
pub const MAX_ENTRIES: usize = 62;
/// Bytes from the start of the package to the first payload: header and full entry table.
pub const TABLE_BYTES: usize = 64 + MAX_ENTRIES * size_of::<Entry>();
/// Alignment of payloads, in bytes.
pub const PAYLOAD_ALIGN: u64 = 4096;
/// Sector (512 bytes) of a BIOS disk at which the package starts; the loader lies before it.
pub const DISK_LBA: u32 = 256;

/// What an entry is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Kind {
    /// Herald's own ELF image.
    Herald = 1,
    /// [`crate::config::BootConfig`], encoded with postcard.
    Config = 2,
    /// A guest kernel: bzImage, PVH ELF, multiboot-1 ELF32, or an ELF64.
    Kernel = 3,
    /// A guest's initial RAM disk, or its one multiboot module.
    Initrd = 4,
    /// Herald's function symbols: [`Symbol`] records sorted by address, then the names.
    Symbols = 5,
    /// The configuration as people write it, in TOML; it names guests' images by their entries' names.
    Settings = 6,
    /// An image that the settings may name.
    File = 7,
}

impl Kind {
    /// The kind with this number.
    #[must_use]
    pub const fn from_u32(raw: u32) -> Option<Self> {
        Some(match raw {
            1 => Self::Herald,
            2 => Self::Config,
            3 => Self::Kernel,
            4 => Self::Initrd,
            5 => Self::Symbols,
            6 => Self::Settings,
            7 => Self::File,
            _ => return None,
        })
    }
}

/// Names of files from which a loader puts a package together. Any other file is an image that the settings may name.
pub mod file_name {
    /// Herald's ELF image.
    pub const HERALD: &str = "herald";
    /// Its symbols.
    pub const SYMBOLS: &str = "herald.sym";
    /// The settings.
    pub const SETTINGS: &str = "herald.toml";
}

/// The first 64 bytes of a package.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PackageHeader {
    /// [`MAGIC`].
    pub magic: [u8; 8],
    /// [`VERSION`].
    pub version: U32,
    /// Entries that follow.
    pub count: U32,
    /// Bytes in the whole package.
    pub total_len: U64,
    /// CRC-32 over header (this field zero) and entries.
    pub checksum: U32,
    /// Zero.
    pub reserved: [u8; 36],
}

/// One payload.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Entry {
    /// A [`Kind`].
    pub kind: U32,
    /// Zero.
    pub reserved: U32,
    /// Bytes from the start of the package; a multiple of [`PAYLOAD_ALIGN`].
    pub offset: U64,
    /// Bytes of payload.
    pub len: U64,
    /// File name for messages, cut to fit, padded with zeros.
    pub name: [u8; 40],
}

/// One function of Herald's image, in a [`Kind::Symbols`] payload.
///
/// The payload is a `U32` count, that many records sorted by `address`, then the names back to back.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Symbol {
    /// First byte of the function, host virtual.
    pub address: U64,
    /// Bytes of code.
    pub size: U32,
    /// Offset of the name from the end of the record table.
    pub name_offset: U32,
    /// Bytes of the name.
    pub name_len: U32,
}

const _: () = assert!(size_of::<PackageHeader>() == 64);
const _: () = assert!(size_of::<Entry>() == 64);
const _: () = assert!(TABLE_BYTES <= 4096);

/// Why a package was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PackageError {
    /// Fewer bytes than the header or its table needs.
    Truncated {
        /// Bytes needed.
        needed: u64,
        /// Bytes there.
        found: u64,
    },
    /// Not [`MAGIC`].
    Magic([u8; 8]),
    /// Not [`VERSION`].
    Version(u32),
    /// More than [`MAX_ENTRIES`].
    Count(u32),
    /// The stored checksum is not that of the bytes.
    Checksum {
        /// As stored.
        stored: u32,
        /// As computed.
        computed: u32,
    },
    /// An entry lies outside the package, or is not aligned.
    Entry {
        /// Its index.
        index: u32,
        /// Its offset in bytes.
        offset: u64,
        /// Its length in bytes.
        len: u64,
    },
}

impl core::fmt::Display for PackageError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match *self {
            Self::Truncated { needed, found } => {
                write!(f, "boot package truncated: {found} bytes, {needed} needed")
            }
            Self::Magic(magic) => write!(f, "not a boot package: starts with {magic:02x?}"),
            Self::Version(version) => {
                write!(f, "boot package of version {version}, this build reads {VERSION}")
            }
            Self::Count(count) => write!(f, "boot package of {count} entries, at most {MAX_ENTRIES} allowed"),
            Self::Checksum { stored, computed } => {
                write!(f, "boot package corrupt: checksum {computed:#010x}, header says {stored:#010x}")
            }
            Self::Entry { index, offset, len } => {
                write!(f, "boot package entry {index} ({len} bytes at {offset:#x}) lies outside the package")
            }
        }
    }
}

/// Header and entries of a package that is being put together.
#[derive(Clone, Debug)]
pub struct Layout {
    header: PackageHeader,
    entries: heapless::Vec<Entry, MAX_ENTRIES>,
}

impl Layout {
    /// Gives each payload (kind, name, bytes) its place, in this order. Names are cut to fit.
    ///
    /// # Errors
    /// [`PackageError::Count`], and [`PackageError::Entry`] where lengths add up to more than 64 bits.
    pub fn new<'a>(payloads: impl IntoIterator<Item = (Kind, &'a str, u64)>) -> Result<Self, PackageError> {
        let mut offset = PAYLOAD_ALIGN;
        let mut entries = heapless::Vec::new();
        for (index, (kind, name, len)) in payloads.into_iter().enumerate() {
            let end = offset.checked_add(len).and_then(|end| end.checked_next_multiple_of(PAYLOAD_ALIGN));
            let end = end.ok_or(PackageError::Entry { index: index as u32, offset, len })?;
            let entry = Entry {
                kind: (kind as u32).into(),
                reserved: 0.into(),
                offset: offset.into(),
                len: len.into(),
                name: fixed_name(name),
            };
            entries.push(entry).map_err(|_| PackageError::Count(index as u32 + 1))?;
            offset = end;
        }
        let mut header = PackageHeader {
            magic: MAGIC,
            version: VERSION.into(),
            count: (entries.len() as u32).into(),
            total_len: offset.into(),
            checksum: 0.into(),
            reserved: [0; 36],
        };
        header.checksum = checksum(&header, &entries).into();
        Ok(Self { header, entries })
    }

    /// Bytes in the whole package.
    #[must_use]
    pub fn total_len(&self) -> u64 {
        self.header.total_len.get()
    }

    /// Where the payloads go, in order.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The bytes before the first payload, but for the zeros that fill up to it.
    pub fn table(&self) -> impl Iterator<Item = u8> + '_ {
        self.header.as_bytes().iter().chain(self.entries.as_bytes()).copied()
    }
}

/// Cut to fit at a character's boundary, padded with zeros.
fn fixed_name(name: &str) -> [u8; 40] {
    let mut fixed = [0; 40];
    let end = name.floor_char_boundary(fixed.len());
    fixed[..end].copy_from_slice(&name.as_bytes()[..end]);
    fixed
}

/// A checked view of the header and entries at the start of a package.
#[derive(Clone, Copy, Debug)]
pub struct Table<'a> {
    header: &'a PackageHeader,
    entries: &'a [Entry],
}

impl<'a> Table<'a> {
    /// Checks the first [`TABLE_BYTES`] bytes of a package (more may follow). The payloads themselves
    /// are not touched, so that a loader can check before it has read them.
    ///
    /// # Errors
    /// Anything that [`PackageError`] names.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, PackageError> {
        let truncated = |needed| PackageError::Truncated { needed, found: bytes.len() as u64 };
        let (header, rest) = PackageHeader::ref_from_prefix(bytes)
            .map_err(|_| truncated(size_of::<PackageHeader>() as u64))?;
        if header.magic != MAGIC {
            return Err(PackageError::Magic(header.magic));
        }
        if header.version.get() != VERSION {
            return Err(PackageError::Version(header.version.get()));
        }
        let count = header.count.get();
        if count as usize > MAX_ENTRIES {
            return Err(PackageError::Count(count));
        }
        let (entries, _) = <[Entry]>::ref_from_prefix_with_elems(rest, count as usize)
            .map_err(|_| truncated(64 + u64::from(count) * 64))?;
        let computed = checksum(header, entries);
        if computed != header.checksum.get() {
            return Err(PackageError::Checksum { stored: header.checksum.get(), computed });
        }
        let table = Self { header, entries };
        table.check_entries()?;
        Ok(table)
    }

    fn check_entries(&self) -> Result<(), PackageError> {
        for (index, entry) in self.entries.iter().enumerate() {
            let (offset, len) = (entry.offset.get(), entry.len.get());
            let inside = offset.checked_add(len).is_some_and(|end| end <= self.total_len());
            if !inside || !offset.is_multiple_of(PAYLOAD_ALIGN) {
                return Err(PackageError::Entry { index: index as u32, offset, len });
            }
        }
        Ok(())
    }

    /// Bytes in the whole package.
    #[must_use]
    pub fn total_len(&self) -> u64 {
        self.header.total_len.get()
    }

    /// All entries, in order.
    #[must_use]
    pub fn entries(&self) -> &'a [Entry] {
        self.entries
    }

    /// The first entry of this kind.
    #[must_use]
    pub fn find(&self, kind: Kind) -> Option<&'a Entry> {
        self.entries.iter().find(|entry| entry.kind() == Some(kind))
    }
}

impl Entry {
    /// What it is, or `None` for a kind that this build does not know.
    #[must_use]
    pub fn kind(&self) -> Option<Kind> {
        Kind::from_u32(self.kind.get())
    }

    /// The name, for messages.
    #[must_use]
    pub fn name(&self) -> &str {
        let len = self.name.iter().position(|&byte| byte == 0).unwrap_or(self.name.len());
        core::str::from_utf8(&self.name[..len]).unwrap_or("?")
    }

    /// The payload, given the whole package. The entry must come from that package's [`Table`].
    #[must_use]
    pub fn payload<'a>(&self, package: &'a [u8]) -> Option<&'a [u8]> {
        let start = usize::try_from(self.offset.get()).ok()?;
        let len = usize::try_from(self.len.get()).ok()?;
        package.get(start..start.checked_add(len)?)
    }
}

/// The checksum that belongs into `header`: over the header with a zero checksum, then the entries.
#[must_use]
pub fn checksum(header: &PackageHeader, entries: &[Entry]) -> u32 {
    let mut copy = [0u8; TABLE_BYTES];
    let unsigned = PackageHeader { checksum: U32::ZERO, ..*header };
    copy[..64].copy_from_slice(unsigned.as_bytes());
    let end = 64 + size_of_val(entries);
    copy[64..end].copy_from_slice(entries.as_bytes());
    crc32(&copy[..end])
}
