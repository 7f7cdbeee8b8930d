//! Reading back behind the writing.

use std::fs::{self, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, mpsc};

use super::super::budget::Share;
use super::super::fill::fill;
use super::super::output::Output;
use super::*;
use crate::disk::{Buffer, Disk, FileDisk};
use crate::fetch::{DirectorySource, Fetching};

/// A disk that reads past the page cache, with the place of `blocks` blocks.
struct Bench {
    path: PathBuf,
    goal: Goal,
    tree: Arc<Tree<metalstrap_release::verity::MemoryStore>>,
    proven: Arc<BlockSet>,
    repository: Repository,
    payload: Payload,
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
        let (repository, tree, region) = (Repository::new(), open_tree(content), region_on(disk, 3 << 20));
        let payload = repository.publish(content);
        let goal = goal_of(&payload, &repository.mirrors(), &tree, &region, &Progress::default());
        let proven = Arc::new(BlockSet::new(goal.blocks.clone()));
        Self { path, goal, tree, proven, repository, payload, _directory: directory }
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

/// Bytes that a flush is made for.
const ENOUGH: u64 = 14 << 20;

#[test]
fn what_a_flush_has_covered_is_read_back() {
    let mut content = bytes(21, 300 << 12);
    content[..8192].fill(0);
    let bench = Bench::new(&content);
    let output = bench.output();
    output.write_zeroes(0..2).unwrap();
    output.write(2, buffer(&content[8192..280 << 12])).unwrap();
    assert_eq!(bench.read_back(&output).unwrap(), 0, "nothing is on stable storage yet");
    output.flush_now_and_then(ENOUGH - 1, Share::default()).unwrap();
    assert_eq!(bench.read_back(&output).unwrap(), 0, "too little has come for a flush");
    output.flush_now_and_then(1, Share::default()).unwrap();
    output.write(280, buffer(&content[280 << 12..])).unwrap();
    assert_eq!(bench.read_back(&output).unwrap(), 280, "the last write came after the flush");
    output.flush_now_and_then(ENOUGH, Share::default()).unwrap();
    assert_eq!(bench.read_back(&output).unwrap(), 300);
    output.drain().unwrap();
}

#[test]
fn what_lies_behind_blocks_that_are_read_meanwhile_is_written_synchronously() {
    let bench = Bench::new(&bytes(28, 8 << 12));
    let goal = Goal { read_beside: true, ..bench.goal.clone() };
    assert_eq!(goal.writer().unwrap().engine(), "threads");
}

#[test]
fn a_flush_that_fails_ends_it() {
    let content = bytes(25, 8 << 12);
    let bench = Bench::new(&content);
    let judge = |operation| (operation == Operation::Flush).then(|| io::Error::from_raw_os_error(5));
    let region = region_on(Arc::new(Faulty::new(Arc::new(Memory::new(START + (1 << 20), 512)), judge)), 1 << 20);
    let output = Output::new(&Goal { region, ..bench.goal.clone() }, None).unwrap();
    output.write(0, buffer(&content)).unwrap();
    let error = output.flush_now_and_then(ENOUGH, Share::default()).unwrap_err();
    let text = "flushing verified blocks: flushing memory: Input/output error (os error 5)";
    assert_eq!((code_of(&error), format!("{error:#}").as_str()), (Code::DiskIo, text));
}

#[test]
fn what_the_drive_lost_is_found_behind_the_writing() {
    let content = bytes(22, 300 << 12);
    let bench = Bench::new(&content);
    let output = bench.output();
    output.write(0, buffer(&content)).unwrap();
    output.flush_now_and_then(ENOUGH, Share::default()).unwrap();
    let drive = OpenOptions::new().write(true).open(&bench.path).unwrap();
    drive.write_all_at(b"rot", START + 270 * 4096).unwrap();
    let error = bench.read_back(&output).unwrap_err();
    let (name, byte) = (bench.path.display(), START + 270 * 4096);
    assert_eq!(code_of(&error), Code::DiskIo);
    assert!(format!("{error:#}").starts_with(&format!(
        "{name} did not keep the 4096 bytes that were written to it at byte {byte}: block 270 has digest "
    )));
}

#[test]
fn a_disk_without_direct_reads_is_left_to_the_step_that_reads_back() {
    let content = bytes(23, 8 << 12);
    let bench = Bench::new(&content);
    let (_, region) = recording(1 << 20);
    let goal = Goal { region, ..bench.goal.clone() };
    let output = Output::new(&goal, Some(&bench.proven)).unwrap();
    output.write(0, buffer(&content)).unwrap();
    output.flush_now_and_then(ENOUGH, Share::default()).unwrap();
    assert_eq!(bench.read_back(&output).unwrap(), 0);
}

/// A disk whose file system refuses the first direct read, which is made through the page cache then.
#[derive(Debug)]
struct Refusing {
    inner: Arc<dyn Disk>,
    refused: AtomicBool,
}

impl Disk for Refusing {
    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn sector_size(&self) -> u32 {
        self.inner.sector_size()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.refused.store(true, Ordering::SeqCst);
        self.inner.read_at(offset, buffer)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.inner.write_at(offset, bytes)
    }

    fn direct_file(&self, offset: u64, length: u64) -> Option<Arc<fs::File>> {
        self.inner.direct_file(offset, length).filter(|_| !self.refused.load(Ordering::SeqCst))
    }

    fn flush(&self) -> io::Result<()> {
        self.inner.flush()
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}

#[test]
fn what_the_page_cache_returned_proves_nothing() {
    let content = bytes(27, 300 << 12);
    let bench = Bench::new(&content);
    let disk = Refusing { inner: Arc::clone(&bench.goal.region.disk), refused: AtomicBool::new(false) };
    let region = region_on(Arc::new(disk), 3 << 20);
    let output = Output::new(&Goal { region, ..bench.goal.clone() }, Some(&bench.proven)).unwrap();
    output.write(0, buffer(&content)).unwrap();
    output.flush_now_and_then(ENOUGH, Share::default()).unwrap();
    assert_eq!(bench.read_back(&output).unwrap(), 0);
    output.drain().unwrap();
    assert!(on_disk(&bench.goal.region, content.len()) == content);
}

/// A disk that tells of reads behind the first flush.
#[derive(Debug)]
struct Watching {
    inner: Arc<dyn Disk>,
    flushed: AtomicBool,
    read: Arc<Notify>,
}

impl Disk for Watching {
    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn sector_size(&self) -> u32 {
        self.inner.sector_size()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.inner.read_at(offset, buffer)?;
        if self.flushed.load(Ordering::SeqCst) {
            self.read.notify_one();
        }
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.inner.write_at(offset, bytes)
    }

    fn direct_file(&self, offset: u64, length: u64) -> Option<Arc<fs::File>> {
        self.inner.direct_file(offset, length)
    }

    fn flush(&self) -> io::Result<()> {
        self.inner.flush()?;
        self.flushed.store(true, Ordering::SeqCst);
        Ok(())
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}

/// A mirror that keeps the last frame back until something was read back, or for ten seconds.
#[derive(Debug)]
struct Patient {
    source: DirectorySource,
    /// Where the last frame ends.
    end: u64,
    read: Arc<Notify>,
    /// Whether something was read back before.
    in_time: Arc<AtomicBool>,
}

impl Source for Patient {
    fn fetch<'a>(&'a self, path: &'a str, range: Range<u64>, sink: mpsc::Sender<Bytes>) -> Fetching<'a> {
        Box::pin(async move {
            if range.end == self.end {
                let read = tokio::time::timeout(Duration::from_secs(10), self.read.notified()).await;
                self.in_time.store(read.is_ok(), Ordering::SeqCst);
            }
            self.source.fetch(path, range, sink).await
        })
    }

    small_files_from!(self, self.source);

    fn describe(&self) -> String {
        self.source.describe()
    }
}

#[tokio::test]
async fn while_the_network_is_waited_for_what_was_written_is_read_back() {
    let content = bytes(26, 600 << 12);
    let bench = Bench::new(&content);
    let (read, in_time) = (Arc::new(Notify::new()), Arc::new(AtomicBool::new(false)));
    let end = bench.payload.size - bench.payload.seek_table_size;
    let source = bench.repository.source.clone();
    let mirror = Patient { source, end, read: Arc::clone(&read), in_time: Arc::clone(&in_time) };
    let disk = Watching { inner: Arc::clone(&bench.goal.region.disk), flushed: AtomicBool::new(false), read };
    let region = region_on(Arc::new(disk), 3 << 20);
    let goal = goal_of(&bench.payload, &only(mirror), &bench.tree, &region, &Progress::default());
    let goal = Goal { reads_back: true, at_risk: 1 << 20, ..goal };
    let tally = fill(&goal, None, &[], &bench.proven).await.unwrap();
    assert!(in_time.load(Ordering::SeqCst), "nothing was read back before the last frame came");
    assert!(!bench.proven.is_empty());
    assert_eq!(tally.fetched, 600);
    assert!(on_disk(&region, content.len()) == content);
}
