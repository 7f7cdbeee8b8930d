//! The full path, as `make demo` shows it: firmware, network, installation, kexec, and the same OS after a power cycle.

use metalstrap_qemu::RunDir;
use metalstrap_tests::demo;

/// What design §9 and the issue bound.
const MIB: u64 = 1 << 20;

#[test]
fn debian_is_installed_and_boots_from_its_disk() {
    let run = RunDir::new("debian").unwrap();
    // It fails by itself if a boot did not reach multi-user, the root is not verity, or PCR 13 is not what its log says.
    let outcome = demo::run(run.path(), false).unwrap();
    assert!(outcome.peak_rss_bytes <= 128 * MIB, "the installer took {} bytes", outcome.peak_rss_bytes);
    assert!(outcome.bytes.installer <= 10_000_000, "the installer has {} bytes", outcome.bytes.installer);
    let initrd = outcome.bytes.netboot_initrd_generic;
    assert!(initrd <= 20_000_000, "the netboot initrd from the generic kernel has {initrd} bytes");
    assert_ne!(outcome.pcr13.measured, "0".repeat(64), "nothing was measured");
    assert!(outcome.bytes.payload_fetched > 0 && outcome.bytes.payload_fetched < 2 * outcome.bytes.image);
    run.passed().unwrap();
}
