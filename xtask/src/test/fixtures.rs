//! Files that scenarios give to `run`: kernels, good and broken. `{name}` in an argument stands for one.

use crate::metal::Binaries;
use crate::{elf32, guest_images, package, workspace};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// Physical address that no guest of these tests has RAM at.
const FAR: u32 = 0xb000_0000;
/// Bytes that are left of a truncated kernel: the boot sector's header, but not the code.
const TRUNCATED: usize = 20_000;

/// Two guests; one of them ends badly while the other one runs.
const ONE_DIES: &str = r#"
[[vm]]
name = "dies"
kernel = "testguest"
append = "triplefault"
memory = "16M"

[[vm]]
name = "lives"
kernel = "testguest"
append = "spin ticks=20000000"
memory = "16M"
vcpus = 2
"#;

/// Two guests; one of them wants more memory than there is, whatever is done.
const ONE_HOARDS: &str = r#"
[[vm]]
name = "hoards"
kernel = "testguest"
append = "sweep"
memory = "128M"

[[vm]]
name = "modest"
kernel = "testguest"
append = "sweep rounds=12"
memory = "16M"
"#;

/// One fills its memory with what does not compress, and needs some pages all the time: they come and go, until it is ended.
const ONE_STANDS_STILL: &str = r#"
[[vm]]
name = "random"
kernel = "testguest"
append = "sweep every=1 busy=600"
memory = "128M"

[[vm]]
name = "modest"
kernel = "testguest"
append = "sweep rounds=12"
memory = "8M"
"#;

/// One has a limit and sweeps over twice as much; the other one has its memory, and is done before.
const ONE_LIMITED: &str = r#"
[[vm]]
name = "limited"
kernel = "testguest"
append = "sweep rounds=2 every=16"
memory = "24M"
memory_max = "12M"

[[vm]]
name = "other"
kernel = "testguest"
append = "sweep rounds=1"
memory = "16M"
memory_weight = 200
"#;

/// Two with the same in their pages, and then with something else.
const TWO_MERGE: &str = r#"
merge-share = 50

[[vm]]
name = "one"
kernel = "testguest"
append = "merge who=1 ARGUMENTS"
memory = "16M"
merge = true

[[vm]]
name = "two"
kernel = "testguest"
append = "merge who=2 ARGUMENTS"
memory = "16M"
merge = true
"#;

/// The directory with the files.
pub(super) struct Fixtures {
    dir: PathBuf,
    /// Guests are under shadows, whatever the processor has.
    pub(super) is_shadowed: bool,
}

impl Fixtures {
    /// Makes them anew; builds and fetches kernels where they are missing.
    ///
    /// # Errors
    /// A kernel cannot be built or fetched.
    pub(super) fn make(binaries: &Binaries) -> Result<Self> {
        let dir = workspace::target().join("test");
        std::fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
        let tiny = guest_images::tiny(binaries)?;
        guest_images::debian(binaries)?;
        let elf = std::fs::read(&binaries.testguest).context("the test guest")?;
        let kernel = std::fs::read(&tiny.kernel).context("the tiny Linux")?;
        let vmlinux =
            std::fs::read(tiny.kernel.with_file_name("vmlinux")).context("the tiny Linux' PVH ELF")?;
        let initramfs = std::fs::read(tiny.initrd.context("the tiny Linux has an initramfs")?)?;
        let files = [
            ("vmlinux", vmlinux),
            (guest_images::TINY_INITRAMFS, initramfs),
            ("testguest", elf32::from_elf64(&elf, 0)?),
            ("truncated64", elf[..elf.len().min(TRUNCATED)].to_vec()),
            ("testguest64", package::strip(&elf)?),
            ("far", elf32::from_elf64(&elf, FAR)?),
            ("truncated", kernel[..kernel.len().min(TRUNCATED)].to_vec()),
            (guest_images::TINY_KERNEL, kernel),
            ("one-dies.toml", ONE_DIES.into()),
            ("one-hoards.toml", ONE_HOARDS.into()),
            ("one-stands-still.toml", ONE_STANDS_STILL.into()),
            ("one-limited.toml", ONE_LIMITED.into()),
            ("one-limited-first.toml", ONE_LIMITED.replace("rounds=1", "rounds=20").into()),
            ("two-merge.toml", TWO_MERGE.replace("ARGUMENTS", "pages=1000").into()),
            ("two-merge-in-swap.toml", TWO_MERGE.replace("ARGUMENTS", "pages=1000 swap=1").into()),
            ("empty", Vec::new()),
            ("text", b"This is no kernel.\n".repeat(1000)),
        ];
        for (name, bytes) in files {
            std::fs::write(dir.join(name), bytes)?;
        }
        Ok(Self { dir, is_shadowed: false })
    }

    /// Those of a directory that holds them already.
    pub(super) fn of(dir: PathBuf) -> Self {
        Self { dir, is_shadowed: false }
    }

    /// The directory.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// `argument` with `{name}` replaced by the path of that file.
    pub(super) fn expand(&self, argument: &str) -> String {
        match argument.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
            Some(name) => self.dir.join(name).display().to_string(),
            None => argument.to_owned(),
        }
    }

    /// A path for a scenario's own output.
    pub(super) fn output(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.telemetry"))
    }
}
