//! An initial file system of files, with the directories that they lie in.

use crate::cpio::{Archive, Owner};
use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The archive, as far as it is written.
#[derive(Default)]
pub(crate) struct Tree {
    archive: Archive,
    directories: BTreeSet<PathBuf>,
}

impl Tree {
    /// Adds a file of this machine's.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) fn copy(&mut self, name: &str, source: &Path) -> Result<()> {
        let bytes = std::fs::read(source).with_context(|| source.display().to_string())?;
        self.file(name, bytes)
    }

    /// Adds a file that anybody may execute.
    ///
    /// # Errors
    /// Its name is no text.
    pub(crate) fn file(&mut self, name: &str, bytes: Vec<u8>) -> Result<()> {
        let owner = Owner { mode: 0o755, uid: 0, gid: 0 };
        let mut parents: Vec<&Path> = Path::new(name).ancestors().skip(1).collect();
        parents.pop();
        for parent in parents.into_iter().rev() {
            if self.directories.insert(parent.to_owned()) {
                self.archive.directory(parent.to_str().context("a name that is no text")?, owner);
            }
        }
        self.archive.file(name, owner, &bytes);
        Ok(())
    }

    /// The archive, ended.
    pub(crate) fn finish(self) -> Vec<u8> {
        self.archive.finish()
    }
}
