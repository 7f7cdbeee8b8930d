//! A disk that is erased before it is installed to: once, also if the run that did it is interrupted later.

use std::os::unix::fs::FileExt as _;

use serde_json::json;

use super::published::{Published, good, payload_path};
use super::trial::{DISK_BYTES, Outcome, Trial};
use crate::disk::Recorded;
use crate::erase::MARK;
use crate::failure::Code;

/// In the middle of the free space, where an installation writes nothing.
const SECRET: u64 = 600 << 20;

/// The repository, whose host config has this word about erasing.
fn erasing(erase: &str) -> Published {
    let host = json!({"format": 1, "release": {"name": "tiny", "version": "1"}, "existing": "wipe", "intent": "new", "erase": erase});
    good().with_host(serde_json::to_vec(&host).unwrap())
}

/// An installation to a disk with a file system on it.
fn used(published: &Published) -> Trial {
    let trial = Trial::of(published);
    let disk = std::fs::File::options().write(true).open(trial.disk()).unwrap();
    disk.write_all_at(b"XFSB", 0).unwrap();
    disk.write_all_at(b"secret", SECRET).unwrap();
    trial
}

fn has_secret(trial: &Trial) -> bool {
    bytes(trial, SECRET) == *b"secret"
}

fn bytes(trial: &Trial, at: u64) -> [u8; 6] {
    let mut bytes = [0; 6];
    std::fs::File::open(trial.disk()).unwrap().read_exact_at(&mut bytes, at).unwrap();
    bytes
}

/// Bytes that were written in pieces as large as only an erasure has them.
fn erased(outcome: &Outcome) -> u64 {
    let large = outcome.log.iter().filter_map(|what| match what {
        Recorded::Write { bytes, .. } if bytes.len() > 100 << 20 => Some(bytes.len() as u64),
        Recorded::Write { .. } | Recorded::Flush => None,
    });
    large.sum()
}

#[tokio::test]
async fn a_wipe_leaves_what_nobody_looks_at_and_an_erasure_does_not() {
    let (outcome, trial) = used(&erasing("none")).run_and_keep().await;
    outcome.result.as_ref().unwrap();
    assert!(erased(&outcome) == 0 && has_secret(&trial));
    let (outcome, trial) = used(&erasing("zeroes")).run_and_keep().await;
    outcome.result.as_ref().unwrap();
    assert!(erased(&outcome) == DISK_BYTES && !has_secret(&trial));
    assert_eq!(bytes(&trial, MARK.start), [0; 6]);
    assert!(trial.verify().await.unwrap().whole);
    // A disk that holds the release is left alone, whatever stands in the host config.
    let (outcome, _trial) = trial.run_and_keep().await;
    outcome.result.as_ref().unwrap();
    assert!(outcome.log.iter().all(|what| *what == Recorded::Flush), "{:?}", outcome.log);
}

#[tokio::test]
async fn a_run_that_is_interrupted_after_the_erasure_does_not_erase_again() {
    let whole = erasing("zeroes");
    let path = payload_path(&whole.manifest.filesystems[0].data);
    let mut lacking = whole.clone();
    lacking.files.remove(&path).unwrap();
    let (outcome, trial) = used(&lacking).run_and_keep().await;
    assert_eq!(outcome.failure().code, Code::Repository);
    assert_eq!((erased(&outcome), bytes(&trial, MARK.start)), (DISK_BYTES, *b"metals"));
    whole.write_to(&trial.disk().parent().unwrap().join("repository"));
    let (outcome, trial) = trial.run_and_keep().await;
    outcome.result.as_ref().unwrap();
    assert_eq!((erased(&outcome), bytes(&trial, MARK.start)), (0, [0; 6]));
    assert!(trial.verify().await.unwrap().whole);
}

#[tokio::test]
async fn an_erasure_that_the_disk_cannot_do_is_refused_before_any_write() {
    for (erase, reason) in [("secure", "it is a file"), ("discard", "it takes no discards")] {
        let outcome = used(&erasing(erase)).run().await;
        let failure = outcome.failure();
        let text = format!(
            "locking the disk: disk PLACE/disk cannot be erased as \"erase\" in the host config wants: {reason}"
        );
        assert_eq!((failure.code, failure.happened), (Code::CannotErase, text));
        assert_eq!((failure.untouched.as_str(), outcome.log.len()), ("No disk was written to.", 0));
    }
}
