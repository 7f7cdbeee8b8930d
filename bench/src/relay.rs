//! A cable that is slow and loses packets, for kernels without `sch_netem`: Ethernet frames are read from one port and
//! written to the other. What goes from the server to the tools comes late, and some of it never; the way back is fast
//! and whole, so the delay is the round-trip time.

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};

use crate::noise::Noise;

/// How long a thread waits for a frame before it looks whether it is to end.
const LOOK: i64 = 100;
/// Longer than any frame of a port without segmentation.
const FRAME: usize = 4096;

/// A running relay; it ends when this is dropped.
#[derive(Debug)]
pub struct Relay {
    ends: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Relay {
    /// Joins the port `near` (the server's side) and the port `far`.
    ///
    /// # Errors
    /// A port cannot be opened.
    pub fn start(near: &str, far: &str, delay: Duration, percent: u64) -> Result<Self> {
        let (near, far) = (Arc::new(open(near)?), Arc::new(open(far)?));
        let ends = Arc::new(AtomicBool::new(false));
        let (late, queue) = mpsc::channel::<(Instant, Vec<u8>)>();
        let mut noise = Noise::new(50);
        let reader = {
            let (near, ends) = (Arc::clone(&near), Arc::clone(&ends));
            thread::spawn(move || {
                frames(&near, &ends, |frame| {
                    if noise.below(100) >= percent {
                        // The other thread is there as long as this one.
                        drop(late.send((Instant::now() + delay, frame.to_vec())));
                    }
                });
            })
        };
        let writer = {
            let far = Arc::clone(&far);
            thread::spawn(move || deliver(&queue, &far))
        };
        let back = {
            let ends = Arc::clone(&ends);
            thread::spawn(move || frames(&far, &ends, |frame| put(&near, frame)))
        };
        Ok(Self { ends, threads: vec![reader, writer, back] })
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::SeqCst);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

/// Sends each frame at its time; ends with the thread that reads.
fn deliver(queue: &Receiver<(Instant, Vec<u8>)>, port: &OwnedFd) {
    while let Ok((due, frame)) = queue.recv() {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        put(port, &frame);
    }
}

/// A frame that a port does not take is lost, as on a cable.
fn put(port: &OwnedFd, frame: &[u8]) {
    let _ = send(port.as_raw_fd(), frame, MsgFlags::empty());
}

fn frames(port: &OwnedFd, ends: &AtomicBool, mut each: impl FnMut(&[u8])) {
    let mut buffer = [0; FRAME];
    while !ends.load(Ordering::SeqCst) {
        match recv(port.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Ok(length) => each(buffer.get(..length).unwrap_or_default()),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(error) => {
                eprintln!("warning: the relay ends: {error}");
                return;
            }
        }
    }
}

/// A packet socket of the port `name`: all frames that come in at it.
fn open(name: &str) -> Result<OwnedFd> {
    let opening = || format!("opening the port {name}");
    let mut addresses = getifaddrs().with_context(opening)?.filter(|address| address.interface_name == name);
    let link = addresses.find_map(|address| address.address?.as_link_addr().copied()).with_context(opening)?;
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)
        .with_context(opening)?;
    bind(socket.as_raw_fd(), &link).with_context(opening)?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(LOOK)).with_context(opening)?;
    setsockopt(&socket, sockopt::RcvBuf, &(8 << 20)).with_context(opening)?;
    Ok(socket)
}
