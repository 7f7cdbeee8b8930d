//! `RUST_BACKTRACE=1`, which a kernel command line gives to PID 1 as well: the installer as it is shipped, without symbols and
//! tables of the C in it, still says what its error is. No machine is started.

use std::process::Command;

use metalstrap_tests::artifacts;

#[test]
fn an_error_with_a_backtrace_is_told_too() {
    let mut command = Command::new(artifacts::installer().unwrap());
    command.args(["install", "--site", "/nowhere/site.json", "--disk", "/nowhere/disk"]).env("RUST_BACKTRACE", "1");
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    let text = "error: [site-config]: reading the site config: reading /nowhere/site.json: No such file or directory (os error 2)";
    assert!(said.lines().any(|line| line == text), "{said}");
    assert_eq!(output.status.code(), Some(1), "{said}");
}
