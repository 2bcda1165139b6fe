//! Tells the linker where Herald lies.

fn main() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/herald.ld");
    println!("cargo:rerun-if-changed={script}");
    println!("cargo:rustc-link-arg-bins=-T{script}");
}
