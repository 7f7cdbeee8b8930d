//! What makes the installer smaller without another instruction in it.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // Half a megabyte less: addresses that the program corrects when it starts are written down as a bit map (`DT_RELR`, which
    // glibc knows since 2.36, in static programs too) instead of 24 bytes each.
    println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    // Only the release profile aborts when it panics. A backtrace, which these tables are for too, would have no names in it (sys.rs).
    if env::var("PROFILE").is_ok_and(|profile| profile == "release") {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/no-unwind-tables.ld");
        println!("cargo::rerun-if-changed={script}");
        println!("cargo::rustc-link-arg-bins=-Wl,-T,{script},--wrap=_Unwind_Backtrace");
    }
}
