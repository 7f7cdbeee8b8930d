//! The installer: supervisor when it is PID 1, the installation proper as its child, an ordinary command elsewhere.

use std::process::ExitCode;

fn main() -> ExitCode {
    if std::process::id() == 1 { metalstrap_installer::init::supervise() } else { metalstrap_installer::cli::main() }
}
