//! A disk with one partition, which UEFI takes for its own: a master boot record, and a FAT file system from 1 MiB on. Both
//! are the same for the same files.
//!
//! ```text
//!   0        MBR: code of a BIOS boot loader, one partition of type 0xef (UEFI 2.10, 5.2)
//!   1        the rest of that boot loader
//!   2048     FAT32: the partition
//! ```

use anyhow::{Context, Result, bail};
use fatfs::{Dir, FatType, FileSystem, FormatVolumeOptions, FsOptions};
use std::io::{Cursor, Write};

/// Bytes of a sector.
pub(super) const SECTOR: usize = 512;
/// First sector of the partition.
const PARTITION: usize = 2048;
/// Bytes of the first sector that are code: then come the disk's signature and the partitions.
const CODE: usize = 440;
/// The partition's entry.
const ENTRY: usize = 446;
/// EFI system partition.
const KIND: u8 = 0xef;
/// Cylinder, head and sector of something out of their reach.
const BY_LBA: [u8; 3] = [0xfe, 0xff, 0xff];
/// Signature of the disk, and serial number of the file system.
const SERIAL: u32 = u32::from_le_bytes(*b"HRLD");
/// The least size of the file system, in MiB: FAT32 wants 65525 clusters (UEFI 2.10, 13.3.1.1).
const LEAST_MIB: usize = 64;

/// Makes a disk of files, each with its path in it.
///
/// # Errors
/// The file system cannot hold them.
pub(super) fn disk(files: &[(String, Vec<u8>)]) -> Result<Vec<u8>> {
    let start = PARTITION * SECTOR;
    let mut disk = vec![0; start + volume_bytes(files)];
    fill_volume(&mut disk[start..], files).context("the image's file system")?;
    let sectors = u32::try_from(disk.len() / SECTOR - PARTITION).context("an image of less than 2 TiB")?;
    disk[CODE..CODE + 4].copy_from_slice(&SERIAL.to_le_bytes());
    disk[ENTRY..ENTRY + 16].copy_from_slice(&entry(sectors));
    disk[SECTOR - 2..SECTOR].copy_from_slice(&[0x55, 0xaa]);
    Ok(disk)
}

/// Puts a BIOS boot loader before the partition: code for the first sector, and what follows it.
///
/// # Errors
/// It does not fit.
pub(super) fn add_boot_loader(disk: &mut [u8], code: &[u8], rest: &[u8]) -> Result<()> {
    let room = (PARTITION - 1) * SECTOR;
    if code.len() < CODE || rest.len() > room {
        bail!(
            "a boot loader of {} and {} bytes; {CODE} and at most {room} are wanted",
            code.len(),
            rest.len()
        );
    }
    disk[..CODE].copy_from_slice(&code[..CODE]);
    disk[SECTOR..SECTOR + rest.len()].copy_from_slice(rest);
    Ok(())
}

/// Room for the files and what the file system needs beside them, in whole MiB.
fn volume_bytes(files: &[(String, Vec<u8>)]) -> usize {
    let bytes: usize = files.iter().map(|(_, bytes)| bytes.len()).sum();
    // Two tables take 8 bytes a cluster, whose least is 512; a large cluster is lost in part.
    let mib = (bytes + bytes / 32 + (files.len() << 15)) >> 20;
    (mib + 4).max(LEAST_MIB) << 20
}

/// Active, so that a BIOS starts from it.
fn entry(sectors: u32) -> [u8; 16] {
    let mut entry = [0; 16];
    entry[0] = 0x80;
    entry[1..4].copy_from_slice(&BY_LBA);
    entry[4] = KIND;
    entry[5..8].copy_from_slice(&BY_LBA);
    entry[8..12].copy_from_slice(&(PARTITION as u32).to_le_bytes());
    entry[12..].copy_from_slice(&sectors.to_le_bytes());
    entry
}

type Volume<'a> = Cursor<&'a mut [u8]>;

fn fill_volume(bytes: &mut [u8], files: &[(String, Vec<u8>)]) -> Result<()> {
    let options = FormatVolumeOptions::new().fat_type(FatType::Fat32).volume_id(SERIAL);
    fatfs::format_volume(Cursor::new(&mut *bytes), options.volume_label(*b"HERALD     "))?;
    let volume = FileSystem::new(Cursor::new(bytes), FsOptions::new())?;
    for (path, bytes) in files {
        add_file(&volume.root_dir(), path, bytes).with_context(|| path.clone())?;
    }
    Ok(volume.unmount()?)
}

fn add_file(root: &Dir<'_, Volume<'_>>, path: &str, bytes: &[u8]) -> Result<()> {
    for (at, _) in path.match_indices('/') {
        // One that is there is opened.
        root.create_dir(&path[..at])?;
    }
    let mut file = root.create_file(path)?;
    file.truncate()?;
    Ok(file.write_all(bytes)?)
}

#[cfg(test)]
mod tests {
    use super::{PARTITION, SECTOR, add_boot_loader, disk};
    use fatfs::{FileSystem, FsOptions};
    use std::io::{Cursor, Read};

    #[test]
    fn what_is_written_can_be_read() {
        let files =
            [("EFI/BOOT/BOOTX64.EFI", 70_000), ("herald/herald", 3), ("herald/Image with a long name", 0)]
                .map(|(path, len)| (path.to_owned(), vec![7; len]));
        let bytes = disk(&files).expect("room");
        assert_eq!(bytes, disk(&files).expect("room"), "the same files make the same image");
        assert_eq!((bytes[450], bytes[510], bytes.len()), (0xef, 0x55, 65 << 20));
        assert_eq!(bytes[454..462], [0, 8, 0, 0, 0, 0, 2, 0]);
        let volume = Cursor::new(bytes[PARTITION * SECTOR..].to_vec());
        let volume = FileSystem::new(volume, FsOptions::new()).expect("a file system");
        for (path, bytes) in files {
            let mut read = Vec::new();
            let mut file = volume.root_dir().open_file(&path).expect("a file");
            file.read_to_end(&mut read).expect("readable");
            assert_eq!(read, bytes);
        }
    }

    #[test]
    fn a_boot_loader_leaves_the_partitions_alone() {
        let mut bytes = disk(&[]).expect("room");
        let before = bytes.clone();
        add_boot_loader(&mut bytes, &[1; 512], &[2; 1000]).expect("room");
        assert_eq!((bytes[439], &bytes[440..512]), (1, &before[440..512]));
        assert_eq!((bytes[512], bytes[1511], &bytes[1512..]), (2, 2, &before[1512..]));
        assert!(add_boot_loader(&mut bytes, &[1; 512], &vec![2; 2048 * 512]).is_err());
    }
}
