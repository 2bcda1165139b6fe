//! Nothing in the tree names the machine that it was written on, nor the host of a package registry.

use super::Finding;
use super::source::File;

/// Directories of one machine, and hosts. Split, so that this file does not find itself.
const NAMES: [(&str, &str); 9] = [
    (concat!("/wo", "rk/"), "a directory of one machine"),
    (concat!("/ro", "ot/"), "a directory of one machine"),
    (concat!("/ho", "me/"), "a directory of one machine"),
    (concat!("index.", "crates.io"), "a registry's host"),
    (concat!("static.", "crates.io"), "a registry's host"),
    (concat!("deb.", "debian.org"), "a registry's host"),
    (concat!("files.", "pythonhosted.org"), "a registry's host"),
    (concat!("registry.", "npmjs.org"), "a registry's host"),
    (concat!("static.", "rust-lang.org"), "a registry's host"),
];

pub(super) fn check(file: &File) -> Vec<Finding> {
    // Cargo writes the registry's name into its lock files.
    if file.path.ends_with("Cargo.lock") {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for (number, line) in file.text.lines().enumerate() {
        for (name, kind) in NAMES {
            if names(line, name) {
                findings.push(Finding::new(&file.path, number + 1, format!("names {kind}: {name}")));
            }
        }
    }
    findings
}

/// Whether `line` has `name`, not as the tail of a longer path.
fn names(line: &str, name: &str) -> bool {
    let inside = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '}' | '$');
    line.match_indices(name).any(|(at, _)| !line[..at].ends_with(inside))
}

#[cfg(test)]
mod tests {
    use super::super::source::File;
    use super::check;

    fn findings(path: &str, text: &str) -> usize {
        check(&File { path: path.into(), text: text.into() }).len()
    }

    #[test]
    fn bare_paths_and_hosts_are_found() {
        let path = concat!("see /wo", "rk/main/README.md\n");
        let host = concat!("https://index.", "crates.io/config.json\n");
        assert_eq!((findings("README.md", path), findings("README.md", host)), (1, 1));
        assert_eq!(findings("Cargo.lock", host), 0);
    }

    #[test]
    fn the_tail_of_a_path_is_not_a_root() {
        assert_eq!(findings("a.sh", concat!("cd target/wo", "rk/x; cd $DIR/ro", "ot/x\n")), 0);
    }
}
