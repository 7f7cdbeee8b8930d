//! A network and PID namespace of its own, with a bridge that machines are plugged into.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::IpAddr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use anyhow::{Context as _, Result, bail};
use nix::unistd::geteuid;

use crate::dnsmasq::Network;
use crate::lab::{GATEWAY, GATEWAY_V6};
use crate::{requirements, tool};

/// The bridge's name inside the namespace.
pub(crate) const BRIDGE: &str = "br0";

/// Namespaces made for one run, for root and, with a user namespace around them, for an ordinary user.
///
/// Dropping it kills everything inside; so does the end of this process (see the crate's introduction).
#[derive(Debug)]
pub struct Namespace {
    init: Child,
    /// Held, never written: its closing ends the namespace.
    pipe: Option<ChildStdin>,
    nsenter: PathBuf,
    /// With a user namespace around it.
    user: bool,
    /// With a network of its own.
    network: bool,
}

impl Namespace {
    /// Makes the namespaces and, unless the network is the user-mode one, in them the bridge with the addresses
    /// 10.77.0.1/24 and fd00:77::1/64.
    ///
    /// # Errors
    /// When a program is missing, or the kernel's settings do not allow it.
    pub fn new(network: Network) -> Result<Self> {
        let user = !geteuid().is_root();
        let mut unshare = Command::new(tool::find("unshare")?);
        unshare.args(requirements::arguments(user, network)).args(["sh", "-c", "echo ready; exec cat"]);
        unshare.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A group of its own: Ctrl-C on the terminal is for this process alone, which then ends the namespace.
        let mut init = unshare.process_group(0).spawn().context("starting unshare")?;
        let pipe = init.stdin.take();
        let network = network != Network::User;
        let mut namespace = Self { init, pipe, nsenter: tool::find("nsenter")?, user, network };
        namespace.wait_ready()?;
        if network {
            namespace.make_bridge().context("making the bridge of the network namespace")?;
        }
        Ok(namespace)
    }

    /// The namespaces exist once their first process has said a word.
    fn wait_ready(&mut self) -> Result<()> {
        let mut said = String::new();
        if let Some(stdout) = self.init.stdout.take() {
            BufReader::new(stdout).read_line(&mut said).context("reading from the namespace's first process")?;
        }
        if said == "ready\n" {
            return Ok(());
        }
        let mut reason = String::new();
        if let Some(mut stderr) = self.init.stderr.take() {
            stderr.read_to_string(&mut reason).context("reading the errors of unshare")?;
        }
        let hint = if self.user { " (does this kernel let ordinary users make user namespaces?)" } else { "" };
        bail!("making a network namespace: {}{hint}", reason.trim())
    }

    fn make_bridge(&self) -> Result<()> {
        self.ip(&format!(
            "link set lo up\n\
             link add {BRIDGE} type bridge forward_delay 0 mcast_snooping 0\n\
             addr add {GATEWAY}/24 dev {BRIDGE}\n\
             addr add {GATEWAY_V6}/64 dev {BRIDGE} nodad\n\
             link set {BRIDGE} up\n"
        ))
    }

    /// Gives the host's side of the network one more address, to which machines find by their default route.
    pub(crate) fn add_address(&self, address: IpAddr) -> Result<()> {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let nodad = if address.is_ipv4() { "" } else { " nodad" };
        // The gateway's own addresses are there already: replacing one changes nothing.
        self.ip(&format!("addr replace {address}/{bits} dev lo{nodad}\n")).with_context(|| format!("adding {address}"))
    }

    /// Plugs a new tap `name` into the bridge.
    pub(crate) fn add_tap(&self, name: &str) -> Result<()> {
        // Opened here first: ip's own message ("open: Permission denied") does not say what could not be opened.
        let tun = Path::new("/dev/net/tun");
        std::fs::File::options().read(true).write(true).open(tun).context("opening /dev/net/tun")?;
        self.ip(&format!("tuntap add {name} mode tap\nlink set {name} master {BRIDGE}\nlink set {name} up\n"))
            .with_context(|| format!("making the tap {name}"))
    }

    /// Takes the tap `name` away.
    pub(crate) fn remove_tap(&self, name: &str) -> Result<()> {
        self.ip(&format!("link del {name}\n")).with_context(|| format!("removing the tap {name}"))
    }

    /// Pulls the cable of the tap `name`, or plugs it in again: the guest sees its port lose and gain the network.
    pub(crate) fn set_forwarding(&self, name: &str, on: bool) -> Result<()> {
        let state = if on { "up" } else { "down" };
        self.ip(&format!("link set {name} {state}\n")).with_context(|| format!("setting the tap {name} {state}"))
    }

    /// Runs lines of `ip -batch`.
    fn ip(&self, batch: &str) -> Result<()> {
        let mut command = self.command(tool::find("ip")?);
        command.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().context("starting ip")?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(batch.as_bytes()).context("writing to ip")?;
        }
        let output = child.wait_with_output().context("waiting for ip")?;
        if !output.status.success() {
            bail!("ip: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }

    /// `program`, to be run inside.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let of = |kind: &str| format!("/proc/{}/ns/{kind}", self.init.id());
        let mut command = Command::new(&self.nsenter);
        if self.user {
            command.arg(format!("--user={}", of("user"))).arg("--preserve-credentials");
        }
        if self.network {
            command.arg(format!("--net={}", of("net")));
        }
        command.arg(format!("--pid={}", of("pid_for_children")));
        command.arg("--").arg(program);
        command
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.pipe.take());
        if let Err(error) = self.init.wait() {
            eprintln!("waiting for the end of the namespace: {error}");
        }
    }
}
