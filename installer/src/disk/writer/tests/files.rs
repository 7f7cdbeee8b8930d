//! Real disks: a plain file, a loop device, a file system that runs full.

use std::path::Path;
use std::{fs, thread};

use super::*;
use crate::disk::{BlockDevice, BufferPool, Identity};
use crate::gpt::tests::Loop;
use crate::not_run::not_run;

const MIB: usize = 1 << 20;

fn file(size: usize) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(as_u64(size)).unwrap();
    file
}

/// Both engines where there are two.
fn writers(region: &Region, depth: usize) -> Vec<Writer> {
    let first = Writer::start(region.clone(), depth).unwrap();
    match first.engine() {
        "io_uring" => vec![first, Writer::start_threads(region.clone(), depth).unwrap()],
        _ => {
            not_run("by io_uring, which this kernel or file system does not have");
            vec![first]
        }
    }
}

/// Fills a region of 16 MiB less half a page by four threads with few buffers, and gives what must be there.
fn fill(writer: Writer, seed: u8) -> Vec<u8> {
    let pool = BufferPool::new(6, MIB);
    let size = 16 * MIB - 2048;
    let oracle: Vec<u8> = (0..size).map(|at| u8::try_from(at / 4096 % 251).unwrap() ^ seed).collect();
    thread::scope(|scope| {
        for first in 0..4 {
            let (writer, pool, oracle) = (&writer, &pool, &oracle);
            scope.spawn(move || {
                // Lengths that are whole pages and such that are not, which go through the page cache.
                for (index, piece) in oracle.chunks(MIB - 64 * 1024).enumerate().skip(first).step_by(4) {
                    let mut buffer = pool.take();
                    buffer.truncate(piece.len());
                    buffer.copy_from_slice(piece);
                    writer.write(as_u64(index * (MIB - 64 * 1024)), buffer).unwrap();
                }
            });
        }
    });
    writer.drain().unwrap();
    assert_eq!(writer.completed(), as_u64(size));
    writer.write_zeroes(8192, 4096).unwrap();
    writer.drain().unwrap();
    let mut oracle = oracle;
    oracle[8192..12288].fill(0);
    oracle
}

fn fills(disk: Arc<dyn Disk>, backing: &Path) {
    let region = Region { disk, start: 4096, size: as_u64(16 * MIB - 2048) };
    for (seed, writer) in (0..).zip(writers(&region, 8)) {
        let engine = writer.engine();
        let oracle = fill(writer, seed);
        region.disk.flush().unwrap();
        let mut found = Buffer::new(oracle.len());
        region.read_at(0, &mut found).unwrap();
        assert!(found[..] == oracle[..], "by {engine}");
        let file = fs::read(backing).unwrap();
        assert!(file[4096..4096 + oracle.len()] == oracle[..], "by {engine}, in the file behind");
        assert!(file[..4096].iter().chain(&file[4096 + oracle.len()..]).all(|byte| *byte == 0), "by {engine}, outside");
    }
}

#[test]
fn a_plain_file_is_filled_from_many_threads() {
    let file = file(17 * MIB);
    fills(Arc::new(FileDisk::open(file.path(), 512).unwrap()), file.path());
}

#[test]
fn a_block_device_is_filled_from_many_threads() {
    let file = file(17 * MIB);
    let Some(device) = Loop::attach(file.path(), 512) else { return };
    let identity = Identity { size: as_u64(17 * MIB), ..Identity::default() };
    let disk = BlockDevice::open(Path::new(&device.0), &identity, Path::new("/sys")).unwrap();
    fills(Arc::new(disk), file.path());
}

#[test]
fn the_plan_and_the_ranges_hold_for_every_engine() {
    let file = file(MIB);
    let name = file.path().display().to_string();
    let disk = Arc::new(FileDisk::open(file.path(), 512).unwrap());
    let guarded: Arc<dyn Disk> = Arc::new(Guarded::new(disk, std::iter::once(0..65536)));
    let region = Region { disk: guarded, start: 0, size: as_u64(MIB) };
    let outside = format!("writing bytes 61440 to 69632 of {name}: the plan does not write there");
    let part = format!("writing bytes 0 to 100 of {name}: the range is not whole sectors");
    for (offset, length, expected) in [(61440, 8192, outside), (0, 100, part)] {
        for writer in writers(&region, 4) {
            let engine = writer.engine();
            let _ = writer.write(offset, filled(length, 1));
            assert_eq!(text(writer.drain().unwrap_err()), expected, "by {engine}");
        }
    }
    assert!(fs::read(file.path()).unwrap().iter().all(|byte| *byte == 0));
}

#[test]
fn the_identity_is_checked_before_the_first_write_of_every_engine() {
    let (file, sys) = (file(MIB), tempfile::tempdir().unwrap());
    let Some(device) = Loop::attach(file.path(), 512) else { return };
    let path = Path::new(&device.0);
    let number = std::os::unix::fs::MetadataExt::rdev(&fs::metadata(path).unwrap());
    let number = format!("{}:{}", nix::sys::stat::major(number), nix::sys::stat::minor(number));
    let block = sys.path().join("dev/block").join(number);
    fs::create_dir_all(&block).unwrap();
    let identity = Identity { serial: Some("A".into()), size: as_u64(MIB), ..Identity::default() };
    for engine in 0..2 {
        fs::write(block.join("serial"), "A").unwrap();
        let disk: Arc<dyn Disk> = Arc::new(BlockDevice::open(path, &identity, sys.path()).unwrap());
        let writer = writers(&all(disk), 4).swap_remove(engine);
        // Only now, when the queue runs already.
        fs::write(block.join("serial"), "B").unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        let expected = format!(
            "writing bytes 0 to 4096 of {name} (serial A): the disk is not the chosen one: it has serial B, not A"
        );
        let _ = writer.write(0, filled(4096, 1));
        assert_eq!(text(writer.drain().unwrap_err()), expected);
    }
    assert!(fs::read(file.path()).unwrap().iter().all(|byte| *byte == 0));
}

#[test]
fn an_error_of_the_kernel_names_the_disk_and_the_range() {
    if !nix::unistd::Uid::effective().is_root() {
        return not_run("only root can mount a file system that is too small");
    }
    let directory = tempfile::tempdir().unwrap();
    let mount = sys_mount::Mount::builder().fstype("tmpfs").data("size=64k");
    let mount = mount.mount_autodrop("tmpfs", directory.path(), sys_mount::UnmountFlags::DETACH).unwrap();
    let path = directory.path().join("disk");
    fs::File::create(&path).unwrap().set_len(as_u64(MIB)).unwrap();
    let disk: Arc<dyn Disk> = Arc::new(FileDisk::open(&path, 512).unwrap());
    for writer in writers(&all(disk.clone()), 4) {
        let engine = writer.engine();
        writer.write(0, filled(65536, 1)).unwrap();
        writer.drain().unwrap();
        let _ = writer.write(131_072, filled(8192, 1));
        let expected =
            format!("writing bytes 131072 to 139264 of {}: No space left on device (os error 28)", path.display());
        assert_eq!(text(writer.drain().unwrap_err()), expected, "by {engine}");
        assert_eq!(text(writer.write(0, filled(4096, 1)).unwrap_err()), expected, "by {engine}");
        assert_eq!(writer.completed(), 65536);
    }
    drop((disk, mount));
}

#[test]
fn a_writer_that_is_dropped_waits_for_what_is_under_way() {
    let file = file(17 * MIB);
    let region = all(Arc::new(FileDisk::open(file.path(), 512).unwrap()));
    let pool = BufferPool::new(16, MIB);
    for writer in writers(&region, 16) {
        let buffers: Vec<_> = (0..16).map(|_| pool.take()).collect();
        for (index, buffer) in buffers.into_iter().enumerate() {
            writer.write(as_u64(index * MIB), buffer).unwrap();
        }
        drop(writer);
        assert_eq!(format!("{pool:?}"), "BufferPool { shelf: Shelf { capacity: 1048576, idle: 16, unmade: 0 } }");
    }
}
