//! sbsigntool, which makes such files for operators, is the judge of the format.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::*;

const OWNER_TEXT: &str = "11223344-5566-7788-99aa-bbccddeeff00";

fn run(dir: &Path, program: &str, line: &str) {
    let output = Command::new(program).args(line.split(' ')).current_dir(dir).output();
    let output = output.unwrap_or_else(|error| panic!("{program}, of Debian's package sbsigntool: {error}"));
    assert!(output.status.success(), "{program} {line}: {}", String::from_utf8_lossy(&output.stderr));
}

/// EFI_SIGNATURE_LIST with these entries, all of the same size.
fn list(kind: [u8; 16], entries: &[&[u8]]) -> Vec<u8> {
    let entry = OWNER + entries[0].len();
    let size = LIST_HEADER + entry * entries.len();
    let numbers = [size, 0, entry].map(|number| u32::try_from(number).unwrap().to_le_bytes()).concat();
    let entries = entries.iter().flat_map(|data| [[7_u8; OWNER].as_slice(), *data].concat());
    kind.into_iter().chain(numbers).chain(entries).collect()
}

/// An update with `content`, and a signature that no firmware takes.
pub(crate) fn update(content: &[u8]) -> Vec<u8> {
    let signature = [b"signature".as_slice(), content].concat();
    let length = u32::try_from(CERTIFICATE_HEADER + 9).unwrap().to_le_bytes();
    [[0xea_u8, 7, 1, 1].as_slice(), &[0; 12], &length, &REVISION_AND_TYPE, &PKCS7, &signature].concat()
}

/// The list of one certificate.
pub(crate) fn list_of(certificate: &[u8]) -> Vec<u8> {
    list(X509, &[certificate])
}

fn refusal(bytes: Vec<u8>) -> String {
    Update::parse(bytes).unwrap_err().to_string()
}

#[test]
fn what_sbsigntool_writes_is_taken_apart() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    for name in ["a", "b"] {
        run(
            at,
            "openssl",
            &format!("req -x509 -newkey rsa:2048 -nodes -days 9 -subj /CN={name} -keyout {name}.key -out {name}.pem"),
        );
        run(at, "openssl", &format!("x509 -in {name}.pem -outform der -out {name}.der"));
        run(at, "sbsiglist", &format!("--owner {OWNER_TEXT} --type x509 --output {name}.esl {name}.der"));
    }
    let file = |name: &str| fs::read(at.join(name)).unwrap();
    let both = [file("a.esl"), file("b.esl")].concat();
    fs::write(at.join("db.esl"), &both).unwrap();
    run(
        at,
        "sbvarsign",
        "--attr NON_VOLATILE,BOOTSERVICE_ACCESS,RUNTIME_ACCESS --key a.key --cert a.pem --output db.auth db db.esl",
    );
    let update = Update::parse(file("db.auth")).unwrap();
    assert_eq!((update.bytes(), update.content()), (&file("db.auth")[..], &both[..]));
    assert_eq!(certificates(update.content()).unwrap(), [&file("a.der")[..], &file("b.der")[..]]);
}

#[test]
fn entries_of_other_types_are_passed_over() {
    // EFI_CERT_SHA256_GUID: digests of images.
    let digests = list([9; 16], &[&[1; 32], &[2; 32]]);
    let lists = [digests.clone(), list(X509, &[b"one", b"two"]), list_of(b"three")].concat();
    assert_eq!(certificates(&lists).unwrap(), [b"one".as_slice(), b"two", b"three"]);
    assert_eq!(certificates(&[]).unwrap(), Vec::<&[u8]>::new());
    assert_eq!(refusal(update(&digests)), "holds no certificate");
}

#[test]
fn what_is_not_whole_is_refused() {
    let whole = update(&list_of(b"certificate"));
    Update::parse(whole.clone()).unwrap();
    let no_signature = "has no signature in PKCS #7 behind its time: it is no .auth file";
    assert_eq!(refusal(vec![1; 15]), "ends before its signature does");
    assert_eq!(refusal(list_of(b"certificate")), no_signature);
    assert_eq!(refusal(whole[..39].to_vec()), no_signature);
    assert_eq!(refusal(whole[..45].to_vec()), "ends before its signature does");
    assert_eq!(refusal(whole[..49].to_vec()), "holds no certificate");
    assert_eq!(refusal(vec![0; MAX_UPDATE_BYTES + 1]), "has 32769 bytes, more than 32768");
    // Of the list: its size, that of its header, and that of an entry.
    for (at, wrong) in [(0, 54_u32), (0, 56), (0, 0), (0, u32::MAX), (4, 1), (4, u32::MAX), (8, 16), (8, 0), (8, 26)] {
        let mut bytes = whole.clone();
        bytes[49 + 16 + at..][..4].copy_from_slice(&wrong.to_le_bytes());
        assert_eq!(refusal(bytes), "has a list of signatures at byte 0 whose sizes do not fit", "{at} {wrong}");
    }
    let mut second = list_of(b"certificate");
    second.extend([0; 5]);
    assert_eq!(refusal(update(&second)), "has a list of signatures at byte 55 whose sizes do not fit");
}
