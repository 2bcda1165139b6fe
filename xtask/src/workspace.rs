//! Where things lie: the source tree, and everything built under the target directory.

use std::path::{Path, PathBuf};

/// Names [`prebuilt`]'s directory.
pub(crate) const PREBUILT: &str = "HERALD_PREBUILT";

/// The root of the source tree.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// Cargo's target directory: `CARGO_TARGET_DIR`, else `target` in the tree.
pub(crate) fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}

/// Bare-metal builds. Their own directory: cargo would rebuild everything where flags alternate.
pub(crate) fn metal_target() -> PathBuf {
    target().join("metal")
}

/// Guest kernels and initial RAM disks, kept between runs.
pub(crate) fn guest_cache() -> PathBuf {
    target().join("guest")
}

/// Parent of the directories of running machines.
pub(crate) fn runs() -> PathBuf {
    target().join("run")
}

/// Fuzz targets, what they found, and the inputs that broke something.
pub(crate) fn fuzz() -> PathBuf {
    target().join("fuzz")
}

/// Bootable images.
pub(crate) fn images() -> PathBuf {
    target().join("images")
}

/// The directory with the programs and the tiny Linux, on a machine without sources and a compiler: the nested lab.
pub(crate) fn prebuilt() -> Option<PathBuf> {
    std::env::var_os(PREBUILT).map(PathBuf::from)
}
