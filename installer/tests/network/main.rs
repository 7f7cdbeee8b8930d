//! `net::up` against real servers: a veth pair between two network namespaces, dnsmasq or a hand-made router at one end.
//!
//! Each test starts itself anew in a namespace of its own (the far end), which starts itself once more in another (the
//! machine under test). Works for root, and for others by a user namespace. Needs iproute2, util-linux and dnsmasq.

mod far;

use std::net::IpAddr;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use metalstrap_installer::discovery::heard::{Opt, Saying};
use metalstrap_installer::failure::{Code, code_of};
use metalstrap_installer::link::Which;
use metalstrap_installer::net::{self, Network};
use metalstrap_installer::time_server::TimeServer;

use far::{Far, far_end, ip_says};

const ROLE: &str = "METALSTRAP_TEST_ROLE";

/// What the far end of a lane does and what the machine must find.
struct Lane {
    /// Of the test function: how it is started again.
    name: &'static str,
    /// At the far end; the machine's words so far are waited for with [`Far::wait_for`].
    far: fn(&mut Far) -> Result<()>,
    /// In the machine.
    near: fn() -> Result<()>,
}

/// Runs a lane in whatever role this process has.
fn run(lane: &Lane) -> Result<()> {
    match std::env::var(ROLE).as_deref() {
        Err(_) => {
            let mut wrapped = Command::new("unshare");
            if !nix::unistd::geteuid().is_root() {
                wrapped.args(["--user", "--map-current-user", "--keep-caps"]);
            }
            wrapped.args(["--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child", "--"]);
            let status = again(wrapped, lane.name, "far")?.status().context("starting unshare")?;
            ensure!(status.success(), "the far end ended with {status}");
            Ok(())
        }
        Ok("far") => far_end(lane),
        Ok(_) => (lane.near)(),
    }
}

/// This test program, with one test and a role.
fn again(mut wrapper: Command, test: &str, role: &str) -> Result<Command> {
    wrapper.arg(std::env::current_exe()?).args(["--exact", test, "--nocapture"]).env(ROLE, role);
    Ok(wrapper)
}

/// Brings the machine's network up to reach `host`, and hands it to `check`.
fn machine(host: &str, seconds: u64, check: impl AsyncFnOnce(Result<Network>) -> Result<()>) -> Result<()> {
    machine_asking(|_| Ok(Some(host.to_owned())), seconds, check)
}

/// The same where `host` says what is to be reached once it has heard what DHCP says.
fn machine_asking(
    host: impl FnMut(&[Saying]) -> Result<Option<String>>,
    seconds: u64,
    check: impl AsyncFnOnce(Result<Network>) -> Result<()>,
) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        println!("near is there");
        let which = Which::Named(vec!["eth0".into(), "eth1".into()]);
        let say = Arc::new(|words: String| println!("{words}"));
        check(net::up(which, Duration::from_secs(seconds), host, say).await).await
    })
}

/// The name resolves by what was learnt, in this process and by what it left for a later one.
async fn resolves(network: &Network, address: &str) -> Result<()> {
    let address: IpAddr = address.parse()?;
    let found = network.resolver().addresses("deploy.example").await?;
    ensure!(found == [address], "{found:?} is not {address}");
    let later = metalstrap_installer::resolve::Resolver::learnt(net::recall()?);
    let found = later.addresses("deploy.example").await?;
    ensure!(found == [address], "{found:?} is not {address}");
    Ok(())
}

#[test]
fn ipv4_comes_by_dhcp_behind_a_slow_switch_port() -> Result<()> {
    run(&Lane {
        name: "ipv4_comes_by_dhcp_behind_a_slow_switch_port",
        far: |far| {
            far.cable("eth1", false)?;
            far.cable("eth0", true)?;
            far.address("10.77.0.1/24")?;
            far.wait_for("eth1: no carrier yet")?;
            far.wait_for("eth0: waiting for the switch port (there is a signal, but no answer yet)")?;
            far.dnsmasq(&[
                "--dhcp-range=10.77.0.50,10.77.0.50,255.255.255.0,2m",
                "--dhcp-option=option:dns-server,10.77.0.1",
                "--dhcp-option=option:ntp-server,10.77.0.2,10.77.0.3",
                "--dhcp-option=option:mtu,1400",
                "--dhcp-option=option:classless-static-route,10.88.0.0/16,10.77.0.2,0.0.0.0/0,10.77.0.1",
                "--host-record=deploy.example,10.77.0.1",
            ])
        },
        near: || {
            machine("deploy.example", 60, async |network| {
                let network = network?;
                assert_eq!(network.describe(), ["eth0 10.77.0.50"]);
                assert_eq!(network.time_servers(), ["10.77.0.2", "10.77.0.3"].map(TimeServer::parse));
                resolves(&network, "10.77.0.1").await?;
                let index = nix::net::if_::if_nametoindex("eth0")?;
                let metric = 1024 + index;
                let routes: Vec<String> =
                    ip_says(&["-4", "route"])?.lines().map(|line| line.trim().to_owned()).collect();
                assert_eq!(
                    routes,
                    [
                        format!("default via 10.77.0.1 dev eth0 proto dhcp metric {metric} onlink mtu 1400"),
                        format!("10.77.0.0/24 dev eth0 proto dhcp scope link metric {metric} mtu 1400"),
                        format!("10.88.0.0/16 via 10.77.0.2 dev eth0 proto dhcp metric {metric} onlink mtu 1400"),
                    ]
                );
                Ok(())
            })
        },
    })
}

#[test]
fn ipv6_alone_comes_from_the_router() -> Result<()> {
    run(&Lane {
        name: "ipv6_alone_comes_from_the_router",
        far: |far| {
            far.cable("eth0", true)?;
            far.address("fd77::1/64")?;
            far.dnsmasq(&["--enable-ra", "--dhcp-range=fd77::,ra-only,64", "--host-record=deploy.example,fd77::1"])
        },
        near: || {
            machine("deploy.example", 60, async |network| {
                let network = network?;
                resolves(&network, "fd77::1").await?;
                let [line] = &network.describe()[..] else { anyhow::bail!("{:?}", network.describe()) };
                ensure!(line.starts_with("eth0 fd77::") && !line.contains(','), "{line}");
                ensure!(ip_says(&["-6", "route"])?.contains("default via fe80::"), "no default route");
                Ok(())
            })
        },
    })
}

#[test]
fn a_link_local_name_server_is_asked_on_its_link() -> Result<()> {
    run(&Lane {
        name: "a_link_local_name_server_is_asked_on_its_link",
        far: |far| {
            far.cable("eth0", true)?;
            far.address("fd77::1/64")?;
            let arguments =
                ["--enable-ra", "--dhcp-range=fd77::,ra-only,64", "--dhcp-option=option6:dns-server,[fe80::]"];
            far.dnsmasq(&[arguments.as_slice(), &["--host-record=deploy.example,fd77::1"]].concat())
        },
        near: || {
            machine("deploy.example", 60, async |network| {
                resolves(&network?, "fd77::1").await?;
                let kept = std::fs::read_to_string(net::KEPT)?;
                let index = nix::net::if_::if_nametoindex("eth0")?;
                ensure!(kept.starts_with("[\"[fe80::") && kept.contains(&format!("%{index}]:53")), "{kept}");
                Ok(())
            })
        },
    })
}

#[test]
fn ipv6_name_servers_come_by_stateless_dhcp() -> Result<()> {
    run(&Lane {
        name: "ipv6_name_servers_come_by_stateless_dhcp",
        far: |far| {
            far.cable("eth0", true)?;
            far.address("fd77::1/64")?;
            far.dnsmasq(&[
                "--dhcp-range=fd77::100,fd77::1ff,64,2m",
                "--dhcp-option=option6:ntp-server,[fd77::5]",
                "--host-record=deploy.example,fd77::1",
            ])?;
            far.router(0x40, true)
        },
        near: || {
            machine("deploy.example", 60, async |network| {
                let network = network?;
                resolves(&network, "fd77::1").await?;
                assert_eq!(network.time_servers(), [TimeServer::parse("fd77::5")]);
                ensure!(!ip_says(&["-6", "addr"])?.contains("/128 scope global"), "an address by DHCPv6");
                Ok(())
            })
        },
    })
}

#[test]
fn ipv6_addresses_come_by_stateful_dhcp() -> Result<()> {
    run(&Lane {
        name: "ipv6_addresses_come_by_stateful_dhcp",
        far: |far| {
            far.cable("eth0", true)?;
            far.address("fd77::1/64")?;
            far.dnsmasq(&[
                "--dhcp-range=fd77::123,fd77::123,64,2m",
                "--dhcp-option=option6:ntp-server,[fd77::5]",
                "--host-record=deploy.example,fd77::1",
            ])?;
            far.router(0x80, false)
        },
        near: || {
            machine("deploy.example", 60, async |network| {
                let network = network?;
                assert_eq!(network.describe(), ["eth0 fd77::123"]);
                assert_eq!(network.time_servers(), [TimeServer::parse("fd77::5")]);
                resolves(&network, "fd77::1").await
            })
        },
    })
}

/// Waits for two options of DHCP that have settings, and reaches the name server then; nothing is known before.
fn settings_come(expected: [(Opt, Vec<u8>); 2]) -> Result<()> {
    let mut heard: Vec<Saying> = Vec::new();
    let host = |sayings: &[Saying]| {
        heard = sayings.to_vec();
        // dnsmasq ends a boot file with a zero.
        for saying in &mut heard {
            let zero = saying.data.pop_if(|byte| *byte == 0);
            assert!(zero.is_none() || saying.option == Opt::BootFile4);
        }
        Ok((heard.len() == 2).then(|| "deploy.example".to_owned()))
    };
    machine_asking(host, 60, async |network| network.map(drop))?;
    let expected = expected.map(|(option, data)| Saying { link: "eth0".to_owned(), option, data });
    ensure!(heard == expected, "{heard:?}");
    Ok(())
}

#[test]
fn settings_come_by_dhcp() -> Result<()> {
    run(&Lane {
        name: "settings_come_by_dhcp",
        far: |far| {
            far.cable("eth0", true)?;
            far.address("10.77.0.1/24")?;
            far.dnsmasq(&[
                "--dhcp-range=10.77.0.50,10.77.0.50,255.255.255.0,2m",
                "--dhcp-option=option:dns-server,10.77.0.1",
                "--dhcp-option=224,metalstrap.repository=https://os.example.com/repo",
                "--dhcp-boot=https://os.example.com/boot/netboot.efi",
                "--host-record=deploy.example,10.77.0.1",
            ])
        },
        near: || {
            settings_come([
                (Opt::BootFile4, b"https://os.example.com/boot/netboot.efi".to_vec()),
                (Opt::Words4, b"metalstrap.repository=https://os.example.com/repo".to_vec()),
            ])
        },
    })
}

#[test]
fn the_boot_url_of_http_clients_is_asked_for() -> Result<()> {
    run(&Lane {
        name: "the_boot_url_of_http_clients_is_asked_for",
        far: |far| {
            far.cable("eth0", true)?;
            far.address("10.77.0.1/24")?;
            far.dnsmasq(&[
                "--dhcp-range=10.77.0.50,10.77.0.50,255.255.255.0,2m",
                "--dhcp-option=option:dns-server,10.77.0.1",
                "--dhcp-vendorclass=set:http,HTTPClient:Arch:00016",
                "--dhcp-option=tag:!http,224,metalstrap.repository=https://os.example.com/lease",
                "--dhcp-boot=tag:http,https://os.example.com/boot/netboot.efi",
                "--host-record=deploy.example,10.77.0.1",
            ])
        },
        near: || {
            settings_come([
                (Opt::BootFile4, b"https://os.example.com/boot/netboot.efi".to_vec()),
                (Opt::Words4, b"metalstrap.repository=https://os.example.com/lease".to_vec()),
            ])
        },
    })
}

/// What `far` of the next two lanes serves, and what is to be heard.
const SIX: [&str; 5] = [
    "--dhcp-range=fd77::123,fd77::123,64,2m",
    "--dhcp-vendorclass=set:http,enterprise:343,HTTPClient:Arch:00016",
    "--dhcp-option=tag:http,option6:bootfile-url,https://os.example.com/boot/netboot.efi",
    "--dhcp-option=option6:bootfile-param,metalstrap.repository=https://os.example.com/repo",
    "--host-record=deploy.example,fd77::1",
];

fn settings_come_6() -> Result<()> {
    let word = "metalstrap.repository=https://os.example.com/repo";
    let parameter = [&u16::try_from(word.len())?.to_be_bytes(), word.as_bytes()].concat();
    settings_come([(Opt::BootUrl6, b"https://os.example.com/boot/netboot.efi".to_vec()), (Opt::Parameters6, parameter)])
}

#[test]
fn settings_come_by_stateful_dhcpv6() -> Result<()> {
    run(&Lane {
        name: "settings_come_by_stateful_dhcpv6",
        far: |far| {
            far.cable("eth0", true)?;
            far.address("fd77::1/64")?;
            far.dnsmasq(&SIX)?;
            far.router(0x80, false)
        },
        near: settings_come_6,
    })
}

#[test]
fn settings_come_by_stateless_dhcpv6() -> Result<()> {
    run(&Lane {
        name: "settings_come_by_stateless_dhcpv6",
        far: |far| {
            far.cable("eth0", true)?;
            far.address("fd77::1/64")?;
            far.dnsmasq(&SIX)?;
            far.router(0x40, true)
        },
        near: settings_come_6,
    })
}

#[test]
fn a_network_without_a_word_of_the_repository_is_said_to_be_that() -> Result<()> {
    run(&Lane {
        name: "a_network_without_a_word_of_the_repository_is_said_to_be_that",
        far: |far| {
            far.cable("eth0", true)?;
            far.address("fd77::1/64")?;
            far.router(0, true)
        },
        near: || {
            machine_asking(
                |_| Ok(None),
                20,
                async |network| {
                    let error = network.err().context("a network, out of nothing")?;
                    let text = "nothing names the repository: not the site config, the kernel command line, the SMBIOS table, \
                            the boot URL, a DHCP server or a labelled medium (waited 20 s)";
                    assert_eq!(error.to_string(), text);
                    assert_eq!(code_of(&error), Code::Discovery);
                    Ok(())
                },
            )
        },
    })
}

#[test]
fn a_literal_address_needs_no_name_server() -> Result<()> {
    run(&Lane {
        name: "a_literal_address_needs_no_name_server",
        far: |far| {
            far.cable("eth0", true)?;
            far.address("fd77::1/64")?;
            far.router(0, true)
        },
        near: || machine("fd77::1", 60, async |network| network.map(drop)),
    })
}

#[test]
fn without_an_answer_each_link_is_named() -> Result<()> {
    run(&Lane {
        name: "without_an_answer_each_link_is_named",
        far: |far| {
            far.cable("eth0", true)?;
            far.cable("eth1", false)
        },
        near: || {
            machine("deploy.example", 6, async |network| {
                let error = network.err().context("a network, out of nothing")?;
                assert_eq!(
                    error.to_string(),
                    "no network leads to deploy.example: eth0: neither DHCP nor an IPv6 router answered in 6 s; \
                     eth1: no carrier"
                );
                assert_eq!(code_of(&error), Code::NoNetwork);
                Ok(())
            })
        },
    })
}
