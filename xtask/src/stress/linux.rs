//! The Linux guest that works: the tiny Linux, and behind its user space Debian's stress-ng, the libraries that it names, and
//! `guest/linux/work.sh` as /init.

use crate::cpio::{Archive, Owner};
use crate::guest_images::{self, publish};
use crate::metal::Binaries;
use crate::{progress, setup, workspace};
use anyhow::{Context, Result, bail};
use object::LittleEndian;
use object::elf::{DT_NEEDED, FileHeader64};
use object::read::elf::{Dyn, FileHeader};
use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::process::Command;

/// stress-ng, and what its libraries are in.
const PACKAGES: [&str; 24] = [
    PROGRAM,
    "libapparmor1",
    "libbsd0",
    "libc6",
    "libcrypt1",
    "libdrm2",
    "libegl1",
    "libexpat1",
    "libffi8",
    "libgbm1",
    "libgles2",
    "libglvnd0",
    "libipsec-mb1",
    "libjpeg62-turbo",
    "libjudydebian1",
    "libkmod2",
    "liblzma5",
    "libmd0",
    "libsctp1",
    "libssl3",
    "libwayland-server0",
    "libxxhash0",
    "libzstd1",
    "zlib1g",
];
const PROGRAM: &str = "stress-ng";
/// Where libraries are looked for; the program loader's own name for itself is elsewhere (System V ABI 5.2.1).
const LIBRARIES: &str = "/lib/x86_64-linux-gnu";
const LOADER: &str = "ld-linux-x86-64.so.2";
const LOADER_LINK: &str = "/lib64/ld-linux-x86-64.so.2";

/// A guest's kernel and its initial file system.
pub(super) struct Linux {
    pub(super) kernel: PathBuf,
    pub(super) initrd: PathBuf,
    /// Its own command line.
    pub(super) append: String,
}

/// Makes them, in `dir`.
///
/// # Errors
/// A package cannot be fetched, or names a library that is in none of them.
pub(super) fn make(binaries: &Binaries, dir: &Path) -> Result<Linux> {
    let tiny = guest_images::tiny(binaries)?;
    let (kernel, initrd) = (dir.join("linux"), dir.join("work.cpio"));
    std::fs::copy(&tiny.kernel, &kernel).context("the tiny Linux")?;
    let user_space = tiny.initrd.context("the tiny Linux has a user space")?;
    // Linux unpacks one archive after another.
    let bytes = [std::fs::read(user_space)?, archive()?].concat();
    std::fs::write(&initrd, bytes).context("the initial file system")?;
    Ok(Linux { kernel, initrd, append: format!("{} rdinit=/work", tiny.append) })
}

fn archive() -> Result<Vec<u8>> {
    let files = fetch()?;
    let owner = Owner { mode: 0o755, uid: 0, gid: 0 };
    let mut archive = Archive::default();
    for dir in ["/usr", "/usr/bin", "/lib", "/lib64", LIBRARIES] {
        archive.directory(dir, owner);
    }
    let script = workspace::root().join("guest/linux/work.sh");
    archive.file("/work", owner, &read(&script)?);
    archive.link(LOADER_LINK, owner, &format!("{LIBRARIES}/{LOADER}"));
    for (name, path) in files {
        let dir = if name == PROGRAM { "/usr/bin" } else { LIBRARIES };
        archive.file(&format!("{dir}/{name}"), owner, &read(&path)?);
    }
    Ok(archive.finish())
}

/// The program and all libraries, by name, from the cache; fetched if they are not there.
fn fetch() -> Result<BTreeMap<String, PathBuf>> {
    let _lock = guest_images::lock()?;
    let dir = workspace::guest_cache().join(PROGRAM);
    // The program is published last.
    if !dir.join(PROGRAM).is_file() {
        download(&dir)?;
    }
    let entries = std::fs::read_dir(&dir).with_context(|| dir.display().to_string())?;
    let named =
        entries.flatten().map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()));
    Ok(named.collect())
}

fn download(dir: &Path) -> Result<()> {
    setup::ensure_fresh_lists()?;
    let work = workspace::guest_cache().join("work-stress-ng");
    let _ = std::fs::remove_dir_all(&work);
    std::fs::create_dir_all(&work)?;
    let mut download = Command::new("apt-get");
    // As the user that runs this: apt's own user may not write here.
    download.args(["--option", "APT::Sandbox::User=root", "--quiet", "download"]).args(PACKAGES);
    progress::run("fetching stress-ng and its libraries", download.current_dir(&work))?;
    let unpacked = work.join("files");
    for package in files_below(&work)? {
        let mut extract = Command::new("dpkg-deb");
        extract.arg("-x").arg(&package).arg(&unpacked);
        progress::run(&format!("unpacking {}", package.display()), &mut extract)?;
    }
    let known: BTreeMap<String, PathBuf> = files_below(&unpacked)?
        .into_iter()
        .filter_map(|path| Some((path.file_name()?.to_string_lossy().into_owned(), path)))
        .filter(|(name, path)| name.contains(".so") || path.ends_with("usr/bin/stress-ng"))
        .collect();
    let mut wanted = needed(&known)?;
    wanted.reverse();
    wanted.iter().try_for_each(|name| publish(&known[name], &dir.join(name)))?;
    std::fs::remove_dir_all(&work)?;
    Ok(())
}

/// The program, and what it needs, and what that needs.
fn needed(known: &BTreeMap<String, PathBuf>) -> Result<Vec<String>> {
    let mut wanted = vec![PROGRAM.to_owned()];
    let mut queue = VecDeque::from([PROGRAM.to_owned()]);
    while let Some(name) = queue.pop_front() {
        let Some(path) = known.get(&name) else { bail!("no package has {name}, which stress-ng needs") };
        for library in libraries_of(&read(path)?).with_context(|| path.display().to_string())? {
            if !wanted.contains(&library) {
                wanted.push(library.clone());
                queue.push_back(library);
            }
        }
    }
    Ok(wanted)
}

/// The libraries that an ELF file names.
fn libraries_of(bytes: &[u8]) -> Result<Vec<String>> {
    let header = FileHeader64::<LittleEndian>::parse(bytes)?;
    let endian = header.endian()?;
    let sections = header.sections(endian, bytes)?;
    let Some((entries, link)) = sections.dynamic(endian, bytes)? else { return Ok(Vec::new()) };
    let strings = sections.strings(endian, bytes, link)?;
    let names = entries.iter().filter(|entry| entry.tag32(endian) == i32::try_from(DT_NEEDED.0).ok());
    names.map(|entry| Ok(String::from_utf8_lossy(entry.string(endian, strings)?).into_owned())).collect()
}

/// Regular files and links to such, wherever below.
fn files_below(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            files.extend(files_below(&entry.path())?);
        } else {
            files.push(entry.path());
        }
    }
    Ok(files)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| path.display().to_string())
}
