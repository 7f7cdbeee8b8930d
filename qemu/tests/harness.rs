//! Tests of the harness itself: what it notices, what it keeps apart, and that nothing outlives it.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "clippy's allow-in-tests leaves out helpers of tests")]

mod support;

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use metalstrap_qemu::{Disk, Exit, Lab, Machine, Network, RunDir, Swtpm, Validity, find_tool, minutes, seconds, until};

/// Ends in a reset two seconds or so after the kernel's start: there is no init. Its timer is not to be taken for broken on a busy
/// host, which would be another panic.
const PANIC: &str = "console=ttyS0 no_timer_check panic=-1";
/// Stays where it is after the panic.
const HANG: &str = "console=ttyS0 no_timer_check panic=0";
const PANICKED: &str = "Kernel panic - not syncing: VFS: Unable to mount root fs";

#[test]
fn a_guest_that_resets_is_seen_to_the_end() {
    let run = RunDir::new("reset").unwrap();
    let lab = Lab::new(run.path()).unwrap();
    let mut vm = Machine::builder("m").memory(512).direct_boot(&support::kernel(), None, PANIC).start(&lab).unwrap();
    let before = vm.serial().wait_for(PANICKED, minutes(2)).unwrap();
    assert!(before.contains("Command line: console=ttyS0 no_timer_check panic=-1\n"), "{before}");
    assert_eq!(vm.wait_exit(minutes(1)).unwrap(), Exit::Reset);
    let error = vm.serial().wait_for("login:", minutes(5)).unwrap_err().to_string();
    assert!(error.starts_with("the machine m ended before it said \"login:\"; its last lines:\n"), "{error}");
    assert!(fs::read_to_string(vm.dir().join("serial.log")).unwrap().contains(PANICKED));
    drop(vm);
    drop(lab);
    run.passed().unwrap();
}

#[test]
fn a_guest_that_is_killed_is_noticed_at_once() {
    let run = RunDir::new("killed").unwrap();
    let lab = Lab::new(run.path()).unwrap();
    // Without a kernel and without a disk, the machine says nothing and goes on for ever.
    let mut vm = Machine::builder("mute").memory(128).qemu_arguments(&["-S"]).start(&lab).unwrap();
    let id = nix::unistd::Pid::from_raw(vm.process_id().unwrap());
    let serial = vm.serial().clone();
    let waiter = std::thread::spawn(move || (serial.wait_for("login:", minutes(5)), Instant::now()));
    let killed = Instant::now();
    nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGKILL).unwrap();
    let (result, noticed) = waiter.join().unwrap();
    let error = result.unwrap_err().to_string();
    assert_eq!(error, "the machine mute ended before it said \"login:\"; it said nothing");
    assert!(noticed - killed < seconds(30), "{:?}", noticed - killed);
    assert_eq!(vm.wait_exit(seconds(30)).unwrap(), Exit::Died("signal: 9 (SIGKILL): ".to_owned()));
    drop(vm);
    drop(lab);
    run.passed().unwrap();
}

#[test]
fn a_qemu_that_refuses_to_start_says_why() {
    let run = RunDir::new("refused").unwrap();
    let lab = Lab::new(run.path()).unwrap();
    let error = Machine::builder("m").qemu_arguments(&["-device", "no-such-device"]).start(&lab).unwrap_err();
    let error = format!("{error:#}");
    assert!(error.starts_with("starting the machine m: qemu ended at its start (exit status: 1): "), "{error}");
    assert!(error.ends_with("-device no-such-device: 'no-such-device' is not a valid device model name"), "{error}");
    drop(lab);
    run.passed().unwrap();
}

#[test]
fn two_machines_at_once_do_not_mix_and_time_out_alone() {
    let run = RunDir::new("two").unwrap();
    let lab = Lab::new(run.path()).unwrap();
    let start = |name: &str| {
        let line = format!("{HANG} whoami={name}");
        Machine::builder(name).memory(512).direct_boot(&support::kernel(), None, &line).start(&lab).unwrap()
    };
    let machines = [start("one"), start("two")];
    assert_ne!(machines[0].mac(0), machines[1].mac(0));
    for machine in &machines {
        machine.serial().wait_for(PANICKED, minutes(3)).unwrap();
        machine.serial().wait_for("end Kernel panic - not syncing", minutes(1)).unwrap();
    }
    assert!(machines[0].serial().text().contains("whoami=one"));
    assert!(!machines[0].serial().text().contains("whoami=two"));
    assert!(machines[1].serial().text().contains("whoami=two"));
    let error = machines[0].serial().wait_for("login:", Duration::from_millis(200)).unwrap_err().to_string();
    assert!(error.starts_with("the machine one did not say \"login:\" within 200ms; its last lines:\n"), "{error}");
    assert!(error.contains("end Kernel panic - not syncing"), "{error}");
    assert_eq!(error.lines().count(), 31);
    drop(machines);
    drop(lab);
    run.passed().unwrap();
}

#[test]
fn firmware_boots_from_the_network_with_a_tpm_and_again_after_a_power_cycle() {
    let run = RunDir::new("http-boot").unwrap();
    let lab = Lab::new(run.path()).unwrap();
    lab.serve_netboot(&support::uki(run.path(), PANIC)).unwrap();
    let tpm = Swtpm::manufacture(&run.path().join("tpm"), true).unwrap();
    let mut vm = Machine::builder("m")
        .memory(512)
        .disk(Disk::nvme(64 << 20).serial("DEMO,1").sector_size(4096))
        .disk(Disk::virtio(64 << 20).serial("DEMO2"))
        .tpm(&tpm)
        .watchdog()
        .credential_unit("report", "[Service]\nExecStart=true\n")
        .firmware_http_boot()
        .start(&lab)
        .unwrap();
    vm.serial().wait_for("Linux version 6.", minutes(3)).unwrap();
    let early = vm.serial().wait_for(PANICKED, minutes(2)).unwrap();
    assert!(early.contains("efi: EFI v2.") && early.contains("TPMEventLog="), "{early}");
    assert_eq!(vm.wait_exit(minutes(1)).unwrap(), Exit::Reset);
    let fetched = fs::metadata(run.path().join("hello.efi")).unwrap().len();
    let requests = lab.requests().unwrap();
    let netboot = requests.iter().find(|r| r.method == "GET" && r.path == "/netboot.efi" && r.status == 200).unwrap();
    assert_eq!((netboot.bytes, netboot.scheme.as_str()), (fetched, "http"));
    assert_eq!(fs::metadata(vm.disk(0).unwrap()).unwrap().len(), 64 << 20);

    // The second start: the same TPM and variables, another way to boot.
    let line = format!("{PANIC} second=1");
    let mut vm = vm.power_cycle(|m| m.direct_boot_with_uefi(&support::kernel(), None, &line)).unwrap();
    let early = vm.serial().wait_for(PANICKED, minutes(2)).unwrap();
    assert!(early.contains("second=1") && early.contains("TPMEventLog="), "{early}");
    assert_eq!(vm.wait_exit(minutes(1)).unwrap(), Exit::Reset);
    drop(vm);
    drop(lab);
    run.passed().unwrap();
}

/// curl inside the lab; its output, or its exit code.
fn curl(lab: &Lab, arguments: &[&str]) -> Result<String, i32> {
    let mut curl = lab.command(find_tool("curl").unwrap());
    // The namespace shares the host's resolver file, which does not name the lab's server.
    curl.args(["--silent", "--show-error", "--resolve", "repo.test:8443:10.77.0.1", "--cacert"])
        .arg(lab.authority().unwrap());
    let output = curl.args(arguments).output().unwrap();
    if output.status.success() {
        Ok(String::from_utf8(output.stdout).unwrap())
    } else {
        Err(output.status.code().unwrap())
    }
}

#[test]
fn the_repository_is_served_with_ranges_under_the_private_authority() {
    let run = RunDir::new("web").unwrap();
    let mut lab = Lab::new(&run.path().join("lab")).unwrap();
    let repository = run.path().join("repository");
    fs::create_dir(&repository).unwrap();
    fs::write(repository.join("payload"), "0123456789").unwrap();
    lab.serve_repository(&repository).unwrap();
    let url = lab.repository_url() + "payload";
    assert_eq!(curl(&lab, &[&url]).unwrap(), "0123456789");
    assert_eq!(curl(&lab, &["--range", "2-5", &url]).unwrap(), "2345");
    assert_eq!(curl(&lab, &["https://10.77.0.1:8443/payload"]).unwrap(), "0123456789");
    assert_eq!(curl(&lab, &["https://[fd00:77::1]:8443/payload"]).unwrap(), "0123456789");
    // 60: the certificate is not trusted.
    assert_eq!(curl(&lab, &["--cacert", "/etc/ssl/certs/ca-certificates.crt", &url]), Err(60));
    let requests = lab.requests().unwrap();
    let seen: Vec<_> = requests.iter().map(|r| (r.path.as_str(), r.status, r.bytes, r.range.as_str())).collect();
    let expected = [
        ("/payload", 200, 10, ""),
        ("/payload", 206, 4, "bytes=2-5"),
        ("/payload", 200, 10, ""),
        ("/payload", 200, 10, ""),
    ];
    assert_eq!(seen, expected);

    lab.present_certificate(&["DNS:repo.test"], Validity::EXPIRED).unwrap();
    assert_eq!(curl(&lab, &[&url]), Err(60));
    lab.present_certificate(&["DNS:other.test"], Validity::WIDE).unwrap();
    assert_eq!(curl(&lab, &[&url]), Err(60));
    lab.stop_web().unwrap();
    // 7: the connection is refused.
    assert_eq!(curl(&lab, &[&url]), Err(7));
    drop(lab);
    run.passed().unwrap();
}

#[test]
fn reports_are_kept_in_their_order() {
    let run = RunDir::new("report").unwrap();
    let lab = Lab::new(run.path()).unwrap();
    assert_eq!(lab.reports().unwrap(), Vec::<serde_json::Value>::new());
    curl(&lab, &["--data-binary", "{\"seq\":1}\n{\"seq\":2}\n", &lab.report_url()]).unwrap();
    curl(&lab, &["--data-binary", "{\"seq\":3}", &lab.report_url()]).unwrap();
    let status = curl(&lab, &["--output", "/dev/null", "--write-out", "%{http_code}", &lab.report_url()]).unwrap();
    assert_eq!(status, "403");
    let seen: Vec<i64> = lab.reports().unwrap().iter().map(|report| report["seq"].as_i64().unwrap()).collect();
    assert_eq!(seen, [1, 2, 3]);
    drop(lab);
    run.passed().unwrap();
}

/// The addresses that the lab's DNS server gives for `repo.test`, asked over plain UDP sockets of Python.
fn resolve(lab: &Lab, server: &str, kind: u16) -> String {
    let ask = "import socket,struct,sys\n\
        s=socket.socket(socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET,socket.SOCK_DGRAM);s.settimeout(5)\n\
        s.sendto(struct.pack('>6H',1,256,1,0,0,0)+b'\\4repo\\4test\\0'+struct.pack('>2H',int(sys.argv[2]),1),(sys.argv[1],53))\n\
        a=s.recv(512);n=struct.unpack('>H',a[6:8])[0];k=socket.AF_INET6 if sys.argv[2]=='28' else socket.AF_INET\n\
        print(socket.inet_ntop(k,a[-16:] if sys.argv[2]=='28' else a[-4:]) if n else 'none')";
    let kind = kind.to_string();
    support::run(lab.command("python3").args(["-c", ask, server, &kind])).trim().to_owned()
}

#[test]
fn the_name_of_the_repository_resolves_in_every_kind_of_network() {
    let run = RunDir::new("dns").unwrap();
    let (a, aaaa) = (1, 28);
    let cases = [
        (Network::Ipv4, "10.77.0.1", ["10.77.0.1", "none"]),
        (Network::Dual, "10.77.0.1", ["10.77.0.1", "fd00:77::1"]),
        (Network::Ipv6Slaac, "fd00:77::1", ["none", "fd00:77::1"]),
        (Network::Ipv6Dhcp, "fd00:77::1", ["none", "fd00:77::1"]),
    ];
    for (network, server, expected) in cases {
        let lab = Lab::with_network(&run.path().join(format!("{network:?}")), network).unwrap();
        let found = [resolve(&lab, server, a), resolve(&lab, server, aaaa)];
        assert_eq!(found, expected, "{network:?}");
    }
    run.passed().unwrap();
}

/// Processes whose command line holds `marker`.
fn processes_with(marker: &str) -> Vec<String> {
    let all = fs::read_dir("/proc").unwrap().filter_map(|entry| fs::read(entry.ok()?.path().join("cmdline")).ok());
    all.map(|line| String::from_utf8_lossy(&line).replace('\0', " ")).filter(|line| line.contains(marker)).collect()
}

/// Not a test of its own: the process that `everything_dies_with_the_test` kills.
#[test]
#[ignore = "run by everything_dies_with_the_test"]
fn helper_holds_a_machine() {
    let dir = std::env::var("HARNESS_DIR").unwrap();
    let lab = Lab::new(dir.as_ref()).unwrap();
    let tpm = Swtpm::manufacture(&lab_dir(&dir).join("tpm"), false).unwrap();
    let vm = Machine::builder("held").memory(128).tpm(&tpm).disk(Disk::nvme(1 << 20)).start(&lab).unwrap();
    println!("HOLDING");
    vm.serial().wait_for("login:", minutes(10)).unwrap();
}

fn lab_dir(dir: &str) -> &std::path::Path {
    std::path::Path::new(dir)
}

/// The helper, started by the program `before` with its arguments.
fn start_helper(before: &[&str], dir: &std::path::Path) -> std::process::Child {
    let this = std::env::current_exe().unwrap();
    let mut words = before.iter().map(std::ffi::OsStr::new).chain([this.as_os_str()]);
    let mut command = Command::new(words.next().unwrap());
    command.args(words).args(["--exact", "helper_holds_a_machine", "--ignored", "--nocapture"]);
    command.env("HARNESS_DIR", dir).stdout(Stdio::piped()).spawn().unwrap()
}

#[test]
fn everything_dies_with_the_test() {
    let run = RunDir::new("orphans").unwrap();
    let marker = run.path().to_str().unwrap();
    let mut helper = start_helper(&[], run.path());
    let said = BufReader::new(helper.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(said.into_iter().any(|line| line.contains("HOLDING")));
    // qemu, swtpm, dnsmasq and nginx, and the nsenter of each.
    let running = processes_with(marker);
    for name in ["qemu-system-x86_64", "swtpm", "dnsmasq", "nginx"] {
        assert!(running.iter().any(|line| line.contains(name)), "{name} does not run: {running:#?}");
    }
    helper.kill().unwrap();
    helper.wait().unwrap();
    until("the end of everything", seconds(10), || Ok(processes_with(marker).is_empty().then_some(()))).unwrap();
    run.passed().unwrap();
}

#[test]
fn an_ordinary_user_can_do_the_same() {
    if !nix::unistd::geteuid().is_root() {
        // Not by println, which the test runner keeps to itself when a test passes.
        let reason = "this is an ordinary user already, so that every other test shows it";
        writeln!(std::io::stderr(), "an_ordinary_user_can_do_the_same: not run: {reason}").unwrap();
        return;
    }
    let dir = tempfile::Builder::new().prefix("harness-user-").tempdir().unwrap();
    let marker = dir.path().to_str().unwrap().to_owned();
    let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap();
    nix::unistd::chown(dir.path(), Some(nobody.uid), Some(nobody.gid)).unwrap();
    // udev lets everybody open /dev/net/tun; where no udev runs, a node in a private mount namespace does.
    let script = "mknod -m 666 \"$0/tun\" c 10 200 && mount --bind \"$0/tun\" /dev/net/tun && cp \"$1\" \"$0/test\" && shift &&
        exec setpriv --reuid nobody --regid nogroup --clear-groups --no-new-privs env TMPDIR=\"$0\" HOME=\"$0\" \"$0/test\" \"$@\"";
    let mut helper = start_helper(&["unshare", "--mount", "sh", "-c", script, &marker], dir.path());
    let mut said = BufReader::new(helper.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(said.any(|line| line.contains("HOLDING")));
    let mut running = processes_with(&marker);
    running.retain(|line| line.contains("qemu-system-x86_64"));
    assert!(!running.is_empty());
    helper.kill().unwrap();
    helper.wait().unwrap();
    until("the end of everything", seconds(10), || Ok(processes_with(&marker).is_empty().then_some(()))).unwrap();
}
