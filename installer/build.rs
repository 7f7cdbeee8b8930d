//! Half a megabyte less: addresses that the program corrects when it starts are written down as a bit map (`DT_RELR`, which
//! glibc knows since 2.36, in static programs too) instead of 24 bytes each.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
}
