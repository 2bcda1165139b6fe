//! The flat disk that a BIOS boots: the loader from sector 0, the package from
//! [`abi::package::DISK_LBA`].
//!
//! The BIOS puts sector 0 at physical 0x7c00 and jumps there; the loader's ELF file is linked so that its
//! bytes, laid out flat from that address, are the bytes of the disk.

use abi::package::DISK_LBA;
use anyhow::{Context, Result, bail};
use object::Endianness;
use object::elf::{FileHeader64, PT_LOAD};
use object::read::elf::{FileHeader, ProgramHeader};

const SECTOR: u64 = 512;
const HEADS: u64 = 16;
const SECTORS_PER_TRACK: u64 = 63;
/// Where a BIOS puts the boot sector.
const BOOT_ADDRESS: u64 = 0x7c00;
/// Last two bytes of a boot sector.
const SIGNATURE: [u8; 2] = [0x55, 0xaa];

/// A disk image, and the cylinders of its geometry (16 heads, 63 sectors).
pub(crate) struct Disk {
    pub(crate) bytes: Vec<u8>,
    pub(crate) cylinders: u64,
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
        let cylinder = HEADS * SECTORS_PER_TRACK * SECTOR;
        let cylinders = (bytes.len() as u64).div_ceil(cylinder);
        bytes.resize((cylinders * cylinder) as usize, 0);
        Ok(Self { bytes, cylinders })
    }

    /// The geometry in Bochs' words.
    pub(crate) fn geometry(&self) -> String {
        format!("cylinders={}, heads={HEADS}, spt={SECTORS_PER_TRACK}", self.cylinders)
    }
}

/// The bytes that an ELF file loads, by physical address, from [`BOOT_ADDRESS`] on.
fn flat_image(elf: &[u8]) -> Result<Vec<u8>> {
    let header = FileHeader64::<Endianness>::parse(elf).context("the loader's image")?;
    let endian = header.endian()?;
    let mut image = Vec::new();
    for segment in header.program_headers(endian, elf)? {
        if segment.p_type(endian) != PT_LOAD || segment.p_filesz(endian) == 0 {
            continue;
        }
        let address = segment.p_paddr(endian);
        let Some(offset) = address.checked_sub(BOOT_ADDRESS) else {
            bail!("the loader has a segment at {address:#x}, below {BOOT_ADDRESS:#x}");
        };
        let bytes = segment.data(endian, elf).ok().context("the loader's image is cut short")?;
        let (start, end) = (offset as usize, offset as usize + bytes.len());
        if end as u64 > u64::from(DISK_LBA) * SECTOR {
            bail!("the loader has bytes at {:#x}, further than its disk space reaches", address);
        }
        image.resize(image.len().max(end), 0);
        image[start..end].copy_from_slice(bytes);
    }
    Ok(image)
}
