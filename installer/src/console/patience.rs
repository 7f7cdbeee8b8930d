//! Writes that do not wait long, whatever the terminal does.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// How long a line may keep us waiting.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// Without a byte of it being taken.
    pub(super) nothing: Duration,
    /// For all of it.
    pub(super) whole: Duration,
}

/// The last event of a run has some 20,000 bytes where a TPM is, for which a serial port at 115200 baud needs two seconds. The kernel
/// takes bytes again when its buffer of 4096 is nearly empty (`n_tty_poll`), so at 9600 baud, where that takes four seconds, a line is
/// given up once the buffer is full.
pub(super) const PATIENCE: Patience = Patience { nothing: Duration::from_secs(3), whole: Duration::from_secs(10) };

/// None at all.
pub(super) const IMPATIENCE: Patience = Patience { nothing: Duration::ZERO, whole: Duration::ZERO };

/// Writes all of `bytes` to a non-blocking file; false if that took longer than `patience` or failed.
pub(super) fn write_within(mut file: &File, mut bytes: &[u8], patience: Patience) -> bool {
    let start = Instant::now();
    let mut progress = start;
    while !bytes.is_empty() {
        match file.write(bytes) {
            Ok(0) => return false,
            Ok(written) => {
                bytes = bytes.get(written..).unwrap_or_default();
                progress = Instant::now();
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let for_a_byte = patience.nothing.saturating_sub(progress.elapsed());
                let left = for_a_byte.min(patience.whole.saturating_sub(start.elapsed()));
                let mut fds = [PollFd::new(file.as_fd(), PollFlags::POLLOUT)];
                // A fraction of a millisecond would be cut off.
                let timeout = left.saturating_add(Duration::from_millis(1));
                let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::ZERO);
                if left.is_zero() || !matches!(poll(&mut fds, timeout), Ok(1..)) {
                    return false;
                }
            }
            Err(_) => return false,
        }
    }
    true
}
