//! The shape of a file: it says what it is, and is short enough to be read in one go.

use super::Finding;
use super::source::Rust;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

/// Most lines of a file, its tests not counted.
const LONGEST_FILE: usize = 800;
/// Most lines of a function, from its name to its closing brace.
const LONGEST_FUNCTION: usize = 70;

pub(super) fn check(rust: &Rust<'_>) -> Vec<Finding> {
    let mut visitor = Visitor { rust, findings: Vec::new() };
    if !rust.file.text.starts_with("//!") {
        visitor.report(1, "no module comment at the top".into());
    }
    let lines = lines_without_tests(rust);
    if lines > LONGEST_FILE {
        visitor.report(1, format!("{lines} lines without tests, at most {LONGEST_FILE}"));
    }
    visitor.visit_file(&rust.syntax);
    visitor.findings
}

/// Lines outside inline test modules.
fn lines_without_tests(rust: &Rust<'_>) -> usize {
    let total = rust.file.text.lines().count();
    let tests = rust.syntax.items.iter().filter_map(|item| match item {
        syn::Item::Mod(module) if module.content.is_some() && module.attrs.iter().any(is_cfg_test) => {
            Some(line_count(module.span()))
        }
        _ => None,
    });
    total - tests.sum::<usize>()
}

fn is_cfg_test(attribute: &syn::Attribute) -> bool {
    attribute.path().is_ident("cfg")
        && attribute.parse_args::<syn::Path>().is_ok_and(|path| path.is_ident("test"))
}

fn line_count(span: proc_macro2::Span) -> usize {
    span.end().line - span.start().line + 1
}

struct Visitor<'a> {
    rust: &'a Rust<'a>,
    findings: Vec<Finding>,
}

impl Visitor<'_> {
    fn report(&mut self, line: usize, what: String) {
        self.findings.push(self.rust.finding(line, what));
    }

    fn function(&mut self, signature: &syn::Signature, body: &syn::Block) {
        let first = signature.span().start().line;
        let lines = body.span().end().line - first + 1;
        if lines > LONGEST_FUNCTION {
            let name = &signature.ident;
            self.report(first, format!("function `{name}` has {lines} lines, at most {LONGEST_FUNCTION}"));
        }
    }
}

impl<'ast> Visit<'ast> for Visitor<'_> {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.function(&item.sig, &item.block);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.function(&item.sig, &item.block);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_use_glob(&mut self, glob: &'ast syn::UseGlob) {
        self.report(
            glob.span().start().line,
            "glob import: a reader sees not where a name comes from".into(),
        );
    }

    fn visit_path_segment(&mut self, segment: &'ast syn::PathSegment) {
        if segment.ident == "Result" && error_is_text(&segment.arguments) {
            let what = "an error that is `&'static str`: errors are types that carry values";
            self.report(segment.span().start().line, what.into());
        }
        visit::visit_path_segment(self, segment);
    }
}

fn error_is_text(arguments: &syn::PathArguments) -> bool {
    let syn::PathArguments::AngleBracketed(arguments) = arguments else { return false };
    match arguments.args.iter().nth(1) {
        Some(syn::GenericArgument::Type(syn::Type::Reference(reference))) => {
            matches!(&*reference.elem, syn::Type::Path(path) if path.path.is_ident("str"))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::check_rust;
    use super::check;

    fn findings(text: &str) -> Vec<String> {
        check_rust("a.rs", text, check)
    }

    #[test]
    fn a_file_says_what_it_is() {
        assert_eq!(findings("fn f() {}\n"), ["a.rs:1: no module comment at the top"]);
        assert!(findings("//! What it is.\nfn f() {}\n").is_empty());
    }

    #[test]
    fn functions_are_short() {
        let long = format!("//! X.\nimpl X {{\nfn f() {{\n{}}}\n}}\n", "g();\n".repeat(69));
        assert_eq!(findings(&long), ["a.rs:3: function `f` has 71 lines, at most 70"]);
        let fits = format!("//! X.\nfn f() {{\n{}}}\n", "g();\n".repeat(68));
        assert!(findings(&fits).is_empty());
    }

    #[test]
    fn files_are_short_but_for_their_tests() {
        let body = "const A: u8 = 0;\n".repeat(800);
        assert_eq!(findings(&format!("//! X.\n{body}")), ["a.rs:1: 801 lines without tests, at most 800"]);
        let tests = "#[cfg(test)]\nmod tests {\nconst A: u8 = 0;\n}\n";
        assert!(findings(&format!("//! X.\n{}{tests}", "const A: u8 = 0;\n".repeat(799))).is_empty());
    }

    #[test]
    fn globs_are_found_everywhere() {
        let found = findings("//! X.\nmod m {\nuse super::*;\n}\nuse a::{b, c::*};\n");
        assert_eq!(found.len(), 2);
        assert!(found[0].starts_with("a.rs:3: glob import"));
    }

    #[test]
    fn errors_are_types() {
        assert_eq!(findings("//! X.\nfn f() -> Result<(), &'static str> { Ok(()) }\n").len(), 1);
        assert!(findings("//! X.\nfn f() -> Result<&'static str, Error> { g() }\n").is_empty());
    }
}
