//! The far end of the cable: the machine under test as its child, and what serves it.

use std::io::{BufRead as _, BufReader};
use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::AsRawFd as _;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn6, sendto, setsockopt, socket, sockopt,
};

use crate::{Lane, again};

/// The far end: its children die with it.
pub struct Far {
    near: Child,
    words: Arc<Mutex<Vec<String>>>,
    servers: Vec<Child>,
    scratch: tempfile::TempDir,
}

impl Drop for Far {
    fn drop(&mut self) {
        for child in self.servers.iter_mut().chain([&mut self.near]) {
            let _gone = child.kill();
            let _reaped = child.wait();
        }
    }
}

/// Runs the far end of a lane to the end of the machine.
pub fn far_end(lane: &Lane) -> Result<()> {
    let mut wrapper = Command::new("unshare");
    // A /run of its own: the network's facts are kept there.
    wrapper.args(["--net", "--mount", "--", "sh", "-c", "mount -t tmpfs none /run && exec \"$0\" \"$@\""]);
    let mut near = again(wrapper, lane.name, "near")?.stdout(Stdio::piped()).spawn().context("starting unshare")?;
    let words = Arc::<Mutex<Vec<String>>>::default();
    let (heard, output) = (words.clone(), near.stdout.take().context("no output")?);
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            println!("near: {line}");
            heard.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        }
    });
    let mut far = Far { near, words, servers: Vec::new(), scratch: tempfile::tempdir()? };
    far.wait_for("near is there")?;
    (lane.far)(&mut far)?;
    let status = far.near.wait()?;
    let _done = reader.join();
    ensure!(status.success(), "the machine ended with {status}");
    Ok(())
}

impl Far {
    /// Waits until the machine said something with `part` in it.
    pub fn wait_for(&mut self, part: &str) -> Result<()> {
        loop {
            if self.words.lock().unwrap_or_else(PoisonError::into_inner).iter().any(|line| line.contains(part)) {
                return Ok(());
            }
            ensure!(self.near.try_wait()?.is_none(), "the machine ended before it said {part:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A cable to the machine, which sees it as `name`; unplugged if `plugged` is false.
    pub fn cable(&self, name: &str, plugged: bool) -> Result<()> {
        let pid = self.near.id().to_string();
        ip(&["link", "add", &format!("far-{name}"), "type", "veth", "peer", "name", name, "netns", &pid])?;
        if plugged { ip(&["link", "set", &format!("far-{name}"), "up"]) } else { Ok(()) }
    }

    /// Our address on the cable of eth0.
    pub fn address(&self, address: &str) -> Result<()> {
        let nodad = if address.contains(':') { vec!["nodad"] } else { Vec::new() };
        ip(&[&["addr", "add", address, "dev", "far-eth0"], nodad.as_slice()].concat())
    }

    /// dnsmasq on the cable of eth0.
    pub fn dnsmasq(&mut self, arguments: &[&str]) -> Result<()> {
        let leases = format!("--dhcp-leasefile={}", self.scratch.path().join("leases").display());
        let mut server = Command::new("dnsmasq");
        server.args(["--no-daemon", "--conf-file=/dev/null", "--pid-file=", "--no-resolv", "--no-hosts", "--no-ping"]);
        server.args(["--interface=far-eth0", "--bind-dynamic", "--log-dhcp", &leases]).args(arguments);
        if nix::unistd::geteuid().is_root() {
            server.arg("--user=root");
        }
        self.servers.push(server.spawn().context("starting dnsmasq")?);
        Ok(())
    }

    /// A router without name servers: an advertisement each second with `flags`; its prefix makes addresses if
    /// `autonomous`.
    pub fn router(&self, flags: u8, autonomous: bool) -> Result<()> {
        let raw = socket(AddressFamily::Inet6, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::IcmpV6)?;
        setsockopt(&raw, sockopt::BindToDevice, &"far-eth0".into())?;
        setsockopt(&raw, sockopt::Ipv6MulticastHops, &255)?;
        // Hop limit 64, flags, router lifetime 1800 s; a prefix option: /64, on link, valid and preferred 3600 s.
        let mut message = vec![134, 0, 0, 0, 64, flags, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
        message.extend([3, 4, 64, if autonomous { 0xc0 } else { 0x80 }, 0, 0, 14, 16, 0, 0, 14, 16, 0, 0, 0, 0]);
        message.extend("fd77::".parse::<Ipv6Addr>()?.octets());
        let index = nix::net::if_::if_nametoindex("far-eth0")?;
        let everyone = SockaddrIn6::from(SocketAddrV6::new("ff02::1".parse()?, 0, 0, index));
        std::thread::spawn(move || {
            loop {
                // Refused until the far end's own link-local address is ready.
                let _sent = sendto(raw.as_raw_fd(), &message, &everyone, MsgFlags::empty());
                std::thread::sleep(Duration::from_secs(1));
            }
        });
        Ok(())
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    let status = Command::new("ip").args(arguments).status().context("starting ip")?;
    ensure!(status.success(), "ip {} ended with {status}", arguments.join(" "));
    Ok(())
}

/// What `ip` prints.
pub fn ip_says(arguments: &[&str]) -> Result<String> {
    let output = Command::new("ip").args(arguments).output().context("starting ip")?;
    Ok(String::from_utf8(output.stdout)?)
}
