//! The releases: one that is on a disk, one that replaces it, one that was there before both, and one that comes after them. Their slots have a head, a middle and a tail for what
//! wipes, and their UKIs are longer than what is wiped in one write.

use std::fs;
use std::path::Path;

use metalstrap_release::host::{Existing, Host};
use metalstrap_release::manifest::Layout;
use serde_json::{Value, json};

use super::lived::DATA;
use super::scenario::{Before, REMEMBERED, Scenario};
use crate::converge::testing::{SALT, bytes};
use crate::credentials::{Sealed, seal_all};
use crate::refusals::published::{ESP_BYTES, Ingredients, Published};

const MIB: u64 = 1 << 20;
const BLOCK: usize = 4096;
/// Blocks of the root file system: their hash tree has two levels.
const BLOCKS: usize = 300;
const UKI_BYTES: usize = 1_200_001;
const LOADER_BYTES: usize = 50_000;

/// The releases of a scenario.
#[derive(Debug)]
pub struct Releases {
    pub scenario: Scenario,
    /// The one that is installed.
    pub new: Published,
    /// The one that is on the disk before, where there is one.
    pub old: Option<Published>,
    /// The one that the other came beside, where there is one. It has the same boot loader, which systemd-sysupdate leaves alone.
    pub first: Option<Published>,
    /// The one that a second run installs, where that is another.
    pub next: Option<Published>,
    /// Machines boot them, so what they start must be whole: nobody knows what half a boot loader does.
    pub for_machines: bool,
}

/// What a release installs.
struct Content {
    root: Vec<u8>,
    salt: Vec<u8>,
    uki: Vec<u8>,
    loader: Vec<u8>,
    cmdline_extra: &'static str,
}

impl Releases {
    /// Bytes without meaning, which only the judge boots.
    pub fn new(scenario: Scenario) -> Self {
        // Without `gpt` Linux has no table while the first copy is changed, which is more than one sector: `publish` warns of
        // such a UKI. Where nothing else starts, it makes no difference.
        let cmdline_extra = if scenario.other_good_slot { " gpt" } else { "" };
        let content = |root, uki, loader| Content {
            root,
            salt: SALT.to_vec(),
            uki: program(uki, UKI_BYTES),
            loader: program(loader, LOADER_BYTES),
            cmdline_extra,
        };
        let first = || content(bytes(23, BLOCKS * BLOCK), 51, 32);
        let next = || content(bytes(24, BLOCKS * BLOCK), 61, 62);
        Self::of(scenario, content(new_root(), 41, 42), || content(old_root(), 31, 32), first, next)
    }

    /// Tiny targets, which machines boot too; `make crashtest` makes them.
    pub fn tiny(scenario: Scenario) -> Self {
        let out = Path::new(env!("CARGO_MANIFEST_DIR")).join("../out");
        let read = |path: &str| {
            let reading = |error| panic!("{error}: out/{path}; make crashtest makes it");
            fs::read(out.join(path)).unwrap_or_else(reading)
        };
        let content = |folder: &str| Content {
            root: read(&format!("{folder}/root.raw")),
            // Where the superblock of the hash tree has it (`struct verity_sb` in cryptsetup's lib/verity/verity.c).
            salt: read(&format!("{folder}/root.verity.raw"))[88..120].to_vec(),
            uki: read(&format!("{folder}/tiny.efi")),
            loader: read("boot-tools/usr/lib/systemd/boot/efi/systemd-bootx64.efi"),
            cmdline_extra: " gpt",
        };
        // No scenario has both of the others.
        let other = || content("crash/tiny-3");
        let releases = Self::of(scenario, content("crash/tiny-2"), || content("crash/tiny-1"), other, other);
        Self { for_machines: true, ..releases }
    }

    fn of(
        scenario: Scenario,
        new: Content,
        old: impl Fn() -> Content,
        first: impl Fn() -> Content,
        next: impl Fn() -> Content,
    ) -> Self {
        let new = new.publish(&scenario, "2");
        let has_old = matches!(scenario.before, Before::Old | Before::Sysupdated { .. } | Before::Remembered);
        let old = has_old.then(|| old().publish(&scenario, scenario.old));
        let has_first = matches!(scenario.before, Before::Sysupdated { .. } | Before::Remembered);
        let first = has_first.then(|| first().publish(&scenario, "0"));
        let next = scenario.then_another.then(|| next().publish(&scenario, "3"));
        Self { scenario, new, old, first, next, for_machines: false }
    }
}

impl Content {
    fn publish(self, scenario: &Scenario, version: &str) -> Published {
        let (label, size) = DATA;
        let data = json!([{"type": "home", "label": label, "size_min": size, "size_max": size, "keep": true}]);
        let layout = Layout {
            esp_size: ESP_BYTES,
            root_size: 8 * MIB,
            root_verity_size: MIB,
            slots: scenario.slots,
            free_size: MIB,
            partitions: serde_json::from_value(data).unwrap(),
        };
        // What one release may wipe, another has not wiped, unless it is to be known that it has.
        let intent = (scenario.existing == Existing::Wipe).then(|| match scenario.before {
            Before::Remembered => REMEMBERED.to_owned(),
            _ => format!("for-{version}"),
        });
        let host = json!({
            "format": 1, "release": {"name": "tiny", "version": version}, "existing": scenario.existing,
            "intent": intent, "credentials": credentials(version),
        });
        let Self { root, salt, uki, loader, cmdline_extra } = self;
        let (version, cmdline_extra) = (version.to_owned(), cmdline_extra.to_owned());
        Ingredients { version, root, salt, uki, loader, cmdline_extra, layout, host }.publish()
    }
}

/// What the host config for a version has for the OS: one that all have, one that is longer than a cluster, and one that is
/// this version's alone.
fn credentials(version: &str) -> Value {
    json!({
        "system.hostname": {"text": format!("host-{version}")},
        "network.network.50-long": {"text": version.repeat(9000)},
        (format!("only-{version}")): {"text": ""},
    })
}

/// The same as they are on the ESP.
pub fn sealed(version: &str) -> Vec<Sealed> {
    let host = json!({
        "format": 1, "release": {"name": "tiny", "version": version}, "credentials": credentials(version),
    });
    seal_all(&Host::parse(host.to_string().as_bytes()).unwrap()).unwrap()
}

/// Bytes that begin as every EFI program does.
fn program(seed: u64, length: usize) -> Vec<u8> {
    let mut program = bytes(seed, length);
    program[..2].copy_from_slice(b"MZ");
    program
}

fn old_root() -> Vec<u8> {
    bytes(21, BLOCKS * BLOCK)
}

/// The old one with other blocks here and there, a hole, and a block that has moved.
fn new_root() -> Vec<u8> {
    let (mut root, other) = (old_root(), bytes(22, BLOCKS * BLOCK));
    for start in (0..root.len()).step_by(7 * BLOCK) {
        root[start..start + BLOCK].copy_from_slice(&other[start..start + BLOCK]);
    }
    root[100 * BLOCK..140 * BLOCK].fill(0);
    root.copy_within(10 * BLOCK..11 * BLOCK, 201 * BLOCK);
    root
}
