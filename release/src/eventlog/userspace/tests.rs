//! Records as systemd and the installer write them, and others.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::digest::from_hex;
use crate::pcr::{Bank, BankDigest};

/// As systemd 257 writes it at the start of the initrd.
const PHASE: &str = concat!(
    "\u{1e}",
    r#"{"pcr":11,"digests":[{"hashAlg":"sha256","digest":"51e6b92f405d1f98d96e3de343d61d420ad6923b25de21d766f9298192f14fed"}],"#,
    r#""content_type":"systemd","content":{"string":"enter-initrd","bootId":"0123456789abcdef0123456789abcdef","#,
    r#""timestamp":2051377,"eventType":"phase"}}"#,
    "\n"
);

/// A record of these fields.
pub(crate) fn sequence(value: &Value) -> String {
    format!("\u{1e}{value}\n")
}

/// A record of a digest in the bank of SHA-256.
pub(crate) fn measured(pcr: u32, digest: &[u8]) -> String {
    let digest = BankDigest { bank: Bank::Sha256, digest: digest.to_vec() };
    sequence(&json!({"pcr": pcr, "digests": [digest], "content_type": "opaque", "content": {"a": [1, null]}}))
}

fn one(value: &Value) -> Record {
    let mut records = parse(&sequence(value)).unwrap();
    assert_eq!(records.len(), 1);
    records.remove(0)
}

fn refusal(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

#[test]
fn systemds_records_are_read() {
    let records = parse(&PHASE.repeat(2)).unwrap();
    assert_eq!(records.len(), 2);
    assert_eq!(records[0], records[1]);
    let record = &records[0];
    assert_eq!((record.register, record.pcr()), (Register::Pcr(11), Some(11)));
    assert_eq!(record.digests, [Bank::Sha256.digest(b"enter-initrd")]);
    assert_eq!(
        record.digest(Bank::Sha256),
        from_hex("51e6b92f405d1f98d96e3de343d61d420ad6923b25de21d766f9298192f14fed").as_deref()
    );
    assert_eq!(record.digest(Bank::Sha1), None);
    assert_eq!(record.content_type.as_deref(), Some("systemd"));
    assert_eq!((record.string(), record.event_type()), (Some("enter-initrd"), Some("phase")));
    assert_eq!((record.content["timestamp"].as_u64(), record.input()), (Some(2_051_377), None));
    assert!(parse("").unwrap().is_empty());
}

/// `volume-key`: HMAC with the key (systemd, `src/cryptsetup/cryptsetup.c`).
#[test]
fn of_some_types_the_digest_is_that_of_the_text() {
    let of = |kind: &str, measured: &[u8]| {
        let content = json!({"string": "a text", "eventType": kind});
        let digests = [Bank::Sha1, Bank::Sha512].map(|bank| bank.digest(measured));
        one(&json!({"pcr": 15, "digests": digests, "content_type": "systemd", "content": content})).is_of_string()
    };
    for kind in ["phase", "filesystem", "machine-id", "product-id"] {
        assert_eq!([of(kind, b"a text"), of(kind, b"another")], [Some(true), Some(false)], "{kind}");
    }
    for kind in ["volume-key", "metalstrap", "of-tomorrow"] {
        assert_eq!([of(kind, b"a text"), of(kind, b"another")], [None; 2], "{kind}");
    }
    let without = |value: Value| one(&value).is_of_string();
    let content = json!({"string": "a text", "eventType": "phase"});
    assert_eq!(
        without(json!({"pcr": 11, "digests": [], "content_type": "systemd", "content": content})),
        Some(false),
        "no digest is that of no text"
    );
    let digests = [Bank::Sha256.digest(b"a text")];
    assert_eq!(without(json!({"pcr": 11, "digests": digests, "content_type": "other", "content": content})), None);
}

/// `installer/src/eventlog.rs`.
#[test]
fn inputs_of_the_installer_have_their_name_and_their_digest_beside_it() {
    let content = |input: &str, kind: &str| json!({"input": input, "eventType": kind});
    let of = |content: Value| {
        one(&json!({"pcr": 13, "digests": [Bank::Sha384.digest(b"{}")], "content_type": "systemd", "content": content}))
    };
    let record = of(content("host-config", "metalstrap"));
    assert_eq!((record.input(), record.string()), (Some("host-config"), None));
    assert_eq!([record.is_of(b"{}"), record.is_of(b"host-config")], [true, false]);
    assert_eq!(of(content("host-config", "phase")).input(), None);
    assert_eq!(of(json!({"string": "host-config", "eventType": "metalstrap"})).input(), None);
}

#[test]
fn what_others_write_is_kept() {
    let sm3 = json!({"hashAlg": "sm3_256", "digest": "0A0b"});
    let record = one(
        &json!({"recnum": 4, "nv_index": 0x1d1_0200, "digests": [sm3], "content_type": "pcclient_std", "content": 7}),
    );
    assert_eq!((record.register, record.pcr()), (Register::Nv(0x1d1_0200), None));
    assert_eq!(record.others, [NamedDigest { algorithm: "sm3_256".to_owned(), digest: vec![10, 11] }]);
    assert!(record.digests.is_empty() && !record.is_of(b""));
    assert_eq!((record.content_type.as_deref(), &record.content), (Some("pcclient_std"), &json!(7)));
    let least = one(&json!({"pcr": 0, "digests": []}));
    assert_eq!((least.content_type.as_deref(), &least.content), (None, &Value::Null));
}

#[test]
fn texts_that_are_no_log_are_refused() {
    assert_eq!(PHASE.len(), 266);
    for (text, event, problem) in [
        ("{}\n".to_owned(), "0, at byte 0,", "does not begin with the character 0x1e"),
        (format!("{PHASE}\u{1e}"), "1, at byte 266,", "is cut off: it does not end with a line feed"),
        (format!("{PHASE}{}", &PHASE[..100]), "1, at byte 266,", "is cut off: it does not end with a line feed"),
        (format!("{}{PHASE}", &PHASE[..265]), "0, at byte 0,", "is cut off: it does not end with a line feed"),
        ("\u{1e}\n".to_owned(), "0, at byte 0,", "is not valid: EOF while parsing a value at line 1 column 0"),
        ("\u{1e}{} {}\n".to_owned(), "0, at byte 0,", "is not valid: trailing characters at line 1 column 4"),
        ("\u{1e}[]\n".to_owned(), "0, at byte 0,", "is no object"),
        (
            "\u{1e}{\"pcr\":11,\"pcr\":12}\n".to_owned(),
            "0, at byte 0,",
            "is not valid: the key \"pcr\" is there twice at line 1 column 15",
        ),
        (
            "\u{1e}{\"pcr\":11,\"digests\":[],\"content\":{\"string\":1,\"string\":2}}\n".to_owned(),
            "0, at byte 0,",
            "is not valid: the key \"string\" is there twice at line 1 column 53",
        ),
    ] {
        assert_eq!(refusal(&text), format!("the userspace event log's event {event} {problem}"), "{text:?}");
    }
}

#[test]
fn fields_that_cannot_be_are_refused() {
    let digest = json!({"hashAlg": "sha1", "digest": "00".repeat(20)});
    let systemd = |content: Value| json!({"pcr": 1, "digests": [], "content_type": "systemd", "content": content});
    for (value, problem) in [
        (json!({"digests": []}), "has no pcr"),
        (json!({"pcr": 1, "nv_index": 1, "digests": []}), "has a pcr and an nv_index"),
        (json!({"pcr": 24, "digests": []}), "has a pcr that no TPM has: 24"),
        (json!({"pcr": "11", "digests": []}), "has a pcr that no TPM has: \"11\""),
        (json!({"nv_index": 0x1_0000_0000_u64, "digests": []}), "has an nv_index that no TPM has: 4294967296"),
        (json!({"pcr": 1}), "has no list of digests"),
        (json!({"pcr": 1, "digests": {}}), "has no list of digests"),
        (json!({"pcr": 1, "digests": [[]]}), "has a digest without hashAlg"),
        (json!({"pcr": 1, "digests": [{"hashAlg": "sha1"}]}), "has a digest of sha1 that is not hexadecimal"),
        (
            json!({"pcr": 1, "digests": [{"hashAlg": "sha1", "digest": "0x"}]}),
            "has a digest of sha1 that is not hexadecimal",
        ),
        (json!({"pcr": 1, "digests": [{"hashAlg": "sha256", "digest": "00"}]}), "has a digest of sha256 with 1 bytes"),
        (json!({"pcr": 1, "digests": [digest, digest]}), "has two digests of algorithm \"sha1\""),
        (json!({"pcr": 1, "digests": [], "content_type": 1}), "has a content_type that is no text"),
        (json!({"pcr": 1, "digests": [], "content_type": "systemd"}), "has a content that is no object"),
        (systemd(json!({"string": 1})), "has a content.string that is no text"),
        (systemd(json!({"input": 1})), "has a content.input that is no text"),
        (systemd(json!({"bootId": null})), "has a content.bootId that is no text"),
        (systemd(json!({"eventType": []})), "has a content.eventType that is no text"),
        (systemd(json!({"timestamp": -1})), "has a content.timestamp that is no number of microseconds"),
    ] {
        let expected = format!("the userspace event log's event 0, at byte 0, {problem}");
        assert_eq!(refusal(&sequence(&value)), expected, "{value}");
    }
}

#[test]
fn a_log_without_end_is_refused() {
    let record = sequence(&json!({"pcr": 1, "digests": []}));
    assert_eq!(parse(&record.repeat(MAX_EVENTS)).unwrap().len(), MAX_EVENTS);
    assert_eq!(refusal(&record.repeat(MAX_EVENTS + 1)), "the userspace event log has more than 16384 events");
    let long = " ".repeat(MAX_BYTES + 1);
    assert_eq!(refusal(&long), "the userspace event log has 4194305 bytes, more than the 4194304 allowed");
    let deep = format!("\u{1e}{}\n", "[".repeat(1000));
    assert_eq!(
        refusal(&deep),
        "the userspace event log's event 0, at byte 0, is not valid: recursion limit exceeded at line 1 column 128"
    );
}

/// Each digest is looked for among those before it.
#[test]
fn digests_without_end_are_refused() {
    let with = |count: u32| {
        let digest = |number: u32| json!({"hashAlg": number.to_string(), "digest": "00"});
        json!({"pcr": 1, "digests": (0..count).map(digest).collect::<Vec<_>>()})
    };
    assert_eq!(one(&with(16)).others.len(), 16);
    // The latter makes a log of almost 4 MiB.
    for count in [17, 120_000] {
        let problem = format!("has {count} digests, more than the 16 allowed");
        let refusal = refusal(&sequence(&with(count)));
        assert_eq!(refusal, format!("the userspace event log's event 0, at byte 0, {problem}"));
    }
}

proptest! {
    #[test]
    fn any_text_never_panics(text in "\\PC{0,40}", damage in prop::collection::vec((0_usize..266, any::<char>()), 0..4)) {
        let _: Result<Vec<Record>, LogError> = parse(&text);
        let mut characters: Vec<char> = PHASE.chars().collect();
        damage.iter().for_each(|(at, character)| characters[*at] = *character);
        if let Ok(records) = parse(&characters.iter().collect::<String>()) {
            prop_assert!(records.iter().all(|record| record.pcr() < Some(24)));
        }
    }
}
