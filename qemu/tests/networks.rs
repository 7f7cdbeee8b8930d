//! Tests of the networks that a lab can have: any address for its server, and QEMU's user-mode one.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "clippy's allow-in-tests leaves out helpers of tests")]

mod support;

use std::fs;
use std::path::Path;

use metalstrap_qemu::{
    Authority, Disk, Endpoint, Exit, Lab, Machine, Network, RunDir, Validity, find_tool, minutes, seconds, until,
};

/// What curl, inside the lab, gets from `url` with `authority` trusted, where the host's name has the address `address`.
fn fetch(lab: &Lab, authority: &Path, resolve: &str, url: &str) -> String {
    let mut curl = lab.command(find_tool("curl").unwrap());
    curl.args(["--silent", "--show-error", "--fail", "--resolve", resolve, "--cacert"]).arg(authority);
    support::run(curl.arg(url))
}

#[test]
fn a_repository_is_served_at_any_address_with_a_given_certificate() {
    let run = RunDir::new("endpoint").unwrap();
    let authority = Authority::new(&run.path().join("operator's ca")).unwrap();
    let names = ["DNS:images.example.com", "IP:192.0.2.7", "IP:2001:db8::7"];
    let issued = authority.issue("server", &names, Validity::WIDE).unwrap();
    let repository = run.path().join("repository");
    fs::create_dir_all(repository.join("payloads")).unwrap();
    fs::write(repository.join("payloads/one"), "0123456789").unwrap();
    // The last one has the port that the server for HTTP boot has otherwise.
    let cases = [
        ("images.example.com", 443, "/os/stable", "https://images.example.com/os/stable/payloads/one"),
        ("192.0.2.7", 8443, "", "https://192.0.2.7:8443/payloads/one"),
        ("2001:db8::7", 8000, "/r", "https://[2001:db8::7]:8000/r/payloads/one"),
    ];
    for (number, (host, port, path, url)) in cases.into_iter().enumerate() {
        let endpoint = Endpoint::new(host, port, path).unwrap().certificate(&issued.certificate, &issued.key);
        let lab = Lab::with_endpoint(&run.path().join(number.to_string()), Network::Dual, endpoint).unwrap();
        lab.serve_repository(&repository).unwrap();
        let resolve = format!("images.example.com:{port}:10.77.0.1");
        assert_eq!(fetch(&lab, &authority.certificate(), &resolve, url), "0123456789");
        // nginx writes its log when the answer is on its way.
        let logged = || Ok(Some(lab.requests()?).filter(|requests| !requests.is_empty()));
        let requests = until("the request in the log", seconds(10), logged).unwrap();
        assert_eq!((requests[0].path.as_str(), requests[0].bytes), (format!("{path}/payloads/one").as_str(), 10));
        assert_eq!(
            lab.authority().unwrap_err().to_string(),
            "the server's certificate is not of the lab's own authority"
        );
    }
    run.passed().unwrap();
}

#[test]
fn a_uki_starts_from_a_usb_stick_in_the_user_mode_network() {
    let run = RunDir::new("stick").unwrap();
    let lab = Lab::with_network(run.path(), Network::User).unwrap();
    let refusal = lab.serve_repository(run.path()).unwrap_err().to_string();
    assert_eq!(refusal, "nothing is served in QEMU's user-mode network");
    let uki = support::uki(run.path(), "console=ttyS0 no_timer_check panic=-1 from=stick");
    let disks = [Disk::nvme(1 << 30), Disk::virtio(1 << 30), Disk::scsi(1 << 30), Disk::sata(1 << 30)];
    let machine = Machine::builder("m").memory(512).identity(Some("11111111-2222-3333-4444-555555555555"), Some("a,b"));
    let machine = disks.into_iter().fold(machine, metalstrap_qemu::Builder::disk);
    let mut vm = machine.usb_stick(&uki).start(&lab).unwrap();
    let early = vm.serial().wait_for("Kernel panic - not syncing: VFS: Unable to mount root fs", minutes(3)).unwrap();
    assert!(early.contains("Command line: console=ttyS0 no_timer_check panic=-1 from=stick"), "{early}");
    assert_eq!(vm.wait_exit(minutes(1)).unwrap(), Exit::Reset);
    assert_eq!(vm.ended().unwrap(), Some(Exit::Reset));
    drop(vm);
    drop(lab);
    run.passed().unwrap();
}
