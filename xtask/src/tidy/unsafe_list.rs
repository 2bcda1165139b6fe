//! `docs/unsafe.md`: every place that the compiler does not check, file by file, with the argument that stands beside
//! it in the source. The file is made here; `tidy` says when it is out of date, `tidy --bless` writes it.

use super::Finding;
use super::safety::{self, Site};
use super::source::{File, Rust};
use crate::workspace;
use anyhow::{Context, Result};
use std::fmt::Write;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

/// The list, from the root of the tree.
const LIST: &str = "docs/unsafe.md";
/// Trees of the product, its guests and its tests' programs.
const TREES: [&str; 4] = ["hypervisor/", "loader/", "guest/", "tests/"];
/// How the row of an unsafe function begins.
const FUNCTION: &str = "unsafe fn ";
const HEAD: &str = "# Unsafe code

Made by `cargo xtask tidy --bless` from the `SAFETY:` comments; do not edit. The crates below `hypervisor/crates` forbid
unsafe code, as do the simulated machine and its tests. What is left is here: what Herald, its loader, its guests and the
comparison with Linux do that the compiler does not check, and why it is sound. (Start-up code in assembly, `*.s` and
`global_asm!`, lies outside of Rust altogether.) Invariants (I5, I10, ...) are those of `invariants.md`. Where the argument
is the caller's promise, the function is unsafe itself, and its row says what the caller promises.
";

/// Whether the list is what the sources say, and every unsafe function says what it asks of its callers.
pub(super) fn check(files: &[File]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, rows) in sections(files) {
        for row in rows.iter().filter(|row| row.what.starts_with(FUNCTION) && row.argument.is_empty()) {
            findings.push(Finding::new(path, row.line, format!("{} without a section # Safety", row.what)));
        }
    }
    let present = files.iter().find(|file| file.path == LIST).map_or("", |file| file.text.as_str());
    if present != list(files) {
        let what = "is not what the sources say: `cargo xtask tidy --bless` writes it";
        findings.push(Finding::new(LIST, 1, what));
    }
    findings
}

/// Writes the list.
///
/// # Errors
/// It cannot be written.
pub(super) fn bless(files: &[File]) -> Result<()> {
    std::fs::write(workspace::root().join(LIST), list(files)).with_context(|| format!("cannot write {LIST}"))
}

/// The list as it should be.
fn list(files: &[File]) -> String {
    let mut text = HEAD.to_owned();
    for (path, rows) in &sections(files) {
        // Writing to a string does not fail.
        let _ = write!(text, "\n## `{path}`\n\n| in | what | why it is sound |\n|---|---|---|\n");
        for Row { function, what, argument, .. } in rows {
            let _ = writeln!(text, "| {} | {} | {} |", code(function), code(what), plain(argument));
        }
    }
    text
}

/// The files with unsafe code, in the order of their names.
fn sections(files: &[File]) -> Vec<(&str, Vec<Row>)> {
    let listed =
        |file: &&File| file.path.ends_with(".rs") && TREES.iter().any(|tree| file.path.starts_with(tree));
    let mut sections: Vec<(&str, Vec<Row>)> = files
        .iter()
        .filter(listed)
        .filter_map(|file| Some((file.path.as_str(), rows(&Rust::parse(file).ok()?))))
        .filter(|(_, rows)| !rows.is_empty())
        .collect();
    sections.sort_by_key(|(path, _)| *path);
    sections
}

/// A line of a table.
struct Row {
    line: usize,
    function: String,
    what: String,
    argument: String,
}

/// The places of a file, and the promises that its unsafe functions ask for, in the order of their lines.
fn rows(rust: &Rust<'_>) -> Vec<Row> {
    let mut functions = Functions::default();
    functions.visit_file(&rust.syntax);
    let mut rows = functions.promises;
    for Site { line, text, argument, .. } in safety::sites(rust) {
        let around =
            functions.found.iter().filter(|function| (function.first..=function.last).contains(&line));
        let function = around.max_by_key(|function| function.first).map(|function| function.name.clone());
        // One without an argument is a finding of its own.
        let argument = argument.unwrap_or_default();
        rows.push(Row { line, function: function.unwrap_or_default(), what: text, argument });
    }
    rows.sort_by_key(|row| row.line);
    rows
}

/// A function or a macro, and its lines.
struct Function {
    name: String,
    first: usize,
    last: usize,
}

/// All functions of a file.
#[derive(Default)]
struct Functions {
    /// The type whose methods are visited.
    of: String,
    found: Vec<Function>,
    promises: Vec<Row>,
}

impl Functions {
    fn add(&mut self, name: String, span: proc_macro2::Span) {
        self.found.push(Function { name, first: span.start().line, last: span.end().line });
    }

    fn function(
        &mut self,
        signature: &syn::Signature,
        attributes: &[syn::Attribute],
        whole: proc_macro2::Span,
    ) {
        let name = match self.of.as_str() {
            "" => signature.ident.to_string(),
            of => format!("{of}::{}", signature.ident),
        };
        if matches!(signature.safety, syn::Safety::Unsafe(_)) {
            let argument = promise(attributes);
            let line = signature.span().start().line;
            let what = format!("{FUNCTION}{}", signature.ident);
            self.promises.push(Row { line, function: name.clone(), what, argument });
        }
        self.add(name, whole);
    }
}

impl<'ast> Visit<'ast> for Functions {
    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        let outer = std::mem::replace(&mut self.of, type_name(&item.self_ty));
        visit::visit_item_impl(self, item);
        self.of = outer;
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.function(&item.sig, &item.attrs, item.span());
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.function(&item.sig, &item.attrs, item.span());
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_item_macro(&mut self, item: &'ast syn::ItemMacro) {
        if let Some(name) = &item.ident {
            self.add(format!("{name}!"), item.span());
        }
    }
}

fn type_name(of: &syn::Type) -> String {
    match of {
        syn::Type::Path(path) => path.path.segments.last().map(|last| last.ident.to_string()),
        _ => None,
    }
    .unwrap_or_default()
}

/// The section `# Safety` of a function's documentation, on one line; empty where there is none.
fn promise(attributes: &[syn::Attribute]) -> String {
    let lines =
        attributes.iter().filter(|attribute| attribute.path().is_ident("doc")).filter_map(|attribute| {
            let syn::Meta::NameValue(pair) = &attribute.meta else { return None };
            match &pair.value {
                syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. }) => {
                    Some(text.value().trim().to_owned())
                }
                _ => None,
            }
        });
    let section: Vec<String> = lines
        .skip_while(|line| line != "# Safety")
        .skip(1)
        .take_while(|line| !line.starts_with("# "))
        .collect();
    if section.is_empty() {
        String::new()
    } else {
        format!("The caller promises: {}", section.join(" ").trim())
    }
}

fn code(text: &str) -> String {
    if text.is_empty() { "-".into() } else { format!("`{}`", text.replace('|', "\\|").replace('`', "'")) }
}

fn plain(text: &str) -> String {
    text.replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::super::source::File;
    use super::{HEAD, LIST, check, list};

    const SOURCE: &str = "//! X.
impl Display for Vmcs {
    fn read(&self) {
        // SAFETY: it is there,
        // always (I5).
        let x = unsafe {
            // First.
            g(1 | 2)
        };
    }
}

/// Writes.
///
/// # Safety
/// It is the caller's.
unsafe fn put() {
    // SAFETY: the caller's promise.
    unsafe { h() }
}

// SAFETY: no state.
unsafe impl Sync for X {}
";

    fn file(path: &str, text: &str) -> File {
        File { path: path.into(), text: text.into() }
    }

    #[test]
    fn places_are_listed_with_their_reasons() {
        let text = list(&[file("hypervisor/src/a.rs", SOURCE), file("xtask/src/b.rs", SOURCE)]);
        let rows = "
## `hypervisor/src/a.rs`

| in | what | why it is sound |
|---|---|---|
| `Vmcs::read` | `g(1 \\| 2)` | it is there, always (I5). |
| `put` | `unsafe fn put` | The caller promises: It is the caller's. |
| `put` | `h()` | the caller's promise. |
| - | `unsafe impl Sync for X {}` | no state. |
";
        assert_eq!(text.strip_prefix(HEAD), Some(rows));
    }

    #[test]
    fn a_list_out_of_date_is_found() {
        let mut files = vec![file("loader/src/a.rs", SOURCE)];
        assert_eq!(check(&files).len(), 1, "no list");
        files.push(file(LIST, &list(&files)));
        assert_eq!(check(&files), []);
        files[0] = file("loader/src/a.rs", &SOURCE.replace("no state", "no state at all"));
        let finding = check(&files)[0].to_string();
        assert!(finding.starts_with("docs/unsafe.md:1: is not what the sources say"), "{finding}");
    }

    #[test]
    fn an_unsafe_function_says_what_it_asks_for() {
        let found = check(&[file("guest/src/a.rs", "//! X.\n/// Writes.\nunsafe fn put() {}\n")]);
        assert_eq!(found[0].to_string(), "guest/src/a.rs:3: unsafe fn put without a section # Safety");
    }
}
