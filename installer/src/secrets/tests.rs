//! swtpm is the judge of what is sealed; systemd-creds of what the OS gets.

use metalstrap_release::host::Host;
use metalstrap_release::tpm2::Ek;
use serde_json::{Value, json};

use super::*;
use crate::failure::code_of;
use crate::tpm::swtpm::Swtpm;

fn ek(swtpm: &Swtpm, kind: KeyKind) -> Ek {
    swtpm.direct().with_ek(kind, |_, _, ek| Ok(ek.clone())).unwrap()
}

/// A secret for the credential `name`.
fn secret(ek: &Ek, name: &str, content: &[u8]) -> Value {
    serde_json::to_value(Secret::encrypt(ek, name, &Plaintext::new(content.to_vec())).unwrap()).unwrap()
}

fn host(secrets: &Value) -> Host {
    let host = json!({"format": 1, "release": {"name": "a", "version": "1"}, "secrets": secrets});
    Host::parse(host.to_string().as_bytes()).unwrap()
}

fn refusal(secrets: &Value, swtpm: &Swtpm) -> String {
    let error = open(&host(secrets).secrets, Some(swtpm.direct())).unwrap_err();
    assert_eq!(code_of(&error), Code::Secrets);
    format!("{error:#}")
}

/// The secrets as the OS gets them where it has these files.
fn sealed(secrets: &Value, swtpm: &Swtpm, there: &BTreeMap<String, Vec<u8>>) -> Vec<Sealed> {
    open(&host(secrets).secrets, Some(swtpm.direct())).unwrap().seal(there).unwrap()
}

fn files(sealed: &[Sealed]) -> BTreeMap<String, Vec<u8>> {
    sealed.iter().map(|one| (one.file(), one.bytes.clone())).collect()
}

#[test]
fn what_is_encrypted_to_a_tpm_it_seals_for_its_os_and_what_is_there_already_stays() {
    let swtpm = Swtpm::start();
    let (rsa, ecc) = (ek(&swtpm, KeyKind::Rsa2048), ek(&swtpm, KeyKind::EccP256));
    let secrets = json!({"a": secret(&rsa, "a", b""), "fstab.extra": secret(&ecc, "fstab.extra", b"hush")});
    let first = sealed(&secrets, &swtpm, &BTreeMap::new());
    let names: Vec<_> = first.iter().map(|one| (one.name.as_str(), one.size)).collect();
    // In the order in which the endorsement keys are asked for.
    assert_eq!(names, [("fstab.extra", None), ("a", None)]);
    assert!(first[0].bytes.starts_with(&[0x0c, 0x7c, 0xc0, 0x7b]), "PID 1 reads it not encoded");
    assert!(!first[0].bytes.windows(4).any(|part| part == b"hush"));
    let mut raw = [first[0].bytes.clone(), STANDARD.decode(first[1].bytes.trim_ascii_end()).unwrap()];
    assert_eq!(raw[0][58..150], raw[1][58..150], "the same sealed key");
    let mut tpm = swtpm.direct();
    let mut opened = |name: &str, raw: &[u8]| open_from_tpm(&mut tpm, name, raw).map(|plain| plain.bytes().to_vec());
    assert_eq!(opened("fstab.extra", &raw[0]), Some(b"hush".to_vec()));
    assert_eq!(opened("a", &raw[1]), Some(Vec::new()));
    assert_eq!(opened("b", &raw[1]), None, "it is of its name");
    for at in [0, 33, 50, 70, 150, raw[0].len() - 1] {
        raw[0][at] ^= 1;
        assert_eq!(opened("fstab.extra", &raw[0]), None, "a bit of byte {at}");
        raw[0][at] ^= 1;
    }
    assert_eq!(opened("fstab.extra", &raw[0][..raw[0].len() - 30]), None);
    drop(tpm);

    assert_eq!(sealed(&secrets, &swtpm, &files(&first)), first);
    let mut damaged = files(&first);
    damaged.get_mut("fstab.extra.cred").unwrap()[100] ^= 1;
    let again = sealed(&secrets, &swtpm, &damaged);
    assert!(again[0] != first[0] && again[1] == first[1]);
    let other = json!({"a": secret(&rsa, "a", b""), "fstab.extra": secret(&ecc, "fstab.extra", b"hush!")});
    let again = sealed(&other, &swtpm, &files(&first));
    assert!(again[0] != first[0] && again[1] == first[1]);
}

#[test]
fn another_machine_opens_nothing() {
    let (ours, other) = (Swtpm::start(), Swtpm::start());
    let (wanted, found) = (ek(&other, KeyKind::EccP256), KeyKind::ALL.map(|kind| ek(&ours, kind).id()));
    let secrets = json!({"psk": secret(&wanted, "psk", b"hush")});
    let text = format!(
        "the secret \"psk\" is encrypted to the endorsement key {}, but those of this machine's TPM are {} and {}: it is another \
         machine's, or the TPM was replaced",
        wanted.id(),
        found[0],
        found[1]
    );
    assert_eq!(refusal(&secrets, &ours), text);
    // Nor if it is said to be for this one.
    let mut posing = secrets.clone();
    posing["psk"]["ek"] = found[0].clone().into();
    let text = refusal(&posing, &ours);
    let start = "asking the TPM: opening the secret \"psk\", which was changed, or was not made for this machine: the TPM answered \
                 TPM2_Import with error 0x";
    assert!(text.starts_with(start), "{text}");
    let error = open(&host(&secrets).secrets, None).unwrap_err();
    let text = "the host config has secrets, but this machine has no TPM 2.0 that could open them";
    assert_eq!((code_of(&error), error.to_string()), (Code::Secrets, text.to_owned()));
}

#[test]
fn what_was_changed_or_moved_is_refused() {
    let swtpm = Swtpm::start();
    let key = ek(&swtpm, KeyKind::EccP256);
    let (one, other) = (secret(&key, "psk", b"hush"), secret(&key, "psk", b"hush"));
    let changed = |name: &str| format!("asking the TPM: the content of the secret {name:?} was changed");
    assert_eq!(refusal(&json!({"pin": one}), &swtpm), changed("pin"), "it was another one's");
    for (field, from) in [("content", &other), ("key", &other)] {
        let mut mixed = one.clone();
        mixed[field] = from[field].clone();
        assert_eq!(refusal(&json!({"psk": mixed}), &swtpm), changed("psk"), "{field}");
    }
    assert_eq!(sealed(&json!({"psk": one}), &swtpm, &BTreeMap::new()).len(), 1);
}

#[test]
fn systemd_decrypts_what_is_sealed_to_the_tpm() {
    let swtpm = Swtpm::start();
    let key = ek(&swtpm, KeyKind::EccP256);
    let secrets = json!({"psk": secret(&key, "psk", b"hush\n"), "empty": secret(&key, "empty", b"")});
    let at = tempfile::tempdir().unwrap();
    for (one, content) in sealed(&secrets, &swtpm, &BTreeMap::new()).iter().zip([&b""[..], b"hush\n"]) {
        let file = at.path().join(one.file());
        std::fs::write(&file, &one.bytes).unwrap();
        let output = swtpm.decrypt(&one.name, &file);
        assert!(output.status.success(), "{}: {output:?}", one.name);
        assert_eq!(output.stdout, content, "{}", one.name);
        assert!(!swtpm.decrypt("other", &file).status.success());
    }
}
