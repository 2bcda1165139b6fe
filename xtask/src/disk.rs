//! The flat disk that a BIOS boots: the loader from sector 0, the package from
//! [`abi::package::DISK_LBA`].
//!
//! The BIOS puts sector 0 at physical 0x7c00 and jumps there. That part of the loader reads the other, which
//! follows at the next sector boundary, and moves it to where it is linked.

use abi::package::DISK_LBA;
use anyhow::{Context, Result, bail};
use object::Endianness;
use object::elf::{FileHeader64, PT_LOAD};
use object::read::elf::{FileHeader, ProgramHeader};

const SECTOR: u64 = 512;
const HEADS: u64 = 16;
const SECTORS_PER_TRACK: u64 = 63;
/// Bytes of a cylinder.
pub(crate) const CYLINDER: u64 = HEADS * SECTORS_PER_TRACK * SECTOR;
/// Where a BIOS puts the boot sector.
const BOOT_ADDRESS: u64 = 0x7c00;
/// Last two bytes of a boot sector.
const SIGNATURE: [u8; 2] = [0x55, 0xaa];

/// A disk image of whole cylinders.
pub(crate) struct Disk {
    pub(crate) bytes: Vec<u8>,
}

/// The geometry of a disk of so many bytes, in Bochs' words.
pub(crate) fn geometry(bytes: u64) -> String {
    format!("cylinders={}, heads={HEADS}, spt={SECTORS_PER_TRACK}", bytes / CYLINDER)
}

impl Disk {
    /// Lays out a disk.
    ///
    /// # Errors
    /// The loader is not linked for a BIOS, or too large.
    pub(crate) fn new(loader_elf: &[u8], package: &[u8]) -> Result<Self> {
        let mut bytes = flat_image(loader_elf)?;
        let room = u64::from(DISK_LBA) * SECTOR;
        if bytes.len() as u64 > room {
            bail!("the loader has {} bytes, and only {room} lie before the package", bytes.len());
        }
        if bytes.get(510..512) != Some(&SIGNATURE) {
            bail!("the loader's first sector does not end with the boot signature");
        }
        bytes.resize(room as usize, 0);
        bytes.extend_from_slice(package);
        bytes.resize(bytes.len().next_multiple_of(CYLINDER as usize), 0);
        Ok(Self { bytes })
    }
}

/// The segments of an ELF file in order, the first as the boot sector and each at a sector boundary.
fn flat_image(elf: &[u8]) -> Result<Vec<u8>> {
    let header = FileHeader64::<Endianness>::parse(elf).context("the loader's image")?;
    let endian = header.endian()?;
    let mut image = Vec::new();
    for segment in header.program_headers(endian, elf)? {
        if segment.p_type(endian) != PT_LOAD || segment.p_filesz(endian) == 0 {
            continue;
        }
        let address = segment.p_paddr(endian);
        if image.is_empty() && address != BOOT_ADDRESS {
            bail!("the loader starts at {address:#x}, a BIOS would put it at {BOOT_ADDRESS:#x}");
        }
        image.resize(image.len().next_multiple_of(SECTOR as usize), 0);
        image.extend_from_slice(segment.data(endian, elf).ok().context("the loader's image is cut short")?);
    }
    Ok(image)
}
