//! The netboot image from the real packages, which `scripts/fetch-kernels` fetches.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "clippy's allow-in-tests leaves out helpers of tests"
)]

use std::path::{Path, PathBuf};
use std::process::Command;

use metalstrap_initrd::{BootTools, Kernel, NetbootOptions, NetbootSizes, Signer, netboot};

/// The drivers' share of the 20 MB that the initrd may have; the rest is for the installer, which packs to 2.5–5 MB.
const DRIVERS_AT_MOST: u64 = 14_000_000;

fn out() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../out")
}

fn build(kernel: &str, output: &Path) -> NetbootSizes {
    netboot(&NetbootOptions {
        kernel: Kernel::find(&out().join("kernels").join(kernel)).expect("run scripts/fetch-kernels"),
        installer: "/bin/true".into(),
        site: b"{}".to_vec(),
        build_time: 1_760_000_000,
        tools: BootTools::find(&out().join("boot-tools")).expect("run scripts/fetch-kernels"),
        cmdline_extra: "quiet".into(),
        extra_files: Vec::new(),
        cache: Some(out().join("cache/initrd")),
        output: output.to_owned(),
    })
    .unwrap()
}

#[test]
fn the_uki_is_the_same_twice_and_holds_its_sections() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (dir.path().join("a.efi"), dir.path().join("b.efi"));
    assert_eq!(build("cloud", &first), build("cloud", &second));
    assert!(std::fs::read(&first).unwrap() == std::fs::read(&second).unwrap());
    let section = |name: &str| {
        let (to, copy) = (dir.path().join("section"), dir.path().join("copy.efi"));
        let dump = format!("--dump-section={name}={}", to.display());
        assert!(Command::new("objcopy").arg(dump).arg(&first).arg(copy).status().unwrap().success());
        std::fs::read(to).unwrap()
    };
    let line = b"panic=30 loglevel=4 console=tty0 console=ttyS0,115200 watchdog.stop_on_reboot=0 quiet";
    assert_eq!(section(".cmdline"), line);
    assert_eq!(metalstrap_initrd::embedded::site_config(&first).unwrap(), b"{}");
    assert!(section(".initrd") == std::fs::read(first.with_extension("initrd")).unwrap());
}

/// What sbverify says of `image` where only `certificate` is trusted.
fn sbverify(image: &Path, certificate: &Path) -> bool {
    Command::new("sbverify").arg("--cert").arg(certificate).arg(image).output().unwrap().status.success()
}

#[test]
fn a_signed_uki_is_the_same_twice_and_good_for_its_key_alone() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name);
    for name in ["one", "two"] {
        let mut openssl = Command::new("openssl");
        openssl
            .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "9", "-subj"])
            .arg(format!("/CN={name}"));
        openssl.arg("-keyout").arg(file(&format!("{name}.key"))).arg("-out").arg(file(&format!("{name}.pem")));
        assert!(openssl.output().unwrap().status.success());
    }
    let signer = Signer::read(&file("one.key"), &file("one.pem")).unwrap();
    let unsigned = build("cloud", &file("a.efi")).uki;
    assert!(!sbverify(&file("a.efi"), &file("one.pem")));
    std::fs::copy(file("a.efi"), file("b.efi")).unwrap();
    let signed = signer.sign_file(&file("a.efi")).unwrap();
    assert!((unsigned + 1000..unsigned + 4000).contains(&signed), "{unsigned} {signed}");
    assert_eq!(signer.sign_file(&file("b.efi")).unwrap(), signed);
    assert!(std::fs::read(file("a.efi")).unwrap() == std::fs::read(file("b.efi")).unwrap());
    assert!(sbverify(&file("a.efi"), &file("one.pem")));
    assert!(!sbverify(&file("a.efi"), &file("two.pem")));
    let mut bytes = std::fs::read(file("a.efi")).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(file("b.efi"), bytes).unwrap();
    assert!(!sbverify(&file("b.efi"), &file("one.pem")));
}

#[test]
fn the_drivers_of_common_servers_leave_room_for_the_installer() {
    let dir = tempfile::tempdir().unwrap();
    let sizes = build("generic", &dir.path().join("a.efi"));
    println!("{sizes}");
    assert!(sizes.drivers <= DRIVERS_AT_MOST, "{} bytes of drivers", sizes.drivers);
    // Whatever else the list names is a module of this kernel: a pattern that takes nothing is a slip.
    assert_eq!(sizes.unmatched, ["kernel/net/packet/af_packet"]);
}
