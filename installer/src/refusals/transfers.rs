//! Servers that stop, lie about ranges or send too little.

use metalstrap_release::digest::Digest;

use super::published::{ROOT_BYTES, good, payload_path, root_image};
use super::servers::{server, times};
use super::trial::Trial;
use crate::converge::testing::{SALT, bytes};
use crate::failure::Code;
use crate::test_server::{Reply, Then, asked_path, asked_range, reply};

const ROOT: &str = "writing the root file system: ";

/// The answer's head and `count` bytes of its body.
fn cut(mut whole: Reply, count: usize, then: Then) -> Reply {
    let head = whole.bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    whole.bytes.truncate(head + count);
    whole.then = then;
    whole
}

/// Two servers that send the same wrong block, each with a certificate of its own.
#[tokio::test]
async fn mirrors_that_lie_are_told_at_once_and_named_in_the_report_of_the_failure() {
    let published = good();
    let root = payload_path(&published.manifest.filesystems[0].data);
    let liar = async || {
        let path = root.clone();
        server(&published, move |asked, number, mut right| {
            // The seek table, which comes first from each of the two, is right.
            if asked == path && number > 1 {
                right.bytes.iter_mut().rev().take(20).for_each(|byte| *byte ^= 0x10);
            }
            right
        })
        .await
    };
    let servers = [liar().await, liar().await];
    let mut trial = Trial::at(&published, &servers[0]);
    let urls = [0, 1].map(|number: usize| format!("https://127.0.0.1:{}/os", servers[number].port));
    trial.site["mirrors"] = serde_json::json!([urls[1]]);
    trial.site["ca"] = format!("{}{}", servers[0].ca, servers[1].ca).into();
    let outcome = trial.run().await;
    assert_eq!(outcome.failure().code, Code::Corrupt);
    let (lines, events) = outcome.reported().await;
    let last = events.last().unwrap();
    assert!(last["step"] == "run" && last["state"] == "failed", "{last}");
    let dropped: Vec<&str> =
        last["fields"]["mirrors_dropped"].as_array().unwrap().iter().flat_map(|it| it.as_str()).collect();
    assert_eq!(dropped.len(), 2, "{dropped:?}");
    for url in &urls {
        let reason = dropped.iter().find_map(|text| text.strip_prefix(&format!("{url}: "))).unwrap();
        assert!(reason.starts_with(&format!("{root} from {url} is corrupt")), "{reason}");
        let text = format!("mirror {url} is dropped: {reason}");
        assert!(lines.contains(&format!("warning: {text}")), "{lines:?}");
        let told =
            |event: &&serde_json::Value| event["state"] == "warning" && event["fields"]["message"] == text.as_str();
        let warning = events.iter().find(told).unwrap();
        // Before the step has failed.
        let failed = events.iter().position(|event| event["state"] == "failed").unwrap() as u64;
        assert!(warning["step"] == "root" && warning["sequence"].as_u64().unwrap() < failed, "{warning}");
    }
}

#[tokio::test]
async fn a_server_that_stops_for_good_is_asked_again_and_then_given_up() {
    let published = good();
    let root = payload_path(&published.manifest.filesystems[0].data);
    for (then, said) in
        [(Then::Close, "the connection was closed too early"), (Then::Stall, "nothing more came for 2 s")]
    {
        let path = root.clone();
        // The seek table comes whole, then a part of the frames, and then nothing any more.
        let server = server(&published, move |asked, number, right| match number {
            _ if asked != path => right,
            1 => right,
            2 => cut(right, 300_000, then),
            _ => cut(right, 0, then),
        })
        .await;
        let outcome = Trial::at(&published, &server).run().await;
        let text = format!("{ROOT}fetching REPOSITORY/{root}: giving up after 3 attempts: {said}");
        outcome.after_the_plan(Code::Repository, &text);
        // The seek table once, and no connection asks for its range more than three times.
        assert!(times(&server, &root) <= 1 + 3 * 12, "{}", times(&server, &root));
    }
}

#[tokio::test]
async fn a_server_that_stops_and_comes_back_is_resumed_at_the_byte() {
    let published = good();
    let payload = &published.manifest.filesystems[0].data;
    let root = payload_path(payload);
    let path = root.clone();
    let server = server(&published, move |asked, number, right| match number {
        2 if asked == path => cut(right, 300_001, Then::Close),
        3 if asked == path => cut(right, 100_000, Then::Stall),
        4 if asked == path => reply("502 Bad Gateway", b""),
        _ => right,
    })
    .await;
    Trial::at(&published, &server).run().await.installed();
    let asked: Vec<_> = server
        .requests()
        .iter()
        .filter(|request| asked_path(request) == format!("os/{root}"))
        .filter_map(|request| asked_range(request))
        .collect();
    let [end, size] = [payload.size - payload.seek_table_size, payload.size].map(|n| usize::try_from(n).unwrap());
    // Several connections take ranges by turns: in all every byte was asked for, and the rest of what was cut once more
    // from the byte on where it was cut.
    assert_eq!(asked.first(), Some(&(end, size)));
    let mut ranges: Vec<_> = asked.iter().skip(1).copied().collect();
    ranges.sort_unstable();
    let mut next = 0;
    let mut again = Vec::new();
    for (start, stop) in ranges {
        if start == next {
            next = stop;
        } else {
            again.push((start, stop));
        }
    }
    assert_eq!(next, end);
    // The 502 brought nothing; the two cuts a part each, where they came to more than their range.
    assert!((1..=3).contains(&again.len()), "{again:?}");
}

#[tokio::test]
async fn a_server_that_cuts_every_file_once_installs() {
    let published = good();
    let server = server(&published, |_, number, right| match number {
        1 if right.bytes.starts_with(b"HTTP/1.1 20") => cut(right, 10, Then::Close),
        _ => right,
    })
    .await;
    Trial::at(&published, &server).run().await.installed();
}

#[tokio::test]
async fn a_truncated_payload_on_a_server_is_refused() {
    let published = good();
    let payload = &published.manifest.filesystems[0].data;
    let (path, size) = (payload_path(payload), payload.size);
    for left in [size - 1, size / 2, 0] {
        let changed = published.clone().with_payload(payload, |bytes| bytes.truncate(usize::try_from(left).unwrap()));
        let server = server(&changed, |_, _, right| right).await;
        let outcome = Trial::at(&published, &server).run().await;
        let text = format!("{ROOT}fetching REPOSITORY/{path}: the file has only {left} bytes, not {size}");
        outcome.after_the_plan(Code::Repository, &text);
    }
}

#[tokio::test]
async fn other_bytes_than_those_asked_for_are_not_written() {
    let published = good();
    let payload = &published.manifest.filesystems[0].data;
    let path = payload_path(payload);
    // The range's head is that of the request, its body another part of the file.
    let asked = path.clone();
    let server = server(&published, move |path, number, mut right| {
        if path == asked && number == 2 {
            let head = right.bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
            right.bytes[head..].rotate_left(65_551);
        }
        right
    })
    .await;
    let outcome = Trial::at(&published, &server).run().await;
    let text = format!(
        "{ROOT}{path} from REPOSITORY is corrupt: the frame at 0 of the payload is no zstd \
             frame: Unknown frame descriptor"
    );
    outcome.after_the_plan(Code::Corrupt, &text);
}

#[tokio::test]
async fn a_mirror_that_serves_valid_blocks_of_another_release_or_another_place_is_refused() {
    const BLOCK: usize = 200;
    let at = |content: &[u8], block: usize| content[block * 4096..][..4096].to_vec();
    let published = good();
    let payload = &published.manifest.filesystems[0].data;
    let (path, content, other) = (payload_path(payload), root_image(), bytes(21, ROOT_BYTES));
    let ours = at(&content, BLOCK);
    // At its place in another release; and this release's own, which stands elsewhere.
    for instead in [at(&other, BLOCK), at(&content, 7)] {
        let changed = published.clone().with_payload(payload, |bytes| {
            // Random bytes are stored as they are.
            let start = bytes.windows(4096).position(|window| window == ours).unwrap();
            bytes[start..start + 4096].copy_from_slice(&instead);
        });
        let server = server(&changed, |_, _, right| right).await;
        let [found, right] = [&instead, &ours].map(|block| Digest::salted(&SALT, block));
        let text = format!(
            "{ROOT}{path} from REPOSITORY is corrupt at byte {} of its content: block {BLOCK} has digest {found}, but the hash \
             tree says {right}",
            BLOCK * 4096
        );
        Trial::at(&published, &server).run().await.after_the_plan(Code::Corrupt, &text);
    }
}
