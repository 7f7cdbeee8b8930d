//! What is predicted and signed of PCR 11, beside what systemd-measure says: of UKIs that ukify made, with its own run of the
//! tool, and of published ones. The tool is Debian 13's (`scripts/fetch-kernels`).
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "clippy sees no test in the helpers of an integration test"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use metalstrap_initrd::BootTools;
use metalstrap_initrd::uki::Uki;
use metalstrap_release::digest::{Digest, from_hex};
use metalstrap_release::manifest::Manifest;
use metalstrap_release::pcr::{Bank, Pcr, Phase, Signatures, policy};
use serde_json::{Value, json};

#[path = "support/operator.rs"]
mod command;
#[path = "predict/pcrsig.rs"]
mod pcrsig;
mod support;

use command::{ON, Operator, PUBLISH};
use support::{Inputs, kernel, pe, tool};

const BANKS: [&str; 4] = ["sha1", "sha256", "sha384", "sha512"];

fn out() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../out")
}

/// The directory with systemd-measure.
fn measure() -> PathBuf {
    let directory = out().join("systemd-measure");
    assert!(
        directory.join("systemd-measure").exists(),
        "{} is missing: run scripts/fetch-kernels",
        directory.display()
    );
    directory
}

fn openssl(directory: &Path, line: &str) {
    tool(directory, "openssl", line);
}

/// What the command says at each of systemd-measure's phases, in the lines of `systemd-measure calculate`.
fn predicted(uki: &Path, profile: &str) -> Vec<String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_metalstrap"));
    let output = command.arg("predict").arg(uki).args(["--profile", profile, "--json"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["chains"], json!([]));
    let line = |phase: usize, bank: &str| {
        let entry = &found["pcr11"][bank][phase];
        format!("{}:{bank}={}", entry["pcr"], entry["hash"].as_str().unwrap())
    };
    (1..5).flat_map(|phase| BANKS.map(|bank| line(phase, bank))).collect()
}

/// UKIs that ukify makes of one kernel, in a directory of their own.
struct Ukify {
    directory: tempfile::TempDir,
    tools: BootTools,
}

impl Ukify {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        for (name, content) in [
            ("initrd", "initrd"),
            ("ucode", "microcode"),
            ("dtb", "device tree"),
            ("splash", "BM"),
            ("sbat", "sbat,1,SBAT Version,sbat,1,https://example.com/sbat\nos,1,OS,os,1,https://example.com\n"),
        ] {
            fs::write(directory.path().join(name), content.repeat(if name == "sbat" { 1 } else { 700 })).unwrap();
        }
        openssl(directory.path(), "genrsa -out key.pem 2048");
        openssl(directory.path(), "rsa -in key.pem -pubout -out public.pem");
        Self { directory, tools: BootTools::find(&out().join("boot-tools")).unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Makes a UKI with further options, `D/` in them being the directory, and returns it with what systemd-measure says.
    fn make(&self, options: &[&str]) -> (PathBuf, Vec<String>) {
        let output = self.path("uki.efi");
        let initrd = self.path("initrd");
        // The kernel must be a PE file; this is one that is at hand.
        let parts = Uki {
            linux: &self.tools.stub,
            initrd: &initrd,
            cmdline: "quiet gpt",
            uname: "6.12.0",
            os_release: "ID=test\n",
        };
        let mut command = self.tools.command(&parts, &output);
        command.arg("--measure").arg(format!("--tools={}", measure().display()));
        let directory = format!("{}/", self.directory.path().display());
        command.args(options.iter().map(|option| option.replace("D/", &directory)));
        let made = command.output().unwrap();
        assert!(made.status.success(), "{made:?}");
        let text = String::from_utf8(made.stdout).unwrap();
        (output, text.lines().filter(|line| line.starts_with("11:")).map(str::to_owned).collect())
    }

    /// A profile, as a file that `--join-profile` takes. As a UKI it would be measured otherwise than ukify says.
    fn profile(&self, name: &str) {
        let mut command = Command::new("/usr/bin/python3");
        command.env("PYTHONPATH", &self.tools.python).env("PYTHONDONTWRITEBYTECODE", "1").arg(&self.tools.ukify);
        command.args(["build", "--config=/dev/null", &format!("--profile=ID={name}\n"), "--cmdline=other words"]);
        let stub = self.tools.stub.with_file_name("addonx64.efi.stub");
        command.arg(format!("--stub={}", stub.display())).arg(format!("--output={}", self.path(name).display()));
        let made = command.output().unwrap();
        assert!(made.status.success(), "{made:?}");
    }
}

#[test]
fn predictions_are_those_of_systemd_measure() {
    let ukify = Ukify::new();
    let sets: [&[&str]; 7] = [
        &[],
        &["--microcode=D/ucode"],
        &["--devicetree=D/dtb"],
        &["--sbat=@D/sbat"],
        &["--splash=D/splash"],
        &["--pcr-private-key=D/key.pem", "--pcr-public-key=D/public.pem"],
        &["--microcode=D/ucode", "--devicetree=D/dtb", "--sbat=@D/sbat", "--splash=D/splash"],
    ];
    let mut seen = Vec::new();
    for options in sets {
        let (uki, expected) = ukify.make(options);
        assert_eq!(expected.len(), 16, "four phases, four banks");
        assert_eq!(predicted(&uki, "0"), expected, "{options:?}");
        assert!(!seen.contains(&expected), "{options:?} make a difference");
        seen.push(expected);
    }
}

#[test]
fn each_profile_has_values_of_its_own() {
    let ukify = Ukify::new();
    ["rescue", "reset"].into_iter().for_each(|name| ukify.profile(name));
    let options = ["--profile=ID=main\n", "--microcode=D/ucode", "--join-profile=D/rescue", "--join-profile=D/reset"];
    let (uki, expected) = ukify.make(&options);
    let found: Vec<_> = ["0", "1", "2"].iter().flat_map(|profile| predicted(&uki, profile)).collect();
    assert_eq!(found, expected);
    assert_eq!(found.len(), 48);
}

/// Contents of sections, most of what there is.
fn sections(root_hash: &str, public: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    vec![
        (".osrel", b"NAME=Test\nIMAGE_VERSION=1\n".to_vec()),
        (".cmdline", format!("quiet gpt roothash={root_hash}").into_bytes()),
        (".pcrpkey", public.to_vec()),
        (".uname", b"6.12.0".to_vec()),
        (".sbat", b"sbat,1,SBAT Version,sbat,1,https://example.com/sbat\n".to_vec()),
        (".ucode", vec![3; 2000]),
        (".dtb", vec![4; 500]),
        (".profile", b"ID=main\n".to_vec()),
        (".linux", kernel()),
    ]
}

/// A repository to publish into, a key for PCR 11, a UKI with its public half, and a netboot UKI.
fn operator() -> Operator {
    let inputs = Inputs::new();
    let directory = inputs.directory.path();
    openssl(directory, "genrsa -out pcr.pem 2048");
    openssl(directory, "rsa -in pcr.pem -pubout -out public.pem");
    fs::write(inputs.path("uki"), pe(&parts(&inputs))).unwrap();
    fs::write(inputs.path("netboot"), pe(&[(".linux", kernel()), (".initrd", vec![5; 5000])])).unwrap();
    let operator = Operator(inputs);
    operator.ok("keygen --keys D/keys");
    operator
}

fn parts(inputs: &Inputs) -> Vec<(&'static str, Vec<u8>)> {
    sections(&inputs.root_hash, &fs::read(inputs.path("public.pem")).unwrap())
}

/// What systemd-measure says of the UKI.
fn systemd_measure(operator: &Operator, verb: &str, more: &[String]) -> String {
    let mut command = Command::new(measure().join("systemd-measure"));
    command.args([verb, "--json=short"]).args(more);
    for (name, content) in parts(&operator.0) {
        let file = operator.0.path(&format!("section{name}"));
        fs::write(&file, content).unwrap();
        command.arg(format!("--{}={}", name.trim_start_matches('.'), file.display()));
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

/// The signatures that systemd-measure makes of the UKI.
fn systemd_signatures(operator: &Operator) -> String {
    signatures_by(operator, ["pcr.pem", "public.pem"])
}

/// The same by the key whose halves are in these files.
fn signatures_by(operator: &Operator, [private, public]: [&str; 2]) -> String {
    let file = |option: &str, name: &str| format!("--{option}={}", operator.0.path(name).display());
    let mut options = vec![file("private-key", private), file("public-key", public)];
    options.extend(["sha256", "sha384", "sha512"].map(|bank| format!("--bank={bank}")));
    systemd_measure(operator, "sign", &options)
}

/// The file of signatures of the release that a line of JSON names.
fn published(operator: &Operator, result: &Value) -> PathBuf {
    let repository = operator.0.path("repository");
    let manifest = Manifest::parse(&fs::read(repository.join(result["manifest"].as_str().unwrap())).unwrap()).unwrap();
    let pcr11 = manifest.boot.pcr11.as_ref().unwrap();
    let path = repository.join(pcr11.signatures_path().unwrap());
    assert_eq!(Some(Digest::of(&fs::read(&path).unwrap())), pcr11.signatures);
    path
}

#[test]
fn a_release_carries_predictions_and_signatures_of_systemd_measure() {
    let operator = operator();
    let line = format!("{PUBLISH} --pcr-key D/pcr.pem");
    let path = published(&operator, &operator.ok(&line));
    assert_eq!(fs::read_to_string(&path).unwrap(), systemd_signatures(&operator) + "\n");
    assert_eq!(operator.ok(&line)["published"], false, "the same key makes the same signatures");

    let options = Phase::ALL.map(|phase| format!("--phase={}", phase.path()));
    let expected = format!("{{\"pcr11\":{},\"chains\":[]}}\n", systemd_measure(&operator, "calculate", &options));
    for line in [format!("predict --release os 1 {ON} --json"), "predict D/uki --json".to_owned()] {
        assert_eq!(String::from_utf8(operator.run(&line).stdout).unwrap(), expected, "{line}");
    }
    let table = String::from_utf8(operator.run(&format!("predict --release os 1 {ON}")).stdout).unwrap();
    let found: Value = serde_json::from_str(&expected).unwrap();
    let (mut lines, hash) = (table.lines(), found["pcr11"]["sha1"][1]["hash"].as_str().unwrap());
    assert_eq!((lines.next(), table.lines().count()), (Some("PCR 11 after os 1"), 1 + 4 * 5));
    assert_eq!(lines.nth(1), Some(format!("sha1    {:<39}  {hash}", "enter-initrd").as_str()));

    let other = "metalstrap: os 1 is published already, with another list of PCR 11 signatures: a published version never \
                 changes; publish under another --version";
    for more in ["", " --pcr-key D/pcr.pem --netboot D/netboot"] {
        assert_eq!(operator.refusal(&format!("{PUBLISH}{more}")), other);
    }
    let good = fs::read(&path).unwrap();
    fs::write(&path, b"damaged").unwrap();
    assert_eq!(operator.ok(&line)["published"], false);
    assert_eq!(fs::read(&path).unwrap(), good, "made again");
}

#[test]
fn a_chain_is_signed_behind_the_netboot_image() {
    let operator = operator();
    let result = operator.ok(&format!("{PUBLISH} --pcr-key D/pcr.pem --netboot D/netboot --netboot D/netboot"));
    let path = published(&operator, &result);
    let signatures: Signatures = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let alone: Signatures = serde_json::from_str(&systemd_signatures(&operator)).unwrap();
    assert_eq!((signatures.sha256.len(), signatures.sha384.len(), signatures.sha512.len()), (8, 8, 8));
    assert_eq!(&signatures.sha256[..4], &alone.sha256);

    // By hand, from what the netboot image leaves.
    let found = operator.ok("predict D/uki --netboot D/netboot --json");
    let start = operator.ok("predict D/netboot --json");
    let hash =
        |value: &Value, phase: usize| value["sha256"][phase]["hash"].as_str().unwrap().parse::<Digest>().unwrap();
    let mut pcr = hash(&start["pcr11"], 0);
    let mut extend = |bytes: &[u8]| pcr = Digest::of(&[pcr.0, Digest::of(bytes).0].concat());
    let parts = parts(&operator.0);
    for name in [".linux", ".osrel", ".cmdline", ".ucode", ".dtb", ".uname", ".sbat", ".pcrpkey", ".profile"] {
        let (_, content) = parts.iter().find(|(other, _)| *other == name).unwrap();
        extend(format!("{name}\0").as_bytes());
        extend(content);
    }
    extend(b"enter-initrd");
    assert!(found["chains"][0]["netboot"].as_str().unwrap().ends_with("/netboot"));
    let chain = &found["chains"][0]["pcr11"];
    assert_eq!(hash(chain, 1), pcr);
    // The same from what the manifest says of the sections.
    let manifest = operator.0.path("repository").join(result["manifest"].as_str().unwrap());
    let manifest = Manifest::parse(&fs::read(manifest).unwrap()).unwrap();
    let left = Pcr::with_value(Bank::Sha256, &hash(&start["pcr11"], 0).0).unwrap();
    let after = manifest.boot.pcr11.unwrap().after(&left).unwrap();
    assert_eq!(after.at(Phase::EnterInitrd).value(), pcr.0);
    for (phase, signature) in signatures.sha256[4..].iter().enumerate() {
        let value = from_hex(chain["sha256"][phase + 1]["hash"].as_str().unwrap()).unwrap();
        assert_eq!(signature.pol, policy(&Pcr::with_value(Bank::Sha256, &value).unwrap()));
    }
}

#[test]
fn what_cannot_be_signed_is_refused_before_anything_is_written() {
    let operator = operator();
    let refusal = |more: &str| {
        let text = operator.refusal(&format!("{PUBLISH} {more}"));
        assert!(!operator.0.path("repository").exists(), "{more}");
        text
    };
    openssl(operator.0.directory.path(), "genrsa -out other.pem 2048");
    assert_eq!(
        refusal("--pcr-key D/other.pem"),
        "metalstrap: the UKI's .pcrpkey is not the public half of the PCR key D/other.pem: what the OS seals by it would not open"
    );
    assert_eq!(
        refusal("--pcr-key D/public.pem"),
        "metalstrap: reading the PCR key D/public.pem: it is no RSA key of 2048 bits or more as PEM (PKCS#8 or PKCS#1, not \
         encrypted), and TPMs take no other"
    );
    assert_eq!(
        refusal("--pcr-key D/pcr.pem --netboot D/root"),
        "metalstrap: predicting PCR 11 of the UKI D/root: the UKI is no PE file: it does not start with MZ"
    );
    let usage = operator.run(&format!("{PUBLISH} --netboot D/netboot"));
    assert!(String::from_utf8(usage.stderr).unwrap().contains("--pcr-key <FILE>"));
}

#[test]
fn a_uki_for_different_machines_has_no_prediction() {
    let operator = operator();
    let mut sections = parts(&operator.0);
    sections.retain(|(name, _)| *name != ".pcrpkey");
    sections.push((".dtbauto", vec![6; 100]));
    fs::write(operator.0.path("uki"), pe(&sections)).unwrap();
    let text = "predicting PCR 11 of the UKI D/uki: the UKI has a section .dtbauto, and whether systemd-stub measures it \
                depends on the machine's hardware";
    assert_eq!(operator.refusal("predict D/uki"), format!("metalstrap: {text}"));
    assert_eq!(operator.refusal(&format!("{PUBLISH} --pcr-key D/pcr.pem")), format!("metalstrap: {text}"));
    let (_, said) = operator.told(PUBLISH);
    let said = said.replace(operator.0.directory.path().to_str().unwrap(), "D");
    assert_eq!(said.lines().next(), Some(format!("warning: {text}: the manifest says nothing of PCR 11").as_str()));
    assert_eq!(
        operator.refusal(&format!("predict --release os 1 {ON}")),
        "metalstrap: the manifest of os 1 says nothing of PCR 11: it depends on the machine, or an older metalstrap published it"
    );
}
