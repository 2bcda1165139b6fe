//! `image`: Herald and a guest on a medium that a machine boots.
//!
//! ```text
//!   iso        firmware ─► GRUB ─► loader (multiboot2), each file of /herald a module
//!   uefi       firmware ─► the loader's UEFI application, which reads /herald
//!   raw        as iso with a BIOS, as uefi with UEFI
//! ```

mod disk;
mod files;

use crate::cli::{ImageArgs, ImageFormat};
use crate::error::usage;
use crate::grub::BiosLoader;
use crate::{grub, metal, plan, run, setup, workspace};
use anyhow::{Context, Result};
use files::Files;
use std::path::{Path, PathBuf};

/// What UEFI starts from a disk that it knows nothing of (UEFI 2.10, 3.5.1.1).
const UEFI_APPLICATION: &str = "EFI/BOOT/BOOTX64.EFI";

/// Writes the image; tells where.
///
/// # Errors
/// Bad arguments, or something cannot be built or written.
pub(crate) fn run(args: &ImageArgs) -> Result<u8> {
    plan::check_guest(&args.guest, u64::MAX)?;
    let output = output(args)?;
    match args.format {
        ImageFormat::Iso => iso(args, &output)?,
        ImageFormat::Raw => raw(args, &output)?,
        ImageFormat::Uefi => uefi(args, &output)?,
    }
    let bytes = output.metadata().with_context(|| output.display().to_string())?.len();
    println!("{} ({} MiB)", output.display(), bytes >> 20);
    Ok(0)
}

fn output(args: &ImageArgs) -> Result<PathBuf> {
    if let Some(path) = &args.output {
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
        if dir.is_some_and(|dir| !dir.is_dir()) || path.is_dir() {
            return Err(usage(format!("-o {}: no place for a file", path.display())));
        }
        return Ok(path.clone());
    }
    let dir = workspace::images();
    std::fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    let name = match args.format {
        ImageFormat::Iso => "herald.iso",
        ImageFormat::Raw => "herald.raw",
        ImageFormat::Uefi => "herald.uefi",
    };
    Ok(dir.join(name))
}

fn iso(args: &ImageArgs, output: &Path) -> Result<()> {
    setup::ensure_packages("an ISO image", &grub::PACKAGES)?;
    let binaries = metal::build()?;
    let guest = run::guest_of(&args.guest, &binaries)?;
    let files = Files::gather(&binaries, &guest, args.guest.memory, plan::log_level(args.log))?;
    let work = run::RunDir::create()?;
    grub::write_iso(work.path(), &files.grub_config(), &files.with_loader(&binaries)?, output)
}

fn raw(args: &ImageArgs, output: &Path) -> Result<()> {
    setup::ensure_packages("a disk image", &grub::PACKAGES)?;
    let binaries = metal::build()?;
    let application = run::read(&metal::build_uefi()?)?;
    let guest = run::guest_of(&args.guest, &binaries)?;
    let files = Files::gather(&binaries, &guest, args.guest.memory, plan::log_level(args.log))?;
    let work = run::RunDir::create()?;
    let grub = BiosLoader::new(work.path(), &files.grub_config())?;
    let mut files = files.with_loader(&binaries)?;
    files.push((UEFI_APPLICATION.to_owned(), application));
    files.extend(grub.files);
    let mut disk = disk::disk(&files)?;
    disk::add_boot_loader(&mut disk, &grub.first, &grub.rest)?;
    std::fs::write(output, disk).with_context(|| output.display().to_string())
}

fn uefi(args: &ImageArgs, output: &Path) -> Result<()> {
    let binaries = metal::build()?;
    let application = run::read(&metal::build_uefi()?)?;
    let guest = run::guest_of(&args.guest, &binaries)?;
    let files = Files::gather(&binaries, &guest, args.guest.memory, plan::log_level(args.log))?;
    let mut files = files.with_paths();
    files.push((UEFI_APPLICATION.to_owned(), application));
    std::fs::write(output, disk::disk(&files)?).with_context(|| output.display().to_string())
}
