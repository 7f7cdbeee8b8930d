//! Writes that do not wait long, whatever the terminal does.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// The longest a line may keep us waiting; a serial port at 9600 baud drains about 1000 bytes in it.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

/// Writes all of `bytes` to a non-blocking file; false if that took longer than `patience` or failed.
pub(super) fn write_within(mut file: &File, mut bytes: &[u8], patience: Duration) -> bool {
    let start = Instant::now();
    while !bytes.is_empty() {
        match file.write(bytes) {
            Ok(0) => return false,
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let left = patience.saturating_sub(start.elapsed());
                let mut fds = [PollFd::new(file.as_fd(), PollFlags::POLLOUT)];
                let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
                if left.is_zero() || !matches!(poll(&mut fds, timeout), Ok(1..)) {
                    return false;
                }
            }
            Err(_) => return false,
        }
    }
    true
}
