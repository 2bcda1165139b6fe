//! Every unsafe block and unsafe impl has a `SAFETY:` comment right above it, which says why it is sound.
//!
//! The rule reads tokens, not syntax, so that it sees the bodies of macros.

use super::Finding;
use super::source::{Rust, each_level};
use proc_macro2::{Delimiter, Group, TokenTree};

/// A place that the compiler does not check.
pub(super) struct Site {
    /// From 1.
    pub(super) line: usize,
    /// "unsafe block" or "unsafe impl".
    pub(super) kind: &'static str,
    /// Its first line, without the braces.
    pub(super) text: String,
    /// Why it is sound, on one line.
    pub(super) argument: Option<String>,
}

pub(super) fn check(rust: &Rust<'_>) -> Vec<Finding> {
    let missing = sites(rust).into_iter().filter(|site| site.argument.is_none());
    missing
        .map(|site| rust.finding(site.line, format!("{} without a SAFETY comment above it", site.kind)))
        .collect()
}

/// All places in a file, in the order of their lines.
pub(super) fn sites(rust: &Rust<'_>) -> Vec<Site> {
    let lines: Vec<&str> = rust.file.text.lines().collect();
    let mut sites = Vec::new();
    each_level(&rust.tokens, &mut |level| {
        for pair in level.windows(2) {
            let line = pair[0].span().start().line;
            let (kind, text) = match pair {
                [TokenTree::Ident(word), TokenTree::Group(body)]
                    if word == "unsafe" && body.delimiter() == Delimiter::Brace =>
                {
                    ("unsafe block", first_line(&lines, body))
                }
                [TokenTree::Ident(word), TokenTree::Ident(next)] if word == "unsafe" && next == "impl" => {
                    ("unsafe impl", lines[line - 1].trim().to_owned())
                }
                _ => continue,
            };
            sites.push(Site { line, kind, text, argument: argument(&lines, line) });
        }
    });
    sites.sort_by_key(|site| site.line);
    sites
}

/// The first line of code in a block.
fn first_line(lines: &[&str], body: &Group) -> String {
    let (open, close) = (body.span_open().start(), body.span_close().start());
    let from = |line: usize, column: usize| lines[line - 1].chars().skip(column).collect::<String>();
    let first = from(open.line, open.column + 1);
    if open.line == close.line {
        return first.chars().take(close.column - open.column - 1).collect::<String>().trim().to_owned();
    }
    let inside = lines[open.line..close.line - 1].iter().map(|line| line.trim());
    let mut text = String::new();
    for line in std::iter::once(first.trim()).chain(inside) {
        if line.is_empty() || line.starts_with("//") {
            continue;
        }
        text.push_str(line);
        // A line that only opens something says too little.
        if !line.ends_with(['(', '[', '{']) {
            break;
        }
    }
    text
}

/// What a `SAFETY:` comment says that stands on `line` (from 1) or above the statement that it belongs to.
fn argument(lines: &[&str], line: usize) -> Option<String> {
    const MARK: &str = "// SAFETY:";
    if let Some((_, reason)) = lines[line - 1].split_once(MARK) {
        return Some(reason.trim().to_owned());
    }
    let mut above = lines[..line - 1].iter().rev().map(|text| text.trim()).peekable();
    // The statement may have begun on an earlier line, and attributes may stand between.
    while above.next_if(|text| !text.starts_with("//") && continues(text)).is_some() {}
    let mut parts = Vec::new();
    for text in above.take_while(|text| text.starts_with("//")) {
        if let Some(reason) = text.strip_prefix(MARK) {
            parts.push(reason.trim());
            parts.reverse();
            return Some(parts.join(" "));
        }
        parts.push(text.trim_start_matches('/').trim());
    }
    None
}

/// Whether a line leaves its statement, or its attribute, unfinished.
fn continues(text: &str) -> bool {
    !text.is_empty() && (text.starts_with("#[") || !text.ends_with([';', '{', '}', ',']))
}

#[cfg(test)]
mod tests {
    use super::super::check_rust;
    use super::check;

    fn findings(text: &str) -> Vec<String> {
        check_rust("a.rs", text, check)
    }

    #[test]
    fn a_block_needs_its_reason() {
        let found = findings("fn f() {\n    let x = 1;\n    unsafe { g() }\n}\n");
        assert_eq!(found, ["a.rs:3: unsafe block without a SAFETY comment above it"]);
        assert!(
            findings("fn f() {\n    // SAFETY: g is sound here,\n    // always.\n    unsafe { g() }\n}\n")
                .is_empty()
        );
    }

    #[test]
    fn a_statement_may_begin_above_the_block() {
        assert!(findings("fn f() {\n// SAFETY: sound.\nlet x =\nunsafe { g() };\n}\n").is_empty());
        assert_eq!(
            findings("fn f() {\n// SAFETY: of another.\nlet y = 1;\nlet x = unsafe { g() };\n}\n").len(),
            1
        );
    }

    #[test]
    fn macros_and_impls_are_seen() {
        assert_eq!(findings("macro_rules! m { () => { unsafe { g() } } }\n").len(), 1);
        assert_eq!(findings("unsafe impl Send for X {}\n").len(), 1);
        assert!(findings("// SAFETY: no shared state.\nunsafe impl Send for X {}\n").is_empty());
    }
}
