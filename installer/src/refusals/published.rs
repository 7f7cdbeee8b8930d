//! A small repository that is right, in memory: tests change one thing of it.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::path::Path;
use std::sync::LazyLock;

use metalstrap_release::digest::Digest;
use metalstrap_release::manifest::{Boot, Designator, FileSystem, Layout, Manifest, Payload, Salt};
use metalstrap_release::metadata::{
    Draft, Keyring, Lifetimes, PrivateKey, RoleSigners, TrustedRoot, delegation, new_root,
};
use serde_json::{Value, json};

use crate::clock;
use crate::converge::testing::{Repository, SALT, UUID, bytes, salted_tree_over};

const MIB: u64 = 1 << 20;
/// The release's manifest among the targets.
pub const RELEASE: &str = "tiny_1.json";
/// The host config among the targets.
pub const HOST: &str = "host-default.json";
/// The root file system: several frames, and a tree of two levels.
pub const ROOT_BYTES: usize = (2 << 20) + 3 * 4096;
/// Bytes of the ESP: what the smallest manifest may ask for.
pub const ESP_BYTES: u64 = 512 * MIB;

/// A repository, and the keys that sign in it.
#[derive(Debug, Clone)]
pub struct Published {
    /// Every file by its path.
    pub files: BTreeMap<String, Vec<u8>>,
    pub manifest: Manifest,
    pub keys: Keyring,
}

/// What a repository of one release is made of.
#[derive(Debug, Clone)]
pub struct Ingredients {
    pub version: String,
    /// The root file system, and the salt of its hash tree.
    pub root: Vec<u8>,
    pub salt: Vec<u8>,
    pub uki: Vec<u8>,
    pub loader: Vec<u8>,
    /// What is behind the root hash on the kernel command line.
    pub cmdline_extra: String,
    pub layout: Layout,
    /// The host config.
    pub host: Value,
}

/// A repository that installs.
pub fn good() -> Published {
    static GOOD: LazyLock<Published> = LazyLock::new(|| {
        let layout = Layout {
            esp_size: ESP_BYTES,
            root_size: 4 * MIB,
            root_verity_size: MIB,
            slots: 2,
            free_size: MIB,
            partitions: Vec::new(),
        };
        let (version, salt) = ("1".to_owned(), SALT.to_vec());
        let (root, uki, loader, cmdline_extra, host) = (root_image(), uki(), loader(), String::new(), host());
        Ingredients { version, root, salt, uki, loader, cmdline_extra, layout, host }.publish()
    });
    GOOD.clone()
}

/// Runs `body` on a runtime of its own, whatever runtime the caller is on.
pub fn apart<T: Send>(body: impl AsyncFnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let run = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(body());
        scope.spawn(run).join().unwrap()
    })
}

/// The root file system.
pub fn root_image() -> Vec<u8> {
    bytes(11, ROOT_BYTES)
}

/// The unified kernel image: whole installations start no kernel.
pub fn uki() -> Vec<u8> {
    bytes(12, 300_001)
}

/// The boot loader.
pub fn loader() -> Vec<u8> {
    bytes(13, 130_000)
}

fn signer() -> RoleSigners {
    RoleSigners { keys: vec![PrivateKey::generate().unwrap()], threshold: NonZeroU64::MIN }
}

async fn make(of: &Ingredients) -> Published {
    let directory = Repository::new();
    let manifest = manifest(&directory, of);
    let keys = Keyring { root: signer(), targets: signer(), snapshot: signer(), timestamp: signer(), hosts: signer() };
    let (lifetimes, now) = (Lifetimes::default(), clock::now());
    let root = new_root(&keys, &lifetimes, now).await.unwrap();
    let trusted = TrustedRoot::parse(&serde_json::from_slice(&root.bytes).unwrap()).unwrap();
    let mut files = BTreeMap::from([(root.path, root.bytes)]);
    for payload in payloads(&manifest) {
        files.insert(payload_path(payload), std::fs::read(directory.path(payload)).unwrap());
    }
    let mut draft = Draft::new(&trusted, &delegation(&keys.hosts).unwrap()).unwrap();
    let (release, bytes) = (format!("tiny_{}.json", of.version), serde_json::to_vec(&manifest).unwrap());
    draft.add_release(&release, bytes.len() as u64, Digest::of(&bytes)).unwrap();
    files.insert(target_path(&release, &bytes), bytes);
    let bytes = serde_json::to_vec(&of.host).unwrap();
    draft.set_host(HOST, bytes.len() as u64, Digest::of(&bytes)).unwrap();
    files.insert(target_path(HOST, &bytes), bytes);
    let all = [&keys.targets, &keys.hosts, &keys.snapshot, &keys.timestamp].map(|role| role.keys[0].clone());
    for written in draft.sign(&all, &lifetimes, now).await.unwrap() {
        files.insert(written.path, written.bytes);
    }
    Published { files, manifest, keys }
}

/// The host config.
pub fn host() -> Value {
    json!({"format": 1, "release": {"name": "tiny", "version": "1"}})
}

fn manifest(directory: &Repository, of: &Ingredients) -> Manifest {
    let (root_hash, tree) = salted_tree_over(&of.root, &of.salt);
    let root = FileSystem {
        designator: Designator::Root,
        root_hash,
        salt: Salt(of.salt.clone()),
        data: directory.publish(&of.root),
        fine: None,
        hash_tree: directory.publish(&tree),
        hash_tree_uuid: UUID,
    };
    Manifest {
        format: 1,
        name: "tiny".to_owned(),
        version: of.version.clone(),
        architecture: "x86-64".to_owned(),
        boot: Boot {
            uki: directory.artifact(&of.uki),
            loader: directory.artifact(&of.loader),
            cmdline: format!("roothash={root_hash}{}", of.cmdline_extra),
            cmdline_limit: 2047,
            pcr11: None,
            secure_boot: None,
            watchdog: None,
            unconfirmed: false,
        },
        filesystems: vec![root],
        layout: of.layout.clone(),
    }
}

fn payloads(manifest: &Manifest) -> [&Payload; 6] {
    let (root, boot) = (&manifest.filesystems[0], &manifest.boot);
    let [uki, loader] = [&boot.uki, &boot.loader];
    [&root.data, &root.hash_tree, &uki.data, &uki.hash_tree, &loader.data, &loader.hash_tree]
}

/// Where a payload lies.
pub fn payload_path(payload: &Payload) -> String {
    format!("payloads/{}.zst", payload.sha256)
}

/// Where a target lies.
pub fn target_path(name: &str, bytes: &[u8]) -> String {
    format!("targets/{}.{name}", Digest::of(bytes))
}

impl Ingredients {
    /// A repository with them.
    pub fn publish(&self) -> Published {
        apart(async || make(self).await)
    }
}

impl Published {
    /// The root metadata that a site config holds.
    pub fn trusted_root(&self) -> Value {
        serde_json::from_slice(&self.files["metadata/1.root.json"]).unwrap()
    }

    /// Writes everything to a directory.
    pub fn write_to(&self, directory: &Path) {
        for (path, bytes) in &self.files {
            let path = directory.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
    }

    /// Publishes another manifest for the release, properly signed.
    pub fn with_manifest(mut self, bytes: Vec<u8>) -> Self {
        self.set_target("targets", RELEASE, &bytes);
        self.files.insert(target_path(RELEASE, &bytes), bytes);
        self
    }

    /// Publishes the manifest as it is now.
    pub fn with_changed_manifest(mut self, change: impl FnOnce(&mut Manifest)) -> Self {
        change(&mut self.manifest);
        let bytes = serde_json::to_vec(&self.manifest).unwrap();
        self.with_manifest(bytes)
    }

    /// Publishes another host config, properly signed.
    pub fn with_host(mut self, bytes: Vec<u8>) -> Self {
        self.set_target("hosts", HOST, &bytes);
        self.files.insert(target_path(HOST, &bytes), bytes);
        self
    }

    /// Puts other bytes at the place of a payload.
    pub fn with_payload(mut self, payload: &Payload, change: impl FnOnce(&mut Vec<u8>)) -> Self {
        change(self.files.get_mut(&payload_path(payload)).unwrap());
        self
    }
}
