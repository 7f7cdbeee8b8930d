//! Any bytes as a firmware's event log: one that is taken reads back as it was, has no more than its bytes, and can be replayed.
#![cfg_attr(fuzzing, no_main)]

use metalstrap_fuzz::fuzz_target;
use metalstrap_release::eventlog::PCRS;
use metalstrap_release::eventlog::firmware::{Event, FirmwareLog, parse};
use metalstrap_release::eventlog::replay::Replay;
use metalstrap_release::pcr::Bank;

/// The `TPM_ALG_ID` of a bank.
fn id(bank: Bank) -> u16 {
    match bank {
        Bank::Sha1 => 0x4,
        Bank::Sha256 => 0xb,
        Bank::Sha384 => 0xc,
        Bank::Sha512 => 0xd,
    }
}

fn event(event: &Event, agile: bool) -> Vec<u8> {
    let mut bytes = [event.pcr.to_le_bytes(), event.kind.0.to_le_bytes()].concat();
    let known = event.digests.iter().map(|digest| (id(digest.bank), &digest.digest));
    let others = event.others.iter().map(|digest| (digest.algorithm, &digest.digest));
    if agile {
        bytes.extend(u32::try_from(event.digests.len() + event.others.len()).unwrap().to_le_bytes());
    }
    for (algorithm, digest) in known.chain(others) {
        if agile {
            bytes.extend(algorithm.to_le_bytes());
        }
        bytes.extend(digest);
    }
    bytes.extend(u32::try_from(event.data.len()).unwrap().to_le_bytes());
    bytes.extend(&event.data);
    bytes
}

fn print(log: &FirmwareLog) -> Vec<u8> {
    let Some((first, others)) = log.events.split_first() else { return Vec::new() };
    let agile = first.kind.0 == 3 && first.data.starts_with(b"Spec ID Event03\0");
    [event(first, false), others.iter().flat_map(|other| event(other, agile)).collect()].concat()
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(log) = parse(bytes) else { return };
    let printed = print(&log);
    // Digests may lie in another order, those of unknown algorithms behind the others.
    assert_eq!(printed.len(), bytes.len());
    assert_eq!(parse(&printed).as_ref(), Ok(&log));
    for event in &log.events {
        drop((event.image(), event.variable(), event.text(), event.tagged(), event.kind.to_string()));
    }
    assert!(log.secure_boot_variables().count() <= log.events.len() && log.applications().count() <= log.events.len());
    assert!(log.secure_boot().is_none() || log.secure_boot_variables().any(|variable| variable.name == "SecureBoot"));
    let replay = Replay::new(Some(&log), &[]);
    for (pcr, bank) in (0..PCRS).flat_map(|pcr| Bank::ALL.map(|bank| (pcr, bank))) {
        if let Ok(value) = replay.value(pcr, bank) {
            assert_eq!((value.len(), replay.check(pcr, bank, value)), (bank.size(), Ok(())));
        }
    }
});
