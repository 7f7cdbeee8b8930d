//! Temporary entry while the commands are being written.
fn main() {
    if std::process::id() == 1 {
        metalstrap_installer::init::supervise();
    }
}
