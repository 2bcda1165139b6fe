//! GRUB: on ISO images, with a BIOS and with UEFI, made by `grub-mkrescue`; and on disks, with a BIOS.

use crate::progress;
use anyhow::{Context, Result};
use std::path::Path;
use std::process::Command;

/// Debian packages: GRUB for both kinds of firmware, and what writes the image.
pub(crate) const PACKAGES: [&str; 5] =
    ["grub-common", "grub-pc-bin", "grub-efi-amd64-bin", "xorriso", "mtools"];

/// Writes an image of the files, each with its path in it, which must be relative; `config` is GRUB's. `work` is an empty
/// directory.
///
/// # Errors
/// A file cannot be written, or the words of `grub-mkrescue`.
pub(crate) fn write_iso(work: &Path, config: &str, files: &[(String, Vec<u8>)], iso: &Path) -> Result<()> {
    let root = work.join("root");
    write(&root.join("boot/grub/grub.cfg"), config.as_bytes())?;
    for (path, bytes) in files {
        write(&root.join(path), bytes)?;
    }
    let mut command = Command::new("grub-mkrescue");
    // The same files make the same image.
    command.env("SOURCE_DATE_EPOCH", "0").arg("-o").arg(iso).arg(&root);
    progress::run("writing the image", &mut command)
}

/// GRUB for a BIOS, on a disk with a gap of 1 MiB before its first partition, which is FAT.
pub(crate) struct BiosLoader {
    /// For the first sector; its partition table is the disk's.
    pub(crate) first: Vec<u8>,
    /// From the second sector on.
    pub(crate) rest: Vec<u8>,
    /// Files of the partition, each with its path.
    pub(crate) files: Vec<(String, Vec<u8>)>,
}

/// What is in the gap: to reach the partition, and to read a configuration there.
const BUILT_IN: [&str; 7] = ["biosdisk", "part_msdos", "fat", "normal", "test", "multiboot2", "boot"];
/// What is in the partition: the configuration tells when (`image::files`).
const LOADED: [&str; 3] = ["video", "video_fb", "vbe"];
const BIOS_FILES: &str = "/usr/lib/grub/i386-pc";

impl BiosLoader {
    /// Makes it in the directory `work`; `config` is GRUB's.
    ///
    /// # Errors
    /// The words of `grub-mkimage`, or a file of GRUB's that is not there.
    pub(crate) fn new(work: &Path, config: &str) -> Result<Self> {
        let core = work.join("core.img");
        let mut command = Command::new("grub-mkimage");
        // The first partition of the disk that it was started from. The core expects itself in the second sector.
        command.args(["--format", "i386-pc", "--prefix", "(,msdos1)/boot/grub", "--output"]);
        command.arg(&core).args(BUILT_IN);
        progress::run("making GRUB's core", &mut command)?;
        let mut files = vec![("boot/grub/grub.cfg".to_owned(), config.as_bytes().to_vec())];
        for module in LOADED {
            let bytes = read(&Path::new(BIOS_FILES).join(format!("{module}.mod")))?;
            files.push((format!("boot/grub/i386-pc/{module}.mod"), bytes));
        }
        Ok(Self { first: read(&Path::new(BIOS_FILES).join("boot.img"))?, rest: read(&core)?, files })
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| path.display().to_string())
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let dir = path.parent().context("a file has a directory")?;
    std::fs::create_dir_all(dir)
        .and_then(|()| std::fs::write(path, bytes))
        .with_context(|| path.display().to_string())
}
