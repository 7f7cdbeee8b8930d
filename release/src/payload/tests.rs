//! Payloads against `zstd`, and seek tables and frames that lie.

use std::io::Write as _;
use std::num::NonZeroUsize;
use std::process::{Command, Stdio};

use proptest::prelude::*;

use super::*;
use crate::manifest::Payload;

/// Content with compressible, incompressible and empty stretches.
fn content(blocks: u64) -> Vec<u8> {
    let block = |index: u64| match index % 3 {
        0 => vec![0; 4096],
        1 => (0..128_u64).flat_map(|i| Digest::of(&(index * 128 + i).to_le_bytes()).0).collect(),
        _ => index.to_le_bytes().repeat(512),
    };
    (0..blocks).flat_map(block).collect()
}

fn options(frame_size: u64, threads: usize) -> CompressOptions {
    CompressOptions { level: 3, frame_size, threads: NonZeroUsize::new(threads).unwrap() }
}

fn compressed(content: &[u8], options: &CompressOptions) -> (Payload, Vec<u8>) {
    let mut output = Vec::new();
    let payload = compress(&mut &*content, &mut output, options, &mut |_| {}).unwrap();
    (payload, output)
}

fn split<'a>(payload: &Payload, bytes: &'a [u8]) -> (&'a [u8], &'a [u8]) {
    bytes.split_at(bytes.len() - usize::try_from(payload.seek_table_size).unwrap())
}

fn bytes_of<'a>(frame: &Frame, bytes: &'a [u8]) -> &'a [u8] {
    let start = usize::try_from(frame.offset).unwrap();
    &bytes[start..start + usize::try_from(frame.size).unwrap()]
}

fn decoded(payload: &Payload, bytes: &[u8]) -> Vec<u8> {
    let table = SeekTable::parse(split(payload, bytes).1, payload).unwrap();
    let mut decoder = FrameDecoder::new();
    let (mut all, mut part) = (Vec::new(), Vec::new());
    for frame in table.frames() {
        assert_eq!(frame.content_offset, all.len() as u64);
        decoder.decode(frame, bytes_of(frame, bytes), &mut part).unwrap();
        all.extend_from_slice(&part);
    }
    all
}

/// What `zstd` makes of the bytes.
fn zstd(argument: &str, bytes: &[u8]) -> Vec<u8> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    let output = Command::new("zstd")
        .args([argument, "-q", "-c"])
        .stdin(std::fs::File::open(file.path()).unwrap())
        .stderr(Stdio::piped())
        .output()
        .expect("zstd, of Debian's package zstd");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn zstd_reads_any_payload(blocks in 1_u64..200, frame_blocks in 1_u64..64, level in 1_i32..13) {
        let content = content(blocks);
        let options = CompressOptions { level, ..options(frame_blocks * 4096, 2) };
        let (payload, bytes) = compressed(&content, &options);
        prop_assert_eq!(payload.size, bytes.len() as u64);
        prop_assert_eq!(payload.sha256, Digest::of(&bytes));
        prop_assert_eq!(payload.content_size, content.len() as u64);
        prop_assert!(zstd("-d", &bytes) == content);
        zstd("-t", &bytes);
        prop_assert!(decoded(&payload, &bytes) == content);
        prop_assert_eq!(payload.seek_table_size, 17 + 8 * blocks.div_ceil(frame_blocks));
    }

    #[test]
    fn any_bytes_as_seek_table_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), frames in 0_usize..8) {
        let (payload, _) = compressed(&content(8), &options(4096, 1));
        prop_assert!(SeekTable::parse(&bytes, &payload).is_err());
        // Past digest and size, with the magic numbers in place.
        let mut table = crate::seek_table::encode(&vec![[0, 0]; frames]).unwrap();
        let end = table.len() - 9;
        table[8..end].iter_mut().zip(&bytes).for_each(|(place, byte)| *place = *byte);
        let _: Result<SeekTable, PayloadError> = SeekTable::parse(&table, &claim(&table, 1 << 20, 1 << 20));
    }

    #[test]
    fn any_bytes_as_frame_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), keep in 0_usize..40) {
        let mut damaged = bytes_of(&FRAME, &compressed(&content(2), &options(8192, 1)).1)[..keep.min(30)].to_vec();
        damaged.extend_from_slice(&bytes);
        let frame = Frame { size: damaged.len() as u64, ..FRAME };
        let mut content = Vec::new();
        let _: Result<(), PayloadError> = FrameDecoder::new().decode(&frame, &damaged, &mut content);
        prop_assert!(content.capacity() <= 8192);
    }
}

/// A frame of two blocks at the start of a payload; its size is not meant.
const FRAME: Frame = Frame { offset: 0, size: 40, content_offset: 0, content_size: 8192 };

/// A manifest's claim that fits the table itself.
fn claim(table: &[u8], size: u64, content_size: u64) -> Payload {
    Payload {
        sha256: Digest([0; 32]),
        size,
        content_size,
        seek_table_size: table.len() as u64,
        seek_table_sha256: Digest::of(table),
    }
}

#[test]
fn equal_input_gives_equal_bytes_whatever_the_threads() {
    let content = content(1000);
    let one = compressed(&content, &options(16384, 1));
    for threads in [2, 7] {
        assert!(compressed(&content, &options(16384, threads)) == one);
    }
    assert!(compressed(&content, &options(8192, 1)).1 != one.1);
}

#[test]
fn progress_counts_content_up_to_its_end() {
    let mut seen = Vec::new();
    compress(&mut &*content(5), &mut Vec::new(), &options(8192, 2), &mut |bytes| seen.push(bytes)).unwrap();
    assert_eq!(seen, [8192, 16384, 20480]);
}

#[test]
fn the_frame_of_a_byte_is_found() {
    let (payload, bytes) = compressed(&content(5), &options(8192, 1));
    let table = SeekTable::parse(split(&payload, &bytes).1, &payload).unwrap();
    let found: Vec<_> = [0, 8191, 8192, 20479, 20480, u64::MAX].map(|offset| table.frame_at(offset)).into();
    assert_eq!(found, [Some(0), Some(0), Some(1), Some(2), None, None]);
}

#[test]
fn compressing_refuses_what_does_not_fit_the_format() {
    let refusal = |content: &[u8], frame_size| {
        compress(&mut &*content, &mut Vec::new(), &options(frame_size, 1), &mut |_| {}).unwrap_err().to_string()
    };
    assert_eq!(refusal(&[], 4096), "0 bytes of content are not whole blocks");
    assert_eq!(refusal(&[0; 8191], 4096), "8191 bytes of content are not whole blocks");
    for frame_size in [0, 4095, (4 << 20) + 4096] {
        let expected = format!("a frame size of {frame_size} bytes is not whole blocks up to 4194304");
        assert_eq!(refusal(&[0; 8192], frame_size), expected);
    }
}

#[test]
fn a_seek_table_that_lies_is_refused() {
    let refusal = |entries: &[[u32; 2]], size, content_size| {
        let table = crate::seek_table::encode(entries).unwrap();
        SeekTable::parse(&table, &claim(&table, size, content_size)).unwrap_err().to_string()
    };
    let whole = "not whole blocks up to 4194304";
    assert_eq!(refusal(&[[100, 0]], 125, 0), format!("frame 0 has 0 bytes of content, {whole}"));
    assert_eq!(refusal(&[[100, 4096], [9, 4097]], 0, 0), format!("frame 1 has 4097 bytes of content, {whole}"));
    assert_eq!(refusal(&[[9, 4_198_400]], 0, 0), format!("frame 0 has 4198400 bytes of content, {whole}"));
    assert_eq!(refusal(&[[9, u32::MAX]], 0, 0), format!("frame 0 has 4294967295 bytes of content, {whole}"));
    assert_eq!(refusal(&[[0, 4096]], 25, 4096), "frame 0 has 0 bytes for 4096 of content");
    assert_eq!(refusal(&[[5153, 4096]], 5178, 4096), "frame 0 has 5153 bytes for 4096 of content");
    assert_eq!(
        refusal(&[[100, 4096], [50, 8192]], 184, 12288),
        "the frames and the seek table have 183 bytes, but the payload has 184"
    );
    assert_eq!(
        refusal(&[[100, 4096], [50, 8192]], 183, 8192),
        "the frames have 12288 bytes of content, but the payload has 8192"
    );
    assert_eq!(refusal(&[], 17, 4096), "the frames have 0 bytes of content, but the payload has 4096");
}

#[test]
fn a_malformed_seek_table_is_refused() {
    let table = crate::seek_table::encode(&[[100, 4096], [50, 8192]]).unwrap();
    let claim = claim(&table, 183, 12288);
    assert_eq!(SeekTable::parse(&table, &claim).unwrap().frames().len(), 2);
    let with = |offset: usize, byte: u8| {
        let mut table = table.clone();
        table[offset] = byte;
        let claim = Payload { seek_table_sha256: Digest::of(&table), ..claim.clone() };
        SeekTable::parse(&table, &claim).map(|_| ()).map_err(|error| error.to_string())
    };
    let refused = |text: &str| Err(format!("the seek table {text}"));
    assert_eq!(with(0, 0), refused("does not start as a skippable frame"));
    assert_eq!(with(4, 26), refused("has a frame size other than its own"));
    assert_eq!(with(24, 3), refused("has a number of frames other than its own"));
    assert_eq!(with(28, 0x80), refused("has checksums or reserved bits, which `publish` does not write"));
    assert_eq!(with(28, 0x04), refused("has checksums or reserved bits, which `publish` does not write"));
    assert_eq!(with(28, 0x03), Ok(()), "the format says that these two bits mean nothing");
    assert_eq!(with(32, 0), refused("does not end in the seekable magic number"));

    let error = |bytes: &[u8], claim: &Payload| SeekTable::parse(bytes, claim).unwrap_err().to_string();
    assert_eq!(error(&table[1..], &claim), "the seek table has 32 bytes, not 33");
    let short = super::tests::claim(&table[..16], 100, 4096);
    assert_eq!(error(&table[..16], &short), "the seek table is too short");
    let other = Payload { seek_table_sha256: Digest([0; 32]), ..claim };
    assert_eq!(
        error(&table, &other),
        format!("the seek table has digest {}, but the manifest says {}", Digest::of(&table), Digest([0; 32]))
    );
}

#[test]
fn a_frame_that_is_not_what_the_table_says_is_refused() {
    let all = content(4);
    let (payload, bytes) = compressed(&all, &options(8192, 1));
    let table = SeekTable::parse(split(&payload, &bytes).1, &payload).unwrap();
    let [first, second] = *table.frames() else { panic!("two frames") };
    let refusal = |frame: Frame, bytes: &[u8]| {
        let mut content = Vec::new();
        FrameDecoder::new().decode(&frame, bytes, &mut content).unwrap_err().to_string()
    };
    let sizes = (first.size, second.size, second.offset);
    let bytes_of = |frame: &Frame| bytes_of(frame, &bytes).to_vec();
    assert_eq!(
        refusal(second, &bytes_of(&first)),
        format!("the frame at {} of the payload has {} bytes, not {}", sizes.2, sizes.0, sizes.1)
    );
    let both = [bytes_of(&first), bytes_of(&second)].concat();
    assert_eq!(
        refusal(Frame { size: both.len() as u64, content_size: 16384, ..first }, &both),
        format!("the frame at 0 of the payload ends after {} of {} bytes", sizes.0, both.len())
    );
    assert_eq!(
        refusal(Frame { content_size: 4096, ..first }, &bytes_of(&first)),
        "the frame at 0 of the payload says 8192 bytes of content, not 4096"
    );
    let cut = &bytes_of(&first)[..20];
    assert_eq!(
        refusal(Frame { size: 20, ..first }, cut),
        "the frame at 0 of the payload is no zstd frame: Src size is incorrect"
    );
    assert_eq!(
        refusal(Frame { size: 33, ..first }, &[0; 33]),
        "the frame at 0 of the payload is no zstd frame: Unknown frame descriptor"
    );
    let table_bytes = split(&payload, &bytes).1;
    assert_eq!(
        refusal(Frame { size: table_bytes.len() as u64, ..first }, table_bytes),
        "the frame at 0 of the payload says 0 bytes of content, not 8192"
    );
}

#[test]
fn a_frame_without_content_size_is_refused() {
    let mut child = Command::new("zstd")
        .args(["-q", "-c", "--no-check"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("zstd, of Debian's package zstd");
    child.stdin.take().unwrap().write_all(&content(2)).unwrap();
    let streamed = child.wait_with_output().unwrap().stdout;
    let frame = Frame { size: streamed.len() as u64, ..FRAME };
    let error = FrameDecoder::new().decode(&frame, &streamed, &mut Vec::new()).unwrap_err();
    assert_eq!(error.to_string(), "the frame at 0 of the payload does not say how much content it has");
}
