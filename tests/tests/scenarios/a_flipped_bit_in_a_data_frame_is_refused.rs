//! One bit of a data frame is another one than was published: the block is named, and it is not written.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use metalstrap_qemu::{Exit, minutes};
use metalstrap_release::digest::Digest;
use metalstrap_release::manifest::FileSystem;
use metalstrap_release::payload::FrameDecoder;
use metalstrap_release::seek_table::SeekTable;
use metalstrap_tests::release::Target;
use metalstrap_tests::scene::{DISK, LONG, Scene};

const BLOCK: usize = 4096;

/// A bit was flipped: what the installer has to say of it.
struct Flipped {
    block: u64,
    found: Digest,
    expected: Digest,
    /// What the block would be on the disk.
    wrong: Vec<u8>,
}

#[test]
fn a_flipped_bit_in_a_data_frame_is_refused() {
    let mut scene = Scene::new("flipped", Target::Tiny).unwrap();
    scene.site.reboot_on_failure_after = Some(3);
    let root = scene.manifest().unwrap().root().unwrap().clone();
    let path = format!("payloads/{}.zst", root.data.sha256);
    let flipped = flip(&scene.published.repository.join(&path), &root);

    let mut machine = scene.start(DISK, |builder| builder).unwrap();
    machine.serial().wait_for("*** INSTALLATION FAILED: corrupt ***", LONG).unwrap();
    assert_eq!(machine.wait_exit(minutes(2)).unwrap(), Exit::Reset);

    let Flipped { block, found, expected, wrong } = flipped;
    let happened = format!(
        "writing the root file system: {path} from {} is corrupt at byte {} of its content: \
         block {block} has digest {found}, but the hash tree says {expected}",
        scene.site.repository,
        block * BLOCK as u64,
    );
    let reported = scene.reported("failed", minutes(1)).unwrap();
    assert_eq!(reported["happened"], happened);
    assert_eq!(reported["code"], "corrupt");
    assert_eq!(reported["step"], "root");
    assert_eq!(
        reported["untouched"],
        "No disk but vda (serial SCENE-1) was written to. What is on vda (serial SCENE-1) is not complete and does not boot."
    );
    assert!(machine.serial().text().contains(&format!("What happened: {happened}")));
    let disk = File::open(machine.disk(0).unwrap()).unwrap();
    let mut piece = vec![0; 1 << 20];
    for at in (0..DISK).step_by(piece.len()) {
        disk.read_exact_at(&mut piece, at).unwrap();
        assert!(!piece.chunks(BLOCK).any(|written| written == wrong), "the wrong block was written to the disk");
    }
    disk.read_exact_at(&mut piece[..8], 512).unwrap();
    assert_ne!(&piece[..8], b"EFI PART", "the disk got a partition table");
    drop(machine);
    scene.passed().unwrap();
}

/// Flips the first bit, from the middle of the largest frame on (others may be zeroes, which nobody fetches), after which
/// the frame still decompresses: the hash tree, not zstd, has to find it.
fn flip(payload: &Path, root: &FileSystem) -> Flipped {
    let bytes = fs::read(payload).unwrap();
    let table = &bytes[bytes.len() - usize::try_from(root.data.seek_table_size).unwrap()..];
    let table = SeekTable::parse(table, &root.data).unwrap();
    let frame = table.frames().iter().rev().max_by_key(|frame| frame.size).unwrap();
    let (start, size) = (usize::try_from(frame.offset).unwrap(), usize::try_from(frame.size).unwrap());
    let mut decoder = FrameDecoder::new();
    let (mut right, mut wrong) = (Vec::new(), Vec::new());
    decoder.decode(frame, &bytes[start..start + size], &mut right).unwrap();
    let undetected = |at: &usize| {
        let mut changed = bytes[start..start + size].to_vec();
        changed[*at] ^= 1;
        decoder.decode(frame, &changed, &mut wrong).is_ok() && wrong != right
    };
    let at = (size / 2..size).find(undetected).ok_or("zstd notices every flipped bit").unwrap();
    let file = fs::File::options().write(true).open(payload).unwrap();
    file.write_all_at(&[bytes[start + at] ^ 1], frame.offset + at as u64).unwrap();
    let index = (0..).find(|index| differs(&right, &wrong, *index)).unwrap();
    let block = |content: &[u8]| content[index * BLOCK..(index + 1) * BLOCK].to_vec();
    let digest = |content: &[u8]| Digest::salted(&root.salt.0, &block(content));
    Flipped {
        block: frame.content_offset / BLOCK as u64 + index as u64,
        found: digest(&wrong),
        expected: digest(&right),
        wrong: block(&wrong),
    }
}

fn differs(right: &[u8], wrong: &[u8], index: usize) -> bool {
    right[index * BLOCK..(index + 1) * BLOCK] != wrong[index * BLOCK..(index + 1) * BLOCK]
}
