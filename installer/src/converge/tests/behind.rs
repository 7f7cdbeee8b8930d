//! Reading back behind the writing.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, mpsc};

use super::super::output::Output;
use super::*;
use crate::disk::{Buffer, Disk as _, FileDisk};

/// A disk that reads past the page cache, with the place of `blocks` blocks.
struct Bench {
    path: PathBuf,
    goal: Goal,
    tree: Arc<Tree<metalstrap_release::verity::MemoryStore>>,
    proven: Arc<BlockSet>,
    _directory: tempfile::TempDir,
}

impl Bench {
    fn new(content: &[u8]) -> Self {
        // Beside the test itself: a file system in memory has no direct I/O.
        let directory = tempfile::tempdir_in(std::env::current_exe().unwrap().parent().unwrap()).unwrap();
        let path = directory.path().join("disk");
        fs::write(&path, vec![0; 4 << 20]).unwrap();
        let disk = Arc::new(FileDisk::open(&path, 512).unwrap());
        assert!(disk.direct_file(START, 4096).is_some(), "this file system has no direct I/O");
        let repository = Repository::new();
        let frames = Frames::new(&repository.publish(content), &repository.mirrors());
        let tree = open_tree(content);
        let blocks = content.len() as u64 / BLOCK;
        let expected: Arc<dyn Expected> = Arc::<Tree<_>>::clone(&tree);
        let region = region_on(disk, 3 << 20);
        let goal = Goal::new(frames, &region, expected, 0..blocks, &Progress::default()).unwrap();
        Self { path, goal, tree, proven: Arc::new(BlockSet::new(0..blocks)), _directory: directory }
    }

    fn output(&self) -> Output {
        Output::new(&self.goal, Some(&self.proven)).unwrap()
    }

    /// Reads back until there is nothing to be read.
    fn read_back(&self, output: &Output) -> anyhow::Result<u64> {
        let mut reader = self.tree.as_ref().reader();
        while output.read_a_piece_back(&mut reader)? {}
        Ok(self.proven.len())
    }
}

fn buffer(content: &[u8]) -> Buffer {
    let mut buffer = Buffer::new(content.len());
    buffer.copy_from_slice(content);
    buffer
}

const ENOUGH: u64 = 24 << 20;

#[test]
fn what_a_flush_has_covered_is_read_back() {
    let mut content = bytes(21, 300 << 12);
    content[..8192].fill(0);
    let bench = Bench::new(&content);
    let output = bench.output();
    output.write_zeroes(0..2).unwrap();
    output.write(2, buffer(&content[8192..280 << 12])).unwrap();
    assert_eq!(bench.read_back(&output).unwrap(), 0, "nothing is on stable storage yet");
    output.flush_now_and_then(ENOUGH - 1).unwrap();
    assert_eq!(bench.read_back(&output).unwrap(), 0, "too little has come for a flush");
    output.flush_now_and_then(1).unwrap();
    output.write(280, buffer(&content[280 << 12..])).unwrap();
    assert_eq!(bench.read_back(&output).unwrap(), 280, "the last write came after the flush");
    output.flush_now_and_then(ENOUGH).unwrap();
    assert_eq!(bench.read_back(&output).unwrap(), 300);
    output.drain().unwrap();
}

/// A disk whose flush is held back until the test lets it go on.
struct Gate {
    begun: mpsc::Receiver<()>,
    release: mpsc::Sender<()>,
}

fn gated(content: &[u8]) -> (Gate, Region) {
    let ((tell, begun), (release, held)) = (mpsc::channel(), mpsc::channel());
    let both = Mutex::new((tell, held));
    let judge = move |operation| {
        if operation == Operation::Flush {
            let both = both.lock().unwrap();
            both.0.send(()).unwrap();
            // When the test is over nobody holds it back.
            let _over = both.1.recv();
        }
        None
    };
    let memory = Memory::new(START + content.len() as u64, 512);
    let region = region_on(Arc::new(Faulty::new(Arc::new(memory), judge)), content.len() as u64);
    (Gate { begun, release }, region)
}

#[test]
fn writing_waits_when_too_much_of_it_is_not_on_stable_storage() {
    let content = bytes(24, 8 << 12);
    let bench = Bench::new(&content);
    let (Gate { begun, release }, region) = gated(&content);
    let output = Output::new(&Goal { region, ..bench.goal.clone() }, None).unwrap();
    let (came, done) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let flushing = scope.spawn(|| output.flush_now_and_then(ENOUGH));
        begun.recv().unwrap();
        let writing = scope.spawn(|| {
            for _ in 0..20 {
                came.fetch_add(1 << 20, Ordering::SeqCst);
                output.flush_now_and_then(1 << 20).unwrap();
            }
            done.store(true, Ordering::SeqCst);
        });
        while output.waiting() == 0 && !done.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        // 24 MiB wait for the flush, and 8 more may come meanwhile.
        assert_eq!((came.load(Ordering::SeqCst), done.load(Ordering::SeqCst)), (8 << 20, false));
        release.send(()).unwrap();
        flushing.join().unwrap().unwrap();
        writing.join().unwrap();
    });
    // What has come since is less than a flush is made for.
    assert_eq!((came.load(Ordering::SeqCst), output.waiting()), (20 << 20, 0));
    assert!(begun.try_recv().is_err());
}

#[test]
fn a_flush_that_fails_ends_it() {
    let content = bytes(25, 8 << 12);
    let bench = Bench::new(&content);
    let judge = |operation| (operation == Operation::Flush).then(|| io::Error::from_raw_os_error(5));
    let region = region_on(Arc::new(Faulty::new(Arc::new(Memory::new(START + (1 << 20), 512)), judge)), 1 << 20);
    let output = Output::new(&Goal { region, ..bench.goal.clone() }, None).unwrap();
    output.write(0, buffer(&content)).unwrap();
    let error = output.flush_now_and_then(ENOUGH).unwrap_err();
    let text = "flushing verified blocks: flushing memory: Input/output error (os error 5)";
    assert_eq!((code_of(&error), format!("{error:#}").as_str()), (Code::DiskIo, text));
}

#[test]
fn what_the_drive_lost_is_found_behind_the_writing() {
    let content = bytes(22, 300 << 12);
    let bench = Bench::new(&content);
    let output = bench.output();
    output.write(0, buffer(&content)).unwrap();
    output.flush_now_and_then(ENOUGH).unwrap();
    let drive = OpenOptions::new().write(true).open(&bench.path).unwrap();
    drive.write_all_at(b"rot", START + 270 * 4096).unwrap();
    let error = bench.read_back(&output).unwrap_err();
    let (name, byte) = (bench.path.display(), START + 270 * 4096);
    assert_eq!(code_of(&error), Code::DiskIo);
    assert!(
        format!("{error:#}")
            .starts_with(&format!("{name} did not keep what was written to it at byte {byte}: block 270 has digest "))
    );
}

#[test]
fn a_disk_without_direct_reads_is_left_to_the_step_that_reads_back() {
    let content = bytes(23, 8 << 12);
    let bench = Bench::new(&content);
    let (_, region) = recording(1 << 20);
    let goal = Goal { region, ..bench.goal.clone() };
    let output = Output::new(&goal, Some(&bench.proven)).unwrap();
    output.write(0, buffer(&content)).unwrap();
    output.flush_now_and_then(ENOUGH).unwrap();
    assert_eq!(bench.read_back(&output).unwrap(), 0);
}
