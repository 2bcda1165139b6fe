//! Installs what is missing, by Debian package name, and says so.

use crate::error::usage;
use crate::machine::Chosen;
use crate::toolchain::{self, LLD_PACKAGE, TARGET, UEFI_TARGET, find_program};
use crate::{bochs, progress, qemu};
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

/// Files that show that the ROMs are here; Debian's packages put them there.
const BOCHS_ROMS: [&str; 2] = ["/usr/share/bochs/BIOS-bochs-latest", "/usr/share/bochs/VGABIOS-lgpl-latest"];

/// Makes the chosen machine usable.
///
/// # Errors
/// It is not here and cannot be installed.
pub(crate) fn ensure_machine(kind: Chosen) -> Result<()> {
    if has_machine(kind) {
        return Ok(());
    }
    install("the machine", machine_packages(kind))
}

/// Whether the machine's program and files are here.
pub(crate) fn has_machine(kind: Chosen) -> bool {
    match kind {
        Chosen::Bochs => {
            find_program("bochs").is_some() && BOCHS_ROMS.iter().all(|rom| Path::new(rom).is_file())
        }
        Chosen::Kvm | Chosen::Tcg => find_program("qemu-system-x86_64").is_some(),
    }
}

/// What [`ensure_machine`] would install.
pub(crate) fn machine_packages(kind: Chosen) -> &'static [&'static str] {
    match kind {
        Chosen::Bochs => &bochs::PACKAGES,
        Chosen::Kvm | Chosen::Tcg => &qemu::PACKAGES,
    }
}

/// Makes some toolchain for the bare machine usable.
///
/// # Errors
/// There is none and Debian's cannot be installed.
pub(crate) fn ensure_toolchain() -> Result<()> {
    match toolchain::choose(TARGET) {
        Ok(_) => Ok(()),
        Err(reason) => install("a toolchain", &toolchain::DEBIAN_PACKAGES).context(reason),
    }
}

/// Makes some toolchain for UEFI usable.
///
/// # Errors
/// There is none and Debian's cannot be installed, or no LLD.
pub(crate) fn ensure_uefi_toolchain() -> Result<()> {
    if let Err(reason) = toolchain::choose(UEFI_TARGET) {
        install("a toolchain", &toolchain::DEBIAN_PACKAGES).context(reason)?;
    }
    if toolchain::choose(UEFI_TARGET)?.has_lld() {
        return Ok(());
    }
    install("linking for UEFI", &[LLD_PACKAGE])
}

/// Installs those of `packages` that are missing.
///
/// # Errors
/// As for [`install`].
pub(crate) fn ensure_packages(why: &str, packages: &[&str]) -> Result<()> {
    let missing: Vec<&str> = packages.iter().copied().filter(|name| version_of(name).is_none()).collect();
    if missing.is_empty() { Ok(()) } else { install(why, &missing) }
}

/// The version of an installed package.
pub(crate) fn version_of(package: &str) -> Option<String> {
    let query = ["-W", "-f=${db:Status-Status} ${Version}", package];
    let output = Command::new("dpkg-query").args(query).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.strip_prefix("installed ").map(|version| version.trim().to_owned())
}

/// Installs packages. Old package lists name versions that are gone, or too old to build Herald.
fn install(why: &str, packages: &[&str]) -> Result<()> {
    let names = packages.join(" ");
    if find_program("apt-get").is_none() {
        return Err(usage(format!("{why} is missing, and this is no Debian: install {names} yourself")));
    }
    eprintln!("xtask: installing for {why}: {names}");
    ensure_fresh_lists()?;
    apt_install(packages).with_context(|| format!("{why} needs {names}"))
}

fn apt_install(packages: &[&str]) -> Result<()> {
    let mut command = as_root("apt-get")?;
    // Another run may be installing; apt waits for so many seconds.
    command.args(["install", "--yes", "--quiet", "--no-install-recommends"]);
    command.args(["--option", "DPkg::Lock::Timeout=600"]).args(packages);
    progress::run("installing packages", &mut command)
}

/// Fetches the package lists, once a process.
///
/// # Errors
/// They cannot be fetched.
pub(crate) fn ensure_fresh_lists() -> Result<()> {
    static FRESH: AtomicBool = AtomicBool::new(false);
    if !FRESH.load(Ordering::Relaxed) {
        progress::run("fetching package lists", as_root("apt-get")?.args(["update", "--quiet"]))?;
        FRESH.store(true, Ordering::Relaxed);
    }
    Ok(())
}

fn as_root(program: &str) -> Result<Command> {
    let environment = ["DEBIAN_FRONTEND=noninteractive", program];
    if rustix::process::geteuid().is_root() {
        let mut command = Command::new("env");
        command.args(environment);
        return Ok(command);
    }
    if find_program("sudo").is_none() {
        bail!("{program} needs root, and there is no sudo");
    }
    eprintln!("xtask: {program} runs with sudo");
    let mut command = Command::new("sudo");
    command.arg("env").args(environment);
    Ok(command)
}
