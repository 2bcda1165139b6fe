//! Each binary has its own layout: `testguest` is loaded at 1 MiB, `init` by Linux.

fn main() {
    let dir = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| ".".into());
    println!("cargo:rerun-if-changed=testguest.ld");
    println!("cargo:rustc-link-arg-bin=testguest=-T{dir}/testguest.ld");
    println!("cargo:rustc-link-arg-bin=testguest=--build-id=none");
    println!("cargo:rustc-link-arg-bin=init=--build-id=none");
    println!("cargo:rustc-link-arg-bin=init=--strip-all");
}
