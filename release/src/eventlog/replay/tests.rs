//! Against a replay by another library, tpm2_eventlog, and logs that lack an event, have one too many, or in another order.

use std::collections::BTreeSet;
use std::process::Command;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::digest::Digest;
use crate::eventlog::firmware::Kind;
use crate::eventlog::firmware::tests::{GLOBAL, Made, SHA1_SHA256, agile, config, file_path, image, old};
use crate::eventlog::userspace::tests::{measured, sequence};
use crate::eventlog::{firmware, userspace};

/// What was extended, with what in the bank of SHA-256.
type Extended = (u32, [u8; 32]);

/// A replay of these events, as many of them as `split` in the firmware's log, the others in the userspace one.
fn replay(events: &[Extended], split: usize) -> Replay {
    let (first, second) = events.split_at(split.min(events.len()));
    let event = |(pcr, digest): &Extended| Made {
        pcr: *pcr,
        kind: Kind::EFI_ACTION,
        digests: vec![(0xb, digest.to_vec())],
        data: Vec::new(),
    };
    let log = firmware::parse(&agile(&[(0xb, 32)], &first.iter().map(event).collect::<Vec<_>>())).unwrap();
    let text: String = second.iter().map(|(pcr, digest)| measured(*pcr, digest)).collect();
    Replay::new(Some(&log), &userspace::parse(&text).unwrap())
}

/// What another library makes of the same events.
fn reference(events: &[Extended], pcr: u32) -> [u8; 32] {
    let start = if (17..=22).contains(&pcr) { [0xff; 32] } else { [0; 32] };
    let own = events.iter().filter(|(of, _)| *of == pcr);
    own.fold(start, |value, (_, digest)| Digest::of(&[value, *digest].concat()).0)
}

/// The PCRs whose values are not those of the true events.
fn refused(replay: &Replay, events: &[Extended]) -> BTreeSet<u32> {
    let check = |pcr: u32| replay.check(pcr, Bank::Sha256, &reference(events, pcr));
    (0..PCRS).filter(|pcr| matches!(check(*pcr), Err(ReplayError::Differs { .. }))).collect()
}

proptest! {
    #[test]
    fn only_the_true_log_accounts_for_the_values(
        events in prop::collection::vec((prop_oneof![Just(11_u32), Just(13), 0..PCRS], any::<[u8; 32]>()), 1..24),
        split: usize, place: prop::sample::Index, other: prop::sample::Index, extra: [u8; 32],
    ) {
        let split = split % (events.len() + 1);
        let (at, other) = (place.index(events.len()), other.index(events.len()));
        prop_assert_eq!(refused(&replay(&events, split), &events), BTreeSet::new());

        let mut fewer = events.clone();
        let (pcr, _) = fewer.remove(at);
        prop_assert_eq!(refused(&replay(&fewer, split), &events), BTreeSet::from([pcr]), "one is missing");

        let mut more = events.clone();
        more.insert(at, (pcr, extra));
        prop_assert_eq!(refused(&replay(&more, split), &events), BTreeSet::from([pcr]), "one is too many");

        let mut swapped = events.clone();
        swapped.swap(at, other);
        // Which of them comes first matters within a PCR alone.
        let order = |events: &[Extended], pcr: u32| -> Vec<[u8; 32]> {
            events.iter().filter(|(of, _)| *of == pcr).map(|(_, digest)| *digest).collect()
        };
        let differs = (0..PCRS).filter(|pcr| order(&swapped, *pcr) != order(&events, *pcr)).collect::<BTreeSet<_>>();
        if events[at].0 == events[other].0 && events[at] != events[other] {
            prop_assert_eq!(&differs, &BTreeSet::from([pcr]));
        }
        prop_assert_eq!(refused(&replay(&swapped, split), &events), differs, "two are swapped");
    }
}

#[test]
fn what_does_not_fit_is_said_with_pcr_and_bank() {
    let [one, two] = [b"one", b"two"].map(|bytes| Digest::of(bytes).0);
    let replay = replay(&[(13, two), (13, one)], 1);
    assert_eq!([replay.events(13), replay.events(12)], [2, 0]);
    let value = reference(&[(13, one), (13, two)], 13);
    // python3: h = lambda *b: hashlib.sha256(b"".join(b)).digest(); h(h(bytes(32), h(b"one")), h(b"two")), and the other way around.
    assert_eq!(
        replay.check(13, Bank::Sha256, &value).unwrap_err().to_string(),
        "PCR 13 of bank sha256 is b88f3f290fe4ac11da329c5515b418b937de9be1abffb4ff40de976ef83a28ee, but the \
         logs, with 2 events for it, say 9c4c0bcfa77d1b4c199f1209bf555d92d2edc890af5d4e0ea46f40b973d1bb21: an \
         event is missing in them, is one too many, or stands in another place"
    );
    assert_eq!(replay.check(12, Bank::Sha256, &[0; 32]), Ok(()));
    assert_eq!(
        replay.check(13, Bank::Sha1, &[0; 20]).unwrap_err().to_string(),
        "PCR 13 of bank sha1: the firmware event log's event 1 has no digest for it"
    );
    assert_eq!(replay.value(12, Bank::Sha1), Ok([0; 20].as_slice()), "nothing was measured there");
    assert_eq!(replay.value(24, Bank::Sha256).unwrap_err().to_string(), "there is no PCR 24");
    let records =
        userspace::parse(&[measured(13, &one), sequence(&json!({"pcr": 13, "digests": []}))].concat()).unwrap();
    assert_eq!(
        Replay::new(None, &records).value(13, Bank::Sha256).unwrap_err().to_string(),
        "PCR 13 of bank sha256: the userspace event log's event 1 has no digest for it"
    );
}

#[test]
fn pcrs_begin_as_the_platform_has_them() {
    let log = |events: &[Made]| firmware::parse(&agile(&SHA1_SHA256, events)).unwrap();
    let value = |replay: &Replay, pcr| replay.value(pcr, Bank::Sha384).unwrap().to_vec();
    let bare = Replay::new(None, &[]);
    for (pcr, byte) in [(0, 0), (16, 0), (17, 0xff), (22, 0xff), (23, 0)] {
        assert_eq!(value(&bare, pcr), [byte; 48], "{pcr}");
    }
    let locality = Replay::new(Some(&log(&[Made::no_action(b"StartupLocality\0\x03")])), &[]);
    assert_eq!(value(&locality, 0), [[0; 47].as_slice(), &[3]].concat());
    assert_eq!(value(&locality, 1), [0; 48]);
    assert_eq!(locality.events(0), 0, "it measures nothing");
    let hcrtm = log(&[Made::of(0, Kind::EFI_HCRTM_EVENT, b"HCRTM", b"HCRTM")]);
    let start = [[0; 31].as_slice(), &[4]].concat();
    let expected = Digest::of(&[start, Digest::of(b"HCRTM").0.to_vec()].concat());
    assert_eq!(Replay::new(Some(&hcrtm), &[]).value(0, Bank::Sha256), Ok(expected.0.as_slice()));
    let nowhere = Replay::new(Some(&log(&[Made::of(24, Kind::EFI_ACTION, b"", b"")])), &[]);
    assert!((0..PCRS).all(|pcr| nowhere.events(pcr) == 0));
    let index = userspace::parse(&sequence(&json!({"nv_index": 13, "digests": []}))).unwrap();
    assert_eq!(Replay::new(None, &index).events(13), 0, "an NV index is no PCR");
}

/// Banks and PCRs with their values, as tpm2_eventlog computes them.
fn tpm2_eventlog(log: &[u8]) -> BTreeMap<(Bank, u32), String> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), log).unwrap();
    let output = Command::new("tpm2_eventlog").arg(file.path()).output();
    let output = output.expect("tpm2_eventlog, of Debian's package tpm2-tools");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let (_, values) = text.split_once("\npcrs:\n").expect(&text);
    let (mut found, mut bank) = (BTreeMap::new(), None);
    for line in values.lines() {
        match line.split_once(" : 0x") {
            Some((pcr, value)) => drop(found.insert((bank.unwrap(), pcr.trim().parse().unwrap()), value.to_owned())),
            None => bank = Bank::ALL.into_iter().find(|bank| line.trim() == format!("{bank}:")),
        }
    }
    found
}

/// Apart from events that measure nothing behind the first one: tpm2-tools up to 5.5 extends PCRs by those.
#[test]
fn tpm2_eventlog_computes_the_same_values() {
    let section = |name: &str| name.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
    let mut events = vec![
        Made::of(0, Kind::S_CRTM_VERSION, b"1\0", b"1\0"),
        config(GLOBAL, "SecureBoot", &[1]),
        config(GLOBAL, "PK", &[]),
        Made::of(7, Kind::SEPARATOR, &[0; 4], &[0; 4]),
        Made::of(4, Kind::EFI_ACTION, b"Calling EFI Application", b"Calling EFI Application"),
        Made::of(4, Kind::EFI_BOOT_SERVICES_APPLICATION, b"uki", &image(&file_path("\\EFI\\BOOT\\BOOTX64.EFI"))),
        Made::of(11, Kind::IPL, b".linux\0", &section(".linux")),
        Made::of(11, Kind::IPL, b"kernel", &section(".linux")),
    ];
    let banks = |log: &[u8]| {
        let replay = Replay::new(Some(&firmware::parse(log).unwrap()), &[]);
        let extended = (0..PCRS).filter(|pcr| replay.events(*pcr) > 0).collect::<BTreeSet<_>>();
        let values = tpm2_eventlog(log);
        for ((bank, pcr), value) in &values {
            assert_eq!(to_hex(replay.value(*pcr, *bank).unwrap()), *value, "{bank} {pcr}");
        }
        let banks: BTreeSet<Bank> = values.keys().map(|(bank, _)| *bank).collect();
        for bank in &banks {
            let of_bank = values.keys().filter(|(of, _)| of == bank).map(|(_, pcr)| *pcr);
            assert_eq!(of_bank.collect::<BTreeSet<_>>(), extended, "{bank}");
        }
        banks.into_iter().collect::<Vec<_>>()
    };
    assert_eq!(banks(&old(&events)), [Bank::Sha1]);
    assert_eq!(banks(&agile(&SHA1_SHA256, &events)), [Bank::Sha1, Bank::Sha256]);
    for event in &mut events {
        let digests = [(0xc, Bank::Sha384), (0xd, Bank::Sha512)];
        event.digests.extend(digests.map(|(id, bank)| (id, bank.digest(&event.data).digest)));
    }
    let all = [(0x4, 20), (0xb, 32), (0xc, 48), (0xd, 64)];
    assert_eq!(banks(&agile(&all, &events)), Bank::ALL);
}
