//! A link to the server that is not the loopback: a network namespace for the tools, joined to the server's by a pair of
//! virtual Ethernet ports.

use std::ffi::OsString;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::client::Client;
use crate::lab::Lab;
use crate::programs::{output, run};
use crate::relay::Relay;
use crate::server::PORT;
use crate::stop;

/// The server's address on a link.
pub const SERVER: &str = "10.99.0.1";
const TOOLS: &str = "10.99.0.2";

/// What is wrong with a link.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// The server's side sends at most so fast (a token bucket).
    Shaped { megabits: u64 },
    /// What the server sends is late, and some packets of it are lost.
    Lossy { milliseconds: u64, percent: u64 },
}

/// A link; it goes away when this is dropped.
#[derive(Debug)]
pub struct Link {
    /// The far end.
    pub client: Client,
    holder: Child,
    _relay: Option<Relay>,
}

impl Link {
    /// Makes a link to the server of `lab`.
    ///
    /// # Errors
    /// The words of ip, tc or ethtool.
    pub fn new(lab: &Lab, kind: Kind) -> Result<Self> {
        let holder = Command::new("unshare")
            .args(["--net", "sleep", "infinity"])
            .stdin(Stdio::null())
            .spawn()
            .context("making a network namespace")?;
        let namespace = format!("/proc/{}/ns/net", holder.id());
        let client = Client {
            url: format!("https://{SERVER}:{PORT}"),
            site: lab.options.out.join("site-link.json"),
            prefix: vec!["nsenter".into(), OsString::from(format!("--net={namespace}")), "--".into()],
        };
        let mut link = Self { client, holder, _relay: None };
        wait_for_another(Path::new(&namespace))?;
        lab.repository.site(&format!("{SERVER}:{PORT}"), &lab.tls, &link.client.site)?;
        let id = link.holder.id().to_string();
        match kind {
            Kind::Shaped { megabits } => {
                run("ip", ["link", "add", "srv", "type", "veth", "peer", "name", "cli", "netns", &id])?;
                link.address()?;
                // So that the port counts each packet with its heads, as the bucket does, and not a run of them as one.
                run("ethtool", ["-K", "srv", "tso", "off", "gso", "off"])?;
                // The bucket holds what the rate gives in a few milliseconds, at least some of the largest packets.
                let (rate, burst) = (format!("{megabits}mbit"), (megabits * 500).max(70_000).to_string());
                run(
                    "tc",
                    ["qdisc", "add", "dev", "srv", "root", "tbf", "rate", &rate, "burst", &burst, "latency", "50ms"],
                )?;
            }
            Kind::Lossy { milliseconds, percent } => {
                run("ip", ["link", "add", "srv", "type", "veth", "peer", "name", "near"])?;
                run("ip", ["link", "add", "far", "type", "veth", "peer", "name", "cli", "netns", &id])?;
                for port in ["near", "far"] {
                    // The kernel is to leave the relay's ports alone: no answers to ARP, no IPv6.
                    run("ip", ["link", "set", port, "arp", "off", "addrgenmode", "none", "up"])?;
                }
                link.address()?;
                // A packet is what a packet on a wire is: not larger, and with its checksum.
                let plain = ["tx", "off", "tso", "off", "gso", "off", "gro", "off"];
                for port in ["srv", "near", "far"] {
                    run("ethtool", ["-K", port].into_iter().chain(plain))?;
                }
                link.there(&[&["ethtool", "-K", "cli"], &plain[..]].concat())?;
                link._relay = Some(Relay::start("near", "far", Duration::from_millis(milliseconds), percent)?);
            }
        }
        Ok(link)
    }

    /// Bytes of packets that the server's port has sent, Ethernet heads included.
    ///
    /// # Errors
    /// ip's words.
    pub fn sent(&self) -> Result<u64> {
        let json: serde_json::Value = serde_json::from_str(&output("ip", ["-s", "-j", "link", "show", "srv"])?)
            .context("reading what ip printed")?;
        json.pointer("/0/stats64/tx/bytes").and_then(serde_json::Value::as_u64).context("finding the bytes sent")
    }

    fn address(&self) -> Result<()> {
        run("ip", ["addr", "add", &format!("{SERVER}/24"), "dev", "srv"])?;
        run("ip", ["link", "set", "srv", "up"])?;
        self.there(&["ip", "addr", "add", &format!("{TOOLS}/24"), "dev", "cli"])?;
        self.there(&["ip", "link", "set", "lo", "up"])?;
        self.there(&["ip", "link", "set", "cli", "up"])
    }

    /// Runs a command at the far end.
    fn there(&self, command: &[&str]) -> Result<()> {
        let words = self.client.prefix.iter().skip(1).cloned().chain(command.iter().map(Into::into));
        run("nsenter", words)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // The relay has ports open; they go with the near ends, the far end with its namespace.
        self._relay = None;
        drop(self.holder.kill());
        drop(self.holder.wait());
        for port in ["srv", "far"] {
            drop(Command::new("ip").args(["link", "del", port]).stderr(Stdio::null()).status());
        }
    }
}

/// Waits until the process has its own network namespace.
fn wait_for_another(namespace: &Path) -> Result<()> {
    let ours = std::fs::read_link("/proc/self/ns/net").context("reading this network namespace")?;
    let deadline = Instant::now() + Duration::from_secs(10);
    while std::fs::read_link(namespace).context("reading a new network namespace")? == ours {
        stop::check()?;
        if Instant::now() > deadline {
            bail!("no network namespace was made in 10 s");
        }
        // Between two looks at it.
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}
