//! DHCP, DNS and the HTTP boot address of a lab.

use std::path::Path;

use anyhow::{Context as _, Result};

use crate::endpoint::Endpoint;
use crate::lab::{GATEWAY, GATEWAY_V6, netboot_port};
use crate::namespace::{BRIDGE, Namespace};
use crate::process::Process;
use crate::tool;

/// What the network of a lab offers to machines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Network {
    /// DHCPv4 with HTTP boot, and DNS over IPv4.
    #[default]
    Ipv4,
    /// The same, and IPv6 by router advertisements (SLAAC) that name the DNS server.
    Dual,
    /// Only IPv6, by router advertisements (SLAAC) that name the DNS server. No HTTP boot: start a kernel directly.
    Ipv6Slaac,
    /// Only IPv6, with addresses and the DNS server from DHCPv6. No HTTP boot: start a kernel directly.
    Ipv6Dhcp,
    /// QEMU's user-mode network: machines reach whatever the host reaches, and nothing is served to them. No HTTP boot.
    User,
}

impl Network {
    fn has_v4(self) -> bool {
        matches!(self, Self::Ipv4 | Self::Dual)
    }

    fn has_v6(self) -> bool {
        matches!(self, Self::Dual | Self::Ipv6Slaac | Self::Ipv6Dhcp)
    }

    /// Whether the firmware of machines boots over HTTP in it.
    #[must_use]
    pub fn has_http_boot(self) -> bool {
        self.has_v4()
    }

    /// dnsmasq's options for this kind of network.
    fn options(self, endpoint: &Endpoint) -> Vec<String> {
        let mut options = Vec::new();
        let mut addresses = Vec::new();
        if self.has_v4() {
            addresses.push(GATEWAY);
            options.push("--dhcp-range=10.77.0.50,10.77.0.199,1h".to_owned());
            // UEFI HTTP boot (UEFI 2.10, 24.7.3): the client says its class, the answer must repeat it.
            options.push("--dhcp-vendorclass=set:http,HTTPClient:Arch:00016".to_owned());
            options.push("--dhcp-option-force=tag:http,60,HTTPClient".to_owned());
            options.push(format!("--dhcp-boot=tag:http,http://{GATEWAY}:{}/netboot.efi", netboot_port(endpoint)));
        }
        if self.has_v6() {
            addresses.push(GATEWAY_V6);
            options.push("--enable-ra".to_owned());
            let stateful = self == Self::Ipv6Dhcp;
            let range = if stateful { "fd00:77::1000,fd00:77::1fff,64,1h" } else { "fd00:77::,ra-only,64,1h" };
            options.push(format!("--dhcp-range={range}"));
            options.push(format!("--dhcp-option=option6:dns-server,[{GATEWAY_V6}]"));
        }
        if endpoint.address().is_none() {
            options.push(format!("--host-record={},{}", endpoint.host, addresses.join(",")));
        }
        options
    }
}

/// Starts dnsmasq with its leases and log in `dir`; returns when it serves.
pub(crate) fn start(namespace: &Namespace, network: Network, endpoint: &Endpoint, dir: &Path) -> Result<Process> {
    std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    let mut command = namespace.command(tool::find("dnsmasq")?);
    // --no-daemon also keeps it from changing its user, which a user namespace with one id does not allow.
    command.args(["--no-daemon", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--log-dhcp"]);
    command.args([&format!("--interface={BRIDGE}"), "--bind-interfaces", "--dhcp-authoritative"]);
    command.arg(format!("--dhcp-leasefile={}", dir.join("leases").display()));
    command.args(network.options(endpoint));
    let mut process = Process::start("dnsmasq", command, &dir.join("dnsmasq.log"))?;
    // It says so after it has bound its sockets.
    process.wait_ready(|process| Ok(process.log().contains("dnsmasq: started").then_some(())))?;
    Ok(process)
}
