//! Any bytes as a variable for Secure Boot, and as an update of one: what is taken of them stands in them.
#![cfg_attr(fuzzing, no_main)]

use metalstrap_fuzz::fuzz_target;
use metalstrap_release::secure_boot::{Update, certificates};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(found) = certificates(bytes) {
        assert!(found.iter().map(|certificate| certificate.len()).sum::<usize>() <= bytes.len());
    }
    if let Ok(update) = Update::parse(bytes.to_vec()) {
        assert_eq!(update.bytes(), bytes);
        assert!(bytes.ends_with(update.content()));
        assert!(certificates(update.content()).is_ok_and(|found| !found.is_empty()));
    }
});
