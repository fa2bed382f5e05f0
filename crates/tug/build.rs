//! Compiles the example application of `tug demo` (examples/kubia) to a static binary that is embedded here, and links
//! `tug` at a fixed address: a position-independent static executable is relocated when it starts, which makes its
//! constant data private memory of every shim (more than all the rest of a shim together).

use std::env;
use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo::rustc-link-arg-bins=-static");
    println!("cargo::rustc-link-arg-bins=-no-pie");
    let source =
        PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("../../examples/kubia");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it")).join("kubia");
    for file in ["kubia.rs", "Dockerfile", "deployment.yaml", "service.yaml"] {
        println!("cargo::rerun-if-changed={}", source.join(file).display());
    }
    let status = Command::new(env::var_os("RUSTC").expect("cargo sets it"))
        .args(["--edition", "2024", "-C", "opt-level=s", "-C", "panic=abort", "-C", "strip=symbols"])
        .args(["-C", "target-feature=+crt-static", "--target"])
        .arg(env::var_os("TARGET").expect("cargo sets it"))
        .arg(source.join("kubia.rs"))
        .arg("-o")
        .arg(&out)
        .status()
        .expect("rustc starts");
    assert!(status.success(), "rustc could not compile {}", source.join("kubia.rs").display());
}
