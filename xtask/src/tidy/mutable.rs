//! The mutation kit keeps up with the product: a method of `mm`, `mmu` or `sync` that takes a step which coherence rests
//! on asks `intact` about something, and every mutant is in the list in `docs`.
//!
//! Begin, end, the single-page notices and the gathered flushes need no rule: their functions take the site, by which the
//! kit chooses. The rule is a reminder, no proof: one question in a method satisfies it.

use super::Finding;
use super::source::{File, Rust};
use mutants::Mutant;
use syn::visit::Visit;

const CRATES: [&str; 3] =
    ["hypervisor/crates/mm/src/", "hypervisor/crates/mmu/src/", "hypervisor/crates/sync/src/"];
/// Flushes, rises of the sequence, dirty transfers.
const STEPS: [&str; 4] = ["flush_primary", "raise", "mark_dirty", "zap_and_flush"];
/// Where the list is.
const LIST: &str = "docs/mutants.md";

pub(super) fn check(rust: &Rust<'_>) -> Vec<Finding> {
    if !CRATES.iter().any(|root| rust.file.path.starts_with(root)) {
        return Vec::new();
    }
    let mut functions = Functions { rust, findings: Vec::new() };
    functions.visit_file(&rust.syntax);
    functions.findings
}

struct Functions<'a> {
    rust: &'a Rust<'a>,
    findings: Vec<Finding>,
}

impl<'ast> Visit<'ast> for Functions<'_> {
    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        let name = function.sig.ident.to_string();
        let mut body = Body::default();
        body.visit_block(&function.block);
        // What a step is made of is guarded where it is taken.
        if STEPS.contains(&name.as_str()) || body.asks {
            return;
        }
        for (step, line) in body.steps {
            let what = format!("`{name}` calls `{step}`, and no mutant leaves it out");
            self.findings.push(self.rust.finding(line, what));
        }
    }
}

#[derive(Default)]
struct Body {
    asks: bool,
    steps: Vec<(String, usize)>,
}

impl<'ast> Visit<'ast> for Body {
    fn visit_expr_method_call(&mut self, call: &'ast syn::ExprMethodCall) {
        let name = call.method.to_string();
        if STEPS.contains(&name.as_str()) {
            self.steps.push((name, call.method.span().start().line));
        }
        syn::visit::visit_expr_method_call(self, call);
    }

    fn visit_expr_call(&mut self, call: &'ast syn::ExprCall) {
        let asks = |path: &syn::ExprPath| path.path.is_ident("intact");
        self.asks |= matches!(&*call.func, syn::Expr::Path(path) if asks(path));
        syn::visit::visit_expr_call(self, call);
    }
}

/// Mutants that the list does not name; all of them where there is no list.
pub(super) fn check_list(files: &[File]) -> Vec<Finding> {
    let text = files.iter().find(|file| file.path == LIST).map_or("", |file| &file.text);
    let missing = Mutant::all().filter(|mutant| !text.contains(&format!("| `{mutant}` |")));
    missing
        .map(|mutant| Finding::new(LIST, 1, format!("mutant `{mutant}` is not listed: write it anew")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::check_rust;

    #[test]
    fn a_step_that_cannot_be_left_out_is_found() {
        let path = "hypervisor/crates/mm/src/x.rs";
        let bare = "//! X.\nimpl X { fn f(&self) { self.meta.mark_dirty(); } }\n";
        let found = check_rust(path, bare, super::check);
        assert_eq!(
            found,
            ["hypervisor/crates/mm/src/x.rs:2: `f` calls `mark_dirty`, and no mutant leaves it out"]
        );
        let guarded = "//! X.\nimpl X { fn f(&self) { if intact(M) { self.meta.mark_dirty(); } } }\n";
        assert!(check_rust(path, guarded, super::check).is_empty());
    }
}
