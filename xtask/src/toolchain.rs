//! Which compiler builds the bare-metal programs.
//!
//! The targets `x86_64-unknown-none` and `x86_64-unknown-uefi` need `core` and `alloc`: precompiled where rustup has them,
//! else built from the library sources that a toolchain carries (`-Zbuild-std`, which a stable compiler
//! accepts under `RUSTC_BOOTSTRAP=1`). Debian's rustc-web, cargo-web and rust-web-src are such a
//! toolchain for machines whose rustup cannot fetch anything.

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The target triple of everything that runs without an operating system.
pub(crate) const TARGET: &str = "x86_64-unknown-none";
/// The target triple of what UEFI starts.
pub(crate) const UEFI_TARGET: &str = "x86_64-unknown-uefi";
/// Debian's package of the linker that alone links for UEFI.
pub(crate) const LLD_PACKAGE: &str = "lld";
/// Debian packages that make up a toolchain with library sources.
pub(crate) const DEBIAN_PACKAGES: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];
/// First minor version of rustc 1.x that knows the language features in the tree.
const OLDEST_MINOR: u32 = 88;

/// Where the target's `core` comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Library {
    /// Precompiled, in the sysroot.
    Installed,
    /// Built from the sysroot's sources.
    BuildStd,
}

/// A program that links, and the command line it understands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Linker {
    /// Full path.
    pub(crate) path: PathBuf,
    /// rustc's `linker-flavor`, where it is not the target's own.
    pub(crate) flavor: Option<&'static str>,
}

/// A toolchain that can build the bare-metal programs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Toolchain {
    /// Full path or name of cargo.
    pub(crate) cargo: PathBuf,
    /// Full path or name of rustc.
    pub(crate) rustc: PathBuf,
    /// `rustc --version`.
    pub(crate) version: String,
    /// Where `core` comes from.
    pub(crate) library: Library,
    /// A linker to name, where rustc does not find its own.
    pub(crate) linker: Option<Linker>,
}

impl Toolchain {
    /// Whether its linker is LLD, which understands every target's flavor.
    pub(crate) fn has_lld(&self) -> bool {
        self.linker.as_ref().is_none_or(|linker| linker.flavor.is_none())
    }
}

impl std::fmt::Display for Toolchain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let library = match self.library {
            Library::Installed => "target installed",
            Library::BuildStd => "library built from source",
        };
        write!(f, "{} at {} ({library})", self.version, self.rustc.display())?;
        match &self.linker {
            Some(linker) => write!(f, ", linker {}", linker.path.display()),
            None => Ok(()),
        }
    }
}

/// One compiler on this machine.
struct Compiler {
    cargo: PathBuf,
    rustc: PathBuf,
    version: String,
    sysroot: PathBuf,
}

impl Compiler {
    fn find(cargo: &str, rustc: &str) -> Result<Self> {
        let version = output(rustc, "--version")?;
        let minor = minor_version(&version).with_context(|| format!("{rustc} says `{version}`"))?;
        if minor < OLDEST_MINOR {
            bail!("{rustc} is {version}; 1.{OLDEST_MINOR} or later is needed");
        }
        let sysroot = output(rustc, "--print=sysroot")?.into();
        Ok(Self { cargo: cargo.into(), rustc: rustc.into(), version, sysroot })
    }

    fn rustlib(&self) -> PathBuf {
        self.sysroot.join("lib/rustlib")
    }

    fn has_target(&self, target: &str) -> bool {
        self.rustlib().join(target).join("lib").is_dir()
    }

    fn has_sources(&self) -> bool {
        self.rustlib().join("src/rust/library/core/src/lib.rs").is_file()
    }

    /// `rust-lld` as rustup ships it, beside the host's libraries.
    fn lld(&self) -> Option<PathBuf> {
        let hosts = std::fs::read_dir(self.rustlib()).ok()?;
        hosts.flatten().map(|host| host.path().join("bin/rust-lld")).find(|path| path.is_file())
    }

    fn with(self, library: Library, linker: Option<Linker>) -> Toolchain {
        let Self { cargo, rustc, version, .. } = self;
        Toolchain { cargo, rustc, version, library, linker }
    }
}

/// The first toolchain that works for a target: it is installed, sources of the active toolchain, Debian's packages.
///
/// # Errors
/// None does; the message tells why for each.
pub(crate) fn choose(target: &str) -> Result<Toolchain> {
    let active = Compiler::find(&active_cargo(), "rustc");
    let lld = active.as_ref().ok().and_then(Compiler::lld);
    let mut reasons = Vec::new();
    for found in [active, Compiler::find("/usr/bin/cargo", "/usr/bin/rustc")] {
        match found {
            Ok(compiler) if compiler.has_target(target) => {
                let linker = name_linker(&compiler, lld);
                return Ok(compiler.with(Library::Installed, linker));
            }
            Ok(compiler) if compiler.has_sources() => {
                let linker = name_linker(&compiler, lld);
                return Ok(compiler.with(Library::BuildStd, linker));
            }
            Ok(compiler) => reasons.push(format!(
                "{} has neither the target {target} nor the library's sources",
                compiler.rustc.display()
            )),
            Err(error) => reasons.push(format!("{error:#}")),
        }
    }
    bail!("no toolchain for {target}: {}", reasons.join("; "))
}

/// The cargo that started this program, so that a `+toolchain` on its command line stays in force.
fn active_cargo() -> String {
    std::env::var("CARGO").unwrap_or_else(|_| "cargo".into())
}

fn name_linker(compiler: &Compiler, lld: Option<PathBuf>) -> Option<Linker> {
    if compiler.lld().is_some() {
        return None;
    }
    let path = lld.or_else(|| find_program("ld.lld"));
    match path {
        Some(path) => Some(Linker { path, flavor: None }),
        None => find_program("ld").map(|path| Linker { path, flavor: Some("ld") }),
    }
}

/// The full path of a program on PATH, or in the administrator's directories.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let fixed = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(fixed).map(|dir| dir.join(name)).find(|file| is_program(file))
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

fn output(program: &str, argument: &str) -> Result<String> {
    let output =
        Command::new(program).arg(argument).output().with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        bail!("{program} {argument}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn minor_version(version: &str) -> Option<u32> {
    version.strip_prefix("rustc 1.")?.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::minor_version;

    #[test]
    fn the_minor_version_is_read() {
        assert_eq!(minor_version("rustc 1.96.0 (ac68faa20 2026-05-25) (built from source)"), Some(96));
        assert_eq!(minor_version("clang 19"), None);
    }
}
