//! ISO images that GRUB boots, with a BIOS and with UEFI, made by `grub-mkrescue`.

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

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let dir = path.parent().context("a file has a directory")?;
    std::fs::create_dir_all(dir)
        .and_then(|()| std::fs::write(path, bytes))
        .with_context(|| path.display().to_string())
}
