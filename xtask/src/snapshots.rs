//! `--snapshot` and `--restore`: the disk that a snapshot goes to, and what is looked at before a machine is started for one.
//!
//! ```text
//!   --snapshot FILE ─► an empty disk, labelled ─► the run ─► complete? ─► FILE
//!   --restore FILE ─► header and sections good? ─► the disk of the run, which looks again, and at each page as it comes
//! ```

use crate::cli::RunArgs;
use crate::error::usage;
use crate::run::file_name;
use abi::config::MAX_VCPUS;
use anyhow::{Context, Result};
use snapshot::{Blocks, Header, OpenError, Page, Snapshot, most_bytes};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The disk, in the directory of the run.
const DISK: &str = "snapshot";

/// The snapshot disk of a machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum SnapshotDisk {
    /// Empty, for guests of at most so many bytes.
    New(u64),
    /// This file.
    Existing(PathBuf),
}

/// A guest that is to go on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Restored {
    /// What it is called.
    pub(crate) name: String,
    /// Bytes of its memory.
    pub(crate) memory: u64,
    pub(crate) vcpus: u32,
}

/// A file as the format reads it.
struct Source(File, u64);

impl Blocks for Source {
    type Error = std::io::Error;

    fn bytes(&self) -> u64 {
        self.1
    }

    fn read(&self, page: u64, bytes: &mut Page) -> std::io::Result<()> {
        self.0.read_exact_at(bytes, page * snapshot::PAGE_BYTES as u64)
    }
}

fn open(path: &Path) -> Result<Snapshot, OpenError<std::io::Error>> {
    let source = File::open(path).and_then(|file| Ok(Source(file.try_clone()?, file.metadata()?.len())));
    Snapshot::open(&source.map_err(OpenError::Blocks)?)
}

/// Refuses what cannot be restored, and a place where no snapshot can go.
///
/// # Errors
/// One sentence that names the option and the file; status 2.
pub(crate) fn check(args: &RunArgs) -> Result<()> {
    if let Some(path) = &args.restore {
        restored(path)?;
    }
    // After the run it would be too late.
    if let Some(path) = args.snapshot.as_ref().filter(|path| path.is_dir()) {
        return Err(usage(format!("--snapshot {}: it is a directory", path.display())));
    }
    let dir = args.snapshot.as_ref().map(|path| (path, path.parent().unwrap_or(Path::new(""))));
    match dir.filter(|(_, dir)| !dir.as_os_str().is_empty() && !dir.is_dir()) {
        Some((path, dir)) => {
            Err(usage(format!("--snapshot {}: {} is no directory", path.display(), dir.display())))
        }
        None => Ok(()),
    }
}

/// The guest of a snapshot.
///
/// # Errors
/// As for [`check`].
pub(crate) fn restored(path: &Path) -> Result<Restored> {
    let refuse = |why: String| usage(format!("--restore {}: {why}", path.display()));
    let snapshot = open(path).map_err(|error| refuse(error.to_string()))?;
    let (memory, vcpus) = (snapshot.machine.memory(), snapshot.machine.processors.len());
    match u32::try_from(vcpus).ok().filter(|&vcpus| vcpus <= MAX_VCPUS) {
        Some(vcpus) => Ok(Restored { name: file_name(path), memory, vcpus }),
        None => Err(refuse(format!("{vcpus} virtual processors, a guest has at most {MAX_VCPUS}"))),
    }
}

/// The disk that the arguments ask for.
///
/// # Errors
/// The file has no absolute path.
pub(crate) fn disk(args: &RunArgs, memory: u64) -> Result<Option<SnapshotDisk>> {
    if let Some(path) = &args.restore {
        let path = std::path::absolute(path).with_context(|| path.display().to_string())?;
        return Ok(Some(SnapshotDisk::Existing(path)));
    }
    Ok(args.snapshot.is_some().then_some(SnapshotDisk::New(memory)))
}

/// The image of a disk, made in `dir` if it is new, and its bytes.
///
/// # Errors
/// It cannot be made, or is not there any more.
pub(crate) fn image(disk: &SnapshotDisk, dir: &Path) -> std::io::Result<(PathBuf, u64)> {
    match disk {
        SnapshotDisk::New(memory) => {
            let (path, bytes) = (dir.join(DISK), most_bytes(*memory));
            let mut file = File::create(&path)?;
            file.set_len(bytes)?;
            file.write_all(&*Header::empty(bytes).to_page())?;
            Ok((path, bytes))
        }
        SnapshotDisk::Existing(path) => Ok((path.clone(), path.metadata()?.len())),
    }
}

/// After the run: what was written becomes `path`, if it is complete.
///
/// # Errors
/// The file cannot be written.
pub(crate) fn keep(dir: &Path, path: &Path) -> Result<()> {
    let image = dir.join(DISK);
    match open(&image) {
        Ok(snapshot) => {
            let what = || path.display().to_string();
            File::options()
                .write(true)
                .open(&image)?
                .set_len(snapshot.header.bytes.get())
                .with_context(what)?;
            // Elsewhere than on the same file system it is copied.
            if std::fs::rename(&image, path).is_err() {
                std::fs::copy(&image, path).with_context(what)?;
            }
            eprintln!("xtask: snapshot {}, {} MiB", path.display(), snapshot.header.bytes.get() >> 20);
        }
        Err(OpenError::Unfinished) => {
            eprintln!(
                "xtask: --snapshot {}: the run has ended without a snapshot; nothing was written",
                path.display()
            );
        }
        Err(error) => eprintln!("xtask: --snapshot {}: {error}; nothing was written", path.display()),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{SnapshotDisk, check, image, keep, restored};
    use crate::cli::{Cli, Command};
    use crate::disk::CYLINDER;
    use crate::error::{USAGE, status_of};
    use crate::run::RunDir;
    use clap::Parser;
    use std::path::Path;

    #[test]
    fn a_disk_without_a_snapshot_is_none() {
        let dir = RunDir::create().expect("a temporary directory");
        let (path, bytes) = image(&SnapshotDisk::New(64 << 20), dir.path()).expect("made");
        assert!(bytes > 64 << 20 && bytes.is_multiple_of(CYLINDER));
        let refused = restored(&path).expect_err("it is empty");
        assert_eq!(status_of(&refused), USAGE);
        assert!(refused.to_string().ends_with("a snapshot that was never finished"), "{refused}");
        let file = dir.path().join("file");
        keep(dir.path(), &file).expect("said");
        assert!(!file.exists());
    }

    #[test]
    fn where_no_snapshot_can_go_is_said_before_the_run() {
        let dir = RunDir::create().expect("a temporary directory");
        let refusal = |path: &Path| {
            let path = path.to_str().expect("a name");
            let cli = Cli::try_parse_from(["xtask", "run", "--snapshot", path]).expect("accepted");
            let Command::Run(args) = cli.command else { unreachable!("it is a run") };
            check(&args).expect_err("refused").to_string()
        };
        assert!(refusal(dir.path()).ends_with("it is a directory"));
        assert!(refusal(&dir.path().join("none/file")).ends_with("is no directory"));
    }

    #[test]
    fn what_is_no_snapshot_is_refused() {
        let dir = RunDir::create().expect("a temporary directory");
        let path = dir.path().join("file");
        for (bytes, said) in [(vec![1; 8192], "no snapshot"), (vec![0; 100], "truncated: 100 bytes")] {
            std::fs::write(&path, bytes).expect("written");
            let refused = restored(&path).expect_err("refused").to_string();
            assert!(refused.contains(said), "{refused}");
        }
        let refused = restored(&dir.path().join("none")).expect_err("refused").to_string();
        assert!(refused.contains("No such file"), "{refused}");
    }
}
