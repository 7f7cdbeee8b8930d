//! Tests that need what a machine may not have: io_uring, loop devices, direct I/O.

use std::io::Write as _;

/// Says on the console that a test is not run, and why. Where `CI` is set that fails it: what is not tested there does not pass.
pub(crate) fn not_run(why: &str) {
    let test = std::thread::current().name().unwrap_or_default().to_owned();
    // Not by eprintln, which the test runner keeps to itself when a test passes.
    writeln!(std::io::stderr(), "{test}: not run: {why}").unwrap();
    assert!(std::env::var_os("CI").is_none(), "{test}: not run although CI is set: {why}");
}
