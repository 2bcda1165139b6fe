//! `tidy`: the house rules that a program can check. One file a rule; each finding is `file:line: what`.
//!
//! | file | rule |
//! |---|---|
//! | `shape` | module comment, length of files and functions, no glob imports, errors are types |
//! | `safety` | every unsafe block says why it is sound |
//! | `purity` | pure crates forbid unsafe code and know no processor |
//! | `layers` | crates depend only downwards |
//! | `mutable` | the mutation kit can leave out every step that coherence rests on |
//! | `unsafe_list` | `docs/unsafe.md` lists every such block, with its reason |
//! | `text` | nothing in the tree names the machine it was written on |

mod layers;
mod mutable;
mod purity;
mod safety;
mod shape;
mod source;
mod text;
mod unsafe_list;

use crate::cli::TidyArgs;
use anyhow::Result;
use source::{File, Rust};

/// A rule that is not kept.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Finding {
    path: String,
    /// From 1.
    line: usize,
    what: String,
}

impl Finding {
    fn new(path: &str, line: usize, what: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, what: what.into() }
    }
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.what)
    }
}

/// Checks the whole tree; prints what it finds. With `--bless`, generated files are written first.
///
/// # Errors
/// The tree cannot be read, or not be written.
pub(crate) fn run(args: &TidyArgs) -> Result<u8> {
    let mut files = source::tracked()?;
    if args.bless {
        unsafe_list::bless(&files)?;
        files = source::tracked()?;
    }
    let findings = check(&files);
    for finding in &findings {
        println!("{finding}");
    }
    eprintln!("xtask: tidy: {} files, {} findings", files.len(), findings.len());
    Ok(u8::from(!findings.is_empty()))
}

fn check(files: &[File]) -> Vec<Finding> {
    let mut findings = mutable::check_list(files);
    for file in files {
        findings.extend(text::check(file));
        if file.path.ends_with("Cargo.toml") {
            findings.extend(layers::check(file));
        }
        if !file.path.ends_with(".rs") {
            continue;
        }
        match Rust::parse(file) {
            Ok(rust) => {
                findings.extend(shape::check(&rust));
                findings.extend(safety::check(&rust));
                findings.extend(purity::check(&rust));
                findings.extend(mutable::check(&rust));
            }
            Err(finding) => findings.push(finding),
        }
    }
    findings.extend(unsafe_list::check(files));
    findings.sort();
    findings
}

/// The findings of one rule on one file, for the tests of the rules.
#[cfg(test)]
fn check_rust(path: &str, text: &str, rule: fn(&Rust<'_>) -> Vec<Finding>) -> Vec<String> {
    let file = File { path: path.into(), text: text.into() };
    let rust = Rust::parse(&file).expect("parses");
    rule(&rust).iter().map(ToString::to_string).collect()
}
