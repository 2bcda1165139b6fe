//! Debian's cloud kernel, unmodified: a guest, and the Linux that runs KVM in the nested lab.

use crate::guest_images::publish;
use crate::{progress, setup, workspace};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Depends on the kernel of the day.
pub(crate) const PACKAGE: &str = "linux-image-cloud-amd64";
/// What KVM is made of, in the order in which it is loaded; below the modules' directory.
const MODULES: [&str; 3] =
    ["kernel/virt/lib/irqbypass.ko", "kernel/arch/x86/kvm/kvm.ko", "kernel/arch/x86/kvm/kvm-intel.ko"];
/// The same of swap in compressed memory.
const SWAP_MODULES: [&str; 3] =
    ["kernel/mm/zsmalloc.ko", "kernel/crypto/lzo-rle.ko", "kernel/drivers/block/zram/zram.ko"];

/// The files.
pub(crate) struct DebianKernel {
    /// The bzImage.
    pub(crate) kernel: PathBuf,
    /// The modules of KVM, in the order in which they are loaded.
    pub(crate) modules: [PathBuf; 3],
    /// The same of swap in compressed memory.
    pub(crate) swap_modules: [PathBuf; 3],
}

impl DebianKernel {
    fn all_modules(&self) -> impl Iterator<Item = &PathBuf> {
        self.modules.iter().chain(&self.swap_modules)
    }
}

/// The kernel in the cache, fetched if it is not there. The caller holds [`crate::guest_images::lock`].
///
/// # Errors
/// The package cannot be fetched.
pub(crate) fn fetch() -> Result<DebianKernel> {
    let files = places();
    if !is_here(&files) {
        download(&files)?;
    }
    Ok(files)
}

/// The kernel, if it is in the cache.
pub(crate) fn cached() -> Option<PathBuf> {
    Some(places()).filter(is_here).map(|files| files.kernel)
}

fn places() -> DebianKernel {
    let dir = workspace::guest_cache().join("debian");
    let place = |path: &str| dir.join(path.rsplit('/').next().unwrap_or(path));
    DebianKernel {
        kernel: dir.join("vmlinuz"),
        modules: MODULES.map(place),
        swap_modules: SWAP_MODULES.map(place),
    }
}

/// The kernel is published last; an older cache may lack modules.
fn is_here(files: &DebianKernel) -> bool {
    files.kernel.is_file() && files.all_modules().all(|module| module.is_file())
}

fn download(files: &DebianKernel) -> Result<()> {
    let image = image_package()?;
    let work = workspace::guest_cache().join("work-debian");
    let _ = std::fs::remove_dir_all(&work);
    std::fs::create_dir_all(&work)?;
    let mut download = Command::new("apt-get");
    // As the user that runs this: apt's own user may not write here.
    download.args(["--option", "APT::Sandbox::User=root", "--quiet", "download", &image]).current_dir(&work);
    progress::run(&format!("fetching {image}"), &mut download)?;
    let package = find(&work, |name| name.ends_with(".deb"))?;
    let unpacked = work.join("files");
    let mut extract = Command::new("dpkg-deb");
    extract.arg("-x").arg(package).arg(&unpacked);
    progress::run(&format!("unpacking {image}"), &mut extract)?;
    let modules = find(&unpacked.join("lib/modules"), |_| true)?;
    for (path, module) in MODULES.iter().chain(&SWAP_MODULES).zip(files.all_modules()) {
        publish(&modules.join(path), module)?;
    }
    publish(&find(&unpacked.join("boot"), |name| name.starts_with("vmlinuz-"))?, &files.kernel)?;
    std::fs::remove_dir_all(&work)?;
    Ok(())
}

/// The package that [`PACKAGE`] stands for at present.
fn image_package() -> Result<String> {
    setup::ensure_fresh_lists()?;
    let output = Command::new("apt-cache").args(["depends", "--important", PACKAGE]).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut depends = text.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    let image = depends.find(|name| name.starts_with("linux-image-"));
    let image = image.with_context(|| format!("{PACKAGE} names no kernel; are the package lists fresh?"))?;
    Ok(image.to_owned())
}

fn find(dir: &Path, wanted: impl Fn(&str) -> bool) -> Result<PathBuf> {
    let entries = std::fs::read_dir(dir).with_context(|| dir.display().to_string())?;
    let mut names = entries.flatten().map(|entry| entry.path());
    let found = names.find(|path| path.file_name().is_some_and(|name| wanted(&name.to_string_lossy())));
    found.with_context(|| format!("{}: the file looked for is not there", dir.display()))
}
