//! Frames that a signed seek table vouches for, and that hold something else than it says: more content, another
//! content, or a demand for memory.

use metalstrap_release::digest::Digest;
use metalstrap_release::manifest::Payload;

use super::published::{Published, good, payload_path, root_image};
use super::trial::refused;
use crate::converge::testing::SALT;
use crate::failure::Code;

/// Content of the frames that are made here.
const CONTENT: u32 = 64 << 10;

/// An entry of a seek table.
pub struct Frame {
    pub stored: u32,
    pub content: u32,
}

impl Frame {
    /// The entries of a right table.
    pub fn read(table: &[u8]) -> Vec<Self> {
        let numbers = |entry: &[u8; 8]| {
            let [stored, content] = [0, 4].map(|at| u32::from_le_bytes(*entry[at..].first_chunk().unwrap()));
            Self { stored, content }
        };
        table[8..table.len() - 9].as_chunks().0.iter().map(numbers).collect()
    }
}

/// A seek table over these frames (zstd's seekable format 0.1.0).
pub fn seek_table(frames: &[Frame]) -> Vec<u8> {
    let entries = frames.iter().flat_map(|frame| [frame.stored, frame.content]).flat_map(u32::to_le_bytes);
    let body = u32::try_from(frames.len() * 8 + 9).unwrap();
    let mut table: Vec<u8> = 0x184D_2A5E_u32.to_le_bytes().into_iter().chain(body.to_le_bytes()).collect();
    table.extend(entries);
    table.extend(u32::try_from(frames.len()).unwrap().to_le_bytes());
    table.push(0);
    table.extend(0x8F92_EAB1_u32.to_le_bytes());
    table
}

/// A payload for the root file system, whose manifest vouches for it.
pub struct Vouched(pub Payload, Vec<u8>);

/// A payload of these frames with this table.
pub fn payload_of(mut bytes: Vec<u8>, table: &[u8], content_size: u64) -> Vouched {
    bytes.extend_from_slice(table);
    let payload = Payload {
        sha256: Digest::of(&bytes),
        size: bytes.len() as u64,
        content_size,
        seek_table_size: table.len() as u64,
        seek_table_sha256: Digest::of(table),
    };
    Vouched(payload, bytes)
}

impl Vouched {
    /// Publishes it as the root file system's.
    pub fn publish(self, mut published: Published) -> Published {
        published.files.insert(payload_path(&self.0), self.1);
        published.with_changed_manifest(|manifest| manifest.filesystems[0].data = self.0)
    }
}

/// A zstd frame by hand (RFC 8878 section 3.1.1): it says `content` bytes of content and a window of 2^`window_log`
/// bytes, and holds these blocks.
fn frame(content: u64, window_log: u8, blocks: &[Block]) -> Vec<u8> {
    // Content size of eight bytes, a window, no checksum, no dictionary.
    let mut bytes = 0xFD2F_B528_u32.to_le_bytes().to_vec();
    bytes.push(0b1100_0000);
    bytes.push((window_log - 10) << 3);
    bytes.extend(content.to_le_bytes());
    for (n, block) in blocks.iter().enumerate() {
        let last = usize::from(n + 1 == blocks.len());
        let (kind, size, body) = match block {
            Block::Raw(bytes) => (0, bytes.len(), bytes.clone()),
            Block::Repeat(byte, size) => (1, *size, vec![*byte]),
        };
        bytes.extend_from_slice(&(last | kind << 1 | size << 3).to_le_bytes()[..3]);
        bytes.extend(body);
    }
    bytes
}

enum Block {
    Raw(Vec<u8>),
    /// One byte, so many times: the smallest bomb there is.
    Repeat(u8, usize),
}

/// The refusal of a root file system whose first frame is `first`, of which the signed seek table says that it has
/// [`CONTENT`] bytes.
async fn refused_frame(first: Vec<u8>, problem: &str) {
    let payload = good().manifest.filesystems[0].data.clone();
    let mut path = String::new();
    let outcome = refused(|published| {
        let mut bytes = published.files[&payload_path(&payload)].clone();
        let table = bytes.split_off(usize::try_from(payload.size - payload.seek_table_size).unwrap());
        let mut frames = Frame::read(&table);
        assert_eq!(frames[0].content, CONTENT);
        let rest = bytes.split_off(usize::try_from(frames[0].stored).unwrap());
        frames[0].stored = u32::try_from(first.len()).unwrap();
        let other = payload_of([first, rest].concat(), &seek_table(&frames), payload.content_size);
        path = payload_path(&other.0);
        other.publish(published)
    })
    .await;
    let text = format!("writing the root file system: {path} from REPOSITORY is corrupt{problem}");
    outcome.after_the_plan(Code::Corrupt, &text);
}

/// What is said of zeroes where the first block of the root file system should be.
fn wrong_block() -> String {
    let [found, right] = [&[0; 4096], &root_image()[..4096]].map(|block| Digest::salted(&SALT, block));
    format!(" at byte 0 of its content: block 0 has digest {found}, but the hash tree says {right}")
}

#[tokio::test]
async fn a_frame_made_by_hand_is_taken_where_it_is_right() {
    let right = frame(CONTENT.into(), 17, &[Block::Raw(root_image()[..usize::try_from(CONTENT).unwrap()].to_vec())]);
    let payload = good().manifest.filesystems[0].data.clone();
    let outcome = refused(|published| {
        let mut bytes = published.files[&payload_path(&payload)].clone();
        let table = bytes.split_off(usize::try_from(payload.size - payload.seek_table_size).unwrap());
        let mut frames = Frame::read(&table);
        let rest = bytes.split_off(usize::try_from(frames[0].stored).unwrap());
        frames[0].stored = u32::try_from(right.len()).unwrap();
        payload_of([right, rest].concat(), &seek_table(&frames), payload.content_size).publish(published)
    });
    outcome.await.installed();
}

#[tokio::test]
async fn a_frame_with_more_content_than_it_says_is_refused() {
    let bomb: Vec<Block> = (0..1000).map(|_| Block::Repeat(0, 128 << 10)).collect();
    refused_frame(
        frame(CONTENT.into(), 17, &bomb),
        ": the frame at 0 of the payload is damaged: Destination buffer is too small",
    )
    .await;
    let one_more = [Block::Repeat(7, usize::try_from(CONTENT).unwrap()), Block::Repeat(7, 1)];
    refused_frame(
        frame(CONTENT.into(), 17, &one_more),
        ": the frame at 0 of the payload is damaged: Destination buffer is too small",
    )
    .await;
    refused_frame(
        frame(CONTENT.into(), 17, &[Block::Repeat(7, 4096)]),
        ": the frame at 0 of the payload is damaged: Data corruption detected",
    )
    .await;
}

#[tokio::test]
async fn a_frame_that_says_another_size_than_the_table_is_refused() {
    let content = || [Block::Repeat(0, usize::try_from(CONTENT).unwrap())];
    refused_frame(
        frame(u64::MAX, 17, &content()),
        ": the frame at 0 of the payload does not say how much content it has",
    )
    .await;
    refused_frame(
        frame(u64::MAX - 2, 17, &content()),
        ": the frame at 0 of the payload says 18446744073709551613 bytes of content, not 65536",
    )
    .await;
    refused_frame(
        frame(1 << 40, 17, &content()),
        ": the frame at 0 of the payload says 1099511627776 bytes of content, not 65536",
    )
    .await;
    refused_frame(frame(0, 17, &content()), ": the frame at 0 of the payload says 0 bytes of content, not 65536").await;
}

#[tokio::test]
async fn a_frame_that_wants_a_huge_window_is_refused_or_gets_none() {
    let zeroes = [Block::Repeat(0, usize::try_from(CONTENT).unwrap())];
    let problem = ": the frame at 0 of the payload is no zstd frame: Frame requires too much memory for decoding";
    refused_frame(frame(CONTENT.into(), 41, &zeroes), problem).await;
    // Decoded in one go, a frame's window is its content: no more memory is taken, whatever it asks for.
    for window_log in [23, 31] {
        refused_frame(frame(CONTENT.into(), window_log, &zeroes), &wrong_block()).await;
    }
}

#[tokio::test]
async fn a_frame_of_a_skippable_kind_or_two_at_once_are_refused() {
    let half = || frame(u64::from(CONTENT) / 2, 17, &[Block::Repeat(0, usize::try_from(CONTENT).unwrap() / 2)]);
    refused_frame([half(), half()].concat(), ": the frame at 0 of the payload ends after 18 of 36 bytes").await;
    let mut skippable = 0x184D_2A50_u32.to_le_bytes().to_vec();
    skippable.extend([4, 0, 0, 0, 1, 2, 3, 4]);
    refused_frame(skippable, ": the frame at 0 of the payload says 0 bytes of content, not 65536").await;
    refused_frame(vec![0; 64], ": the frame at 0 of the payload is no zstd frame: Unknown frame descriptor").await;
}

#[tokio::test]
async fn a_whole_frame_of_other_content_is_refused() {
    let other = frame(CONTENT.into(), 17, &[Block::Repeat(0, usize::try_from(CONTENT).unwrap())]);
    refused_frame(other, &wrong_block()).await;
}
