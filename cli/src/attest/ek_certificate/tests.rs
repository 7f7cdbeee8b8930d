use std::collections::BTreeMap;
use std::process::Command;

use metalstrap_release::attest::Base64;
use tempfile::TempDir;

use super::*;
use crate::clock;
use crate::ek::read;

/// What a TPM's maker signs, as openssl's configuration has it: no subject, and who made the TPM in a critical extension.
const EK: &str = "basicConstraints=CA:FALSE\nkeyUsage=critical,keyEncipherment\nextendedKeyUsage=2.23.133.8.1\n\
                  subjectAltName=critical,dirName:tpm\n[tpm]\n1.2.23.133.2.1=id:58595A00\n2.2.23.133.2.2=TPM\n3.2.23.133.2.3=id:1\n";
/// And an authority.
const CA: &str = "basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign\n";

/// Keys and certificates.
struct Site(TempDir);

impl Site {
    /// With the root `root` and the key `ek`.
    fn new() -> Self {
        let site = Self(tempfile::tempdir().unwrap());
        site.root("root");
        site.request("ek", "/");
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn openssl(&self, line: &str) {
        let output = Command::new("openssl").args(line.split(' ')).current_dir(self.0.path()).output().unwrap();
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn root(&self, name: &str) {
        self.request(name, "/CN=maker");
        std::fs::write(self.path("root.ext"), "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign\n")
            .unwrap();
        let key = format!("{name}.key");
        self.openssl(&format!("x509 -req -in {name}.csr -signkey {key} -days 9 -extfile root.ext -out {name}.pem"));
    }

    fn request(&self, name: &str, subject: &str) {
        self.openssl(&format!("req -new -newkey rsa:2048 -nodes -keyout {name}.key -subj {subject} -out {name}.csr"));
    }

    /// The certificate of `name`, signed by `issuer`, in DER.
    fn certify(&self, name: &str, issuer: &str, extensions: &str) -> Vec<u8> {
        std::fs::write(self.path("it.ext"), extensions).unwrap();
        let by = format!("-CA {issuer}.pem -CAkey {issuer}.key -CAcreateserial");
        self.openssl(&format!("x509 -req -in {name}.csr {by} -days 9 -extfile it.ext -out {name}.pem"));
        self.openssl(&format!("x509 -in {name}.pem -outform der -out {name}.der"));
        std::fs::read(self.path(&format!("{name}.der"))).unwrap()
    }

    /// The key of a certificate.
    fn ek(&self, name: &str) -> Ek {
        read(&self.path(&format!("{name}.pem"))).unwrap()
    }

    fn roots(&self) -> Roots {
        Roots::read(&[self.path("root.pem")]).unwrap()
    }
}

fn introduction(ek: &Ek, certificate: Option<&[u8]>, chain: &[&[u8]]) -> Introduction {
    Introduction {
        format: 1,
        claims: BTreeMap::new(),
        ek: Base64(ek.public()),
        ek_certificate: certificate.map(|der| Base64(der.to_vec())),
        ek_chain: chain.iter().map(|der| Base64(der.to_vec())).collect(),
        ak: Base64::default(),
    }
}

fn found(site: &Site, certificate: &[u8], chain: &[&[u8]]) -> (Outcome, String) {
    let ek = site.ek("ek");
    let finding = look(&introduction(&ek, Some(certificate), chain), &ek, &site.roots(), &[], clock::now().unwrap());
    assert_eq!(finding.what, "ek-certificate");
    (finding.outcome, finding.text)
}

fn refuted(text: &str) -> (Outcome, String) {
    (Outcome::Refuted, text.to_owned())
}

#[test]
fn a_certificate_of_a_maker_is_proof() {
    let site = Site::new();
    let certificate = site.certify("ek", "root", EK);
    let proved = (Outcome::Proved, format!("{} is certified by CN=maker", site.ek("ek").id()));
    assert_eq!(found(&site, &certificate, &[]), proved);
    // An NV index may be longer than what is in it.
    assert_eq!(found(&site, &[&certificate[..], &[0xff; 20]].concat(), &[]), proved);
}

#[test]
fn certificates_between_come_from_the_tpm_and_are_not_trusted() {
    let site = Site::new();
    site.request("between", "/CN=between");
    let between = site.certify("between", "root", CA);
    let certificate = site.certify("ek", "between", EK);
    let id = site.ek("ek").id();
    let proved = (Outcome::Proved, format!("{id} is certified by CN=maker"));
    assert_eq!(found(&site, &certificate, &[b"none", &between]), proved);
    let none = "no root that was given has signed a certificate of the issuer \"CN=between\"";
    assert_eq!(found(&site, &certificate, &[]), refuted(none));
    // The maker has made it no authority.
    let between = site.certify("between", "root", "basicConstraints=CA:FALSE\n");
    assert_eq!(
        found(&site, &certificate, &[&between]),
        refuted("the certificate of \"CN=between\" is not of an authority")
    );
    // Or one that has no others below it.
    let between = site.certify("between", "root", CA);
    site.request("below", "/CN=below");
    let below = site.certify("below", "between", CA);
    let certificate = site.certify("ek", "below", EK);
    assert_eq!(
        found(&site, &certificate, &[&below, &between]),
        refuted("the authority \"CN=between\" permits fewer authorities below it")
    );
    // What was given is trusted as it is.
    let roots = Roots::read(&[site.path("below.pem")]).unwrap();
    let ek = site.ek("ek");
    let finding = look(&introduction(&ek, Some(&certificate), &[]), &ek, &roots, &[], clock::now().unwrap());
    assert_eq!((finding.outcome, finding.text), (Outcome::Proved, format!("{id} is certified by CN=below")));
}

#[test]
fn a_certificate_that_is_no_proof_is_refuted() {
    let site = Site::new();
    let without = EK.replace("extendedKeyUsage=2.23.133.8.1\n", "");
    assert_eq!(
        found(&site, &site.certify("ek", "root", &without), &[]),
        refuted("the certificate is not for an endorsement key: its extended key usage lacks 2.23.133.8.1")
    );
    let critical = format!("1.2.3.4=critical,ASN1:NULL\n{EK}");
    assert_eq!(
        found(&site, &site.certify("ek", "root", &critical), &[]),
        refuted("the certificate of \"\" has the critical extension 1.2.3.4, which is not known here")
    );
    assert_eq!(
        found(&site, b"none", &[]),
        refuted("checking the certificate of the endorsement key: it is no X.509 certificate")
    );
    // Of the same name, and with another key.
    site.root("other");
    let certificate = site.certify("ek", "other", EK);
    let none = "no root that was given has signed a certificate of the issuer \"CN=maker\"";
    assert_eq!(found(&site, &certificate, &[]), refuted(none));
    let certificate = site.certify("ek", "root", EK);
    let (ek, now) = (site.ek("ek"), clock::now().unwrap());
    let later = look(&introduction(&ek, Some(&certificate), &[]), &ek, &site.roots(), &[], now + 10 * clock::DAY);
    assert_eq!(later.outcome, Outcome::Refuted);
    assert!(later.text.starts_with("the certificate of \"\" holds from "), "{}", later.text);
}

#[test]
fn a_certificate_of_another_tpm_or_none_is_told() {
    let site = Site::new();
    site.request("another", "/");
    let certificate = site.certify("another", "root", EK);
    site.certify("ek", "root", EK);
    let another = "the certificate is of another endorsement key: it is another TPM's";
    assert_eq!(found(&site, &certificate, &[]), refuted(another));
    let (ek, now) = (site.ek("ek"), clock::now().unwrap());
    let told = |certificate: Option<&[u8]>, roots: &Roots, known: &[Ek]| {
        let finding = look(&introduction(&ek, certificate, &[]), &ek, roots, known, now);
        (finding.outcome, finding.text)
    };
    let unknown = |text: &str| (Outcome::Unknown, text.to_owned());
    assert_eq!(told(None, &site.roots(), &[]), unknown("the TPM has no certificate of its endorsement key"));
    assert_eq!(
        told(Some(&certificate), &Roots::default(), &[]),
        unknown("no roots were given to check the certificate by")
    );
    let known = (Outcome::Proved, format!("the endorsement key {} is one of those given", ek.id()));
    assert_eq!(told(None, &site.roots(), &[site.ek("another"), ek.clone()]), known);
}

#[test]
fn roots_are_read_from_files_and_directories() {
    let site = Site::new();
    let directory = site.path("roots");
    std::fs::create_dir(&directory).unwrap();
    let refusal = |path: &Path| format!("{:#}", Roots::read(&[path.to_owned()]).unwrap_err());
    assert_eq!(refusal(&directory), format!("the directory of EK roots {} is empty", directory.display()));
    site.openssl("x509 -in root.pem -outform der -out roots/root.der");
    let pem = std::fs::read_to_string(site.path("root.pem")).unwrap();
    std::fs::write(directory.join("twice.pem"), pem.repeat(2)).unwrap();
    assert_eq!(Roots::read(std::slice::from_ref(&directory)).unwrap().0.len(), 3);
    let wrong = directory.join("wrong");
    std::fs::write(&wrong, "none").unwrap();
    let text = format!("reading the EK root {}: it is no X.509 certificate", wrong.display());
    assert_eq!(refusal(&directory), text);
    std::fs::copy(site.path("root.key"), &wrong).unwrap();
    assert_eq!(refusal(&wrong), format!("reading the EK root {}: it has no certificate", wrong.display()));
}
