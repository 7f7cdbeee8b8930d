//! A release for machines with Secure Boot: what must be signed before it is published, and what the manifest says of it.
//! sbverify and openssl are the judges.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "clippy sees no test in the helpers of an integration test"
)]

use std::fs;
use std::process::{Command, Output};

use metalstrap_initrd::Signer;
use metalstrap_release::digest::Digest;
use metalstrap_release::host::Host;
use metalstrap_release::manifest::Manifest;
use metalstrap_release::secure_boot::certificates;
use serde_json::Value;

mod support;

use support::{Inputs, files, signable, signable_kernel, tool};

/// Inputs that can be signed, and two operators' keys.
struct Signed(Inputs);

impl Signed {
    fn new() -> Self {
        let signed = Self(Inputs::new());
        for name in ["own", "other"] {
            let subject = format!("/CN={name}");
            signed.openssl(&format!(
                "req -x509 -newkey rsa:2048 -nodes -days 9 -subj {subject} -keyout {name}.key -out {name}.pem"
            ));
        }
        fs::write(signed.0.path("loader"), signed.sign(signable(&[(".text", vec![1; 100])]))).unwrap();
        signed.write_uki(signed.sign(signable_kernel()));
        signed
    }

    fn openssl(&self, line: &str) -> String {
        tool(self.0.directory.path(), "openssl", line)
    }

    fn sign(&self, image: Vec<u8>) -> Vec<u8> {
        Signer::read(&self.0.path("own.key"), &self.0.path("own.pem")).unwrap().sign(image).unwrap()
    }

    fn unsigned_uki(&self, kernel: Vec<u8>) -> Vec<u8> {
        let cmdline = format!("quiet gpt roothash={}", self.0.root_hash).into_bytes();
        signable(&[(".osrel", b"NAME=Test\nIMAGE_VERSION=1\n".to_vec()), (".cmdline", cmdline), (".linux", kernel)])
    }

    fn write_uki(&self, kernel: Vec<u8>) {
        fs::write(self.0.path("uki"), self.sign(self.unsigned_uki(kernel))).unwrap();
    }

    fn metalstrap(&self, line: &str) -> Output {
        let directory = self.0.directory.path().to_str().unwrap();
        let words = line.split(' ').map(|word| word.replace("D/", &format!("{directory}/")));
        Command::new(env!("CARGO_BIN_EXE_metalstrap")).args(words).output().unwrap()
    }

    fn publish(&self, certificates: &str) -> Output {
        if !self.0.path("keys").exists() {
            assert!(self.metalstrap("keygen --keys D/keys").status.success());
        }
        let files =
            "--root D/root --verity D/verity --uki D/uki --loader D/loader --repository D/repository --keys D/keys";
        self.metalstrap(&format!("publish --name os --version 1 --level 1 {files}{certificates}"))
    }

    /// What publishing says when it refuses; it must leave no manifest.
    fn refusal(&self, certificates: &str) -> String {
        let output = self.publish(certificates);
        assert!(!output.status.success());
        assert_eq!(files(&self.0.path("repository/targets")), Vec::<String>::new());
        self.last_line(&output)
    }

    fn last_line(&self, output: &Output) -> String {
        let text = String::from_utf8(output.stderr.clone()).unwrap();
        let text = text.replace(self.0.directory.path().to_str().unwrap(), "D");
        text.lines().last().unwrap_or_default().to_owned()
    }
}

const OWN: &str = " --secure-boot-certificate D/own.pem";

#[test]
fn the_manifest_says_by_whom_each_part_is_signed() {
    let signed = Signed::new();
    let output = signed.publish(&format!(" --secure-boot-certificate D/other.pem{OWN}"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    let path = signed.0.path("repository").join(result["manifest"].as_str().unwrap());
    let manifest = Manifest::parse(&fs::read(path).unwrap()).unwrap();
    let found = manifest.boot.secure_boot.unwrap();
    signed.openssl("x509 -in own.pem -outform der -out own.der");
    let shown = signed.openssl("x509 -in own.pem -noout -ext subjectKeyIdentifier");
    let key_id = shown.lines().nth(1).unwrap().trim().replace(':', "").to_lowercase();
    for certificates in [&found.uki, &found.kernel, &found.loader] {
        assert_eq!(certificates.len(), 1, "{found:?}");
        assert_eq!(certificates[0].sha256, Digest::of(&fs::read(signed.0.path("own.der")).unwrap()));
        assert_eq!(certificates[0].key_id, key_id);
    }
    // The same again, and without: a published version never changes.
    assert!(signed.publish(&format!(" --secure-boot-certificate D/other.pem{OWN}")).status.success());
    let output = signed.publish("");
    assert!(!output.status.success());
    let other = "metalstrap: os 1 is published already, with another list of certificates for Secure Boot: a published version \
                 never changes; publish under another --version";
    assert_eq!(signed.last_line(&output), other);
}

#[test]
fn what_is_not_signed_by_a_given_certificate_is_not_published() {
    let signed = Signed::new();
    let others = " --secure-boot-certificate D/other.pem";
    let text = "metalstrap: the UKI D/uki is signed by none of the given certificates: D/other.pem";
    assert_eq!(signed.refusal(others), text);
    let hint = "is not signed (sbsign and `ukify --sign-kernel` sign such files)";
    signed.write_uki(signable_kernel());
    assert_eq!(signed.refusal(OWN), format!("metalstrap: the kernel in the UKI D/uki {hint}"));
    fs::write(signed.0.path("uki"), signed.unsigned_uki(signed.sign(signable_kernel()))).unwrap();
    assert_eq!(signed.refusal(OWN), format!("metalstrap: the UKI D/uki {hint}"));
    signed.write_uki(signed.sign(signable_kernel()));
    fs::write(signed.0.path("loader"), signable(&[(".text", vec![1; 100])])).unwrap();
    assert_eq!(signed.refusal(OWN), format!("metalstrap: the boot loader D/loader {hint}"));
    let text = "metalstrap: reading the Secure Boot certificate D/own.key: it is no certificate, but a PRIVATE KEY";
    assert_eq!(signed.refusal(" --secure-boot-certificate D/own.key"), text);
    // One byte of a signed UKI is another.
    fs::write(signed.0.path("loader"), signed.sign(signable(&[(".text", vec![1; 100])]))).unwrap();
    signed.0.flip("uki", 0x300);
    let text = "metalstrap: the UKI D/uki is signed by none of the given certificates: D/own.pem";
    assert_eq!(signed.refusal(OWN), text);
}

#[test]
fn a_host_config_takes_the_keys_of_a_directory() {
    let signed = Signed::new();
    assert!(signed.publish("").status.success());
    let add = "host add default --release os 1 --secure-boot-keys D/auth --repository D/repository --keys D/keys";
    let output = signed.metalstrap(add);
    assert!(signed.last_line(&output).starts_with("metalstrap: reading Secure Boot's keys from D/auth/PK.auth: "));
    fs::create_dir(signed.0.path("auth")).unwrap();
    signed.openssl("x509 -in own.pem -outform der -out own.der");
    let run = |program: &str, line: &str| tool(signed.0.directory.path(), program, line);
    run("sbsiglist", "--owner 11223344-5566-7788-99aa-bbccddeeff00 --type x509 --output own.esl own.der");
    let sign = |options: &str, signer: &str, variable: &str, file: &str| {
        let line =
            format!("{options}--key {signer}.key --cert {signer}.pem --output auth/{file}.auth {variable} own.esl");
        run("sbvarsign", &line);
    };
    let attributes = "--attr NON_VOLATILE,BOOTSERVICE_ACCESS,RUNTIME_ACCESS ";
    for name in ["PK", "KEK", "db"] {
        sign(attributes, "own", name, name);
    }
    let refusal = || signed.last_line(&signed.metalstrap(add));
    let as_variable = "as this variable with the attributes NON_VOLATILE, BOOTSERVICE_ACCESS and RUNTIME_ACCESS (sbvarsign signs for \
                       all attributes unless --attr says which)";
    let text = |name: &str| {
        format!("metalstrap: firmware would refuse the host config's secure_boot_keys: {name} {as_variable}")
    };
    // For APPEND_WRITE too, which firmware takes no platform key with.
    sign("", "own", "PK", "PK");
    assert_eq!(refusal(), text("PK is not signed by its own key"));
    sign(attributes, "other", "PK", "PK");
    assert_eq!(refusal(), text("PK is not signed by its own key"));
    sign(attributes, "own", "PK", "PK");
    sign(attributes, "own", "KEK", "db");
    assert_eq!(refusal(), text("db is not signed"));
    sign(attributes, "other", "db", "db");
    let output = signed.metalstrap(add);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    let path = signed.0.path("repository").join(result["config"].as_str().unwrap());
    let host = Host::parse(&fs::read(path).unwrap()).unwrap();
    let updates = host.secure_boot_keys.unwrap().updates().unwrap();
    let own = fs::read(signed.0.path("own.der")).unwrap();
    for ((name, update), expected) in updates.iter().zip(["db", "KEK", "PK"]) {
        assert_eq!(*name, expected);
        assert_eq!(update.bytes(), fs::read(signed.0.path(&format!("auth/{name}.auth"))).unwrap());
        assert_eq!(certificates(update.content()).unwrap(), [own.as_slice()]);
    }
    fs::write(signed.0.path("auth/db.auth"), "").unwrap();
    let text = "metalstrap: checking the host config: the host config's secure_boot_keys hold db, which ends before its \
                signature does";
    assert_eq!(signed.last_line(&signed.metalstrap(add)), text);
}
