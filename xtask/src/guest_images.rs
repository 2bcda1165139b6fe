//! The images of `--guest`: our small Linux, built from Debian's kernel source, and Debian's own kernel.
//!
//! What is built is kept in [`workspace::guest_cache`]; the name of a kernel's directory holds a checksum of
//! its configuration and of the source's version, so that a change of either builds anew.

use crate::metal::Binaries;
use crate::plan::GuestImages;
use crate::{debian_kernel, initramfs, package, progress, setup, workspace};
use abi::crc::crc32;
use anyhow::{Context, Result, bail};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Kernel source, and what its build calls.
pub(crate) const KERNEL_PACKAGES: [&str; 9] =
    [SOURCE_PACKAGE, "gcc", "make", "flex", "bison", "bc", "libelf-dev", "lz4", "xz-utils"];
/// The user space.
pub(crate) const INITRAMFS_PACKAGES: [&str; 1] = ["busybox-static"];

const SOURCE_PACKAGE: &str = "linux-source-6.1";
/// A program that needs no library.
pub(crate) const BUSYBOX: &str = "/bin/busybox";
/// Names of the small Linux' files in a directory of prebuilt ones.
pub(crate) const TINY_KERNEL: &str = "bzimage";
/// See [`TINY_KERNEL`].
pub(crate) const TINY_INITRAMFS: &str = "initramfs";
/// Raised when the steps below change, so that cached kernels are built anew.
const RECIPE: &str = "recipe 2";
/// guest/README.md tells why.
const APPEND: &str = "console=ttyS0,115200n8r quiet";

/// Our small Linux.
///
/// # Errors
/// A package cannot be installed, or the kernel does not build.
pub(crate) fn tiny(binaries: &Binaries) -> Result<GuestImages> {
    if let Some(dir) = workspace::prebuilt() {
        return Ok(tiny_of(dir.join(TINY_KERNEL), dir.join(TINY_INITRAMFS)));
    }
    let _lock = lock()?;
    setup::ensure_packages("the guest's kernel", &[SOURCE_PACKAGE])?;
    let kernel = tiny_path()?;
    if !kernel.is_file() {
        setup::ensure_packages("the guest's kernel", &KERNEL_PACKAGES)?;
        build_kernel(&kernel)?;
    }
    Ok(tiny_of(kernel, user_space(binaries)?))
}

fn tiny_of(kernel: PathBuf, initramfs: PathBuf) -> GuestImages {
    GuestImages { name: "tiny".into(), kernel, initrd: Some(initramfs), append: APPEND.into() }
}

/// Debian's cloud kernel, as Debian ships it.
///
/// # Errors
/// The package cannot be fetched.
pub(crate) fn debian(binaries: &Binaries) -> Result<GuestImages> {
    let _lock = lock()?;
    Ok(GuestImages {
        name: "debian".into(),
        kernel: debian_kernel::fetch()?.kernel,
        initrd: Some(user_space(binaries)?),
        append: APPEND.into(),
    })
}

/// The small Linux, if it is built already.
pub(crate) fn cached_tiny() -> Option<PathBuf> {
    tiny_path().ok().filter(|path| path.is_file())
}

/// One run at a time fills the cache.
///
/// # Errors
/// The cache cannot be written.
pub(crate) fn lock() -> Result<File> {
    let dir = workspace::guest_cache();
    std::fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    let file = File::create(dir.join("lock"))?;
    if file.try_lock().is_err() {
        eprintln!("xtask: waiting for another run, which prepares the guest's images");
        file.lock()?;
    }
    Ok(file)
}

fn config_path() -> PathBuf {
    workspace::root().join("guest/linux/tiny.config")
}

fn tiny_path() -> Result<PathBuf> {
    let version =
        setup::version_of(SOURCE_PACKAGE).with_context(|| format!("{SOURCE_PACKAGE} is missing"))?;
    let path = config_path();
    let config = std::fs::read(&path).with_context(|| path.display().to_string())?;
    let key = crc32(&[RECIPE.as_bytes(), version.as_bytes(), &config].concat());
    Ok(workspace::guest_cache().join(format!("tiny-{key:08x}/bzImage")))
}

fn build_kernel(kernel: &Path) -> Result<()> {
    let work = workspace::guest_cache().join("work");
    let (source, build) = (work.join("source"), work.join("build"));
    let _ = std::fs::remove_dir_all(&work);
    std::fs::create_dir_all(&source)?;
    std::fs::create_dir_all(&build)?;
    let mut unpack = Command::new("tar");
    unpack.args(["--extract", "--strip-components=1", "--file"]);
    unpack.arg(format!("/usr/src/{SOURCE_PACKAGE}.tar.xz")).arg("--directory").arg(&source);
    progress::run("unpacking the kernel's source", &mut unpack)?;
    let mut config = make(&source, &build);
    config.env("KCONFIG_ALLCONFIG", config_path()).arg("allnoconfig");
    progress::run("configuring the guest's kernel", &mut config)?;
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let mut compile = make(&source, &build);
    compile.args([&format!("-j{cpus}"), "bzImage"]);
    progress::run("building the guest's kernel (once, some minutes)", &mut compile)?;
    // The kernel before compression is a PVH ELF, once its debug information is gone.
    let vmlinux = std::fs::read(build.join("vmlinux")).context("vmlinux")?;
    std::fs::write(build.join("vmlinux.stripped"), package::strip(&vmlinux)?)?;
    publish(&build.join("vmlinux.stripped"), &kernel.with_file_name("vmlinux"))?;
    publish(&build.join("arch/x86/boot/bzImage"), kernel)?;
    std::fs::remove_dir_all(&work)?;
    Ok(())
}

/// `make` with what would differ from build to build held fixed.
fn make(source: &Path, build: &Path) -> Command {
    let mut command = Command::new("make");
    command.arg("-C").arg(source).arg(format!("O={}", build.display()));
    command.env("KBUILD_BUILD_TIMESTAMP", "1970-01-01");
    command.env("KBUILD_BUILD_USER", "herald").env("KBUILD_BUILD_HOST", "herald");
    for name in ["MAKEFLAGS", "MFLAGS", "ARCH", "CROSS_COMPILE", "KCONFIG_CONFIG"] {
        command.env_remove(name);
    }
    command
}

/// Puts a file in place whole: a reader sees the old one or the new one.
///
/// # Errors
/// It cannot be read or written.
pub(crate) fn publish(from: &Path, to: &Path) -> Result<()> {
    let dir = to.parent().context("a file in the cache has a directory")?;
    std::fs::create_dir_all(dir)?;
    let part = to.with_extension("part");
    std::fs::copy(from, &part).with_context(|| from.display().to_string())?;
    std::fs::rename(part, to)?;
    Ok(())
}

/// The initramfs of both: busybox and our /init.
fn user_space(binaries: &Binaries) -> Result<PathBuf> {
    setup::ensure_packages("the guest's programs", &INITRAMFS_PACKAGES)?;
    let output = Command::new(BUSYBOX).arg("--list").output().context(BUSYBOX)?;
    let applets = String::from_utf8_lossy(&output.stdout).into_owned();
    let applets: Vec<String> = applets.lines().filter(|name| *name != "busybox").map(str::to_owned).collect();
    if applets.is_empty() {
        bail!("{BUSYBOX} --list names nothing");
    }
    let variables = initramfs::Variables { init: binaries.init.clone(), busybox: BUSYBOX.into(), applets };
    let list = workspace::root().join("guest/linux/initramfs.list");
    let text = std::fs::read_to_string(&list).with_context(|| list.display().to_string())?;
    let archive = initramfs::build(&text, &variables)?;
    let path = workspace::guest_cache().join("initramfs.cpio");
    if std::fs::read(&path).is_ok_and(|old| old == archive) {
        return Ok(path);
    }
    let part = workspace::guest_cache().join("initramfs.new");
    std::fs::write(&part, archive)?;
    std::fs::rename(part, &path)?;
    Ok(path)
}
