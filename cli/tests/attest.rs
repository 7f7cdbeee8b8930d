//! `metalstrap attest` beside tpm2-tools, which do the machine's part with swtpm, and judge quotes by themselves.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "clippy sees no test in the helpers of an integration test"
)]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

#[path = "attest/report.rs"]
mod report;
#[path = "attest/start.rs"]
mod start;
mod support;
#[path = "support/tpm.rs"]
mod tpm;

use tpm::{Machine, PCRS, nonce};

/// What is said where nothing was expected, behind the findings of keys and quote.
const OF_LOGS: [(&str, &str); 5] = [
    ("firmware-log", "unknown"),
    ("userspace-log", "proved"),
    ("release", "unknown"),
    ("host-config", "unknown"),
    ("netboot-image", "unknown"),
];

/// Runs `metalstrap attest` in a machine's directory, which is the verifier's too.
fn attest(at: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_metalstrap"));
    command.arg("attest").args(words).current_dir(at).output().unwrap()
}

fn write(at: &Path, name: &str, document: &Value) {
    fs::write(at.join(name), document.to_string()).unwrap();
}

fn read(at: &Path, name: &str) -> Value {
    serde_json::from_slice(&fs::read(at.join(name)).unwrap()).unwrap()
}

/// A new challenge, whose state is NAME.state.
fn challenge(machine: &Machine, introduction: &Value, name: &str) -> Value {
    let at = machine.directory.path();
    write(at, "introduction.json", introduction);
    let (out, state) = (format!("{name}.challenge"), format!("{name}.state"));
    let output = attest(at, &["challenge", "introduction.json", "--out", &out, "--state", &state, "--pcrs", PCRS]);
    assert!(output.status.success(), "{output:?}");
    read(at, &out)
}

/// The verdict on an answer to the challenge of that name, and the exit code.
fn verify(machine: &Machine, evidence: &Value, name: &str, words: &[&str]) -> (Value, i32) {
    let at = machine.directory.path();
    write(at, "evidence.json", evidence);
    let state = format!("{name}.state");
    let all = [&["verify", "evidence.json", "--state", &state, "--format", "json"][..], words].concat();
    let output = attest(at, &all);
    let verdict = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    (verdict, output.status.code().unwrap())
}

/// A finding: its outcome and text.
fn finding<'a>(verdict: &'a Value, what: &str) -> (&'a str, &'a str) {
    let all = verdict["findings"].as_array().unwrap();
    let found = all.iter().find(|finding| finding["what"] == what).unwrap();
    (found["outcome"].as_str().unwrap(), found["text"].as_str().unwrap())
}

#[test]
fn tpm2_tools_and_this_command_agree_on_quotes() {
    let machine = Machine::new();
    let log = machine.measure("host-config", b"host");
    machine.make_ak("other", "rsa");
    for kind in ["rsa", "ecc"] {
        machine.make_ak(kind, kind);
        let introduction = machine.introduction(kind);
        let known = ["--ek", "ek.pub"];

        let asked = challenge(&machine, &introduction, &format!("{kind}-good"));
        let evidence = machine.evidence(&asked, kind, &log);
        let (verdict, code) = verify(&machine, &evidence, &format!("{kind}-good"), &known);
        assert_eq!((&verdict["accepted"], code), (&json!(true), 0), "{verdict}");
        assert_eq!(finding(&verdict, "ak").0, "proved");
        for (what, outcome) in OF_LOGS {
            assert_eq!(finding(&verdict, what).0, outcome, "{what}");
        }
        // Which kinds of keys tpm2_checkquote knows depends on its version; it knows RSA always.
        let agrees = |verdict: bool, quote: &str, ak: &str, nonce: &str, pcrs: &str| {
            assert!(kind != "rsa" || machine.check_quote(quote, ak, nonce, pcrs) == verdict);
        };
        agrees(true, "quote", kind, &nonce(&asked), "quote");

        // The same answer again.
        let state = format!("{kind}-good.state");
        let output = attest(machine.directory.path(), &["verify", "evidence.json", "--state", &state]);
        let text = format!("metalstrap: the state {state} was used before: a challenge is answered once\n");
        assert_eq!((output.status.code(), String::from_utf8(output.stderr).unwrap()), (Some(1), text));

        // An old quote for a new challenge.
        let refused = |name: &str, quote: Value, asked: &Value| {
            let secret = machine.activate(asked, kind).unwrap();
            let mut evidence = evidence.clone();
            (evidence["id"], evidence["secret"]) = (asked["id"].clone(), STANDARD.encode(secret).into());
            evidence["quotes"] = json!([quote]);
            let (verdict, code) = verify(&machine, &evidence, name, &known);
            assert_eq!((&verdict["accepted"], code), (&json!(false), 1));
            let (outcome, text) = finding(&verdict, "quote");
            assert_eq!(outcome, "refuted");
            text.to_owned()
        };
        let name = format!("{kind}-old");
        let asked = challenge(&machine, &introduction, &name);
        let text = refused(&name, machine.quote_json("quote", "quote"), &asked);
        assert_eq!(
            text,
            "that of sha256 has another nonce than the challenge: it is an old one, or another verifier's"
        );
        agrees(false, "quote", kind, &nonce(&asked), "quote");

        // A value that has changed since.
        let name = format!("{kind}-changed");
        let asked = challenge(&machine, &introduction, &name);
        machine.quote("before", kind, &nonce(&asked));
        machine.tool(&format!("tpm2_pcrextend 7:sha256={}", "5a".repeat(32)));
        machine.quote("after", kind, &nonce(&asked));
        let text = refused(&name, machine.quote_json("before", "after"), &asked);
        assert_eq!(text, "that of sha256 is over other values of the PCRs than come with it");
        agrees(false, "before", kind, &nonce(&asked), "after");
        agrees(true, "before", kind, &nonce(&asked), "before");

        // Another key of the same TPM.
        let name = format!("{kind}-other");
        let asked = challenge(&machine, &introduction, &name);
        machine.quote("other", "other", &nonce(&asked));
        let text = refused(&name, machine.quote_json("other", "other"), &asked);
        assert_eq!(text, "that of sha256 was not signed by the attestation key");
        agrees(false, "other", kind, &nonce(&asked), "other");
        agrees(true, "other", "other", &nonce(&asked), "other");
    }
}

#[test]
fn a_credential_opens_for_its_keys_alone() {
    let (machine, other) = (Machine::new(), Machine::new());
    for kind in ["rsa", "ecc"] {
        machine.make_ak(kind, kind);
        other.make_ak(kind, kind);
        let asked = challenge(&machine, &machine.introduction(kind), kind);
        assert_eq!(machine.activate(&asked, kind).unwrap().len(), 32);
        machine.make_ak("another", kind);
        assert!(machine.activate(&asked, "another").is_err(), "it is bound to the attestation key");
        assert!(other.activate(&asked, kind).is_err(), "it is bound to the TPM");
    }
    // With an endorsement key of ECC the seed gets there otherwise.
    machine.tool("tpm2_createek -c ek.ctx -G ecc -u ek.pub");
    machine.make_ak("ak", "ecc");
    let asked = challenge(&machine, &machine.introduction("ak"), "of-ecc");
    assert_eq!(machine.activate(&asked, "ak").unwrap().len(), 32);
}

#[test]
fn certificates_that_swtpm_makes_lead_to_their_root() {
    let (machine, other) = (Machine::new(), Machine::new());
    machine.make_ak("ak", "ecc");
    let log = machine.measure("manifest", b"manifest");
    let issuer = pem_contents(&machine.bytes("issuer.pem"));
    let judged = |name: &str, certificate: Option<Vec<u8>>, words: &[&str]| {
        let mut introduction = machine.introduction("ak");
        introduction["ek_chain"] = json!([STANDARD.encode(&issuer)]);
        if let Some(certificate) = certificate {
            introduction["ek_certificate"] = STANDARD.encode(certificate).into();
        }
        let asked = challenge(&machine, &introduction, name);
        let (verdict, code) = verify(&machine, &machine.evidence(&asked, "ak", &log), name, words);
        assert_eq!(verdict["accepted"] == true, code == 0);
        let (outcome, text) = finding(&verdict, "ek-certificate");
        (code, outcome.to_owned(), text.to_owned())
    };
    let roots = ["--ek-roots", "root.pem"];
    let (code, outcome, text) = judged("own", Some(machine.bytes("ek.der")), &roots);
    assert_eq!((code, outcome.as_str()), (0, "proved"), "{text}");
    assert!(text.contains(" is certified by "), "{text}");
    let (code, outcome, text) = judged("other", Some(other.bytes("ek.der")), &roots);
    let another = "the certificate is of another endorsement key: it is another TPM's";
    assert_eq!((code, outcome.as_str(), text.as_str()), (1, "refuted", another));
    let (code, outcome, text) = judged("none", None, &roots);
    let none = "the TPM has no certificate of its endorsement key";
    assert_eq!((code, outcome.as_str(), text.as_str()), (1, "unknown", none));
    let stranger = other.path("root.pem").display().to_string();
    let (code, outcome, _) = judged("stranger", Some(machine.bytes("ek.der")), &["--ek-roots", &stranger]);
    assert_eq!((code, outcome.as_str()), (1, "refuted"));
}

fn pem_contents(text: &[u8]) -> Vec<u8> {
    pem::parse(text).unwrap().into_contents()
}

/// An endpoint; it ends with the value.
struct Endpoint {
    child: Child,
    /// Open, so that the endpoint can go on telling.
    _stdout: BufReader<ChildStdout>,
    address: String,
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Endpoint {
    fn start(at: &Path, words: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_metalstrap"))
            .args(["attest", "serve", "--listen", "127.0.0.1:0", "--tls-certificate", "server.pem"])
            .args(["--tls-key", "server.key", "--accepted", "accepted.json", "--pcrs", PCRS])
            .args(words)
            .current_dir(at)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        let said: Value = serde_json::from_str(&line).unwrap();
        Self { child, _stdout: stdout, address: said["listening"].as_str().unwrap().to_owned() }
    }

    /// Status and body of what it answers.
    fn post(&self, at: &Path, path: &str, document: &Value) -> (String, String) {
        write(at, "posted.json", document);
        let output = Command::new("curl")
            .args(["--silent", "--show-error", "--cacert", "server.pem", "--data-binary", "@posted.json"])
            .args(["--write-out", "\n%{http_code}", &format!("https://{}{path}", self.address)])
            .current_dir(at)
            .output()
            .expect("curl can be run");
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        let (body, status) = text.rsplit_once('\n').unwrap();
        (status.to_owned(), body.to_owned())
    }

    /// The verdict on a machine.
    fn judge(&self, at: &Path, machine: &Machine, log: &str) -> Value {
        let (status, asked) = self.post(at, "/introduction", &machine.introduction("ak"));
        assert_eq!(status, "200", "{asked}");
        let evidence = machine.evidence(&serde_json::from_str(&asked).unwrap(), "ak", log);
        let (status, verdict) = self.post(at, "/evidence", &evidence);
        assert_eq!(status, "200", "{verdict}");
        // The same again gets the same verdict, as after a connection that broke; something else gets none.
        let again = self.post(at, "/evidence", &evidence).1;
        assert_eq!(again, verdict);
        let mut evidence = evidence;
        evidence["userspace_log"] = json!("");
        let gone = "there is no such challenge: it was answered before, or has expired\n";
        assert_eq!(self.post(at, "/evidence", &evidence), ("410".to_owned(), gone.to_owned()));
        serde_json::from_str(&verdict).unwrap()
    }
}

#[test]
fn an_endpoint_accepts_machines_once_for_all_and_gives_them_their_secrets() {
    let at = tempfile::tempdir().unwrap();
    let at = at.path();
    let server = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 9 -subj /CN=server";
    let server = format!("{server} -addext subjectAltName=IP:127.0.0.1 -keyout server.key -out server.pem");
    let output = Command::new("openssl").args(server.split(' ')).current_dir(at).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    fs::create_dir(at.join("secrets")).unwrap();
    fs::write(at.join("secrets/psk"), "hush, hush").unwrap();
    let (machine, other) = (Machine::new(), Machine::new());
    let logs = [&machine, &other].map(|machine| {
        machine.make_ak("ak", "ecc");
        machine.measure("manifest", b"manifest")
    });

    let endpoint = Endpoint::start(at, &["--first-use", "accept", "--secrets", "secrets"]);
    let verdict = endpoint.judge(at, &machine, &logs[0]);
    assert_eq!(verdict["accepted"], true, "{verdict}");
    let (outcome, text) = finding(&verdict, "ek-certificate");
    let ek = verdict["secrets"]["psk"]["ek"].as_str().unwrap();
    let new = format!("the endorsement key {ek} is new, and new ones are accepted unchecked");
    assert_eq!((outcome, text), ("proved", new.as_str()));
    assert!(!verdict.to_string().contains("hush"));
    assert_eq!(read(at, "accepted.json")["accepted"][0]["name"], ek);
    assert_eq!(endpoint.post(at, "/nowhere", &json!({})).0, "404");
    let text = "the introduction is not valid: missing field `format` at line 1 column 2\n";
    assert_eq!(endpoint.post(at, "/introduction", &json!({})), ("400".to_owned(), text.to_owned()));
    drop(endpoint);

    // After a restart it knows the one, and takes no others.
    let endpoint = Endpoint::start(at, &["--secrets", "secrets"]);
    let verdict = endpoint.judge(at, &machine, &logs[0]);
    assert_eq!(verdict["accepted"], true, "{verdict}");
    let verdict = endpoint.judge(at, &other, &logs[1]);
    assert_eq!((&verdict["accepted"], &verdict["secrets"]), (&json!(false), &Value::Null));
    let (outcome, text) = finding(&verdict, "ek-certificate");
    assert!(outcome == "refuted" && text.ends_with(" is not one of those accepted, and no new ones are"), "{text}");
}
