//! What this machine says of itself: SMBIOS UUID, serial number, manufacturer and product, and the addresses of its Ethernet
//! ports. A host config is found by it.

use std::fs;
use std::path::Path;

use metalstrap_release::host::Identity;

/// `ARPHRD_ETHER` (Linux include/uapi/linux/if_arp.h).
const ETHERNET: &str = "1";

/// Reads it below `sys` (`/sys`). What the firmware does not say, or only to root, is absent.
#[must_use]
pub fn identity(sys: &Path) -> Identity {
    let dmi = |name: &str| text(&sys.join("class/dmi/id").join(name));
    Identity {
        uuid: dmi("product_uuid"),
        serial: dmi("product_serial"),
        macs: macs(&sys.join("class/net")),
        vendor: dmi("sys_vendor"),
        product: dmi("product_name"),
    }
}

fn text(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?.trim().to_owned();
    (!text.is_empty()).then_some(text)
}

/// Addresses of ports that are devices (not bridges, bonds or taps), in the order of their interfaces' names.
fn macs(net: &Path) -> Vec<String> {
    let entries = fs::read_dir(net).into_iter().flatten().filter_map(Result::ok);
    let mut ports: Vec<_> = entries.map(|entry| entry.path()).collect();
    ports.sort();
    let devices = ports.iter().filter(|port| port.join("device").exists());
    let ethernet = devices.filter(|port| text(&port.join("type")).as_deref() == Some(ETHERNET));
    ethernet.filter_map(|port| text(&port.join("address"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_told_from_bridges_and_silence_is_absence() {
        let sys = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = sys.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("class/dmi/id/product_serial", " S1 \n");
        write("class/dmi/id/sys_vendor", "Dell Inc.\n");
        for (port, kind, device) in [("eth1", "1", true), ("eth0", "1", true), ("br0", "1", false), ("ib0", "32", true)]
        {
            write(&format!("class/net/{port}/type"), kind);
            write(&format!("class/net/{port}/address"), &format!("addr-{port}\n"));
            if device {
                write(&format!("class/net/{port}/device/vendor"), "");
            }
        }
        let expected = Identity {
            uuid: None,
            serial: Some("S1".to_owned()),
            macs: vec!["addr-eth0".to_owned(), "addr-eth1".to_owned()],
            vendor: Some("Dell Inc.".to_owned()),
            product: None,
        };
        assert_eq!(identity(sys.path()), expected);
        assert_eq!(identity(Path::new("/nonexistent")), Identity::default());
    }
}
