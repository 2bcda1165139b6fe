//! The loader has a layout of its own: one image that a BIOS and a PVH loader both can start.

fn main() {
    let dir = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| ".".into());
    println!("cargo:rerun-if-changed=loader.ld");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        println!("cargo:rustc-link-arg-bins=-T{dir}/loader.ld");
        println!("cargo:rustc-link-arg-bins=--build-id=none");
    }
}
