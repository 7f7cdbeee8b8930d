use std::collections::BTreeMap;

use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::*;
use crate::attest::{Base64, Introduction, Quote};
use crate::digest::{Digest, to_hex};
use crate::eventlog::firmware::Kind;
use crate::eventlog::firmware::tests::{GLOBAL, Made, agile, variable};
use crate::pcr::{Bank, Pcr};
use crate::tpm2::sized;
use crate::tpm2::testing::{Signer, ek};

mod forged;
mod reported;
mod started;

/// What is said of an expected release and host config that were measured.
const RELEASE_MEASURED: &str = "manifest, root hash and UKI of debian 13.2 were measured; that nothing else was in its place is only \
                                what the log says";
const HOST_MEASURED: &str = "it was measured; that nothing else was in its place is only what the log says";
/// What is said of the netboot image where PCR 12 is not zero.
const BESIDE: &str = "PCR 12 is not zero: the netboot image was given a command line, credentials or add-ons, or the installer was left by \
                      kexec since, and nothing tells the one from the other";
const APPLICATION: u32 = 0x8000_0003;
const VARIABLE: u32 = 0x8000_0001;
const ACTION: u32 = 0x8000_0007;
const SEPARATOR: u32 = 4;
/// Each of the firmware's events: PCR, type, digest, data.
type Event = (u32, u32, Vec<u8>, Vec<u8>);

/// A machine with a TPM of one bank, and what was measured on it.
struct Machine {
    signer: Signer,
    firmware: Vec<Event>,
    records: Vec<(&'static str, Vec<u8>)>,
}

fn sha256(bytes: &[u8]) -> Vec<u8> {
    Sha256::digest(bytes).to_vec()
}

/// `UEFI_VARIABLE_DATA` of the variable SecureBoot.
fn secure_boot(on: bool) -> Event {
    let data = variable(GLOBAL, "SecureBoot", &[u8::from(on)]);
    (7, VARIABLE, sha256(&data), data)
}

/// An event whose data is what was hashed.
fn text(pcr: u32, kind: u32, data: &[u8]) -> Event {
    (pcr, kind, sha256(data), data.to_vec())
}

/// `TPMS_ATTEST` over values of PCRs 4, 7, 12 and 13 of the bank of this algorithm.
fn quoted(bank: u8, nonce: &[u8], values: &BTreeMap<u32, Vec<u8>>) -> Vec<u8> {
    let values: Vec<u8> = values.values().flatten().copied().collect();
    let start = [&[0xff, 0x54, 0x43, 0x47, 0x80, 0x18][..], &sized(&[]), &sized(nonce), &[0; 25]].concat();
    let selection = [0, 0, 0, 1, 0, bank, 3, 0b1001_0000, 0b0011_0000, 0];
    [&start[..], &selection, &sized(&sha256(&values))].concat()
}

/// A record as the installer writes it, of a register of this kind.
fn record(kind: &str, register: u32, what: &str, bytes: &[u8]) -> String {
    let digests = json!([{"hashAlg": "sha256", "digest": to_hex(&sha256(bytes))}]);
    let content = json!({"input": what, "eventType": "metalstrap"});
    let record = json!({(kind): register, "digests": digests, "content_type": "systemd", "content": content});
    format!("\u{1e}{record}\n")
}

impl Machine {
    fn new() -> Self {
        let firmware = vec![
            secure_boot(true),
            text(4, ACTION, b"Calling EFI Application from Boot Option"),
            text(4, SEPARATOR, &[0; 4]),
            text(7, SEPARATOR, &[0; 4]),
            (4, APPLICATION, sha256(b"netboot"), vec![0; 32]),
        ];
        let results = [("root-hash", "11".repeat(32).into_bytes()), ("uki", "22".repeat(32).into_bytes())];
        let inputs =
            [("host-config", b"host".to_vec()), ("manifest", b"manifest".to_vec()), ("plan", b"plan".to_vec())];
        Self { signer: Signer::new(), firmware, records: inputs.into_iter().chain(results).collect() }
    }

    fn pending(&self) -> Pending {
        let introduction = Introduction {
            format: 1,
            claims: BTreeMap::new(),
            ek: Base64(ek().public()),
            ek_certificate: None,
            ek_chain: Vec::new(),
            ak: Base64(self.signer.public.clone()),
        };
        Pending::begin(introduction, vec![4, 7, 12, 13]).unwrap()
    }

    /// What the TPM says when all of that was measured.
    fn values(&self) -> BTreeMap<u32, Vec<u8>> {
        let mut pcrs = BTreeMap::from([4, 7, 12, 13].map(|pcr| (pcr, Pcr::zero(Bank::Sha256))));
        self.firmware.iter().for_each(|(pcr, _, digest, _)| pcrs.get_mut(pcr).unwrap().extend(digest));
        self.records.iter().for_each(|(_, bytes)| pcrs.get_mut(&13).unwrap().extend(&sha256(bytes)));
        pcrs.into_iter().map(|(pcr, value)| (pcr, value.value().to_vec())).collect()
    }

    /// `TPMS_ATTEST` over the values.
    fn quoted(&self, nonce: &[u8]) -> Vec<u8> {
        quoted(0x0b, nonce, &self.values())
    }

    fn firmware_log(&self) -> Vec<u8> {
        let made = |(pcr, kind, digest, data): &Event| Made {
            pcr: *pcr,
            kind: Kind(*kind),
            digests: vec![(0xb, digest.clone())],
            data: data.clone(),
        };
        agile(&[(0xb, 32)], &self.firmware.iter().map(made).collect::<Vec<_>>())
    }

    fn userspace_log(&self) -> String {
        self.records.iter().map(|(what, bytes)| record("pcr", 13, what, bytes)).collect()
    }

    fn evidence(&self, pending: &Pending) -> Evidence {
        let quoted = self.quoted(&pending.challenge.nonce.0);
        let quote = Quote {
            bank: "sha256".to_owned(),
            signature: Base64(self.signer.sign(&quoted)),
            quoted: Base64(quoted),
            pcrs: self.values().iter().map(|(pcr, value)| (*pcr, to_hex(value))).collect(),
        };
        Evidence {
            format: 1,
            id: pending.challenge.id.clone(),
            secret: pending.secret.clone(),
            quotes: vec![quote],
            firmware_log: Some(Base64(self.firmware_log())),
            userspace_log: self.userspace_log(),
        }
    }
}

fn expected() -> Expected {
    let release = Release {
        manifest: b"manifest".to_vec(),
        name: "debian 13.2".to_owned(),
        root_hash: Digest([0x11; 32]),
        uki: Digest([0x22; 32]),
    };
    let netboot = Program {
        name: "netboot.efi".to_owned(),
        digests: vec![Bank::Sha256.digest(b"netboot")],
        kernel: Some(vec![Bank::Sha256.digest(b"kernel")]),
    };
    Expected {
        ek: Finding::new(EK_CERTIFICATE, Outcome::Proved, "it is known"),
        release: Some(release),
        host_config: Some(b"host".to_vec()),
        programs: vec![netboot],
        secure_boot: Some(true),
    }
}

/// The findings that are not proved, and whether the machine is accepted.
fn doubts(verdict: &Verdict) -> (bool, Vec<(&str, Outcome, &str)>) {
    let doubts = verdict.findings.iter().filter(|finding| finding.outcome != Outcome::Proved);
    (verdict.accepted, doubts.map(|finding| (finding.what.as_str(), finding.outcome, finding.text.as_str())).collect())
}

/// The same of a machine whose answer was changed.
fn judged(machine: &Machine, change: impl FnOnce(&mut Evidence)) -> Verdict {
    let pending = machine.pending();
    let mut evidence = machine.evidence(&pending);
    change(&mut evidence);
    verify(&pending, &evidence, &expected())
}

/// What is said of the quote where it proves nothing, and so nothing that rests on it.
fn quote_refused(verdict: &Verdict) -> String {
    let (accepted, doubts) = doubts(verdict);
    assert!(!accepted);
    assert_eq!(doubts[0].0, "quote", "{doubts:?}");
    assert_eq!(doubts[0].1, Outcome::Refuted);
    assert!(doubts[1..].iter().all(|doubt| doubt.1 == Outcome::Unknown), "{doubts:?}");
    assert_eq!(doubts.len(), 7, "{doubts:?}");
    doubts[0].2.to_owned()
}

/// What is changed of a machine before it is asked.
type Change = fn(&mut Machine);

#[test]
fn a_machine_as_it_should_be_is_accepted() {
    let verdict = judged(&Machine::new(), |_| {});
    let findings: Vec<_> =
        verdict.findings.iter().map(|finding| (finding.what.as_str(), finding.text.as_str())).collect();
    let expected = [
        ("ek-certificate", "it is known"),
        ("ak", "the TPM with that endorsement key has this attestation key, and it never leaves it"),
        ("quote", "the TPM vouches for PCRs 4, 7, 12, 13 of the banks sha256"),
        ("firmware-log", "it accounts for the PCRs up to 7 that the TPM vouches for"),
        ("userspace-log", "its 5 records account for PCR 13, and both logs for all above 7"),
        ("release", RELEASE_MEASURED),
        ("host-config", HOST_MEASURED),
        ("netboot-image", "the firmware has started netboot.efi, and nothing else"),
        ("secure-boot", "it was on"),
    ];
    assert_eq!(findings, expected);
    assert_eq!(doubts(&verdict), (true, vec![]));
}

#[test]
fn what_was_not_expected_is_not_insisted_on() {
    let machine = Machine::new();
    let pending = machine.pending();
    let nothing = Expected { release: None, host_config: None, programs: Vec::new(), secure_boot: None, ..expected() };
    let mut evidence = machine.evidence(&pending);
    evidence.firmware_log = None;
    let verdict = verify(&pending, &evidence, &nothing);
    let unknown = Outcome::Unknown;
    let expected = vec![
        ("firmware-log", unknown, "there is none"),
        ("release", unknown, "none was expected"),
        ("host-config", unknown, "none was expected"),
        ("netboot-image", unknown, "none was expected: what has measured the rest is not known"),
        ("secure-boot", unknown, "no firmware log accounts for PCR 7"),
    ];
    assert_eq!(doubts(&verdict), (true, expected));
    // What was, is.
    let verdict = verify(&pending, &evidence, &super::tests::expected());
    assert!(!verdict.accepted);
    // And nobody is accepted whose key nobody knows.
    let unknown = Expected { ek: Finding::new(EK_CERTIFICATE, Outcome::Unknown, "none"), ..nothing };
    assert!(!verify(&pending, &evidence, &unknown).accepted);
}

#[test]
fn a_key_of_another_tpm_is_refuted() {
    let text = "the secret is not the one that was encrypted for them: the attestation key is not of the TPM with that endorsement key";
    let verdict = judged(&Machine::new(), |evidence| evidence.secret.0[0] ^= 1);
    assert_eq!(doubts(&verdict), (false, vec![("ak", Outcome::Refuted, text)]));
    assert!(!judged(&Machine::new(), |evidence| evidence.secret.0.clear()).accepted);
}

#[test]
fn a_quote_that_does_not_hold_proves_nothing() {
    let machine = Machine::new();
    let refused = |change: fn(&mut Evidence)| quote_refused(&judged(&machine, change));
    assert_eq!(refused(|evidence| evidence.quotes.clear()), "there is none");
    assert_eq!(
        refused(|evidence| evidence.quotes[0].quoted.0[40] ^= 1),
        "that of sha256 was not signed by the attestation key"
    );
    assert_eq!(
        refused(|evidence| evidence.quotes[0].signature.0.clear()),
        "that of sha256 has no signature of RSASSA or ECDSA with SHA-256"
    );
    assert_eq!(
        refused(|evidence| drop(evidence.quotes[0].pcrs.insert(13, "00".repeat(32)))),
        "that of sha256 is over other values of the PCRs than come with it"
    );
    assert_eq!(
        refused(|evidence| drop(evidence.quotes[0].pcrs.remove(&13))),
        "that of sha256 does not come with the values of its PCRs"
    );
    assert_eq!(
        refused(|evidence| drop(evidence.quotes[0].pcrs.insert(13, "00".repeat(20)))),
        "that of sha256 comes with a value of PCR 13 that is none"
    );
    assert_eq!(
        refused(|evidence| evidence.quotes[0].bank = "sha384".to_owned()),
        "that of sha384 is not over the PCRs that were asked for"
    );
    assert_eq!(refused(|evidence| evidence.quotes[0].bank = "\n".to_owned()), "the bank \"\\n\" is not known here");
    assert_eq!(refused(|evidence| evidence.quotes.push(evidence.quotes[0].clone())), "there are two of sha256");
}

#[test]
fn an_old_quote_and_one_of_another_key_are_refused() {
    let machine = Machine::new();
    let old = machine.evidence(&machine.pending()).quotes;
    let text = quote_refused(&judged(&machine, |evidence| evidence.quotes = old));
    assert_eq!(text, "that of sha256 has another nonce than the challenge: it is an old one, or another verifier's");
    let other = Machine::new();
    let text = quote_refused(&judged(&machine, |evidence| {
        let quoted = machine.quoted(b"nonce");
        evidence.quotes[0].signature = Base64(other.signer.sign(&quoted));
        evidence.quotes[0].quoted = Base64(quoted);
    }));
    assert_eq!(text, "that of sha256 was not signed by the attestation key");
}

/// The doubts about a machine on which other things were measured, whose logs say so.
fn of_machine(changed: impl FnOnce(&mut Machine)) -> Vec<(String, Outcome, String)> {
    let mut machine = Machine::new();
    changed(&mut machine);
    let verdict = judged(&machine, |_| {});
    let (accepted, doubts) = doubts(&verdict);
    assert!(!accepted);
    doubts.into_iter().map(|(what, outcome, text)| (what.to_owned(), outcome, text.to_owned())).collect()
}

#[test]
fn what_is_not_as_expected_is_refuted_by_name() {
    let one = |changed: fn(&mut Machine)| {
        let doubts = of_machine(changed);
        let [(what, outcome, text)] = doubts.as_slice() else { panic!("{doubts:?}") };
        format!("{what} {outcome:?}: {text}")
    };
    assert_eq!(
        one(|machine| machine.records[1].1 = b"another".to_vec()),
        "release Refuted: another manifest than that of debian 13.2 was measured"
    );
    assert_eq!(one(|machine| drop(machine.records.remove(1))), "release Refuted: no manifest was measured");
    assert_eq!(
        one(|machine| machine.records[3].1 = b"another".to_vec()),
        "release Refuted: the root-hash is not that of debian 13.2"
    );
    assert_eq!(
        one(|machine| drop(machine.records.pop())),
        "release Unknown: the manifest is that of debian 13.2, but no uki was measured: it was not installed to the end"
    );
    assert_eq!(
        one(|machine| machine.records.push(("host-config", b"another".to_vec()))),
        "host-config Refuted: another one was measured"
    );
    assert_eq!(
        one(|machine| drop(machine.records.remove(0))),
        "host-config Refuted: none was measured: the machine went by a group's, or by none"
    );
    assert_eq!(one(|machine| machine.firmware[0] = secure_boot(false)), "secure-boot Refuted: it was off, not on");
    assert_eq!(
        one(|machine| drop(machine.firmware.remove(0))),
        "secure-boot Unknown: the firmware's log does not say whether it was on"
    );
    let another = to_hex(&sha256(b"another"));
    assert_eq!(
        one(|machine| machine.firmware.push((4, APPLICATION, sha256(b"another"), vec![0; 32]))),
        format!(
            "netboot-image Refuted: the firmware has started a program of sha256 {another}, which is none of those expected"
        )
    );
    assert_eq!(
        one(|machine| drop(machine.firmware.pop())),
        "netboot-image Refuted: the firmware's log has no program that it has started"
    );
}

/// Types and data of a log are what somebody says of digests.
#[test]
fn what_the_log_only_says_is_not_believed() {
    let one = |changed: fn(&mut Machine)| {
        let doubts = of_machine(changed);
        let [(what, outcome, text)] = doubts.as_slice() else { panic!("{doubts:?}") };
        format!("{what} {outcome:?}: {text}")
    };
    let off = "secure-boot Refuted: it was off, not on";
    // The digest is that of a variable that says it was off.
    assert_eq!(one(|machine| machine.firmware[0].2 = secure_boot(false).2), off);
    // What was measured behind the separator was not measured by the firmware, and the other is there by another name.
    assert_eq!(
        one(|machine| {
            machine.firmware[0] = secure_boot(false);
            machine.firmware[0].1 = ACTION;
            machine.firmware[3].1 = ACTION;
            machine.firmware.push(secure_boot(true));
            machine.firmware.push(text(7, SEPARATOR, &[0; 4]));
        }),
        off
    );
    // A program by the name of an action.
    let another = to_hex(&sha256(b"MZ\x90another"));
    assert_eq!(
        one(|machine| machine.firmware.push(text(4, ACTION, b"MZ\x90another"))),
        format!(
            "netboot-image Refuted: the firmware has started a program of sha256 {another}, which is none of those expected"
        )
    );
    let mut long = text(4, ACTION, &[b' '; 129]);
    long.1 = SEPARATOR;
    let doubts = of_machine(move |machine| machine.firmware.push(long));
    assert_eq!((doubts[0].0.as_str(), doubts[0].1, doubts.len()), ("netboot-image", Outcome::Refuted, 1));
}

#[test]
fn what_the_netboot_image_was_given_beside_itself_is_a_doubt() {
    // systemd-stub measures another command line as EV_IPL.
    let doubts = of_machine(|machine| machine.firmware.push(text(12, 0x0d, b"rdinit=/bin/sh")));
    assert_eq!(doubts, [("netboot-image".to_owned(), Outcome::Unknown, BESIDE.to_owned())]);
}

#[test]
fn a_log_that_is_none_is_refuted() {
    let verdict = judged(&Machine::new(), |evidence| evidence.userspace_log = "no log".to_owned());
    let text = "the userspace event log's event 0, at byte 0, does not begin with the character 0x1e";
    assert_eq!(doubts(&verdict).1[0], ("userspace-log", Outcome::Refuted, text));
    let verdict = judged(&Machine::new(), |evidence| evidence.firmware_log = Some(Base64(vec![0; 3])));
    let (_, doubts) = doubts(&verdict);
    assert_eq!((doubts[0].0, doubts[0].1), ("firmware-log", Outcome::Refuted));
    assert!(doubts[0].2.starts_with("the firmware event log's event 0, at byte 0, "), "{doubts:?}");
}

/// Nor are they refuted then: whoever sends them has shown nothing, and gets no work done for it.
#[test]
fn logs_are_not_read_where_the_quote_proves_no_value() {
    let verdict = judged(&Machine::new(), |evidence| {
        evidence.quotes.clear();
        evidence.firmware_log = Some(Base64(vec![0; 3]));
        evidence.userspace_log = "no log".to_owned();
    });
    assert_eq!(quote_refused(&verdict), "there is none");
    let expected = [
        ("firmware-log", Outcome::Unknown, "no quote vouches for PCRs 0 to 7"),
        ("userspace-log", Outcome::Unknown, "no quote vouches for PCR 13"),
    ];
    assert_eq!(doubts(&verdict).1[1..3], expected);
}

#[test]
fn a_quote_that_is_not_of_sha256_proves_nothing() {
    let sha1 = "it is of the bank of SHA-1 alone, for which other events with the same digests can be made";
    let other = "it is not of the bank of SHA-256, and another may be active that the firmware does not extend";
    for (bank, id, size, text) in [("sha1", 0x04, 20, sha1), ("sha384", 0x0c, 48, other), ("sha512", 0x0d, 64, other)] {
        let machine = Machine::new();
        let pending = machine.pending();
        let mut evidence = machine.evidence(&pending);
        let values: BTreeMap<u32, Vec<u8>> = [4, 7, 12, 13].map(|pcr| (pcr, vec![0; size])).into();
        let quoted = quoted(id, &pending.challenge.nonce.0, &values);
        evidence.quotes[0] = Quote {
            bank: bank.to_owned(),
            signature: Base64(machine.signer.sign(&quoted)),
            quoted: Base64(quoted),
            pcrs: values.iter().map(|(pcr, value)| (*pcr, to_hex(value))).collect(),
        };
        let verdict = verify(&pending, &evidence, &expected());
        assert_eq!(doubts(&verdict).1[0], ("quote", Outcome::Unknown, text));
        assert!(!verdict.accepted);
    }
}
