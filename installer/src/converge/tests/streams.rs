//! What a server without ranges may send, and one that serves few connections.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::*;
use crate::fetch::{Attempting, Fetching, NoRanges, Trouble, Unranged};
use crate::http::Limits;

/// A mirror that sends `stream` for the whole of a payload, and nothing for a part of it.
#[derive(Debug)]
struct Streaming {
    repository: Arc<Repository>,
    name: &'static str,
    stream: Vec<u8>,
}

impl Source for Streaming {
    fn fetch<'a>(&'a self, _: &'a str, range: Range<u64>, sink: mpsc::Sender<Bytes>) -> Fetching<'a> {
        Box::pin(async move {
            if range.start > 0 {
                return Err(NoRanges.into());
            }
            for piece in self.stream.chunks(5000) {
                if sink.send(Bytes::copy_from_slice(piece)).await.is_err() {
                    break;
                }
            }
            Ok(())
        })
    }

    small_files_from!(self, self.repository.source);

    fn describe(&self) -> String {
        self.name.to_owned()
    }
}

/// A frame with this content.
fn frame(content: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(content, 1).unwrap()
}

/// An empty seek table: what a stream ends with.
const TABLE: [u8; 17] = [0x5E, 0x2A, 0x4D, 0x18, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0xB1, 0xEA, 0x92, 0x8F];

struct Case {
    content: Vec<u8>,
    repository: Arc<Repository>,
    payload: Payload,
}

impl Case {
    fn new() -> Self {
        Self::of(40)
    }

    fn of(blocks: usize) -> Self {
        let (content, repository) = (bytes(41, blocks * 4096), Arc::new(Repository::new()));
        let payload = repository.publish_in(&content, 16 << 10);
        Self { content, repository, payload }
    }

    fn mirror(&self, name: &'static str, stream: Vec<u8>) -> Arc<dyn Source> {
        Arc::new(Streaming { repository: Arc::clone(&self.repository), name, stream })
    }

    fn right(&self) -> Vec<u8> {
        fs::read(self.repository.path(&self.payload)).unwrap()
    }

    /// Installs from these mirrors; what was written is checked, and given with the mirrors that were dropped.
    async fn bring(&self, mirrors: Vec<Arc<dyn Source>>) -> (Result<Tally>, Vec<(String, String)>) {
        let (disk, region) = recording(1 << 20);
        let mirrors = Arc::new(Mirrors::new(mirrors));
        let done = bring(&mirrors, &self.payload, &open_tree(&self.content), &region, &[]).await;
        assert_only_verified(&disk.log(), &self.content);
        if done.is_ok() {
            assert!(on_disk(&region, self.content.len()) == self.content);
        }
        (done, mirrors.dropped())
    }
}

/// However the last frame is cut into pieces: nothing of it is overlooked.
#[tokio::test]
async fn a_stream_is_read_to_its_end() {
    for blocks in 1..40 {
        let case = Case::of(blocks);
        let (done, dropped) = case.bring(vec![case.mirror("https://right", case.right())]).await;
        assert_eq!((done.unwrap().fetched, dropped), (blocks as u64, vec![]), "{blocks}");
    }
}

#[tokio::test]
async fn a_frame_that_is_not_whole_blocks_is_refused_with_all_behind_it() {
    let case = Case::new();
    let (first, rest) = case.content.split_at(4096);
    let odd = [first, &[0xAA; 512]].concat();
    let stream = [frame(&odd), frame(&rest[..16 << 10]), frame(&rest[16 << 10..]), TABLE.to_vec()].concat();
    let (done, dropped) = case.bring(vec![case.mirror("https://odd", stream)]).await;
    let error = done.unwrap_err();
    let problem = "the frame at 0 of the payload has 4608 bytes of content, not whole blocks";
    let text = format!("payloads/{}.zst from https://odd is corrupt: {problem}", case.payload.sha256);
    assert_eq!((code_of(&error), format!("{error:#}")), (Code::Corrupt, text));
    assert_eq!(dropped.len(), 1);
}

#[tokio::test]
async fn an_empty_frame_and_an_early_end_are_refused_and_another_mirror_is_asked() {
    let case = Case::new();
    let early = [frame(&case.content[..8192]), TABLE.to_vec()].concat();
    let empty = [frame(&case.content[..8192]), frame(&[]), frame(&case.content[8192..]), TABLE.to_vec()].concat();
    for (name, stream) in [("https://early", early), ("https://empty", empty)] {
        let mirrors = vec![case.mirror(name, stream), case.mirror("https://right", case.right())];
        let (done, dropped) = case.bring(mirrors).await;
        assert_eq!(done.unwrap().blocks(), 40, "{name}");
        assert!(dropped.iter().all(|(mirror, _)| mirror == name), "{dropped:?}");
    }
}

/// A server that serves so many connections at once, and answers all others with an error that may pass.
#[derive(Debug)]
struct Limited {
    repository: Repository,
    most: usize,
    now: AtomicUsize,
}

impl Limited {
    async fn send(&self, path: &str, range: Range<u64>, sink: mpsc::Sender<Bytes>) -> Result<()> {
        let file = fs::read(self.repository.directory.path().join(path))?;
        let (start, end) = (usize::try_from(range.start)?, usize::try_from(range.end)?);
        for piece in file[start..end].chunks(20_000) {
            // The others get their turn, as on a link.
            tokio::time::sleep(Duration::from_millis(1)).await;
            if sink.send(Bytes::copy_from_slice(piece)).await.is_err() {
                break;
            }
        }
        Ok(())
    }
}

impl Source for Limited {
    fn fetch<'a>(&'a self, path: &'a str, range: Range<u64>, sink: mpsc::Sender<Bytes>) -> Fetching<'a> {
        Box::pin(self.send(path, range, sink))
    }

    fn attempt<'a>(
        &'a self,
        path: &'a str,
        range: Range<u64>,
        _: Unranged,
        sink: mpsc::Sender<Bytes>,
    ) -> Attempting<'a> {
        Box::pin(async move {
            if self.now.fetch_add(1, Ordering::SeqCst) >= self.most {
                self.now.fetch_sub(1, Ordering::SeqCst);
                return Err(Trouble::from(anyhow::anyhow!("the server answered 503 Service Unavailable")));
            }
            let sent = self.send(path, range, sink).await;
            self.now.fetch_sub(1, Ordering::SeqCst);
            sent.map_err(Trouble::lasting)
        })
    }

    fn limits(&self) -> Limits {
        let [backoff, backoff_most] = [2, 8].map(Duration::from_millis);
        Limits { attempts: 3, backoff, backoff_most, ..Limits::default() }
    }

    small_files_from!(self, self.repository.source);

    fn describe(&self) -> String {
        "https://limited".to_owned()
    }
}

#[test]
fn a_server_that_serves_fewer_connections_than_it_is_asked_for_is_enough() {
    let content = bytes(42, 12 << 20);
    for (most, is_enough) in [(1, true), (3, true), (0, false)] {
        let repository = Repository::new();
        let payload = repository.publish_in(&content, 64 << 10);
        let limited = Limited { repository, most, now: AtomicUsize::new(0) };
        let (disk, region) = recording(16 << 20);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let done = runtime.block_on(bring(&only(limited), &payload, &open_tree(&content), &region, &[]));
        assert_only_verified(&disk.log(), &content);
        match done {
            Ok(tally) => assert_eq!((is_enough, tally.fetched), (true, 3072)),
            Err(error) => {
                let text = format!("{error:#}");
                assert!(
                    !is_enough
                        && text.ends_with("giving up after 3 attempts: the server answered 503 Service Unavailable"),
                    "{text}"
                );
            }
        }
    }
}
