//! Others that read or write the log lock it, as systemd does: between the TPM and the record they must not get it.

use std::fs::{File, TryLockError};
use std::path::PathBuf;

use super::*;

/// A TPM that sees, when it is extended, that nobody else gets the log's lock.
#[derive(Debug)]
struct Looking {
    log: PathBuf,
    works: bool,
}

impl Tpm for Looking {
    fn banks(&self) -> &[Bank] {
        &[Bank::Sha256]
    }

    fn extend(&mut self, _: PcrIndex, _: &[BankDigest]) -> Result<()> {
        // A lock is the open file's, so this one is another process's as far as locks go.
        let lock = File::open(&self.log).unwrap().try_lock();
        assert!(matches!(lock, Err(TryLockError::WouldBlock)), "{lock:?}");
        if self.works { Ok(()) } else { bail!("the TPM is in lockout") }
    }

    fn read(&mut self, _: PcrIndex) -> Result<Vec<BankDigest>> {
        bail!("nobody reads it")
    }

    fn nv_read(&mut self, _: u32, _: u16) -> Result<Content> {
        bail!("nobody reads it")
    }

    fn nv_write(&mut self, _: u32, _: &[u8]) -> Result<()> {
        bail!("nobody writes it")
    }
}

#[test]
fn nobody_else_gets_the_log_while_the_tpm_is_extended() {
    for works in [true, false] {
        let directory = tempfile::tempdir().unwrap();
        let path = log_in(&directory);
        let tpm = Looking { log: path.clone(), works };
        let mut measurer = Measurer::with(Ok(Some(Box::new(tpm))), &path);
        measurer.decide(TpmPolicy::Required).unwrap();

        let measured = measurer.measure(PcrIndex::Installer, "plan", b"[]");

        let error = measured.err().map(|error| format!("{error:#}"));
        assert_eq!(error, (!works).then(|| "measuring the plan: the TPM is in lockout".to_owned()));
        File::open(&path).unwrap().try_lock().unwrap();
        // The measurer still has the file open, so it is not its end that gave the lock back.
        assert_eq!(measurer.failure(), None);
        assert_eq!(records(&fs::read_to_string(&path).unwrap()).len(), usize::from(works));
    }
}
