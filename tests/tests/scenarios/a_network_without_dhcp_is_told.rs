//! There is a link, but nobody who hands out addresses.

use metalstrap_tests::release::Target;
use metalstrap_tests::scene::Scene;

#[test]
fn a_network_without_dhcp_is_told() {
    let mut scene = Scene::new("no-dhcp", Target::Tiny).unwrap();
    scene.lab.stop_dhcp().unwrap();
    scene.site.network_timeout = 20;
    let happened = "bringing up the network: no network leads to repo.test: eth0: neither DHCP nor an IPv6 router answered \
                    in 20 s";
    scene.refuses("no-network", happened, |builder| builder).unwrap();
    scene.passed().unwrap();
}
