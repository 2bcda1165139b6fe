//! `--snapshot` and `--restore`: the disk that a snapshot goes to, and what is looked at before a machine is started for one.
//!
//! ```text
//!   --snapshot FILE ─► an empty disk, labelled ─► the run ─► complete? ─► FILE
//!   --restore FILE ─► header and sections good? ─► the disk of the run, which looks again, and at each page as it comes
//!   both ─► good? ─► a copy of the one, with room behind it ─► the run ─► more instants than before? ─► the other
//! ```

use crate::cli::RunArgs;
use crate::error::usage;
use crate::run::file_name;
use abi::config::MAX_VCPUS;
use anyhow::{Context, Result};
use snapshot::{Blocks, Header, OpenError, Page, Snapshot, most_bytes};
use std::fs::{File, TryLockError};
use std::io::Write;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};

/// The disk, in the directory of the run.
const DISK: &str = "snapshot";
/// Room of a disk: what so many parts can have at most. Most have little, and the image is as large as what is written to it.
const ROOM: u64 = 4;

/// The snapshot disk of a machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum SnapshotDisk {
    /// Empty, for guests of at most so many bytes.
    New(u64),
    /// This file.
    Existing(PathBuf),
    /// A copy of this file, with room for more instants of a guest of so many bytes.
    Longer(PathBuf, u64),
}

/// Where the snapshots of a run go.
pub(crate) struct Target {
    path: PathBuf,
    /// Instants that are there before.
    instants: usize,
}

/// A guest that is to go on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Restored {
    /// What it is called.
    pub(crate) name: String,
    /// Bytes of its memory.
    pub(crate) memory: u64,
    pub(crate) vcpus: u32,
    /// Its instants.
    instants: usize,
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

/// Keeps other runs from the file that is restored, for as long as what it returns lasts: a run writes to it, or reads all of it. Bochs'
/// own lock, a file beside the image, would stay where Bochs is killed.
///
/// # Errors
/// Another run has it; status 2.
pub(crate) fn hold(args: &RunArgs) -> Result<Option<File>> {
    let Some(path) = &args.restore else { return Ok(None) };
    let refuse = |why: String| usage(format!("--restore {}: {why}", path.display()));
    let file = File::open(path).map_err(|error| refuse(error.to_string()))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Err(refuse("another run uses it".to_owned())),
        Err(TryLockError::Error(error)) => Err(refuse(error.to_string())),
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
        Some(vcpus) => Ok(Restored { name: file_name(path), memory, vcpus, instants: snapshot.instants() }),
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
        return Ok(Some(match args.snapshot {
            Some(_) => SnapshotDisk::Longer(path, memory),
            None => SnapshotDisk::Existing(path),
        }));
    }
    Ok(args.snapshot.is_some().then_some(SnapshotDisk::New(memory)))
}

/// Where the arguments want snapshots to go.
///
/// # Errors
/// As for [`check`].
pub(crate) fn target(args: &RunArgs) -> Result<Option<Target>> {
    let Some(path) = args.snapshot.clone() else { return Ok(None) };
    let instants = args.restore.as_deref().map(restored).transpose()?.map_or(0, |restored| restored.instants);
    Ok(Some(Target { path, instants }))
}

/// The image of a disk in `dir`, and its bytes: a link to a file that is there, so that whatever the machine puts beside it goes with
/// `dir`.
///
/// # Errors
/// It cannot be made, or is not there any more.
pub(crate) fn image(disk: &SnapshotDisk, dir: &Path) -> std::io::Result<(PathBuf, u64)> {
    let image = dir.join(DISK);
    match disk {
        SnapshotDisk::New(memory) => {
            let bytes = ROOM * most_bytes(*memory);
            let mut file = File::create(&image)?;
            file.set_len(bytes)?;
            file.write_all(&*Header::empty(bytes).to_page())?;
            Ok((image, bytes))
        }
        SnapshotDisk::Existing(path) => {
            symlink(path, &image)?;
            Ok((image, path.metadata()?.len()))
        }
        SnapshotDisk::Longer(path, memory) => {
            // Not with its permissions: who may not write to the one writes to the other.
            let mut file = File::create(&image)?;
            let bytes = std::io::copy(&mut File::open(path)?, &mut file)? + ROOM * most_bytes(*memory);
            file.set_len(bytes)?;
            Ok((image, bytes))
        }
    }
}

/// After the run: what was written becomes the target, if there is an instant that was not there before.
///
/// # Errors
/// The file cannot be written.
pub(crate) fn keep(dir: &Path, target: &Target) -> Result<()> {
    let (image, path) = (dir.join(DISK), target.path.display());
    match open(&image) {
        Ok(snapshot) if snapshot.instants() > target.instants => {
            let bytes = snapshot.header.bytes.get();
            let file = File::options().write(true).open(&image)?;
            file.set_len(bytes).and_then(|()| file.sync_all()).with_context(|| path.to_string())?;
            move_file(&image, &target.path).with_context(|| path.to_string())?;
            let instants = snapshot.instants();
            let last = if instants == 1 {
                String::new()
            } else {
                format!(", {instants} instants, of which it is the last")
            };
            eprintln!("xtask: snapshot {path}, {} MiB{last}", bytes >> 20);
        }
        Ok(_) | Err(OpenError::Unfinished) => {
            eprintln!("xtask: --snapshot {path}: the run has ended without a snapshot; nothing was written");
        }
        Err(error) => eprintln!("xtask: --snapshot {path}: {error}; nothing was written"),
    }
    Ok(())
}

/// Moves a file, also to another file system: then a copy beside the target takes its place once it is whole, and is gone if it
/// never is.
fn move_file(from: &Path, to: &Path) -> std::io::Result<()> {
    if std::fs::rename(from, to).is_ok() {
        return Ok(());
    }
    let mut beside = to.as_os_str().to_owned();
    beside.push(".new");
    let copied = copy_whole(from, Path::new(&beside)).and_then(|()| std::fs::rename(&beside, to));
    if copied.is_err() {
        // What cannot be removed was not made.
        let _ = std::fs::remove_file(&beside);
    }
    copied
}

fn copy_whole(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::copy(from, to)?;
    File::open(to)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::{SnapshotDisk, Target, check, hold, image, keep, move_file, restored};
    use crate::cli::{Cli, Command, RunArgs};
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
        keep(dir.path(), &Target { path: file.clone(), instants: 0 }).expect("said");
        assert!(!file.exists());
    }

    fn arguments(option: &str, path: &Path) -> RunArgs {
        let cli = Cli::try_parse_from(["xtask", "run", option, path.to_str().expect("a name")]);
        let Command::Run(args) = cli.expect("accepted").command else { unreachable!("it is a run") };
        *args
    }

    #[test]
    fn a_file_that_another_run_uses_is_refused_by_its_name() {
        let dir = RunDir::create().expect("a temporary directory");
        let path = dir.path().join("file");
        std::fs::write(&path, [1; 4096]).expect("written");
        let held = hold(&arguments("--restore", &path)).expect("nobody has it");
        let refused = hold(&arguments("--restore", &path)).expect_err("it is in use");
        assert_eq!(status_of(&refused), USAGE);
        assert_eq!(refused.to_string(), format!("--restore {}: another run uses it", path.display()));
        drop(held);
        hold(&arguments("--restore", &path)).expect("nobody has it").expect("a file");
        assert!(hold(&arguments("--snapshot", &path)).expect("it is not touched before the end").is_none());
    }

    /// Bochs refuses an image beside which there is one.
    #[test]
    fn a_lock_that_a_killed_machine_has_left_beside_a_file_does_not_matter() {
        let (files, run) = (RunDir::create().expect("a directory"), RunDir::create().expect("another"));
        let path = files.path().join("file");
        std::fs::write(&path, [1; 4096]).expect("written");
        std::fs::write(files.path().join("file.lock"), "").expect("written");
        let (image, bytes) = image(&SnapshotDisk::Existing(path.clone()), run.path()).expect("a disk");
        assert_eq!((image.parent(), bytes), (Some(run.path()), 4096));
        assert_eq!(image.canonicalize().expect("it leads there"), path.canonicalize().expect("there"));
        assert!(!image.with_extension("lock").exists());
        drop(run);
        assert!(path.exists());
    }

    #[test]
    fn a_file_that_is_only_read_gets_longer_in_a_copy() {
        let dir = RunDir::create().expect("a temporary directory");
        let path = dir.path().join("file");
        std::fs::write(&path, [1; 4096]).expect("written");
        let mut permissions = path.metadata().expect("there").permissions();
        permissions.set_readonly(true);
        std::fs::set_permissions(&path, permissions).expect("its owner's");
        let (copy, bytes) = image(&SnapshotDisk::Longer(path, 1 << 20), dir.path()).expect("a disk");
        let copy = copy.metadata().expect("there");
        assert!(copy.len() == bytes && !copy.permissions().readonly());
    }

    #[test]
    fn what_cannot_be_moved_leaves_nothing_behind() {
        let dir = RunDir::create().expect("a temporary directory");
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        std::fs::write(&from, b"all").expect("written");
        std::fs::create_dir_all(to.join("full")).expect("made");
        move_file(&from, &to).expect_err("it is a directory");
        let mut left: Vec<_> = std::fs::read_dir(dir.path())
            .expect("read")
            .map(|entry| entry.expect("read").file_name())
            .collect();
        left.sort();
        assert_eq!(left, ["from", "to"]);
    }

    #[test]
    fn where_no_snapshot_can_go_is_said_before_the_run() {
        let dir = RunDir::create().expect("a temporary directory");
        let refusal = |path: &Path| check(&arguments("--snapshot", path)).expect_err("refused").to_string();
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
