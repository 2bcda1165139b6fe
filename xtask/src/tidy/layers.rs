//! Crates depend only downwards; above all, the host memory manager does not know that guests exist.

use super::Finding;
use super::source::File;

/// What Herald is made of; the simulated machine in `tests` is made of the same.
const HERALD: [&str; 17] = [
    "addr", "mutants", "sync", "abi", "paging", "mm", "mmu", "devices", "vmxdefs", "firmware", "emulate",
    "fair", "realmode", "screen", "snapshot", "startup", "tiers",
];

/// Models work on the product through the simulated machine.
const MODELS: [&str; 5] = ["addr", "sync", "mm", "mmu", "tests"];

/// Crates of the tree that each crate may depend on. `herald` is the composition root.
const ALLOWED: [(&str, &[&str]); 28] = [
    ("addr", &[]),
    ("mutants", &[]),
    ("sync", &["addr", "mutants"]),
    ("abi", &["addr"]),
    ("paging", &["addr", "mutants"]),
    ("mm", &["addr", "mutants", "sync", "paging"]),
    ("mmu", &["addr", "mutants", "sync", "paging", "mm"]),
    ("devices", &["addr", "abi"]),
    ("vmxdefs", &["addr", "abi"]),
    ("firmware", &["addr", "abi"]),
    ("emulate", &["addr"]),
    ("realmode", &["addr"]),
    ("fair", &[]),
    ("tiers", &["addr", "mm", "mutants", "sync"]),
    ("screen", &["abi"]),
    ("snapshot", &["mutants"]),
    ("startup", &["addr", "abi"]),
    ("herald", &HERALD),
    ("loader", &["abi", "addr"]),
    ("guest", &["abi", "addr"]),
    ("tests", &HERALD),
    ("costs", &["addr", "mm", "mmu", "paging"]),
    ("kvm-vmm", &["abi", "addr", "devices", "firmware"]),
    ("linux", &["addr", "mm", "paging", "tests"]),
    ("sequences", &["tests"]),
    ("models", &MODELS),
    (
        "fuzz",
        &[
            "addr", "abi", "mm", "mmu", "devices", "firmware", "emulate", "loader", "realmode", "startup",
            "tests",
        ],
    ),
    ("xtask", &["abi", "mutants", "snapshot", "startup"]),
];

pub(super) fn check(file: &File) -> Vec<Finding> {
    let mut findings = Vec::new();
    let manifest: toml::Table = match file.text.parse() {
        Ok(manifest) => manifest,
        Err(error) => return vec![Finding::new(&file.path, 1, format!("{error}"))],
    };
    let Some(name) = manifest.get("package").and_then(|package| package.get("name")?.as_str()) else {
        return findings;
    };
    let Some((_, allowed)) = ALLOWED.iter().find(|(known, _)| *known == name) else {
        return vec![Finding::new(&file.path, 1, format!("crate `{name}` has no place in the layers"))];
    };
    let inherits = manifest.get("lints").and_then(|lints| lints.get("workspace")?.as_bool());
    if inherits != Some(true) {
        findings.push(Finding::new(&file.path, 1, "lacks `[lints] workspace = true`"));
    }
    for dependency in dependencies(&manifest) {
        let ours = ALLOWED.iter().any(|(known, _)| *known == dependency);
        if ours && !allowed.contains(&dependency.as_str()) {
            let what = format!("`{name}` must not depend on `{dependency}`");
            findings.push(Finding::new(&file.path, line_of(&file.text, &dependency), what));
        }
    }
    findings
}

/// Names in every dependency table, also those of a target.
fn dependencies(manifest: &toml::Table) -> Vec<String> {
    let mut names = Vec::new();
    for (key, value) in manifest {
        let Some(table) = value.as_table() else { continue };
        match key.as_str() {
            "dependencies" | "dev-dependencies" | "build-dependencies" => names.extend(table.keys().cloned()),
            "target" => {
                names.extend(table.values().filter_map(|target| target.as_table()).flat_map(dependencies));
            }
            _ => {}
        }
    }
    names
}

fn line_of(text: &str, dependency: &str) -> usize {
    text.lines().position(|line| line.starts_with(dependency)).map_or(1, |index| index + 1)
}

#[cfg(test)]
mod tests {
    use super::super::source::File;
    use super::check;

    fn findings(text: &str) -> Vec<String> {
        let file = File { path: "Cargo.toml".into(), text: text.into() };
        check(&file).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_memory_manager_does_not_know_guests() {
        let text =
            "[package]\nname = \"mm\"\n[lints]\nworkspace = true\n[dependencies]\nmmu.workspace = true\n";
        assert_eq!(findings(text), ["Cargo.toml:6: `mm` must not depend on `mmu`"]);
        assert!(findings(&text.replace("mmu.", "addr.")).is_empty());
        assert!(findings(&text.replace("mmu.", "log.")).is_empty());
    }

    #[test]
    fn every_crate_shares_the_lints_and_has_a_place() {
        assert_eq!(
            findings("[package]\nname = \"mm\"\n"),
            ["Cargo.toml:1: lacks `[lints] workspace = true`"]
        );
        assert_eq!(
            findings("[package]\nname = \"new\"\n"),
            ["Cargo.toml:1: crate `new` has no place in the layers"]
        );
        assert!(findings("[workspace]\nmembers = []\n").is_empty());
    }

    #[test]
    fn dependencies_of_tests_and_targets_count() {
        let head = "[package]\nname = \"addr\"\n[lints]\nworkspace = true\n";
        assert_eq!(findings(&format!("{head}[dev-dependencies]\nmm.workspace = true\n")).len(), 1);
        assert_eq!(findings(&format!("{head}[target.'cfg(unix)'.dependencies]\nmm = \"1\"\n")).len(), 1);
    }
}
