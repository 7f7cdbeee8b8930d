//! `net::up` against real servers: a veth pair between two network namespaces, dnsmasq or a hand-made router at one end.
//!
//! Each test starts itself anew in a namespace of its own (the far end), which starts itself once more in another (the
//! machine under test). Works for root, and for others by a user namespace. Needs iproute2, util-linux and dnsmasq.

use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, Ipv6Addr, SocketAddrV6};
use std::os::fd::AsRawFd as _;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use metalstrap_installer::failure::{Code, code_of};
use metalstrap_installer::link::Which;
use metalstrap_installer::net::{self, Network};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn6, sendto, setsockopt, socket, sockopt,
};

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
            wrapped.args(["--net", "--mount", "--kill-child", "--fork", "--"]);
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

/// The far end: its children die with it.
struct Far {
    near: Child,
    words: Arc<Mutex<Vec<String>>>,
    servers: Vec<Child>,
    scratch: tempfile::TempDir,
}

impl Drop for Far {
    fn drop(&mut self) {
        for child in self.servers.iter_mut().chain([&mut self.near]) {
            let _gone = child.kill();
            let _reaped = child.wait();
        }
    }
}

fn far_end(lane: &Lane) -> Result<()> {
    let mut wrapper = Command::new("unshare");
    // A /run of its own: the network's facts are kept there.
    wrapper.args(["--net", "--mount", "--", "sh", "-c", "mount -t tmpfs none /run && exec \"$0\" \"$@\""]);
    let mut near = again(wrapper, lane.name, "near")?.stdout(Stdio::piped()).spawn().context("starting unshare")?;
    let words = Arc::<Mutex<Vec<String>>>::default();
    let (heard, output) = (words.clone(), near.stdout.take().context("no output")?);
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            println!("near: {line}");
            heard.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        }
    });
    let mut far = Far { near, words, servers: Vec::new(), scratch: tempfile::tempdir()? };
    far.wait_for("near is there")?;
    (lane.far)(&mut far)?;
    let status = far.near.wait()?;
    let _done = reader.join();
    ensure!(status.success(), "the machine ended with {status}");
    Ok(())
}

impl Far {
    /// Waits until the machine said something with `part` in it.
    fn wait_for(&mut self, part: &str) -> Result<()> {
        loop {
            if self.words.lock().unwrap_or_else(PoisonError::into_inner).iter().any(|line| line.contains(part)) {
                return Ok(());
            }
            ensure!(self.near.try_wait()?.is_none(), "the machine ended before it said {part:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A cable to the machine, which sees it as `name`; unplugged if `plugged` is false.
    fn cable(&self, name: &str, plugged: bool) -> Result<()> {
        let pid = self.near.id().to_string();
        ip(&["link", "add", &format!("far-{name}"), "type", "veth", "peer", "name", name, "netns", &pid])?;
        if plugged { ip(&["link", "set", &format!("far-{name}"), "up"]) } else { Ok(()) }
    }

    fn address(&self, address: &str) -> Result<()> {
        let nodad = if address.contains(':') { vec!["nodad"] } else { Vec::new() };
        ip(&[&["addr", "add", address, "dev", "far-eth0"], nodad.as_slice()].concat())
    }

    fn dnsmasq(&mut self, arguments: &[&str]) -> Result<()> {
        let leases = format!("--dhcp-leasefile={}", self.scratch.path().join("leases").display());
        let mut server = Command::new("dnsmasq");
        server.args(["--no-daemon", "--conf-file=/dev/null", "--pid-file=", "--no-resolv", "--no-hosts", "--no-ping"]);
        server.args(["--interface=far-eth0", "--bind-dynamic", "--log-dhcp", &leases]).args(arguments);
        if nix::unistd::geteuid().is_root() {
            server.arg("--user=root");
        }
        self.servers.push(server.spawn().context("starting dnsmasq")?);
        Ok(())
    }

    /// A router without name servers: an advertisement each second with `flags`; its prefix makes addresses if
    /// `autonomous`.
    fn router(&self, flags: u8, autonomous: bool) -> Result<()> {
        let raw = socket(AddressFamily::Inet6, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::IcmpV6)?;
        setsockopt(&raw, sockopt::BindToDevice, &"far-eth0".into())?;
        setsockopt(&raw, sockopt::Ipv6MulticastHops, &255)?;
        // Hop limit 64, flags, router lifetime 1800 s; a prefix option: /64, on link, valid and preferred 3600 s.
        let mut message = vec![134, 0, 0, 0, 64, flags, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
        message.extend([3, 4, 64, if autonomous { 0xc0 } else { 0x80 }, 0, 0, 14, 16, 0, 0, 14, 16, 0, 0, 0, 0]);
        message.extend("fd77::".parse::<Ipv6Addr>()?.octets());
        let index = nix::net::if_::if_nametoindex("far-eth0")?;
        let everyone = SockaddrIn6::from(SocketAddrV6::new("ff02::1".parse()?, 0, 0, index));
        std::thread::spawn(move || {
            loop {
                // Refused until the far end's own link-local address is ready.
                let _sent = sendto(raw.as_raw_fd(), &message, &everyone, MsgFlags::empty());
                std::thread::sleep(Duration::from_secs(1));
            }
        });
        Ok(())
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    let status = Command::new("ip").args(arguments).status().context("starting ip")?;
    ensure!(status.success(), "ip {} ended with {status}", arguments.join(" "));
    Ok(())
}

fn ip_says(arguments: &[&str]) -> Result<String> {
    let output = Command::new("ip").args(arguments).output().context("starting ip")?;
    Ok(String::from_utf8(output.stdout)?)
}

/// Brings the machine's network up to reach `host`, and hands it to `check`.
fn machine(host: &str, seconds: u64, check: impl AsyncFnOnce(Result<Network>) -> Result<()>) -> Result<()> {
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
                "--dhcp-option=option:mtu,1400",
                "--dhcp-option=option:classless-static-route,10.88.0.0/16,10.77.0.2,0.0.0.0/0,10.77.0.1",
                "--host-record=deploy.example,10.77.0.1",
            ])
        },
        near: || {
            machine("deploy.example", 60, async |network| {
                let network = network?;
                assert_eq!(network.describe(), ["eth0 10.77.0.50"]);
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
            far.dnsmasq(&["--dhcp-range=fd77::100,fd77::1ff,64,2m", "--host-record=deploy.example,fd77::1"])?;
            far.router(0x40, true)
        },
        near: || {
            machine("deploy.example", 60, async |network| {
                let network = network?;
                resolves(&network, "fd77::1").await?;
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
            far.dnsmasq(&["--dhcp-range=fd77::123,fd77::123,64,2m", "--host-record=deploy.example,fd77::1"])?;
            far.router(0x80, false)
        },
        near: || {
            machine("deploy.example", 60, async |network| {
                let network = network?;
                assert_eq!(network.describe(), ["eth0 fd77::123"]);
                resolves(&network, "fd77::1").await
            })
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
