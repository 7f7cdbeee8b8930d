//! The speed of a serial line that the site config adds. Those of the kernel have the speed of its command line; here nobody has
//! said one to the driver, which begins with 9600 (Linux drivers/tty/serial/serial_core.c) and would be read as noise.

use std::fs::File;

use nix::libc;
use nix::sys::termios::{self, ControlFlags, SetArg};

/// The terminal of an entry of the site config: `ttyS1` of `ttyS1,57600`.
pub(super) fn terminal(entry: &str) -> &str {
    entry.split(',').next().unwrap_or_default()
}

/// Sets the speed that an entry says, one of those that a site config may say, or what BMCs have unless somebody changed it.
pub(super) fn set(file: &File, entry: &str) {
    let speed = match entry.split_once(',') {
        Some((_, "9600")) => libc::B9600,
        Some((_, "19200")) => libc::B19200,
        Some((_, "38400")) => libc::B38400,
        Some((_, "57600")) => libc::B57600,
        _ => libc::B115200,
    };
    // A line that takes no speed has none.
    let Ok(mut settings) = termios::tcgetattr(file) else { return };
    // By hand (termios(3), CBAUD): a static glibc has no cfsetspeed of the version that the libc crate asks for.
    settings.control_flags.remove(ControlFlags::CBAUD);
    settings.control_flags.insert(ControlFlags::from_bits_retain(speed));
    let _ = termios::tcsetattr(file, SetArg::TCSANOW, &settings);
}
