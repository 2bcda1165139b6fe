//! Every unsafe block and unsafe impl has a `SAFETY:` comment right above it, which says why it is sound.
//!
//! The rule reads tokens, not syntax, so that it sees the bodies of macros.

use super::Finding;
use super::source::{Rust, each_level};
use proc_macro2::{Delimiter, TokenTree};

pub(super) fn check(rust: &Rust<'_>) -> Vec<Finding> {
    let lines: Vec<&str> = rust.file.text.lines().map(str::trim).collect();
    let mut findings = Vec::new();
    each_level(&rust.tokens, &mut |level| {
        for pair in level.windows(2) {
            let what = match pair {
                [TokenTree::Ident(word), TokenTree::Group(body)]
                    if word == "unsafe" && body.delimiter() == Delimiter::Brace =>
                {
                    "unsafe block"
                }
                [TokenTree::Ident(word), TokenTree::Ident(next)] if word == "unsafe" && next == "impl" => {
                    "unsafe impl"
                }
                _ => continue,
            };
            let line = pair[0].span().start().line;
            if !is_justified(&lines, line) {
                findings.push(rust.finding(line, format!("{what} without a SAFETY comment above it")));
            }
        }
    });
    findings
}

/// Whether a `SAFETY:` comment stands on `line` (from 1) or above the statement that it belongs to.
fn is_justified(lines: &[&str], line: usize) -> bool {
    if lines[line - 1].contains("// SAFETY:") {
        return true;
    }
    let mut above = lines[..line - 1].iter().rev().copied().peekable();
    // The statement may have begun on an earlier line, and attributes may stand between.
    while above.next_if(|text| !text.starts_with("//") && continues(text)).is_some() {}
    above.take_while(|text| text.starts_with("//")).any(|text| text.starts_with("// SAFETY:"))
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
