//! Any bytes as a userspace event log: one that is taken reads back as it was, and can be replayed.
#![cfg_attr(fuzzing, no_main)]

use metalstrap_fuzz::fuzz_target;
use metalstrap_release::digest::to_hex;
use metalstrap_release::eventlog::PCRS;
use metalstrap_release::eventlog::replay::Replay;
use metalstrap_release::eventlog::userspace::{Record, Register, parse};
use metalstrap_release::pcr::Bank;
use serde_json::{Value, json};

fn print(record: &Record) -> String {
    let mut digests: Vec<Value> = record.digests.iter().map(|digest| json!(digest)).collect();
    for other in &record.others {
        digests.push(json!({"hashAlg": other.algorithm, "digest": to_hex(&other.digest)}));
    }
    let mut value = json!({"digests": digests, "content": record.content});
    let (name, number) = match record.register {
        Register::Pcr(pcr) => ("pcr", pcr),
        Register::Nv(index) => ("nv_index", index),
    };
    value[name] = json!(number);
    if let Some(content_type) = &record.content_type {
        value["content_type"] = json!(content_type);
    }
    format!("\u{1e}{value}\n")
}

/// A fraction may not be the same when it is read again.
fn has_fraction(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.is_f64(),
        Value::Array(values) => values.iter().any(has_fraction),
        Value::Object(fields) => fields.values().any(has_fraction),
        Value::Null | Value::Bool(_) | Value::String(_) => false,
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(records) = parse(text) else { return };
    assert_eq!(records.len(), text.matches('\u{1e}').count());
    if !records.iter().any(|record| has_fraction(&record.content)) {
        let printed: String = records.iter().map(print).collect();
        assert_eq!(parse(&printed).as_ref(), Ok(&records));
    }
    for record in &records {
        assert!(
            record.input().is_none() || record.is_of_string().is_none(),
            "of ours the text is not what was measured"
        );
    }
    let replay = Replay::new(None, &records);
    for (pcr, bank) in (0..PCRS).flat_map(|pcr| Bank::ALL.map(|bank| (pcr, bank))) {
        if let Ok(value) = replay.value(pcr, bank) {
            assert_eq!((value.len(), replay.check(pcr, bank, value)), (bank.size(), Ok(())));
        }
    }
});
