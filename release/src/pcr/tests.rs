//! Values that systemd-measure has computed, the tool itself, and openssl for signatures.

use std::io::Cursor;
use std::path::Path;
use std::process::Command;

use super::*;
use crate::digest::{Digest, from_hex, to_hex};
use crate::uki::tests::pe;
use crate::uki::{Sections, UkiError};

/// Of Debian's package systemd. That of Debian 12 (252) knows no sections but those that are used here; the newer ones
/// are compared in `cli/tests/predict.rs`.
const SYSTEMD_MEASURE: &str = "/usr/lib/systemd/systemd-measure";

fn extensions_of(bytes: &[u8]) -> Result<Vec<Extension>, UkiError> {
    extensions(&mut Cursor::new(bytes), &Sections::parse(bytes).unwrap(), &Bank::ALL)
}

/// What the stub leaves, where PCR 11 was `start`.
fn left(start: &[Pcr], uki: &[u8]) -> Vec<Pcr> {
    let extensions = extensions_of(uki).unwrap();
    start.iter().map(|pcr| pcr.after(&extensions)).collect()
}

fn predictions(uki: &[u8]) -> Vec<Prediction> {
    Prediction::all(&left(&Pcr::zeroes(), uki)).unwrap()
}

/// A kernel and nothing else.
fn kernel() -> Vec<u8> {
    pe(&[(b".linux", b"KERNEL-BYTES", 12)])
}

/// `systemd-measure calculate --linux=… --json=short --phase=:` and so on, of systemd 252.
#[test]
fn every_bank_has_the_values_of_systemd_measure() {
    let hash = |prediction: &Prediction, bank| to_hex(prediction.pcr(bank).value());
    let found = predictions(&kernel());
    assert_eq!(found.iter().map(|prediction| prediction.phase).collect::<Vec<_>>(), Phase::ALL);
    let [stub, enter, leave, sysinit, ready] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!(hash(stub, Bank::Sha256), "6a36592a05658257b4e531672b11330fb266cdd5ca8f14ce963cba19a6ec24ab");
    assert_eq!(hash(enter, Bank::Sha256), "cb826774b99008ff3608c73dbe9f20ba5d548afb43da82cafe9e1edd2faa5025");
    assert_eq!(hash(leave, Bank::Sha256), "cbbd35130ef89890408c0881ca53cc19e487030a90652aff428a9108684305af");
    assert_eq!(hash(sysinit, Bank::Sha256), "8b292ccb572de294fd9a86f68a8358b362d78b197f7cbce9f8fba8947ba18508");
    assert_eq!(hash(ready, Bank::Sha1), "ff5dc854f2f04417056e1fb6030af17d45d8a9b0");
    assert_eq!(
        hash(ready, Bank::Sha384),
        "c0f7b69887c91553dffde4cdcda0bb66db40c0ac59932a6ead08a6ed31f329db4934cb8ac4d0144db309b8710b333569"
    );
    assert_eq!(
        hash(ready, Bank::Sha512),
        "2a0e48ef94cb7fca186704165f2478616897db254014fc0234cf1b46485811b58b1a35c1a9f2342f6f8f03fa438f10434d7355078711a83dc8ebfe5a723e8b79"
    );
}

#[test]
fn the_order_is_not_that_of_the_file_and_signatures_are_left_out() {
    let sections: [(&[u8], &[u8], u32); 7] = [
        (b".uname", b"6.12.0", 6),
        (b".initrd", b"INITRD-BYTES", 12),
        (b".pcrsig", b"{}", 2),
        (b".text", b"code", 4),
        (b".cmdline", b"console=ttyS0 roothash=00", 25),
        (b".osrel", b"ID=test\n", 8),
        (b".linux", b"KERNEL-BYTES", 12),
    ];
    let uki = pe(&sections);
    let names: Vec<_> = extensions_of(&uki).unwrap().iter().map(|extension| extension.section).collect();
    assert_eq!(
        names.iter().step_by(2).copied().collect::<Vec<_>>(),
        [".linux", ".osrel", ".cmdline", ".initrd", ".uname"]
    );
    assert_eq!(names.len(), 10, "a name and a content each");
    // `systemd-measure calculate` of systemd 257 with these files.
    let ready = predictions(&uki).pop().unwrap();
    assert_eq!(to_hex(&ready.sha256.0), "743a9c1b25914c619cd8f62934feab82ebfd361ae16c7152ea176d81820c9d97");
}

#[test]
fn content_is_what_lies_in_memory() {
    let of = |sections: &[(&[u8], &[u8], u32)]| extensions_of(&pe(sections)).unwrap().pop().unwrap();
    let expected = |content: &[u8]| Bank::ALL.map(|bank| bank.digest(content)).to_vec();
    assert_eq!(of(&[(b".linux", b"kernel", 6)]).digests, expected(b"kernel"), "without the padding of the file");
    let long = [b"kernel".as_slice(), &[0xee; 506], &[0; 488]].concat();
    assert_eq!(of(&[(b".linux", b"kernel", 1000)]).digests, expected(&long), "with the zeroes behind what is stored");
    assert_eq!(of(&[(b".linux", b"", 3)]).digests, expected(&[0; 3]));
    let empty = of(&[(b".linux", b"kernel", 6), (b".osrel", b"", 0)]);
    assert_eq!(empty.section, ".linux", "an empty section is not there");
}

#[test]
fn what_cannot_be_predicted_is_refused() {
    let refusal = |bytes: &[u8]| extensions_of(bytes).unwrap_err().to_string();
    assert_eq!(refusal(&pe(&[(b".osrel", b"ID=a", 4)])), "the UKI has no section .linux");
    for name in [".dtbauto", ".efifw"] {
        assert_eq!(
            refusal(&pe(&[(b".linux", b"kernel", 6), (name.as_bytes(), b"a", 1)])),
            format!(
                "the UKI has a section {name}, and whether systemd-stub measures it depends on the machine's hardware"
            )
        );
    }
    let whole = kernel();
    assert_eq!(refusal(&whole[..0x400 + 5]), "reading the UKI's section .linux");
}

/// The hashes are of another library than those of the code.
#[test]
fn a_chain_goes_on_from_where_the_first_uki_left_it() {
    let first = left(&Pcr::zeroes(), &kernel());
    let found = left(&first, &pe(&[(b".linux", b"other", 5)]));
    let sha256 = |pcr: &Pcr| Digest(pcr.value().try_into().unwrap());
    let extend = |old: Digest, bytes: &[u8]| Digest::of(&[old.0, Digest::of(bytes).0].concat());
    let expected = extend(extend(sha256(&first[1]), b".linux\0"), b"other");
    assert_eq!((found[1].bank(), sha256(&found[1])), (Bank::Sha256, expected));
    assert_eq!(sha256(&found[1].at(Phase::EnterInitrd)), extend(expected, b"enter-initrd"));
    let resumed: Vec<_> = first.iter().map(|pcr| Pcr::with_value(pcr.bank(), pcr.value()).unwrap()).collect();
    assert_eq!(resumed, first);
    assert_eq!(Pcr::with_value(Bank::Sha1, &[0; 32]), None);
    assert_eq!(Prediction::all(&first[1..]), None, "a bank is missing");
}

#[test]
fn systemd_measure_of_this_host_says_the_same() {
    assert!(Path::new(SYSTEMD_MEASURE).exists(), "{SYSTEMD_MEASURE} is missing: it is in Debian's package systemd");
    let dir = tempfile::tempdir().unwrap();
    let names = ["linux", "osrel", "cmdline", "initrd", "splash", "dtb", "pcrpkey"];
    for count in 1..=names.len() {
        let mut command = Command::new(SYSTEMD_MEASURE);
        command.args(["calculate", "--json=short"]);
        command.args(Phase::ALL.map(|phase| format!("--phase={}", phase.path())));
        let mut sections = Vec::new();
        for name in &names[..count] {
            let content = format!("content of {name}").repeat(300).into_bytes();
            let file = dir.path().join(name);
            std::fs::write(&file, &content).unwrap();
            command.arg(format!("--{name}={}", file.display()));
            sections.push((format!(".{name}").into_bytes(), content));
        }
        sections.reverse();
        let sections: Vec<(&[u8], &[u8], u32)> = sections
            .iter()
            .map(|(name, content)| (name.as_slice(), content.as_slice(), u32::try_from(content.len()).unwrap()))
            .collect();
        let found = serde_json::to_string(&Calculated::new(&predictions(&pe(&sections)))).unwrap();
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        assert_eq!(found, String::from_utf8(output.stdout).unwrap().trim_end());
    }
}

/// `pol` of `systemd-measure sign`, and of the other form of the same command, of systemd 257.
#[test]
fn a_policy_is_that_of_systemd_measure() {
    let pcr = |bank, value: &str| Pcr::with_value(bank, &from_hex(value).unwrap()).unwrap();
    let sha256 = pcr(Bank::Sha256, "cb826774b99008ff3608c73dbe9f20ba5d548afb43da82cafe9e1edd2faa5025");
    assert_eq!(policy(&sha256).to_string(), "045403e94d2e3fb6c2cc7693ca3c02bc54d4c286900ed560a3929bd1dded309d");
    let sha1 = pcr(Bank::Sha1, "98dbdc8323ef6e31948ca26045f2eb0efbc91ccd");
    assert_eq!(policy(&sha1).to_string(), "a99caa514be1947d2e89e0b785e84c83de03aa2cc633ab8971ff2e2f9a5b6f80");
}

/// Runs openssl in `dir`.
fn openssl(dir: &Path, line: &str) -> Vec<u8> {
    let output = Command::new("openssl").args(line.split(' ')).current_dir(dir).output().expect("openssl");
    assert!(output.status.success(), "{line}: {output:?}");
    output.stdout
}

#[test]
fn openssl_verifies_the_signatures() {
    use base64::Engine as _;
    let dir = tempfile::tempdir().unwrap();
    let run = |line: &str| openssl(dir.path(), line);
    let read = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
    run("genrsa -out pkcs8.pem 2048");
    run("rsa -in pkcs8.pem -traditional -out pkcs1.pem");
    run("rsa -in pkcs8.pem -pubout -out public.pem");
    let key = PolicyKey::from_pem(&read("pkcs8.pem")).unwrap();
    let signed = key.sign(&predictions(&kernel())).unwrap();
    assert_eq!(PolicyKey::from_pem(&read("pkcs1.pem")).unwrap().sign(&predictions(&kernel())).unwrap(), signed);
    assert_eq!(key.fingerprint(), Digest::of(&run("rsa -in pkcs8.pem -RSAPublicKey_out -outform DER")));
    assert!(key.is_of(&[read("public.pem"), vec![0; 5]].concat()));

    for bank in [Bank::Sha256, Bank::Sha384, Bank::Sha512] {
        let signatures = signed.of(bank);
        assert_eq!(signatures.len(), 4, "the phases, and not what the stub leaves");
        for signature in signatures {
            std::fs::write(dir.path().join("pol"), signature.pol.0).unwrap();
            let bytes = base64::engine::general_purpose::STANDARD.decode(&signature.sig).unwrap();
            std::fs::write(dir.path().join("sig"), bytes).unwrap();
            run(&format!("dgst -{bank} -verify public.pem -signature sig pol"));
            assert_eq!((signature.pcrs.as_slice(), signature.pkfp), ([PCR].as_slice(), key.fingerprint()));
        }
    }
    let found = predictions(&kernel());
    let (stub, enter) = (&found[0], &found[1]);
    let covers = |prediction: &Prediction| Bank::ALL.map(|bank| signed.cover(&prediction.pcr(bank)));
    assert_eq!(covers(stub), [false; 4]);
    assert_eq!(covers(enter), [false, true, true, true]);

    run("genrsa -out other.pem 2048");
    let other = PolicyKey::from_pem(&read("other.pem")).unwrap();
    assert!(!other.is_of(&read("public.pem")));
    assert!(!key.is_of(&read("pkcs8.pem")), "it is no public key");
    let mut both = signed.clone();
    both.add(other.sign(&predictions(&kernel())).unwrap());
    both.add(signed.clone());
    assert_eq!(both.sha256.len(), 8, "nothing is there twice");
    assert_eq!(&both.sha256[..4], &signed.sha256);
}

#[test]
fn signatures_of_others_read_back_as_they_were() {
    let entry = |pol: &str| {
        let pkfp = "b51cb962c86f1386a60b469b66f3fe9e203be82fe5c104226de0130fda9401fc";
        format!(r#"{{"pcrs":[11],"pkfp":"{pkfp}","pol":"{pol}","sig":"AAEC"}}"#)
    };
    let sha1 = entry("a99caa514be1947d2e89e0b785e84c83de03aa2cc633ab8971ff2e2f9a5b6f80");
    let text = format!(r#"{{"sha1":[{sha1}],"sha256":[{}]}}"#, entry(&"5a".repeat(32)));
    let mut found: Signatures = serde_json::from_str(&text).unwrap();
    assert_eq!(serde_json::to_string(&found).unwrap(), text);
    assert_eq!(Signatures::from_section(format!("{text}\n\0\0").as_bytes()).unwrap(), found);
    assert!(Signatures::from_section(b"\0").is_err());
    let value = from_hex("98dbdc8323ef6e31948ca26045f2eb0efbc91ccd").unwrap();
    assert!(found.cover(&Pcr::with_value(Bank::Sha1, &value).unwrap()));
    assert!(!found.cover(&Pcr::zero(Bank::Sha256)));
    found.add(found.clone());
    assert_eq!(serde_json::to_string(&found).unwrap(), text);
}

#[test]
fn other_keys_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let text = "it is no RSA key of 2048 bits or more as PEM (PKCS#8 or PKCS#1, not encrypted), and TPMs take no other";
    let refusal = |pem: &[u8]| PolicyKey::from_pem(pem).unwrap_err().to_string();
    assert_eq!(refusal(b"no key"), text);
    for line in [
        "genpkey -algorithm ed25519",
        "genrsa 1024",
        "genrsa -aes128 -passout pass:secret 2048",
        "ecparam -name prime256v1 -genkey -noout",
    ] {
        assert_eq!(refusal(&openssl(dir.path(), line)), text, "{line}");
    }
}
