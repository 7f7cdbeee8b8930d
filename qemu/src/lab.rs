//! Everything that machines of one run share: the network, its services, and the authority behind them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::certificates::{Authority, Validity};
use crate::dnsmasq::{self, Network};
use crate::namespace::Namespace;
use crate::nginx::{Request, WebServer};
use crate::process::Process;

/// The host's IPv4 address in a lab: gateway, DNS and web server.
pub const GATEWAY: &str = "10.77.0.1";
/// The host's IPv6 address in a lab.
pub const GATEWAY_V6: &str = "fd00:77::1";
/// The name of the web server in a lab's DNS.
pub const NAME: &str = "repo.test";
/// Where UEFI HTTP boot finds its file.
pub(crate) const NETBOOT_URL: &str = "http://10.77.0.1:8000/netboot.efi";

/// A network of its own with DHCP, DNS, HTTP boot, an HTTPS repository with a private authority, and a report receiver.
#[derive(Debug)]
pub struct Lab {
    // In this order they are dropped: the services, then the namespace, which ends whatever is left.
    web: WebServer,
    dnsmasq: Process,
    namespace: Namespace,
    authority: Authority,
    dir: PathBuf,
    ports: AtomicU8,
}

impl Lab {
    /// A lab with an IPv4 network whose logs go to `dir`.
    ///
    /// # Errors
    /// What is missing on this host, or which program failed.
    pub fn new(dir: &Path) -> Result<Self> {
        Self::with_network(dir, Network::Ipv4)
    }

    /// A lab with that kind of network.
    ///
    /// # Errors
    /// What is missing on this host, or which program failed.
    pub fn with_network(dir: &Path, network: Network) -> Result<Self> {
        std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
        let dir = std::fs::canonicalize(dir).with_context(|| format!("looking for {}", dir.display()))?;
        let namespace = Namespace::new()?;
        let authority = Authority::new(&dir.join("ca")).context("making the certificate authority")?;
        let names = [format!("DNS:{NAME}"), format!("IP:{GATEWAY}"), format!("IP:{GATEWAY_V6}")];
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let certificate =
            authority.issue("server", &names, Validity::WIDE).context("issuing the server's certificate")?;
        let web = WebServer::start(&namespace, &dir.join("web"), &certificate)?;
        let dnsmasq = dnsmasq::start(&namespace, network, &dir.join("dnsmasq"))?;
        Ok(Self { web, dnsmasq, namespace, authority, dir, ports: AtomicU8::new(0) })
    }

    /// Serves the directory `repository` at [`Lab::repository_url`]; again for another one.
    ///
    /// # Errors
    /// When it does not exist.
    pub fn serve_repository(&self, repository: &Path) -> Result<()> {
        self.web.serve_repository(repository)
    }

    /// Serves the file `netboot` to UEFI HTTP boot; again for another one.
    ///
    /// # Errors
    /// When it does not exist.
    pub fn serve_netboot(&self, netboot: &Path) -> Result<()> {
        self.web.serve_netboot(netboot)
    }

    /// Restarts the web server with a certificate for `names` (`DNS:…`, `IP:…`) and `validity`.
    ///
    /// # Errors
    /// When the certificate cannot be made or the server does not start.
    pub fn present_certificate(&mut self, names: &[&str], validity: Validity) -> Result<()> {
        let certificate = self.authority.issue("other", names, validity)?;
        self.web.stop()?;
        self.web = WebServer::start(&self.namespace, &self.dir.join("web"), &certificate)?;
        Ok(())
    }

    /// Stops the web server: connections are refused from now on.
    ///
    /// # Errors
    /// When it cannot be stopped.
    pub fn stop_web(&mut self) -> Result<()> {
        self.web.stop()
    }

    /// The repository's address, by name, with a slash at its end.
    #[must_use]
    pub fn repository_url(&self) -> String {
        format!("https://{NAME}:8443/")
    }

    /// Where reports are posted.
    #[must_use]
    pub fn report_url(&self) -> String {
        format!("https://{NAME}:8443/report")
    }

    /// The authority that the repository's certificate is from (PEM file).
    #[must_use]
    pub fn authority(&self) -> PathBuf {
        self.authority.certificate()
    }

    /// Requests that the web server answered so far.
    ///
    /// # Errors
    /// When its log cannot be read.
    pub fn requests(&self) -> Result<Vec<Request>> {
        self.web.requests()
    }

    /// JSON lines that were posted to the report address so far.
    ///
    /// # Errors
    /// When one is not JSON.
    pub fn reports(&self) -> Result<Vec<Value>> {
        self.web.reports()
    }

    /// What dnsmasq logged so far: leases asked for and given.
    #[must_use]
    pub fn dnsmasq_log(&self) -> String {
        self.dnsmasq.log()
    }

    /// `program`, to be run on the host's side of the lab's network.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        self.namespace.command(program)
    }

    pub(crate) fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The number of a port that no other machine of this lab has.
    pub(crate) fn next_port(&self) -> u8 {
        self.ports.fetch_add(1, Ordering::Relaxed)
    }
}
