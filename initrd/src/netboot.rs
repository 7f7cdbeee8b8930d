//! The netboot image: one UKI that a machine boots from the network.
//!
//! Its initrd is three archives one after the other: drivers, installer, site config. The first two are kept, so
//! that an image for another site takes seconds.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use metalstrap_release::digest::Digest;

use crate::cpio::Archive;
use crate::drivers::Drivers;
use crate::image::{Cache, compress};
use crate::kernel::Kernel;
use crate::modules::{NEEDED, Selection};
use crate::uki::{BootTools, Uki};

/// The kernel command line of every netboot image. `panic=30`: a kernel that panics reboots; both consoles: the last
/// one named is the one that the kernel prints to without asking.
pub const CMDLINE: &str = "panic=30 loglevel=4 console=tty0 console=ttyS0,115200";

/// Where the site config lies in the initrd.
pub const SITE: &str = "etc/metalstrap/site.json";
/// Where the time of the build lies, as decimal seconds of Unix time: the clock is set to no less.
pub const BUILD_TIME: &str = "etc/metalstrap/build-time";

/// What a netboot image is made of.
#[derive(Debug, Clone)]
pub struct NetbootOptions {
    /// The kernel and its modules.
    pub kernel: Kernel,
    /// The static installer binary; it becomes `/init`.
    pub installer: PathBuf,
    /// The site config, as it is.
    pub site: Vec<u8>,
    /// Seconds of Unix time.
    pub build_time: u64,
    /// ukify and the stub.
    pub tools: BootTools,
    /// Goes behind [`CMDLINE`].
    pub cmdline_extra: String,
    /// Path without leading slash, mode and bytes of further files.
    pub extra_files: Vec<(String, u32, Vec<u8>)>,
    /// Where finished archives are kept, if anywhere.
    pub cache: Option<PathBuf>,
    /// The UKI; kernel command line and initrd are written beside it with the endings `.cmdline` and `.initrd`.
    pub output: PathBuf,
}

/// Bytes of the parts of a netboot image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetbootSizes {
    /// The kernel image.
    pub kernel: u64,
    /// The initrd: `drivers`, `installer` and `site`.
    pub initrd: u64,
    /// The archive of drivers, compressed.
    pub drivers: u64,
    /// The archive of the installer, compressed.
    pub installer: u64,
    /// The archive of the site config, compressed.
    pub site: u64,
    /// The UKI.
    pub uki: u64,
    /// Class, number of modules, and their bytes as the kernel package has them (each compressed for itself).
    pub classes: Vec<(String, usize, u64)>,
    /// Patterns of the driver list that took nothing from this kernel.
    pub unmatched: Vec<String>,
}

/// Makes the netboot image. The same options give the same bytes.
///
/// # Errors
///
/// A part that cannot be read, or ukify's words.
pub fn netboot(options: &NetbootOptions) -> Result<NetbootSizes> {
    let selection = Selection::new(&options.kernel, &Drivers::standard()?)?;
    let parts @ [drivers, installer, site] = &archives(options, &selection)?;
    let (initrd, cmdline) = (options.output.with_extension("initrd"), cmdline(options));
    write(&initrd, &parts.concat())?;
    write(&options.output.with_extension("cmdline"), cmdline.as_bytes())?;
    let uki = Uki {
        linux: &options.kernel.vmlinuz,
        initrd: &initrd,
        cmdline: &cmdline,
        uname: &options.kernel.version,
        os_release: "ID=metalstrap\nNAME=metalstrap\nPRETTY_NAME=\"metalstrap netboot installer\"\n",
    };
    options.tools.assemble(&uki, &options.output)?;
    Ok(NetbootSizes {
        kernel: size(&options.kernel.vmlinuz)?,
        initrd: size(&initrd)?,
        drivers: drivers.len().try_into()?,
        installer: installer.len().try_into()?,
        site: site.len().try_into()?,
        uki: size(&options.output)?,
        classes: by_class(&options.kernel, &selection)?,
        unmatched: selection.unmatched,
    })
}

/// The archives of drivers, installer and site config, compressed, in the order in which they lie in the initrd.
fn archives(options: &NetbootOptions, selection: &Selection) -> Result<[Vec<u8>; 3]> {
    let site = compress(&site_archive(options)?.to_bytes())?;
    Ok([drivers_archive(options, selection)?, installer_archive(options)?, site])
}

fn cmdline(options: &NetbootOptions) -> String {
    format!("{CMDLINE} {}", options.cmdline_extra).trim().to_owned()
}

/// Directories, the console that the kernel opens for init, and the modules.
fn drivers_archive(options: &NetbootOptions, selection: &Selection) -> Result<Vec<u8>> {
    let make = || {
        let mut archive = Archive::new();
        for (path, mode) in [("dev", 0o755), ("proc", 0o555), ("sys", 0o555), ("run", 0o755), ("tmp", 0o1777)] {
            archive.directory(path, mode)?;
        }
        archive.character_device("dev/console", 0o600, 5, 1)?;
        selection.put(&options.kernel, &mut archive)?;
        compress(&archive.to_bytes())
    };
    let Some(cache) = &options.cache else { return make() };
    // The source of this library is part of what the archive is made of.
    let mut key = format!("{}\n{}\n", Digest::of(include_bytes!("netboot.rs")), options.kernel.version);
    for file in selection.modules.keys() {
        let path = options.kernel.modules.join(file);
        let bytes = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        key += &format!("{file} {}\n", Digest::of(&bytes));
    }
    key += &format!("{:?} {}", selection.load, Digest::of(include_bytes!("modules.rs")));
    Cache::new(cache).get(&Digest::of(key.as_bytes()), make)
}

fn installer_archive(options: &NetbootOptions) -> Result<Vec<u8>> {
    let installer = std::fs::read(&options.installer)
        .with_context(|| format!("reading the installer {}", options.installer.display()))?;
    let digest = Digest::of(&installer);
    let make = || {
        let mut archive = Archive::new();
        archive.file("init", 0o755, installer)?;
        compress(&archive.to_bytes())
    };
    match &options.cache {
        Some(cache) => Cache::new(cache).get(&Digest::of(format!("init {digest}").as_bytes()), make),
        None => make(),
    }
}

fn site_archive(options: &NetbootOptions) -> Result<Archive> {
    let mut archive = Archive::new();
    archive.file(SITE, 0o644, options.site.clone())?;
    archive.file(BUILD_TIME, 0o644, format!("{}\n", options.build_time).into_bytes())?;
    for (path, mode, bytes) in &options.extra_files {
        archive.file(path, *mode, bytes.clone())?;
    }
    Ok(archive)
}

fn by_class(kernel: &Kernel, selection: &Selection) -> Result<Vec<(String, usize, u64)>> {
    let mut sums: BTreeMap<&str, (usize, u64)> = BTreeMap::new();
    for (file, class) in &selection.modules {
        let sum = sums.entry(class).or_default();
        *sum = (sum.0 + 1, sum.1 + size(&kernel.modules.join(file))?);
    }
    let needed = sums.remove_entry(NEEDED);
    Ok(sums.into_iter().chain(needed).map(|(class, (count, bytes))| (class.to_owned(), count, bytes)).collect())
}

fn size(path: &Path) -> Result<u64> {
    Ok(std::fs::metadata(path).with_context(|| format!("reading {}", path.display()))?.len())
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(path, bytes).with_context(|| format!("writing {}", path.display()))
}

impl fmt::Display for NetbootSizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<18} {:>8} {:>12}", "modules of class", "number", "bytes (.xz)")?;
        for (class, count, bytes) in &self.classes {
            writeln!(f, "{class:<18} {count:>8} {bytes:>12}")?;
        }
        for (part, bytes) in [
            ("drivers, packed", self.drivers),
            ("installer, packed", self.installer),
            ("site, packed", self.site),
            ("initrd", self.initrd),
            ("kernel", self.kernel),
            ("UKI", self.uki),
        ] {
            writeln!(f, "{part:<18} {:>8} {bytes:>12}", "")?;
        }
        for pattern in &self.unmatched {
            writeln!(f, "not in this kernel, or built in: {pattern}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// A kernel of one driver, compressed as Debian does.
    fn kernel(root: &Path) -> Kernel {
        let modules = root.join("lib/modules/6.12.1");
        std::fs::create_dir_all(modules.join("kernel/drivers/block")).unwrap();
        let write = |name: &str, text: &str| std::fs::write(modules.join(name), text).unwrap();
        write("kernel/drivers/block/virtio_blk.ko", "a module");
        assert!(Command::new("xz").arg(modules.join("kernel/drivers/block/virtio_blk.ko")).status().unwrap().success());
        write("modules.dep", "kernel/drivers/block/virtio_blk.ko.xz:\n");
        write("modules.alias", "alias virtio:d00000002v* virtio_blk\n");
        write("modules.softdep", "");
        write("modules.builtin", "kernel/net/packet/af_packet.ko\nkernel/fs/efivarfs/efivarfs.ko\n");
        Kernel { version: "6.12.1".into(), vmlinuz: root.join("vmlinuz"), modules }
    }

    fn options(root: &Path) -> NetbootOptions {
        std::fs::write(root.join("installer"), "an installer").unwrap();
        let tool = PathBuf::new;
        NetbootOptions {
            kernel: kernel(root),
            installer: root.join("installer"),
            site: b"{}".to_vec(),
            build_time: 1_760_000_000,
            tools: BootTools { ukify: tool(), python: tool(), stub: tool(), loader: tool() },
            cmdline_extra: String::new(),
            extra_files: vec![("saboteur".into(), 0o755, b"extra".to_vec())],
            cache: None,
            output: root.join("netboot.efi"),
        }
    }

    fn made(options: &NetbootOptions) -> [Vec<u8>; 3] {
        archives(options, &Selection::new(&options.kernel, &Drivers::standard().unwrap()).unwrap()).unwrap()
    }

    fn unpack(archive: &[u8], dir: &Path) {
        std::fs::write(dir.join("a.zst"), archive).unwrap();
        let script = "{ zstd -dcq a.zst || true; } 2>/dev/null | cpio -i --quiet && rm a.zst";
        assert!(Command::new("sh").args(["-c", script]).current_dir(dir).status().unwrap().success());
    }

    #[test]
    fn the_same_parts_give_the_same_bytes_kept_or_not() {
        let dir = tempfile::tempdir().unwrap();
        let mut options = options(dir.path());
        let first = made(&options);
        assert_eq!(made(&options), first);
        options.cache = Some(dir.path().join("cache"));
        assert_eq!(made(&options), first);
        assert_eq!(std::fs::read_dir(dir.path().join("cache")).unwrap().count(), 2);
        options.site = b"{ }".to_vec();
        std::fs::write(&options.installer, "another installer").unwrap();
        let other = made(&options);
        assert_eq!(other[0], first[0]);
        assert!(other[1] != first[1] && other[2] != first[2]);
    }

    #[test]
    fn the_initrd_holds_what_the_installer_looks_for() {
        let dir = tempfile::tempdir().unwrap();
        let root = tempfile::tempdir().unwrap();
        made(&options(dir.path())).iter().for_each(|archive| unpack(archive, root.path()));
        let text = |path: &str| std::fs::read_to_string(root.path().join(path)).unwrap();
        assert_eq!(text("init"), "an installer");
        assert_eq!(text(SITE), "{}");
        assert_eq!(text(BUILD_TIME), "1760000000\n");
        assert_eq!(text("saboteur"), "extra");
        assert_eq!(text("lib/modules/always-load"), "");
        assert_eq!(text("lib/modules/6.12.1/kernel/drivers/block/virtio_blk.ko"), "a module");
        assert_eq!(text("lib/modules/6.12.1/modules.dep"), "kernel/drivers/block/virtio_blk.ko:\n");
        for directory in ["dev", "proc", "sys", "run", "tmp"] {
            assert!(root.path().join(directory).is_dir(), "{directory}");
        }
    }

    #[test]
    fn the_command_line_goes_on_with_what_is_added() {
        let dir = tempfile::tempdir().unwrap();
        let mut options = options(dir.path());
        assert_eq!(cmdline(&options), "panic=30 loglevel=4 console=tty0 console=ttyS0,115200");
        options.cmdline_extra = "rdinit=/saboteur".into();
        assert_eq!(cmdline(&options), "panic=30 loglevel=4 console=tty0 console=ttyS0,115200 rdinit=/saboteur");
    }
}
