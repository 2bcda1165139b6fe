//! Pure crates hold the decisions and can be tested on any machine: no unsafe code, no instruction of a
//! particular processor, no state of their own.

use super::Finding;
use super::source::{Rust, each_level};
use proc_macro2::TokenTree;

/// Crates without unsafe code and without a processor.
const PURE: [&str; 11] =
    ["abi", "addr", "devices", "emulate", "firmware", "mm", "mmu", "paging", "screen", "startup", "vmxdefs"];
/// Where crates lie.
const CRATES: &str = "hypervisor/crates/";

pub(super) fn check(rust: &Rust<'_>) -> Vec<Finding> {
    let path = rust.file.path.as_str();
    let Some((name, rest)) = path.strip_prefix(CRATES).and_then(|rest| rest.split_once('/')) else {
        return Vec::new();
    };
    let mut findings = Vec::new();
    // Also those that are not pure, because they have threads or the environment in them.
    if rest == "src/lib.rs" && !forbids_unsafe(&rust.syntax) {
        findings.push(rust.finding(1, format!("crate `{name}` lacks #![forbid(unsafe_code)]")));
    }
    if !PURE.contains(&name) {
        return findings;
    }
    each_level(&rust.tokens, &mut |level| {
        for (index, token) in level.iter().enumerate() {
            if let Some(what) = impurity(level, index) {
                let line = token.span().start().line;
                findings.push(rust.finding(line, format!("pure crate `{name}` uses {what}")));
            }
        }
    });
    findings
}

fn forbids_unsafe(file: &syn::File) -> bool {
    file.attrs.iter().any(|attribute| {
        attribute.path().is_ident("forbid")
            && attribute.parse_args::<syn::Path>().is_ok_and(|path| path.is_ident("unsafe_code"))
    })
}

/// What makes the token at `index` impure, if anything does.
fn impurity(level: &[TokenTree], index: usize) -> Option<&'static str> {
    let word = |at: usize| match level.get(at) {
        Some(TokenTree::Ident(ident)) => ident.to_string(),
        _ => String::new(),
    };
    let mark = |at: Option<usize>, wanted: char| matches!(at.and_then(|at| level.get(at)), Some(TokenTree::Punct(punct)) if punct.as_char() == wanted);
    let starts_path = mark(Some(index + 1), ':') && mark(Some(index + 2), ':');
    match word(index).as_str() {
        "core" | "std" if starts_path && word(index + 3) == "arch" => Some("core::arch"),
        "x86" if starts_path && !mark(index.checked_sub(1), ':') => Some("the crate x86"),
        "raw_cpuid" => Some("the crate raw_cpuid"),
        "asm" | "global_asm" | "naked_asm" if mark(Some(index + 1), '!') => Some("assembly"),
        "target_arch" => Some("cfg(target_arch)"),
        "static" if word(index + 1) == "mut" => Some("a mutable static"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::check_rust;
    use super::check;

    fn findings(path: &str, text: &str) -> Vec<String> {
        check_rust(path, text, check)
    }

    #[test]
    fn a_pure_crate_forbids_unsafe_code() {
        let path = "hypervisor/crates/mm/src/lib.rs";
        assert_eq!(
            findings(path, "//! X.\n"),
            [format!("{path}:1: crate `mm` lacks #![forbid(unsafe_code)]")]
        );
        assert_eq!(findings("hypervisor/crates/sync/src/lib.rs", "//! X.\n").len(), 1);
        assert!(findings(path, "//! X.\n#![forbid(unsafe_code)]\n").is_empty());
        assert!(findings("hypervisor/src/main.rs", "//! X.\n").is_empty());
    }

    #[test]
    fn a_pure_crate_knows_no_processor() {
        let path = "hypervisor/crates/paging/src/host.rs";
        for text in [
            "use core::arch::x86_64::_rdtsc;",
            "use x86::msr;",
            "use raw_cpuid::CpuId;",
            "fn f() { asm!(\"hlt\") }",
            "#[cfg(target_arch = \"x86_64\")]\nfn f() {}",
            "static mut COUNT: u64 = 0;",
        ] {
            assert_eq!(findings(path, text).len(), 1, "{text}");
        }
        assert!(findings(path, "//! core::arch, x86::msr\nuse crate::x86::Entry;\nfn x86() {}\n").is_empty());
        assert!(findings("hypervisor/crates/sync/src/lock.rs", "use core::arch::asm;").is_empty());
    }
}
