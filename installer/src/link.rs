//! Network links as the kernel tells of them over rtnetlink, and the changes we make to them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result};
use futures_util::TryStreamExt as _;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};
use rtnetlink::packet_route::route::{RouteAttribute, RouteMetric, RouteProtocol, RouteScope};
use rtnetlink::{AddressMessageBuilder, Handle, LinkMessageBuilder, LinkUnspec, RouteMessageBuilder};

/// Which links to use.
#[derive(Debug, Clone)]
pub enum Which {
    /// Every Ethernet device; no bridges, bonds, VLANs or other made-up links.
    Devices,
    /// Those of these names, of whatever kind.
    Named(Vec<String>),
}

/// One link, at the time it was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Kernel's index.
    pub index: u32,
    /// Kernel's name.
    pub name: String,
    /// Hardware address.
    pub mac: [u8; 6],
    /// Whether there is a signal: cable plugged, partner alive.
    pub carrier: bool,
    /// Addresses ready for use (those still being checked for duplicates are not).
    pub addresses: Vec<IpAddr>,
}

impl Link {
    /// Our IPv6 link-local address there, once it is ready.
    #[must_use]
    pub fn link_local(&self) -> Option<Ipv6Addr> {
        self.addresses.iter().find_map(|address| match address {
            IpAddr::V6(six) if six.is_unicast_link_local() => Some(*six),
            _ => None,
        })
    }

    /// The addresses that reach further than the link.
    #[must_use]
    pub fn global(&self) -> Vec<IpAddr> {
        let far = |address: &&IpAddr| match address {
            IpAddr::V4(four) => !four.is_link_local(),
            IpAddr::V6(six) => !six.is_unicast_link_local(),
        };
        self.addresses.iter().filter(far).copied().collect()
    }
}

/// A route for IPv4, by a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Where it leads.
    pub destination: Ipv4Addr,
    /// Bits of `destination` that count.
    pub prefix: u8,
    /// By which router; `None`: directly on the link.
    pub gateway: Option<Ipv4Addr>,
}

/// The links to use, by index, with their addresses.
///
/// # Errors
/// When rtnetlink fails.
pub async fn links(handle: &Handle, which: &Which) -> Result<BTreeMap<u32, Link>> {
    let mut all = BTreeMap::new();
    let mut messages = handle.link().get().execute();
    while let Some(message) = messages.try_next().await.context("listing links")? {
        if let Some(link) = usable(&message, which) {
            all.insert(link.index, link);
        }
    }
    let mut messages = handle.address().get().execute();
    while let Some(message) = messages.try_next().await.context("listing addresses")? {
        if let (Some(link), Some(address)) = (all.get_mut(&message.header.index), ready_address(&message)) {
            link.addresses.push(address);
        }
    }
    Ok(all)
}

fn usable(message: &LinkMessage, which: &Which) -> Option<Link> {
    let (mut name, mut mac, mut made_up) = (None, None, false);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name = Some(text.clone()),
            LinkAttribute::Address(bytes) => mac = bytes.as_slice().try_into().ok(),
            // Only links that are not devices say what kind they are (net/core/rtnetlink.c, rtnl_link_fill).
            LinkAttribute::LinkInfo(_) => made_up = true,
            _ => {}
        }
    }
    let name = name?;
    let wanted = match which {
        Which::Devices => !made_up,
        Which::Named(names) => names.contains(&name),
    };
    let ethernet = message.header.link_layer_type == LinkLayerType::Ether;
    (wanted && ethernet).then_some(Link {
        index: message.header.index,
        name,
        mac: mac?,
        carrier: message.header.flags.contains(LinkFlags::LowerUp),
        addresses: Vec::new(),
    })
}

fn ready_address(message: &AddressMessage) -> Option<IpAddr> {
    let unfit = AddressHeaderFlags::Tentative | AddressHeaderFlags::Dadfailed | AddressHeaderFlags::Deprecated;
    if message.header.flags.intersects(unfit) {
        return None;
    }
    let named = |wanted: fn(&AddressAttribute) -> Option<IpAddr>| message.attributes.iter().find_map(wanted);
    // With IPv4 the own address is IFA_LOCAL, with IPv6 usually IFA_ADDRESS alone is there.
    named(|attribute| if let AddressAttribute::Local(own) = attribute { Some(*own) } else { None })
        .or_else(|| named(|attribute| if let AddressAttribute::Address(own) = attribute { Some(*own) } else { None }))
}

/// Brings a link up. One that is up already is left alone: a second start would cost it its signal for seconds.
///
/// # Errors
/// When rtnetlink fails.
pub async fn bring_up(handle: &Handle, index: u32) -> Result<()> {
    let up = LinkMessageBuilder::<LinkUnspec>::default().index(index).up().build();
    handle.link().set(up).execute().await.context("bringing the link up")
}

/// Adds an address, or refreshes it. An IPv4 address brings no route with it: see [`add_route`].
///
/// # Errors
/// When rtnetlink fails.
pub async fn add_address(handle: &Handle, index: u32, address: IpAddr, prefix: u8) -> Result<()> {
    let mut adding = handle.address().add(index, address, prefix).replace();
    if address.is_ipv4() {
        // The kernel's own route to the network would win over ours, which has a metric and an MTU.
        let flags = AddressAttribute::Flags(AddressFlags::Noprefixroute);
        adding.message_mut().attributes.push(flags);
    }
    adding.execute().await.with_context(|| format!("adding the address {address}/{prefix}"))
}

/// Removes an address.
///
/// # Errors
/// When rtnetlink fails.
pub async fn remove_address(handle: &Handle, index: u32, address: IpAddr, prefix: u8) -> Result<()> {
    let message = match address {
        IpAddr::V4(four) => AddressMessageBuilder::<Ipv4Addr>::new().index(index).address(four, prefix).build(),
        IpAddr::V6(six) => AddressMessageBuilder::<Ipv6Addr>::new().index(index).address(six, prefix).build(),
    };
    let removing = handle.address().del(message);
    removing.execute().await.with_context(|| format!("removing the address {address}/{prefix}"))
}

/// Adds an IPv4 route, or replaces the one to the same place with the same `metric`. `mtu` (bytes) bounds packets on
/// it: unlike the link's own MTU it is set without restarting the link, which would cost some devices their signal.
///
/// # Errors
/// When rtnetlink fails.
pub async fn add_route(handle: &Handle, index: u32, route: &Route, metric: u32, mtu: Option<u16>) -> Result<()> {
    let mut message = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(route.destination, route.prefix)
        .output_interface(index)
        .priority(metric)
        .protocol(RouteProtocol::Dhcp);
    message = match route.gateway {
        // A router outside of our own network is a neighbour all the same: "onlink" says so.
        Some(gateway) => message.gateway(gateway).onlink(),
        None => message.scope(RouteScope::Link),
    };
    let mut message = message.build();
    if let Some(mtu) = mtu {
        message.attributes.push(RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu.into())]));
    }
    let adding = handle.route().add(message).replace();
    adding.execute().await.with_context(|| format!("adding the route to {}/{}", route.destination, route.prefix))
}

/// The hardware address the firmware or boot loader booted from: `BOOTIF=01-aa-bb-cc-dd-ee-ff` on the kernel command
/// line (pxelinux's `ipappend 2`; 01 is the hardware type Ethernet).
#[must_use]
pub fn boot_mac(cmdline: &str) -> Option<[u8; 6]> {
    let value = cmdline.split_ascii_whitespace().find_map(|word| word.strip_prefix("BOOTIF="))?;
    let bytes = value.split(['-', ':']).map(|byte| u8::from_str_radix(byte, 16));
    match *bytes.collect::<Result<Vec<_>, _>>().ok()? {
        [1, a, b, c, d, e, f] | [a, b, c, d, e, f] => Some([a, b, c, d, e, f]),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bootif_is_read() {
        let mac = Some([0x52, 0x54, 0, 0x12, 0x34, 0xab]);
        assert_eq!(boot_mac("quiet BOOTIF=01-52-54-00-12-34-ab panic=30"), mac);
        assert_eq!(boot_mac("BOOTIF=52:54:00:12:34:AB"), mac);
        for none in
            ["quiet", "BOOTIF=", "BOOTIF=01-52-54", "BOOTIF=02-52-54-00-12-34-ab", "BOOTIF=01-52-54-00-12-34-xx"]
        {
            assert_eq!(boot_mac(none), None, "{none}");
        }
    }
}
