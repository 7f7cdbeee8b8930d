//! The archives that the initrd is made of.
//!
//! The kernel unpacks one after the other, so what seldom changes (drivers, then the installer) comes first and is
//! kept compressed: an image for another site takes seconds.

use anyhow::{Context, Result, anyhow};
use metalstrap_release::digest::Digest;

use crate::cpio::Archive;
use crate::image::{Cache, compress};
use crate::modules::Selection;
use crate::netboot::NetbootOptions;

/// Where the site config lies in the initrd.
pub const SITE: &str = "etc/metalstrap/site.json";
/// Where the time of the build lies, as decimal seconds of Unix time: the clock is set to no less.
pub const BUILD_TIME: &str = "etc/metalstrap/build-time";

/// The archives of drivers, installer and site config, compressed, in the order in which they lie in the initrd.
///
/// # Errors
///
/// A part that cannot be read.
pub fn archives(options: &NetbootOptions, selection: &Selection) -> Result<[Vec<u8>; 3]> {
    let site = compress(&site_archive(options)?.to_bytes())?;
    // Side by side: each takes seconds where it is not kept.
    let (drivers, installer) = std::thread::scope(|scope| {
        let installer = scope.spawn(|| installer_archive(options));
        (drivers_archive(options, selection), installer.join())
    });
    let installer = installer.map_err(|_| anyhow!("the thread that packs the installer died"))??;
    Ok([drivers?, installer, site])
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
    let mut key = format!("{} {} {:?}\n", recipe(), options.kernel.version, selection.load);
    for file in selection.modules.keys() {
        let path = options.kernel.modules.join(file);
        let bytes = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        key += &format!("{file} {}\n", Digest::of(&bytes));
    }
    for (name, text) in selection.indexes() {
        key += &format!("{name} {}\n", Digest::of(text.as_bytes()));
    }
    Cache::new(cache).get(&Digest::of(key.as_bytes()), make)
}

fn installer_archive(options: &NetbootOptions) -> Result<Vec<u8>> {
    let installer = std::fs::read(&options.installer)
        .with_context(|| format!("reading the installer {}", options.installer.display()))?;
    let mut archive = Archive::new();
    archive.file("init", 0o755, installer)?;
    compress(&archive.to_bytes())
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

/// Names the way in which archives are made: an archive kept by another version of this source is not taken.
fn recipe() -> Digest {
    let sources =
        [include_str!("parts.rs"), include_str!("modules.rs"), include_str!("cpio.rs"), include_str!("image.rs")];
    Digest::of(sources.concat().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drivers::Drivers;
    use crate::kernel::Kernel;
    use crate::uki::BootTools;
    use std::path::{Path, PathBuf};
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
        assert_eq!(std::fs::read_dir(dir.path().join("cache")).unwrap().count(), 1);
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
}
