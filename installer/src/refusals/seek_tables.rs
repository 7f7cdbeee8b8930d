//! Seek tables that lie: other bytes than the manifest names, and tables that the manifest vouches for.

use metalstrap_release::digest::Digest;
use metalstrap_release::manifest::Payload;

use super::frames::{Frame, payload_of, seek_table};
use super::published::{good, payload_path};
use super::trial::refused;
use crate::failure::Code;

const ROOT: &str = "writing the root file system: ";

#[tokio::test]
async fn a_seek_table_with_other_bytes_than_the_manifest_names_is_refused() {
    let payload = good().manifest.filesystems[0].data.clone();
    let start = usize::try_from(payload.size - payload.seek_table_size).unwrap();
    // Header, an entry, the number of frames, the magic at its end.
    for at in [start + 1, start + 8, start + 12, start + 40, bytes_of(&payload) - 9, bytes_of(&payload) - 1] {
        let mut found = Digest::of(b"");
        let outcome = refused(|published| {
            published.with_payload(&payload, |bytes| {
                bytes[at] ^= 4;
                found = Digest::of(&bytes[start..]);
            })
        })
        .await;
        let text = format!(
            "{ROOT}{} from REPOSITORY is corrupt: the seek table has digest {found}, but the manifest says {}",
            payload_path(&payload),
            payload.seek_table_sha256
        );
        outcome.after_the_plan(Code::Corrupt, &text);
    }
}

fn bytes_of(payload: &Payload) -> usize {
    usize::try_from(payload.size).unwrap()
}

/// The refusal of the root file system's payload with a signed seek table that `lie` made of the true sizes.
async fn refused_table(lie: impl FnOnce(&mut Vec<Frame>), problem: &str) {
    let payload = good().manifest.filesystems[0].data.clone();
    let start = usize::try_from(payload.size - payload.seek_table_size).unwrap();
    let mut path = String::new();
    let outcome = refused(|published| {
        let mut bytes = published.files[&payload_path(&payload)].clone();
        let table = bytes.split_off(start);
        let mut frames = Frame::read(&table);
        lie(&mut frames);
        let lying = payload_of(bytes, &seek_table(&frames), payload.content_size);
        path = payload_path(&lying.0);
        lying.publish(published)
    })
    .await;
    let text = format!("{ROOT}{path} from REPOSITORY is corrupt: {problem}");
    outcome.after_the_plan(Code::Corrupt, &text);
}

#[tokio::test]
async fn a_signed_seek_table_that_lies_about_sizes_is_refused() {
    refused_table(
        |frames| frames[0].content += 4096,
        "the frames have 2113536 bytes of content, but the payload has 2109440",
    )
    .await;
    refused_table(|frames| frames[0].content -= 4096, "frame 0 has 65546 bytes for 61440 of content").await;
    refused_table(
        |frames| frames[0].content -= 1,
        "frame 0 has 65535 bytes of content, not whole blocks up to 4194304",
    )
    .await;
    refused_table(|frames| frames[0].content = 0, "frame 0 has 0 bytes of content, not whole blocks up to 4194304")
        .await;
    refused_table(
        |frames| frames[0].content = u32::MAX - 4095,
        "frame 0 has 4294963200 bytes of content, not whole blocks up to 4194304",
    )
    .await;
    refused_table(
        |frames| frames[0].stored += 1,
        "the frames and the seek table have 2110052 bytes, but the payload has 2110051",
    )
    .await;
    refused_table(|frames| frames[0].stored = u32::MAX, "frame 0 has 4294967295 bytes for 65536 of content").await;
    refused_table(|frames| frames[0].stored = 0, "frame 0 has 0 bytes for 65536 of content").await;
    refused_table(
        |frames| frames.truncate(frames.len() - 1),
        "the frames and the seek table have 2097745 bytes, but the payload has 2110043",
    )
    .await;
    // Sums that are right.
    refused_table(
        |frames| {
            frames[0].stored += 10;
            frames[1].stored -= 10;
        },
        "the frame at 0 of the payload ends after 65546 of 65556 bytes",
    )
    .await;
    refused_table(
        |frames| {
            frames[0].content -= 4096;
            frames[1].content += 4096;
        },
        "frame 0 has 65546 bytes for 61440 of content",
    )
    .await;
    refused_table(
        |frames| {
            let second = frames.remove(1);
            frames[0].content += second.content;
            frames[0].stored += second.stored;
        },
        "the frame at 0 of the payload ends after 65546 of 131092 bytes",
    )
    .await;
}

#[tokio::test]
async fn a_signed_seek_table_of_another_shape_is_refused() {
    type Change = fn(&mut Vec<u8>);
    let shapes: [(Change, &str); 4] = [
        (|table| table[0] ^= 1, "does not start as a skippable frame"),
        (|table| table[4] ^= 1, "has a frame size other than its own"),
        (|table| *table.last_mut().unwrap() ^= 1, "does not end in the seekable magic number"),
        (
            |table| {
                let descriptor = table.len() - 5;
                table[descriptor] = 0x80;
            },
            "has checksums or reserved bits, which `publish` does not write",
        ),
    ];
    for (change, problem) in shapes {
        let payload = good().manifest.filesystems[0].data.clone();
        let mut path = String::new();
        let outcome = refused(|published| {
            let mut bytes = published.files[&payload_path(&payload)].clone();
            let mut table = bytes.split_off(usize::try_from(payload.size - payload.seek_table_size).unwrap());
            change(&mut table);
            let lying = payload_of(bytes, &table, payload.content_size);
            path = payload_path(&lying.0);
            lying.publish(published)
        })
        .await;
        let text = format!("{ROOT}{path} from REPOSITORY is corrupt: the seek table {problem}");
        outcome.after_the_plan(Code::Corrupt, &text);
    }
}
