//! The kernel's own word on devices that come and go: uevents over netlink (Linux lib/kobject_uevent.c).

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, setsockopt, socket, sockopt,
};

/// The multicast group of the kernel's own events (group 2 is udev's).
const KERNEL: u32 = 1;

/// Longer than the kernel's `UEVENT_BUFFER_SIZE` (2 KiB) with its header.
const LARGEST: usize = 8192;

/// What was heard.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    /// Nothing came in that time.
    Silence,
    /// Something changed; with the modalias if a device came that has one.
    Event(Option<String>),
    /// Events were lost: the tree has to be looked at again.
    Lost,
}

/// Listens to uevents from its making on.
#[derive(Debug)]
pub struct Listener(OwnedFd);

impl Listener {
    /// Starts to listen.
    ///
    /// # Errors
    /// The kernel has no netlink, or this process no right to listen.
    pub fn open() -> Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let protocol = SockProtocol::NetlinkKObjectUEvent;
        let fd =
            socket(AddressFamily::Netlink, SockType::Datagram, flags, protocol).context("opening a uevent socket")?;
        // A boot's burst of events waits here while modules load. Refused, losing some is noticed as `Lost`.
        let _ = setsockopt(&fd, sockopt::RcvBufForce, &(4 << 20));
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, KERNEL)).context("listening to uevents")?;
        Ok(Self(fd))
    }

    /// Waits for the next event.
    ///
    /// # Errors
    /// The socket's error.
    pub fn next(&self, timeout: Duration) -> io::Result<Heard> {
        let mut buffer = [0; LARGEST];
        loop {
            match recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(got) => return Ok(Heard::Event(new_device(buffer.get(..got).unwrap_or_default()))),
                Err(Errno::ENOBUFS) => return Ok(Heard::Lost),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
                    match poll(&mut fds, PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX)) {
                        Ok(0) => return Ok(Heard::Silence),
                        Ok(_) | Err(Errno::EINTR) => {}
                        Err(errno) => return Err(errno.into()),
                    }
                }
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// The modalias of a device that was added: `add@PATH\0KEY=VALUE\0…`.
fn new_device(event: &[u8]) -> Option<String> {
    let mut fields = event.split(|&byte| byte == 0);
    if !fields.next()?.starts_with(b"add@") {
        return None;
    }
    let modalias = fields.find_map(|field| field.strip_prefix(b"MODALIAS="))?;
    String::from_utf8(modalias.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn added_devices_have_a_modalias() {
        let event = b"add@/devices/x\0ACTION=add\0DEVPATH=/devices/x\0MODALIAS=virtio:d1v2\0SEQNUM=5\0";
        assert_eq!(new_device(event), Some("virtio:d1v2".into()));
        assert_eq!(new_device(b"remove@/devices/x\0MODALIAS=virtio:d1v2\0"), None);
        assert_eq!(new_device(b"add@/devices/x\0ACTION=add\0"), None);
        assert_eq!(new_device(b""), None);
    }

    #[test]
    fn silence_is_heard() {
        let listener = Listener::open().unwrap();
        let heard = listener.next(Duration::from_millis(1)).unwrap();
        assert!(matches!(heard, Heard::Silence | Heard::Event(_)), "{heard:?}");
    }
}
