//! The files that the rules look at: what git tracks, or would.

use super::Finding;
use crate::workspace;
use anyhow::{Context, Result, bail};
use proc_macro2::{TokenStream, TokenTree};
use std::process::Command;

/// A text file of the tree.
pub(super) struct File {
    /// From the root of the tree.
    pub(super) path: String,
    pub(super) text: String,
}

/// A Rust file, parsed.
pub(super) struct Rust<'a> {
    pub(super) file: &'a File,
    pub(super) syntax: syn::File,
    pub(super) tokens: TokenStream,
}

impl<'a> Rust<'a> {
    /// Parses.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub(super) fn parse(file: &'a File) -> Result<Self, Finding> {
        let fail = |error: syn::Error| Finding::new(&file.path, error.span().start().line, error.to_string());
        let syntax = syn::parse_file(&file.text).map_err(fail)?;
        let tokens = file.text.parse().map_err(|error: proc_macro2::LexError| fail(error.into()))?;
        Ok(Self { file, syntax, tokens })
    }

    /// A finding in this file.
    pub(super) fn finding(&self, line: usize, what: impl Into<String>) -> Finding {
        Finding::new(&self.file.path, line, what)
    }
}

/// All text files that git tracks, or would with the next `git add`.
///
/// # Errors
/// This is no git tree.
pub(super) fn tracked() -> Result<Vec<File>> {
    let arguments = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
    let output = Command::new("git").current_dir(workspace::root()).args(arguments).output();
    let output = output.context("cannot run git")?;
    if !output.status.success() {
        bail!("git ls-files: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let names = String::from_utf8(output.stdout).context("a file name that is no text")?;
    let mut files = Vec::new();
    for path in names.split('\0').filter(|name| !name.is_empty()) {
        // Gone from the tree but not yet from the index, or not text: nothing to check.
        if let Ok(text) = std::fs::read_to_string(workspace::root().join(path)) {
            files.push(File { path: path.to_owned(), text });
        }
    }
    Ok(files)
}

/// Calls `visit` with every run of tokens of one nesting level, macros' bodies included.
pub(super) fn each_level(tokens: &TokenStream, visit: &mut impl FnMut(&[TokenTree])) {
    let level: Vec<TokenTree> = tokens.clone().into_iter().collect();
    visit(&level);
    for token in &level {
        if let TokenTree::Group(group) = token {
            each_level(&group.stream(), visit);
        }
    }
}
