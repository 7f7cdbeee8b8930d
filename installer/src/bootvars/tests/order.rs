//! Where our entry goes among those that are there.

use super::*;
use crate::bootvars::load_option::ACTIVE;

/// Type, subtype and bytes of content of a node.
type Node = (u8, u8, usize);

const ROOT: Node = (2, 1, 8);
const PCI: Node = (1, 1, 2);
const MAC: Node = (3, 0x0b, 33);
const IPV4: Node = (3, 0x0c, 23);
const IPV6: Node = (3, 0x0d, 56);
const URI: Node = (3, 0x18, 0);
const USB: Node = (3, 5, 2);
const HARD_DRIVE: Node = (4, 1, 38);
const FILE: Node = (4, 4, 8);
const VENDOR_HARDWARE: Node = (1, 4, 16);

/// A load option whose device path has these nodes.
fn option_of(nodes: &[Node]) -> LoadOption {
    let mut device_path: Vec<u8> = Vec::new();
    for (kind, subkind, length) in nodes {
        device_path.extend([*kind, *subkind]);
        device_path.extend(u16::try_from(length + 4).unwrap().to_le_bytes());
        device_path.extend(vec![0; *length]);
    }
    device_path.extend(b"\x7f\xff\x04\0");
    LoadOption { attributes: ACTIVE, title: "x".to_owned(), device_path, data: Vec::new() }
}

/// A network entry as EDK II makes them.
pub(super) fn pxe() -> Vec<u8> {
    option_of(&[ROOT, PCI, MAC, IPV4]).encode().unwrap()
}

/// Of what a legacy BIOS would start.
fn legacy(kind: u8) -> Origin {
    let mut option = option_of(&[(5, 1, 8)]);
    option.device_path[4] = kind;
    option.origin()
}

#[test]
fn the_device_path_tells_the_network_from_a_medium_of_this_machine() {
    let network = [
        vec![ROOT, PCI, MAC],
        vec![ROOT, PCI, MAC, IPV4],
        vec![ROOT, PCI, MAC, IPV6],
        vec![ROOT, PCI, MAC, IPV4, URI],
        // With a VLAN and name servers; by an adapter on USB.
        vec![ROOT, PCI, MAC, (3, 0x14, 2), IPV4, (3, 0x1f, 17), URI],
        vec![ROOT, PCI, USB, MAC, IPV4],
    ];
    for nodes in network {
        assert_eq!(option_of(&nodes).origin(), Origin::Network, "{nodes:?}");
    }
    let local = [
        vec![HARD_DRIVE, FILE],
        vec![ROOT, PCI, USB],
        vec![ROOT, PCI, USB, HARD_DRIVE, FILE],
        vec![ROOT, PCI, (3, 0x12, 6)],
        vec![ROOT, PCI, (3, 0x17, 12), HARD_DRIVE, FILE],
        // A disk at the other end of a network.
        vec![ROOT, PCI, MAC, IPV4, (3, 0x13, 14)],
        vec![ROOT, PCI, MAC, IPV4, (3, 0x13, 14), HARD_DRIVE, FILE],
        vec![FILE],
    ];
    for nodes in local {
        assert_eq!(option_of(&nodes).origin(), Origin::Local, "{nodes:?}");
    }
    // A vendor's name for a port; a program in the firmware's volume; a vendor's bus.
    let unknown = [vec![VENDOR_HARDWARE], vec![(4, 7, 16), (4, 6, 16)], vec![ROOT, PCI, (3, 10, 16)], Vec::new()];
    for nodes in unknown {
        assert_eq!(option_of(&nodes).origin(), Origin::Unknown, "{nodes:?}");
    }
    let expected = [Origin::Local, Origin::Local, Origin::Network, Origin::Unknown];
    assert_eq!([2, 5, 6, 0x80].map(legacy), expected);
}

#[test]
fn a_damaged_device_path_tells_nothing() {
    let whole = option_of(&[ROOT, PCI, MAC, IPV4]);
    for length in 0..whole.device_path.len() {
        let mut cut = whole.clone();
        cut.device_path.truncate(length);
        assert_eq!(cut.origin(), Origin::Unknown, "{length}");
    }
    // A node that is shorter than its header, or longer than all.
    for length in [[0, 0], [3, 0], [0xff, 0xff]] {
        let mut odd = whole.clone();
        odd.device_path[2..4].copy_from_slice(&length);
        assert_eq!(odd.origin(), Origin::Unknown, "{length:?}");
    }
}

/// Entries of a made-up machine.
fn origin_of(number: u16) -> Origin {
    match number {
        1 | 3 => Origin::Network,
        // By a name of the vendor's own.
        5 => Origin::Unknown,
        _ => Origin::Local,
    }
}

#[test]
fn lesson_8_the_boot_order_is_a_policy_whatever_this_boot_came_from() {
    let place = |order: &[u16], policy, current| arrange(order, 9, policy, current, &origin_of);
    assert_eq!(place(&[0, 1, 2], BootOrder::DiskFirst, Some(1)), [9, 0, 1, 2]);
    assert_eq!(place(&[0, 9, 2], BootOrder::DiskFirst, Some(0)), [9, 0, 2]);
    assert_eq!(place(&[0, 1, 2], BootOrder::Leave, Some(1)), [0, 1, 2, 9]);
    assert_eq!(place(&[0, 9, 2], BootOrder::Leave, Some(2)), [0, 9, 2]);
    assert_eq!(place(&[9, 0, 1, 2], BootOrder::NetworkFirst, Some(1)), [0, 1, 9, 2]);
    assert_eq!(place(&[1, 3, 2], BootOrder::NetworkFirst, Some(1)), [1, 9, 3, 2]);
    // From the installed disk.
    assert_eq!(place(&[9, 0], BootOrder::NetworkFirst, Some(9)), [9, 0]);
    assert_eq!(place(&[], BootOrder::NetworkFirst, None), [9]);
    assert_eq!(place(&[], BootOrder::Leave, None), [9]);
}

#[test]
fn lesson_8_the_network_stays_first_after_a_boot_from_a_stick() {
    let place = |order: &[u16], current| arrange(order, 9, BootOrder::NetworkFirst, current, &origin_of);
    assert_eq!(place(&[0, 1], Some(0)), [0, 1, 9]);
    assert_eq!(place(&[1, 0, 2], Some(0)), [1, 9, 0, 2]);
    assert_eq!(place(&[9, 1, 2, 3, 4], Some(0)), [1, 2, 3, 9, 4]);
    // An entry that is in no order, as a one-time boot menu makes them, and none.
    assert_eq!(place(&[0, 1, 2], Some(3)), [0, 1, 9, 2]);
    assert_eq!(place(&[0, 1, 2], None), [0, 1, 9, 2]);
    // No entry is known to be the network's.
    assert_eq!(place(&[0, 2], Some(0)), [0, 2, 9]);
}

#[test]
fn lesson_8_what_may_be_the_network_by_a_name_of_the_vendors_is_never_behind_ours() {
    let place = |order: &[u16], current| arrange(order, 9, BootOrder::NetworkFirst, current, &origin_of);
    assert_eq!(place(&[5, 0], Some(5)), [5, 0, 9]);
    assert_eq!(place(&[5, 0], Some(0)), [5, 0, 9]);
    assert_eq!(place(&[1, 2, 5, 0], Some(5)), [1, 2, 5, 9, 0]);
    assert_eq!(place(&[5, 1, 0], Some(5)), [5, 1, 9, 0]);
}

#[test]
fn lesson_8_a_boot_from_a_stick_is_known_by_the_variables() {
    let firmware = usual();
    firmware.write("Boot0004", &option_of(&[ROOT, PCI, USB]).encode().unwrap()).unwrap();
    firmware.write("BootOrder", &[4, 0, 1, 0, 0, 0]).unwrap();
    firmware.write("BootCurrent", &[4, 0]).unwrap();
    assert_eq!(installed(&firmware, BootOrder::NetworkFirst).warnings, Vec::<String>::new());
    assert_eq!(firmware.order(), [4, 1, 3, 0]);
}
