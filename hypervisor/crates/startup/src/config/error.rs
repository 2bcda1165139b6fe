//! Why a configuration file was refused: the line, what stands there, what is wrong with it.

use super::text::{self, Printable, Text};
use super::{MAX_FILE_BYTES, MAX_NAME_BYTES};
use abi::config::MAX_VMS;
use alloc::borrow::ToOwned;
use alloc::string::String;
use core::fmt;

/// Characters of a line that an error repeats.
const QUOTED: usize = 72;

/// Why a configuration file was refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ConfigError {
    /// More than [`MAX_FILE_BYTES`].
    TooLong {
        /// Its length in bytes.
        bytes: usize,
    },
    /// Not UTF-8.
    NotText {
        /// The line, from 1.
        line: usize,
    },
    /// A line is not TOML, or not what the file may hold: an unknown key, a value of the wrong type or size.
    Line {
        /// The line, from 1.
        line: usize,
        /// What stands there, cut if it is long.
        source: String,
        /// What is wrong with it.
        what: String,
    },
    /// No guest.
    NoVm,
    /// More guests than [`MAX_VMS`].
    TooManyVms {
        /// How many there are.
        count: usize,
    },
    /// A name that is too long, or has control characters in it.
    Name {
        /// The name.
        name: Text,
    },
    /// A guest that is to make do with more memory than it has.
    Balloon {
        /// The guest's name.
        name: Text,
    },
    /// Two guests with one name.
    SameName {
        /// The name.
        first: Text,
        /// The name again.
        second: Text,
    },
    /// A file that the boot loader has not brought.
    NoModule {
        /// What the file is for: `kernel`, `initrd`.
        key: &'static str,
        /// Its name.
        file: Text,
        /// The names of those that are there, with commas.
        modules: String,
    },
}

impl ConfigError {
    /// What the parser says, with the line that it means.
    pub(super) fn syntax(source: &str, error: &toml::de::Error) -> Self {
        let offset = error.span().map_or(0, |span| span.start.min(source.len()));
        let line = text::line_of(source.as_bytes(), offset);
        let whole = source.lines().nth(line - 1).unwrap_or("").trim();
        Self::Line {
            line,
            source: whole.chars().take(QUOTED).collect(),
            what: error.message().trim().to_owned(),
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { bytes } => {
                write!(f, "the configuration has {bytes} bytes, more than {MAX_FILE_BYTES}")
            }
            Self::NotText { line } => write!(f, "the configuration is not UTF-8 text: line {line}"),
            Self::Line { line, source, what } => {
                write!(f, "configuration, line {line} `{}`: {}", Printable(source), Printable(what))
            }
            Self::NoVm => f.write_str("the configuration has no guest: no [[vm]]"),
            Self::TooManyVms { count } => {
                write!(f, "the configuration has {count} guests, more than {MAX_VMS}")
            }
            Self::Name { name } => write!(
                f,
                "configuration{}: name `{name}` is longer than {MAX_NAME_BYTES} bytes, or not printable",
                Line(name),
            ),
            Self::Balloon { name } => {
                write!(f, "configuration: `balloon` of guest `{name}` is more than its memory")
            }
            Self::SameName { first, second } => write!(
                f,
                "configuration{}: a guest is called `{second}` already{}",
                Line(second),
                Line(first)
            ),
            Self::NoModule { key, file, modules } => write!(
                f,
                "configuration{}: it names {key} `{file}`, which is not among the boot modules: {}",
                Line(file),
                Printable(if modules.is_empty() { "there are none" } else { modules })
            ),
        }
    }
}

impl core::error::Error for ConfigError {}

/// `, line 7`, or nothing for what stands in no file.
struct Line<'a>(&'a Text);

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.line() {
            Some(line) => write!(f, ", line {line}"),
            None => Ok(()),
        }
    }
}
