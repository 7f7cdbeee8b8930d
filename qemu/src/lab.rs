//! Everything that machines of one run share: the network, its services, and the authority behind them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::certificates::{Authority, Issued, Validity};
use crate::dnsmasq::{self, Network};
use crate::endpoint::Endpoint;
use crate::namespace::Namespace;
use crate::nginx::{Request, WebServer};
use crate::process::Process;
use crate::requirements::Requirements;

/// The host's IPv4 address in a lab: gateway, DNS and web server.
pub const GATEWAY: &str = "10.77.0.1";
/// The host's IPv6 address in a lab.
pub const GATEWAY_V6: &str = "fd00:77::1";
/// The name of the web server in a lab's DNS.
pub const NAME: &str = "repo.test";

/// The port where UEFI HTTP boot finds its file.
pub(crate) fn netboot_port(endpoint: &Endpoint) -> u16 {
    if endpoint.port == 8000 { 8002 } else { 8000 }
}

/// Why something cannot be done in a lab without services.
const NO_SERVICES: &str = "nothing is served in QEMU's user-mode network";

/// A network of its own with DHCP, DNS, HTTP boot, an HTTPS repository with a private authority, and a report receiver.
#[derive(Debug)]
pub struct Lab {
    // In this order they are dropped: the services, then the namespace, which ends whatever is left.
    services: Option<Services>,
    namespace: Namespace,
    endpoint: Endpoint,
    dir: PathBuf,
    ports: AtomicU8,
}

/// What a lab has unless its network is QEMU's user-mode one.
#[derive(Debug)]
struct Services {
    web: WebServer,
    dnsmasq: Process,
    /// None where the certificate was given.
    authority: Option<Authority>,
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
        Self::with_endpoint(dir, network, Endpoint::default())
    }

    /// A lab with that kind of network, where the repository is served at `endpoint`.
    ///
    /// # Errors
    /// What is missing on this host, all at once ([`crate::Missing`]), or which program failed.
    pub fn with_endpoint(dir: &Path, network: Network, endpoint: Endpoint) -> Result<Self> {
        Requirements { network, ..Requirements::default() }.check()?;
        std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
        let dir = std::fs::canonicalize(dir).with_context(|| format!("looking for {}", dir.display()))?;
        let namespace = Namespace::new(network)?;
        let mut lab = Self { services: None, namespace, endpoint, dir, ports: AtomicU8::new(0) };
        if network != Network::User {
            lab.services = Some(lab.start_services(network)?);
        }
        Ok(lab)
    }

    fn start_services(&self, network: Network) -> Result<Services> {
        let Self { namespace, endpoint, dir, .. } = self;
        let (authority, certificate) = match &endpoint.certificate {
            Some(Issued { certificate, key }) => (None, Issued::canonical(certificate, key)?),
            None => {
                let authority = Authority::new(&dir.join("ca")).context("making the certificate authority")?;
                let own = if endpoint.address().is_some() { "IP" } else { "DNS" };
                let names = [format!("{own}:{}", endpoint.host), format!("IP:{GATEWAY}"), format!("IP:{GATEWAY_V6}")];
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                let issued = authority.issue("server", &names, Validity::WIDE);
                (Some(authority), issued.context("issuing the server's certificate")?)
            }
        };
        if let Some(address) = endpoint.address() {
            namespace.add_address(address)?;
        }
        let web = WebServer::start(namespace, &dir.join("web"), endpoint, &certificate)?;
        let dnsmasq = dnsmasq::start(namespace, network, endpoint, &dir.join("dnsmasq"))?;
        Ok(Services { web, dnsmasq, authority })
    }

    fn services(&self) -> Result<&Services> {
        self.services.as_ref().context(NO_SERVICES)
    }

    fn services_mut(&mut self) -> Result<&mut Services> {
        self.services.as_mut().context(NO_SERVICES)
    }

    /// Serves the directory `repository` at [`Lab::repository_url`]; again for another one.
    ///
    /// # Errors
    /// When it does not exist.
    pub fn serve_repository(&self, repository: &Path) -> Result<()> {
        self.services()?.web.serve_repository(repository)
    }

    /// Serves the file `netboot` to UEFI HTTP boot; again for another one.
    ///
    /// # Errors
    /// When it does not exist.
    pub fn serve_netboot(&self, netboot: &Path) -> Result<()> {
        self.services()?.web.serve_netboot(netboot)
    }

    /// Restarts the web server with a certificate for `names` (`DNS:…`, `IP:…`) and `validity`.
    ///
    /// # Errors
    /// When the certificate cannot be made or the server does not start.
    pub fn present_certificate(&mut self, names: &[&str], validity: Validity) -> Result<()> {
        let certificate = self.own_authority()?.issue("other", names, validity)?;
        self.services_mut()?.web.stop()?;
        let web = WebServer::start(&self.namespace, &self.dir.join("web"), &self.endpoint, &certificate)?;
        self.services_mut()?.web = web;
        Ok(())
    }

    /// Stops the web server: connections are refused from now on.
    ///
    /// # Errors
    /// When it cannot be stopped.
    pub fn stop_web(&mut self) -> Result<()> {
        self.services_mut()?.web.stop()
    }

    /// Stops DHCP and DNS: nobody answers from now on.
    ///
    /// # Errors
    /// When they cannot be stopped.
    pub fn stop_dhcp(&mut self) -> Result<()> {
        self.services_mut()?.dnsmasq.kill()
    }

    /// The repository's address, by name, with a slash at its end.
    #[must_use]
    pub fn repository_url(&self) -> String {
        self.endpoint.url()
    }

    /// Where reports are posted.
    #[must_use]
    pub fn report_url(&self) -> String {
        Endpoint { path: String::new(), ..self.endpoint.clone() }.url() + "report"
    }

    /// The authority that the repository's certificate is from (PEM file), where it is the lab's own.
    ///
    /// # Errors
    /// When the certificate was given.
    pub fn authority(&self) -> Result<PathBuf> {
        Ok(self.own_authority()?.certificate())
    }

    fn own_authority(&self) -> Result<&Authority> {
        self.services()?.authority.as_ref().context("the server's certificate is not of the lab's own authority")
    }

    /// Requests that the web server answered so far.
    ///
    /// # Errors
    /// When its log cannot be read.
    pub fn requests(&self) -> Result<Vec<Request>> {
        self.services()?.web.requests()
    }

    /// JSON lines that were posted to the report address so far.
    ///
    /// # Errors
    /// When one is not JSON.
    pub fn reports(&self) -> Result<Vec<Value>> {
        self.services()?.web.reports()
    }

    /// What dnsmasq logged so far: leases asked for and given.
    #[must_use]
    pub fn dnsmasq_log(&self) -> String {
        self.services.as_ref().map(|services| services.dnsmasq.log()).unwrap_or_default()
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

    /// Whether it has a network of its own.
    pub(crate) fn has_network(&self) -> bool {
        self.services.is_some()
    }

    /// The number of a port that no other machine of this lab has.
    pub(crate) fn next_port(&self) -> u8 {
        self.ports.fetch_add(1, Ordering::Relaxed)
    }
}
