//! A repository in a directory; below, servers with every fault.

mod ahead;
mod faults;
mod mirrors;
mod phases;
mod same_file;
mod testing;

use std::sync::Arc;

use super::*;

async fn collect(source: &dyn Source, path: &str, range: Range<u64>) -> (Result<()>, Vec<u8>) {
    let (sink, mut chunks) = mpsc::channel::<Bytes>(4);
    let receive = async {
        let mut all = Vec::new();
        while let Some(chunk) = chunks.recv().await {
            all.extend_from_slice(&chunk);
        }
        all
    };
    tokio::join!(source.fetch(path, range, sink), receive)
}

fn repository() -> (tempfile::TempDir, Vec<u8>) {
    let place = tempfile::tempdir().unwrap();
    let content: Vec<u8> = (0..700_001_u32).flat_map(u32::to_le_bytes).collect();
    std::fs::create_dir(place.path().join("payloads")).unwrap();
    std::fs::write(place.path().join("payloads/a.zst"), &content).unwrap();
    (place, content)
}

#[tokio::test]
async fn a_directory_sends_exactly_the_range() {
    let (place, content) = repository();
    let source = DirectorySource::new(place.path());
    let (sent, bytes) = collect(&source, "payloads/a.zst", 5..2_000_003).await;
    sent.unwrap();
    assert!(bytes == content[5..2_000_003]);
    assert_eq!(source.get("payloads/a.zst", content.len()).await.unwrap().len(), content.len());
}

#[tokio::test]
async fn a_directory_names_what_is_missing() {
    let (place, content) = repository();
    let source = DirectorySource::new(place.path());
    let root = place.path().display();
    let (sent, _) = collect(&source, "payloads/a.zst", 0..content.len() as u64 + 7).await;
    assert_eq!(
        format!("{:#}", sent.unwrap_err()),
        format!("fetching {root}/payloads/a.zst: it ends 7 bytes too early")
    );
    let error = source.get("payloads/a.zst", 10).await.unwrap_err();
    assert_eq!(format!("{error:#}"), format!("fetching {root}/payloads/a.zst: it has more than 10 bytes"));
    let error = source.get("../a", 10).await.unwrap_err();
    assert_eq!(format!("{error:#}"), format!("fetching {root}/../a: \"../a\" is no plain relative path"));
    assert_eq!(crate::failure::code_of(&error), Code::Repository);
}
