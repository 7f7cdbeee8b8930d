//! The repository that metalstrap installs from: one release and one host config an image.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{BufWriter, ErrorKind, Read as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use metalstrap_initrd::uki::Uki;
use metalstrap_initrd::{BootTools, Kernel};
use metalstrap_release::manifest::Manifest;
use metalstrap_release::payload::CompressOptions;
use metalstrap_release::verity;
use uuid::Uuid;

use crate::image::{Image, level};
use crate::programs::{ours, output, run};

/// All releases have one salt, as those of mkosi with a fixed seed have.
const SALT: [u8; 32] = *b"salt of all of the bench's trees";
/// The kernel of every UKI is cut off behind its boot header: it is installed, never started, and peers have none.
const KERNEL_BYTES: u64 = 1 << 20;
/// Name of the releases.
const NAME: &str = "bench";
/// Bytes of the ESP.
const ESP: u64 = 512 << 20;
const MIB: u64 = 1 << 20;

/// A signed repository.
#[derive(Debug)]
pub struct Repository {
    /// Its path below the web server's root.
    pub path: String,
    dir: PathBuf,
    keys: PathBuf,
    built: PathBuf,
    metalstrap: PathBuf,
    /// zstd's level.
    level: i32,
}

/// What the disk is to have room for.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    /// Slots.
    pub slots: u32,
    /// Bytes of an image at most.
    pub root: u64,
}

impl Layout {
    /// The data partition of a slot.
    fn root_size(self) -> u64 {
        self.root.next_multiple_of(MIB).max(256 * MIB)
    }

    /// Bytes of a disk that holds it.
    pub fn disk_size(self) -> u64 {
        let root = self.root_size();
        ESP + u64::from(self.slots) * (root + root / 100 + 2 * MIB) + 64 * MIB
    }
}

/// Makes keys in `keys` once: those of the repository and, in `keys/tls`, those of the server.
///
/// # Errors
/// The command's words.
pub fn keys(keys: &Path, addresses: &[&str]) -> Result<PathBuf> {
    let (metalstrap, tls) = (ours("metalstrap")?, keys.join("tls"));
    if !keys.join("root.pem").exists() {
        run(&metalstrap, ["keygen".as_ref(), "--keys".as_ref(), keys.as_os_str()])?;
    }
    if !tls.join("server.pem").exists() {
        let words: [&OsStr; 5] =
            ["keygen".as_ref(), "--tls".as_ref(), "bench.test".as_ref(), "--keys".as_ref(), tls.as_os_str()];
        run(
            &metalstrap,
            words.into_iter().chain(addresses.iter().flat_map(|ip| ["--tls-ip".as_ref(), OsStr::new(ip)])),
        )?;
    }
    Ok(tls)
}

impl Repository {
    /// Opens the repository below `served` that is for the compression that `publish` uses now; signs it anew if it is there.
    ///
    /// # Errors
    /// The command's words.
    pub fn open(served: &Path, keys: &Path, built: &Path) -> Result<Self> {
        let path = format!("repository-l{}-f{}", level(), CompressOptions::default().frame_size);
        Self::at(served, path, keys, built, level())
    }

    /// An empty one of its own for another level: what it publishes is made, whatever there was before.
    ///
    /// # Errors
    /// An old one cannot be removed.
    pub fn at_level(served: &Path, keys: &Path, built: &Path, level: i32) -> Result<Self> {
        let path = format!("repository-of-level-{level}");
        remove(&served.join(&path))?;
        Self::at(served, path, keys, built, level)
    }

    fn at(served: &Path, path: String, keys: &Path, built: &Path, level: i32) -> Result<Self> {
        let dir = served.join(&path);
        let metalstrap = ours("metalstrap")?;
        if dir.join("metadata").exists() {
            let words: [&OsStr; 5] =
                ["refresh".as_ref(), "--keys".as_ref(), keys.as_os_str(), "--repository".as_ref(), dir.as_os_str()];
            run(&metalstrap, words)?;
        }
        Ok(Self { path, dir, keys: keys.to_owned(), built: built.to_owned(), metalstrap, level })
    }

    /// Publishes `image`, and a host config `serial-NAME` that gives it to a machine; nothing if it has been.
    ///
    /// # Errors
    /// The command's words.
    pub fn publish(&self, image: &Image, layout: Layout) -> Result<()> {
        let stamp = image.dir.join(format!("published-{}-{}-{}", self.path, layout.slots, layout.root));
        if stamp.exists() && self.dir.exists() {
            return Ok(());
        }
        self.publish_again(image, layout)?;
        fs::write(&stamp, "").with_context(|| format!("writing {}", stamp.display()))
    }

    /// The same, whether it has been published or not.
    ///
    /// # Errors
    /// The command's words.
    pub fn publish_again(&self, image: &Image, layout: Layout) -> Result<()> {
        eprintln!("==> publishing the image {}", image.name);
        let (tree, uki) = (image.dir.join("root.verity.raw"), image.dir.join("uki.efi"));
        let root_hash = hash_tree(image, &tree)?;
        let tools = BootTools::find(&self.built.join("boot-tools"))?;
        self.uki(&tools, image, &root_hash, &uki)?;
        let sizes = [layout.slots.to_string(), layout.root_size().to_string(), self.level.to_string()];
        let options: [(&str, &OsStr); 11] = [
            ("--level", sizes[2].as_ref()),
            ("--name", NAME.as_ref()),
            ("--version", image.name.as_ref()),
            ("--root", &image.root().into_os_string()),
            ("--verity", tree.as_os_str()),
            ("--uki", uki.as_os_str()),
            ("--loader", tools.loader.as_os_str()),
            ("--layout-slots", sizes[0].as_ref()),
            ("--layout-root-size", sizes[1].as_ref()),
            ("--layout-free-size", "16M".as_ref()),
            ("--layout-esp-size", "512M".as_ref()),
        ];
        self.sign(&["publish".into()], &options)?;
        let host = format!("serial-{}", image.name);
        let wipe = ["--existing", "wipe", "--intent", "bench"];
        let words = ["host", "add", &host, "--release", NAME, &image.name].into_iter().chain(wipe);
        self.sign(&words.map(Into::into).collect::<Vec<OsString>>(), &[])
    }

    /// Removes all of it.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn remove(self) -> Result<()> {
        remove(&self.dir)
    }

    /// Writes the site config for machines that reach the server as `address`.
    ///
    /// # Errors
    /// The command's words.
    pub fn site(&self, address: &str, tls: &Path, to: &Path) -> Result<()> {
        let (url, ca) = (format!("https://{address}/{}", self.path), tls.join("ca.pem"));
        let words: [&OsStr; 7] = [
            "site".as_ref(),
            "--repository-url".as_ref(),
            url.as_ref(),
            "--keys".as_ref(),
            self.keys.as_os_str(),
            "--ca".as_ref(),
            ca.as_os_str(),
        ];
        fs::write(to, output(&self.metalstrap, words)?).with_context(|| format!("writing {}", to.display()))
    }

    /// Where the payload of the root file system of `image` lies, by its manifest.
    ///
    /// # Errors
    /// It was not published.
    pub fn payload(&self, image: &Image) -> Result<PathBuf> {
        let (targets, end) = (self.dir.join("targets"), format!(".{NAME}_{}.json", image.name));
        let listing = || format!("finding the manifest of {} in {}", image.name, targets.display());
        let mut files = fs::read_dir(&targets).with_context(listing)?.filter_map(Result::ok).map(|entry| entry.path());
        let path = files.find(|path| path.to_string_lossy().ends_with(&end)).with_context(listing)?;
        let manifest = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        let digest = Manifest::parse(&manifest)?.root()?.data.sha256;
        Ok(self.dir.join("payloads").join(format!("{digest}.zst")))
    }

    fn sign(&self, verb: &[OsString], options: &[(&str, &OsStr)]) -> Result<()> {
        let ends = [("--repository", self.dir.as_os_str()), ("--keys", self.keys.as_os_str())];
        let options = options.iter().chain(&ends).flat_map(|(name, value)| [OsStr::new(*name), *value]);
        run(&self.metalstrap, verb.iter().map(OsString::as_os_str).chain(options))
    }

    fn uki(&self, tools: &BootTools, image: &Image, root_hash: &str, to: &Path) -> Result<()> {
        let kernel = Kernel::find(&self.built.join("kernels/cloud"))?;
        let (linux, initrd) = (image.dir.join("linux"), image.dir.join("initrd"));
        let mut head = Vec::new();
        let file = File::open(&kernel.vmlinuz).with_context(|| format!("reading {}", kernel.vmlinuz.display()))?;
        file.take(KERNEL_BYTES).read_to_end(&mut head).context("reading the kernel")?;
        fs::write(&linux, head).context("writing the kernel's head")?;
        fs::write(&initrd, [0; 512]).context("writing an empty initrd")?;
        let cmdline = format!("roothash={root_hash} gpt");
        let os_release = "ID=metalstrap-bench\nNAME=bench\n";
        let uki = Uki { linux: &linux, initrd: &initrd, cmdline: &cmdline, uname: &kernel.version, os_release };
        tools.assemble(&uki, to)
    }
}

/// Removes a directory with all in it, if it is there.
fn remove(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", dir.display()))
        }
        _ => Ok(()),
    }
}

fn hash_tree(image: &Image, to: &Path) -> Result<String> {
    let making = || format!("making the hash tree {}", to.display());
    let mut data = File::open(image.root()).with_context(making)?;
    let mut out = BufWriter::new(File::create(to).with_context(making)?);
    let root_hash =
        verity::build(&mut data, image.blocks(), &SALT, Uuid::from_u128(1), &mut out).with_context(making)?;
    out.flush().with_context(making)?;
    Ok(root_hash.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_older_run_left_is_removed_and_nothing_is_no_fault() {
        let dir = tempfile::tempdir().unwrap();
        let old = dir.path().join("repository-of-level-12");
        fs::create_dir_all(old.join("payloads")).unwrap();
        fs::write(old.join("payloads/a.zst"), "old").unwrap();
        remove(&old).unwrap();
        assert!(!old.exists());
        remove(&old).unwrap();
    }

    #[test]
    fn a_disk_has_room_for_esp_slots_and_trees() {
        assert_eq!(Layout { slots: 1, root: 1 << 30 }.disk_size(), (512 + 1024 + 2 + 64) * MIB + (1 << 30) / 100);
        assert_eq!(Layout { slots: 2, root: 1 }.root_size(), 256 * MIB);
    }
}
