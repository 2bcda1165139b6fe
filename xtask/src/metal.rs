//! Builds the bare-metal programs: Herald, which has a heap, and the loader and the guests, which have none. Cargo gives
//! the packages of one invocation the same features of what they share, and `alloc` would be among them. The loader's
//! UEFI application is for another target, and is built only where an image needs it.
//!
//! Flags that hold for all of them are given here; where a program is linked is the business of its own
//! build script. Frame pointers make the back-trace of Herald's panic possible.

use crate::toolchain::{self, Library, TARGET, Toolchain, UEFI_TARGET};
use crate::{progress, setup, workspace};
use anyhow::{Result, anyhow};
use std::path::{Path, PathBuf};
use std::process::Command;

const FLAGS: [&str; 6] =
    ["-C", "relocation-model=static", "-C", "code-model=kernel", "-C", "force-frame-pointers=yes"];
/// Packages of an invocation, and the features that they need.
const BUILDS: [(&[&str], &[&str]); 2] =
    [(&["loader", "guest"], &["--features", "loader/metal"]), (&["herald"], &[])];

/// The loader's UEFI application.
const UEFI_LOADER: &str = "loader-uefi";

/// The programs, as ELF files.
#[derive(Clone, Debug)]
pub(crate) struct Binaries {
    /// Boot sector and PVH entry.
    pub(crate) loader: PathBuf,
    /// Herald.
    pub(crate) herald: PathBuf,
    /// The tiny Linux's /init.
    pub(crate) init: PathBuf,
    /// The multiboot test guest.
    pub(crate) testguest: PathBuf,
}

impl Binaries {
    /// Those of a directory.
    pub(crate) fn of(dir: &Path) -> Self {
        Self {
            loader: dir.join("loader"),
            herald: dir.join("herald"),
            init: dir.join("init"),
            testguest: dir.join("testguest"),
        }
    }
}

/// Builds what is stale.
///
/// # Errors
/// No toolchain, or the compiler's messages.
pub(crate) fn build() -> Result<Binaries> {
    if let Some(dir) = workspace::prebuilt() {
        return Ok(Binaries::of(&dir));
    }
    setup::ensure_toolchain()?;
    let toolchain = toolchain::choose(TARGET)?;
    for (packages, features) in BUILDS {
        let mut command = cargo(&toolchain, TARGET, &FLAGS);
        command.arg("--bins").args(features);
        for package in packages {
            command.args(["--package", package]);
        }
        compile(&packages.join(", "), &toolchain, &mut command)?;
    }
    Ok(Binaries::of(&release(TARGET)))
}

/// Builds the loader's UEFI application; its file.
///
/// # Errors
/// No toolchain, or the compiler's messages.
pub(crate) fn build_uefi() -> Result<PathBuf> {
    setup::ensure_uefi_toolchain()?;
    let toolchain = toolchain::choose(UEFI_TARGET)?;
    let mut command = cargo(&toolchain, UEFI_TARGET, &[]);
    command.args(["--package", "loader", "--bin", UEFI_LOADER, "--features", "loader/uefi"]);
    compile(UEFI_LOADER, &toolchain, &mut command)?;
    Ok(release(UEFI_TARGET).join(format!("{UEFI_LOADER}.efi")))
}

fn release(target: &str) -> PathBuf {
    workspace::metal_target().join(target).join("release")
}

fn compile(what: &str, toolchain: &Toolchain, command: &mut Command) -> Result<()> {
    progress::run(&format!("building {what}"), command)
        .map_err(|error| anyhow!("{error:#}\n(the toolchain is {toolchain})"))
}

fn cargo(toolchain: &Toolchain, target: &str, flags: &[&str]) -> Command {
    let mut command = Command::new(&toolchain.cargo);
    command.current_dir(workspace::root()).args(["build", "--release", "--target", target]);
    command.arg("--target-dir").arg(workspace::metal_target());
    if toolchain.library == Library::BuildStd {
        command.arg("-Zbuild-std=core,alloc,compiler_builtins");
        command.arg("-Zbuild-std-features=compiler-builtins-mem");
        command.env("RUSTC_BOOTSTRAP", "1");
    }
    let mut flags: Vec<String> = flags.iter().map(|&flag| flag.to_owned()).collect();
    if let Some(linker) = &toolchain.linker {
        flags.push(format!("-Clinker={}", linker.path.display()));
        flags.extend(linker.flavor.map(|flavor| format!("-Clinker-flavor={flavor}")));
    }
    // The separator that cargo defines: paths may hold spaces.
    command.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    command.env("RUSTC", &toolchain.rustc);
    for name in ["CARGO_TARGET_DIR", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "RUSTFLAGS"] {
        command.env_remove(name);
    }
    command
}
