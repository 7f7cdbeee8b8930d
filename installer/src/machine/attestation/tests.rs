//! What follows by the host config's policy, up to the ESP: a software TPM is the machine's, and the verifier judges as
//! `metalstrap attest` does, behind real TLS.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use metalstrap_release::attest::{EK_CERTIFICATE, Evidence, Expected, Finding, Outcome, Pending, verify};
use metalstrap_release::host::{Plaintext, Secret};
use metalstrap_release::tpm2::Ek;
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::config::Place;
use crate::converge::testing::only;
use crate::credentials::{open_from_tpm, seal_all};
use crate::disk::{Recorded, Recording};
use crate::eventlog::Measurer;
use crate::failure::code_of;
use crate::fetch::DirectorySource;
use crate::http::Limits;
use crate::machine::Seams;
use crate::progress::Progress;
use crate::refusals::published::{ESP_BYTES, good};
use crate::report::Reporter;
use crate::report::tests::Lines;
use crate::resolve::Servers;
use crate::test_server::{TestServer, reply, serve};
use crate::tpm::nv::Content;
use crate::tpm::swtpm::Swtpm;
use crate::tpm::{Bank, BankDigest, PcrIndex, Tpm};

mod failures;
mod reported;

const SECRET: &[u8] = b"hush, nobody may hear this";
/// What the machine measures as its host config.
const HOST: &[u8] = b"the host config";
/// Where the ESP begins.
const START: u64 = 1 << 20;

/// The TPM that is measured into, beside the connections of those who attest.
#[derive(Debug)]
struct Measured(Arc<Swtpm>);

impl Tpm for Measured {
    fn banks(&self) -> &[Bank] {
        &Bank::ALL
    }

    fn extend(&mut self, pcr: PcrIndex, digests: &[BankDigest]) -> Result<()> {
        self.0.connect().extend(pcr, digests)
    }

    fn read(&mut self, pcr: PcrIndex) -> Result<Vec<BankDigest>> {
        self.0.connect().read(pcr)
    }

    fn nv_read(&mut self, index: u32, size: u16) -> Result<Content> {
        self.0.connect().nv_read(index, size)
    }

    fn nv_write(&mut self, index: u32, bytes: &[u8]) -> Result<()> {
        self.0.connect().nv_write(index, bytes)
    }
}

/// What a machine is made of, and what it tells.
struct Bench {
    swtpm: Arc<Swtpm>,
    disk: Arc<Recording>,
    esp: Region,
    log: TempDir,
    lines: Lines,
    tell: Reporter,
}

impl Bench {
    /// With an ESP as it is when a release boots.
    async fn new() -> Self {
        let (published, directory) = (good(), tempfile::tempdir().unwrap());
        published.write_to(directory.path());
        let disk = Arc::new(Recording::memory(START + ESP_BYTES, 512));
        let region = Region { disk: Arc::clone(&disk) as Arc<_>, start: START, size: ESP_BYTES };
        let mirrors = only(DirectorySource::new(directory.path()));
        let order = esp::Order { volume_id: 0xABCD_0123, ..esp::Order::of(&published.manifest) };
        esp::write(&mirrors, order, &region, &[], &Progress::default()).await.unwrap();
        let lines = Lines::default();
        let tell = Reporter::new("r".to_owned(), Box::new(lines.clone()), None);
        let (swtpm, log) = (Arc::new(Swtpm::start()), tempfile::tempdir().unwrap());
        Self { swtpm, disk, esp: region, log, lines, tell }
    }

    /// The same, with what a verifier has given in an earlier run.
    async fn with_secret() -> Self {
        let (bench, server) = (Self::new().await, verifier(accepted).await);
        let given = bench.attest(&mut bench.machine(), "required", (&url(&server), &server.ca)).await;
        assert_eq!(given, Ok(both()));
        bench.told(&url(&server));
        bench
    }

    /// The machine when it has measured its host config.
    fn machine(&self) -> Machine<'_> {
        let tpm = Measured(Arc::clone(&self.swtpm));
        let measurer = Measurer::with(Ok(Some(Box::new(tpm))), &self.log.path().join("log"));
        let swtpm = Arc::clone(&self.swtpm);
        let mut machine = self.machine_with(measurer, move || Ok(Some(swtpm.by_turns())));
        machine.measure("host-config", HOST).unwrap();
        machine
    }

    /// One that attests itself by this TPM.
    fn machine_with(
        &self,
        measurer: Measurer,
        tpm: impl Fn() -> Result<Option<Direct>> + Send + Sync + 'static,
    ) -> Machine<'_> {
        let pause = Duration::from_millis(2);
        let limits = Limits { attempts: 3, backoff: pause, backoff_most: pause, ..Limits::default() };
        let seams = Seams { tpm: Box::new(tpm), limits, ..Seams::default() };
        Machine::new(&Place::Netboot, &self.tell, measurer, None, seams)
    }

    /// The names of what the OS gets where the host config has this policy and verifier (its URL and CA), or why the run ends.
    async fn attest(
        &self,
        machine: &mut Machine<'_>,
        policy: &str,
        (url, ca): (&str, &str),
    ) -> Result<Vec<String>, (Code, String)> {
        let release = json!({"name": "tiny", "version": "1"});
        let (credentials, attestation) = (json!({"motd": {"text": "x"}}), json!({"url": url, "policy": policy}));
        let host = json!({"format": 1, "release": release, "credentials": credentials, "attestation": attestation});
        let host = Host::parse(host.to_string().as_bytes()).unwrap();
        let site = json!({"format": 1, "repository": "https://127.0.0.1", "root": {}});
        let site = Site { ca: ca.to_owned(), ..serde_json::from_value(site).unwrap() };
        machine.know_verifier(&host, &site, &Resolver::learnt(Servers::default())).unwrap();
        let done = machine.attest(&host, &self.esp, seal_all(&host).unwrap()).await;
        let names = |all: Vec<Sealed>| all.into_iter().map(|one| one.name).collect();
        done.map(names).map_err(|error| (code_of(&error), format!("{error:#}").replace(url, "VERIFIER")))
    }

    /// What the TPM opens of what verifiers have given and the ESP has.
    async fn held(&self) -> Vec<(String, Vec<u8>)> {
        let mut tpm = self.swtpm.by_turns();
        let open = |one: Sealed| {
            let sealed = STANDARD.decode(one.bytes.trim_ascii_end()).unwrap();
            let content = open_from_tpm(&mut tpm, &one.name, &sealed).unwrap().bytes().to_vec();
            (one.name, content)
        };
        esp::attested(&self.esp).await.unwrap().into_iter().map(open).collect()
    }

    /// The events of the attestation since the last time. Nothing that was told so far has a secret.
    fn events(&self, url: &str) -> Vec<Value> {
        let lines = std::mem::take(&mut *self.lines.0.lock().unwrap());
        let [plain, base64] = ["hush".to_owned(), STANDARD.encode(SECRET)];
        for line in &lines {
            let encrypted = ["\"content\"", "\"key\""].iter().any(|field| line.contains(field));
            assert!(!line.contains(&plain) && !line.contains(&base64) && !encrypted, "{line}");
        }
        let event = |line: &String| serde_json::from_str::<Value>(&line.replace(url, "VERIFIER")).ok();
        lines.iter().filter_map(event).filter(|event| event["step"] == "attestation").collect()
    }

    /// The same, each with what it says.
    fn told(&self, url: &str) -> Vec<String> {
        let text = |event: Value| {
            let (state, fields) = (event["state"].as_str().unwrap(), &event["fields"]);
            match state {
                "info" => format!("accepted: {}, secrets: {}", fields["accepted"], fields["secrets"]),
                "warning" => format!("warning: {}", fields["message"].as_str().unwrap()),
                "failed" => format!("failed: {}", fields["error"].as_str().unwrap()),
                _ => state.to_owned(),
            }
        };
        self.events(url).into_iter().map(text).collect()
    }

    /// Why the run ends where attesting is required. Where it is not, that is told and the run goes on. What a verifier has given
    /// before stays either way.
    async fn failure(&self, machine: &mut Machine<'_>, verifier: (&str, &str)) -> (Code, String) {
        let (code, text) = self.attest(machine, "required", verifier).await.unwrap_err();
        let text = text.strip_prefix("attesting the machine: ").unwrap().to_owned();
        let mut told = self.told(verifier.0);
        assert_eq!(told.pop(), Some(format!("failed: {text}")));
        assert_eq!(self.attest(machine, "if-possible", verifier).await, Ok(both()));
        told.extend([format!("warning: {text}; the run goes on, as the host config has it"), "done".to_owned()]);
        assert_eq!(self.told(verifier.0), told);
        assert_eq!(self.held().await, [("wifi.psk".to_owned(), SECRET.to_vec())]);
        (code, text)
    }
}

/// What the OS gets of the host config and of a verifier.
fn both() -> Vec<String> {
    ["motd", "wifi.psk"].map(str::to_owned).to_vec()
}

fn url(server: &TestServer) -> String {
    format!("https://127.0.0.1:{}/attest", server.port)
}

/// One that begins exchanges as it should, and ends them so.
async fn verifier(end: impl Fn(&Pending, &Evidence) -> Vec<u8> + Send + Sync + 'static) -> TestServer {
    let begun = Mutex::<Option<Pending>>::default();
    let script = move |_: usize, request: &str| {
        let (head, body) = request.split_once("\r\n\r\n").unwrap();
        let mut begun = begun.lock().unwrap();
        let answer = if head.starts_with("POST /attest/introduction ") {
            let pending = Pending::begin(Introduction::parse(body.as_bytes()).unwrap(), vec![13]).unwrap();
            serde_json::to_vec(&begun.insert(pending).challenge).unwrap()
        } else {
            assert!(head.starts_with("POST /attest/evidence "), "{head}");
            end(&begun.take().unwrap(), &Evidence::parse(body.as_bytes()).unwrap())
        };
        reply("200 OK", &answer)
    };
    serve(|_| {}, script).await
}

/// What is expected of a machine whose endorsement key is known, where this is its host config.
fn expected(host: &[u8]) -> Expected {
    Expected {
        ek: Finding::new(EK_CERTIFICATE, Outcome::Proved, "it is known"),
        release: None,
        host_config: Some(host.to_vec()),
        programs: Vec::new(),
        secure_boot: None,
    }
}

/// The verdict of who expects this host config, with a secret for `ek` by this name.
fn verdict(pending: &Pending, evidence: &Evidence, host: &[u8], ek: &Ek, name: &str) -> Vec<u8> {
    let mut verdict = verify(pending, evidence, &expected(host));
    verdict.secrets.set(name, Secret::encrypt(ek, name, &Plaintext::new(SECRET.to_vec())).unwrap());
    serde_json::to_vec(&verdict).unwrap()
}

fn accepted(pending: &Pending, evidence: &Evidence) -> Vec<u8> {
    verdict(pending, evidence, HOST, &pending.introduction.ek().unwrap(), "wifi.psk")
}

/// Not accepted, though a secret comes along.
fn refused(pending: &Pending, evidence: &Evidence) -> Vec<u8> {
    verdict(pending, evidence, b"another host config", &pending.introduction.ek().unwrap(), "wifi.psk")
}

#[tokio::test]
async fn who_is_accepted_gets_the_verifiers_secrets_and_nobody_is_told_them() {
    let (bench, server) = (Bench::new().await, verifier(accepted).await);
    let (mut machine, url) = (bench.machine(), url(&server));
    for policy in ["required", "if-possible"] {
        assert_eq!(bench.attest(&mut machine, policy, (&url, &server.ca)).await, Ok(both()), "{policy}");
        assert_eq!(bench.held().await, [("wifi.psk".to_owned(), SECRET.to_vec())]);
        let events = bench.events(&url);
        let states: Vec<_> = events.iter().map(|event| event["state"].as_str().unwrap()).collect();
        assert_eq!(states, ["started", "info", "done"]);
        let said = &events[1]["fields"];
        assert_eq!((&said["verifier"], &said["accepted"]), (&json!("VERIFIER"), &json!(true)));
        assert_eq!(said["secrets"], json!(["wifi.psk"]));
        assert_eq!(said["id"].as_str().unwrap().len(), 32);
        let findings: Vec<Finding> = serde_json::from_value(said["findings"].clone()).unwrap();
        let proved = findings.into_iter().filter(|finding| finding.outcome == Outcome::Proved);
        let proved: Vec<_> = proved.map(|finding| format!("{}: {}", finding.what, finding.text)).collect();
        let expected = [
            "ek-certificate: it is known",
            "ak: the TPM with that endorsement key has this attestation key, and it never leaves it",
            "quote: the TPM vouches for PCRs 13 of the banks sha256, sha384, sha512",
            "userspace-log: its 1 records account for PCR 13, and both logs for all above 7",
            "host-config: it was measured; that nothing else was in its place is only what the log says",
        ];
        assert_eq!(proved, expected);
    }
    let has_secret = |what: &Recorded| match what {
        Recorded::Write { bytes, .. } => bytes.windows(SECRET.len()).any(|part| part == SECRET),
        Recorded::Flush => false,
    };
    assert!(!bench.disk.log().iter().any(has_secret));
}

#[tokio::test]
async fn who_is_refused_gets_nothing_and_loses_what_a_verifier_has_given_before() {
    let server = verifier(refused).await;
    let url = url(&server);
    let text = "the verifier VERIFIER does not accept this machine: host-config: another one was measured";
    for policy in ["required", "if-possible"] {
        let bench = Bench::with_secret().await;
        assert_eq!(bench.held().await.len(), 1);
        let mut machine = bench.machine();
        let came = bench.attest(&mut machine, policy, (&url, &server.ca)).await;
        let told = bench.told(&url);
        let verdict = "accepted: false, secrets: []".to_owned();
        if policy == "required" {
            assert_eq!(came, Err((Code::Attestation, format!("attesting the machine: {text}"))));
            assert_eq!(told, ["started".to_owned(), verdict, format!("failed: {text}")]);
        } else {
            assert_eq!(came, Ok(vec!["motd".to_owned()]));
            let warning = format!("warning: {text}; the run goes on, as the host config has it");
            assert_eq!(told, ["started".to_owned(), verdict, warning, "done".to_owned()]);
        }
        assert_eq!(bench.held().await.len(), 0);
    }
}
