//! The table of sites in `docs/notifiers.md` names tests that exist.

use std::path::Path;

#[test]
fn the_table_of_sites_names_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
    let table = read(&root.join("../docs/notifiers.md"));
    let mut named = 0;
    for row in table.lines().filter(|line| line.starts_with('|')) {
        let Some(scenarios) = row.trim_end_matches('|').rsplit('|').next() else { continue };
        for (module, test) in scenarios.split('`').filter_map(|name| name.split_once("::")) {
            let source = read(&root.join("tests/sites").join(module).with_extension("rs"));
            assert!(source.contains(&format!("\nfn {test}(")), "{module}::{test}");
            named += 1;
        }
    }
    assert!(named > 20, "{named} tests in the table");
}
