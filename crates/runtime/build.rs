//! Links the tests that re-execute themselves as shims as they are shipped: at a fixed address.
//!
//! A position-independent static executable is relocated when it starts, which makes its constant data private memory
//! of every shim (more than all the rest of a shim together).

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-link-arg-tests=-static");
    println!("cargo::rustc-link-arg-tests=-no-pie");
}
