//! Who is blamed for what is wrong: the mirror that sent all of it, and nobody else.

use std::ops::Range;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::*;
use crate::fetch::{Attempting, Fetching, Trouble, Unranged};
use crate::http::Limits;

/// Bytes of content of a frame.
const FRAME: u64 = 16 << 10;
/// Wrong bytes that a sly mirror sends before it stops.
const WRONG: usize = 6000;

/// A mirror that sends the first bytes of each answer as they are, then some wrong ones, and leaves the rest to others. An
/// honest one has no such number.
#[derive(Debug)]
struct Sly {
    repository: Arc<Repository>,
    name: &'static str,
    right: Option<usize>,
}

impl Sly {
    async fn send(&self, path: &str, range: Range<u64>, sink: mpsc::Sender<Bytes>) -> Result<(), Trouble> {
        let file = fs::read(self.repository.directory.path().join(path)).map_err(anyhow::Error::from)?;
        let (start, end) = (usize::try_from(range.start).unwrap(), usize::try_from(range.end).unwrap());
        let mut bytes = file[start..end].to_vec();
        // The seek table is right, which is the file's end.
        let is_table = start > 0 && end == file.len();
        let right = self.right.filter(|right| bytes.len() > *right && !is_table);
        if let Some(right) = right {
            bytes.truncate(right + WRONG);
            bytes[right..].iter_mut().for_each(|byte| *byte ^= 0x5A);
        }
        let ends_early = start + bytes.len() < end;
        for piece in bytes.chunks(4000) {
            if sink.send(Bytes::copy_from_slice(piece)).await.is_err() {
                return Ok(());
            }
        }
        if ends_early { Err(anyhow::anyhow!("connection reset").into()) } else { Ok(()) }
    }
}

impl Source for Sly {
    fn fetch<'a>(&'a self, path: &'a str, range: Range<u64>, sink: mpsc::Sender<Bytes>) -> Fetching<'a> {
        Box::pin(async move { self.send(path, range, sink).await.map_err(|trouble| trouble.error) })
    }

    fn attempt<'a>(
        &'a self,
        path: &'a str,
        range: Range<u64>,
        _: Unranged,
        sink: mpsc::Sender<Bytes>,
    ) -> Attempting<'a> {
        Box::pin(self.send(path, range, sink))
    }

    /// It never rests: it is asked as often as it can be.
    fn limits(&self) -> Limits {
        let none = std::time::Duration::ZERO;
        Limits { backoff: none, backoff_most: none, attempt_bytes: 4096, ..Limits::default() }
    }

    small_files_from!(self, self.repository.source);

    fn describe(&self) -> String {
        self.name.to_owned()
    }
}

/// Installs from an honest mirror and a sly one: the mirrors that are dropped.
fn bring_from(right: usize) -> Vec<String> {
    let content = bytes(51, 12 << 20);
    let repository = Arc::new(Repository::new());
    let payload = repository.publish_in(&content, FRAME);
    let mirror =
        |name, right| -> Arc<dyn Source> { Arc::new(Sly { repository: Arc::clone(&repository), name, right }) };
    let mirrors = Arc::new(Mirrors::new(vec![mirror("https://honest", None), mirror("https://sly", Some(right))]));
    let (disk, region) = recording(16 << 20);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let tally = runtime.block_on(bring(&mirrors, &payload, &open_tree(&content), &region, &[])).unwrap();
    assert_eq!(tally.fetched, 3072);
    assert_only_verified(&disk.log(), &content);
    assert!(on_disk(&region, content.len()) == content);
    mirrors.dropped().into_iter().map(|(mirror, _)| mirror).collect()
}

#[test]
fn an_honest_mirror_that_ends_what_a_sly_one_began_is_not_blamed() {
    // Whole frames come right from the sly one: fetched alone, each of its frames is right, and nobody is dropped.
    assert!(bring_from(20_000).iter().all(|dropped| dropped == "https://sly"));
}

#[test]
fn a_sly_mirror_is_found_out_by_what_it_sends_alone() {
    assert_eq!(bring_from(5000), ["https://sly"]);
}

/// A mirror that knows no ranges, and sends the stream of [`Sly`].
#[derive(Debug)]
struct Streaming(Sly);

impl Source for Streaming {
    fn fetch<'a>(&'a self, path: &'a str, range: Range<u64>, sink: mpsc::Sender<Bytes>) -> Fetching<'a> {
        self.0.fetch(path, range, sink)
    }

    fn attempt<'a>(
        &'a self,
        path: &'a str,
        range: Range<u64>,
        unranged: Unranged,
        sink: mpsc::Sender<Bytes>,
    ) -> Attempting<'a> {
        if unranged == Unranged::Refused {
            return Box::pin(async { Err(Trouble::lasting(crate::fetch::NoRanges)) });
        }
        self.0.attempt(path, range, unranged, sink)
    }

    fn limits(&self) -> Limits {
        self.0.limits()
    }

    small_files_from!(self, self.0);

    fn describe(&self) -> String {
        self.0.describe()
    }
}

#[test]
fn a_stream_that_two_mirrors_sent_is_sent_again_by_one() {
    let content = bytes(52, 1 << 20);
    let repository = Arc::new(Repository::new());
    let payload = repository.publish_in(&content, FRAME);
    let mirror = |name, right| -> Arc<dyn Source> {
        Arc::new(Streaming(Sly { repository: Arc::clone(&repository), name, right }))
    };
    for first_is_sly in [true, false] {
        let sly = mirror("https://sly", Some(20_000));
        let honest = mirror("https://honest", None);
        let mirrors = Arc::new(Mirrors::new(if first_is_sly { vec![sly, honest] } else { vec![honest, sly] }));
        let (disk, region) = recording(2 << 20);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let tally = runtime.block_on(bring(&mirrors, &payload, &open_tree(&content), &region, &[])).unwrap();
        assert_eq!(tally.fetched, 256);
        assert_only_verified(&disk.log(), &content);
        assert!(mirrors.dropped().iter().all(|(mirror, _)| mirror == "https://sly"), "{:?}", mirrors.dropped());
    }
}
