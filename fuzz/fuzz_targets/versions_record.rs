//! Any bytes as the record of metadata versions that a TPM keeps: one that is taken is that record, byte for byte; and a
//! digest that is right gets the bytes as far as their format.
#![cfg_attr(fuzzing, no_main)]

use metalstrap_fuzz::fuzz_target;
use metalstrap_release::digest::Digest;
use metalstrap_release::metadata::{RECORD_BYTES, RecordError, Versions};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(versions) = Versions::from_record(bytes) {
        assert_eq!(versions.to_record(), bytes);
    }
    let mut ours = bytes.to_vec();
    ours.resize(RECORD_BYTES.into(), 0);
    ours[..8].copy_from_slice(b"metalver");
    let sum = Digest::of(&ours[..116]);
    ours[116..].copy_from_slice(&sum.0[..12]);
    match Versions::from_record(&ours) {
        Ok(versions) => assert_eq!(versions.to_record(), ours),
        Err(error) => assert!(matches!(error, RecordError::Format(format) if format != 1)),
    }
});
