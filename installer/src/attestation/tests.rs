//! The exchange with a scripted verifier over real TLS, by software TPMs: one is the machine's, another one makes credentials as a
//! verifier would.

use std::sync::Arc;
use std::time::Duration;

use metalstrap_release::attest::Finding;
use metalstrap_release::digest::Digest;
use metalstrap_release::host::{Plaintext, Secret};
use metalstrap_release::tpm2::name;
use serde_json::json;

use super::*;
use crate::access::Access;
use crate::failure::{Code, code_of};
use crate::http::Limits;
use crate::resolve::{Resolver, Servers};
use crate::test_server::{Reply, TestServer, Then, reply, serve};
use crate::tpm::Bank;
use crate::tpm::attesting::tests::credential;
use crate::tpm::swtpm::Swtpm;
use crate::waits::Waits;

fn machine() -> Identity {
    let macs = vec!["52:54:00:00:00:01".to_owned(), "52:54:00:00:00:02".to_owned()];
    Identity { serial: Some("7XK2J13".to_owned()), macs, ..Identity::default() }
}

/// What a verifier asks of a machine that has introduced itself so; the secret is 32 sevens.
fn challenge(maker: &Swtpm, introduction: &Introduction) -> Challenge {
    let ek = Ek::of_public(&introduction.ek.0).unwrap();
    let [blob, secret] = credential(&mut maker.direct(), &ek, &name(&introduction.ak.0), &[7; 32]);
    Challenge {
        format: 1,
        id: "one".to_owned(),
        credential: Base64(blob),
        encrypted_secret: Base64(secret),
        nonce: Base64(vec![5; 32]),
        pcrs: vec![13, 0, 13],
    }
}

fn verdict(accepted: bool) -> Value {
    json!({"format": 1, "id": "one", "accepted": accepted, "findings": []})
}

fn verifier(server: &TestServer) -> Verifier {
    verifier_of(&server.ca, server.port)
}

/// The one at this port, whose certificate must be of this CA.
fn verifier_of(ca: &str, port: u16) -> Verifier {
    let pause = Duration::from_millis(2);
    let limits = Limits { attempts: 3, backoff: pause, backoff_most: pause, asked_most: pause, ..Limits::default() };
    let (access, url) = (Access::of_ca(ca).unwrap(), format!("https://127.0.0.1:{port}/attest"));
    Verifier::new(&url, access, Resolver::learnt(Servers::default()), limits, Waits::default()).unwrap()
}

/// The message that a request has, by its path.
fn message(request: &str, path: &str) -> Value {
    assert!(request.starts_with(&format!("POST /attest/{path} HTTP/1.1\r\n")), "{request}");
    assert!(request.contains("\r\ncontent-type: application/json\r\n"), "{request}");
    serde_json::from_str(request.split_once("\r\n\r\n").unwrap().1).unwrap()
}

/// What the verifier's challenge is made into where it always answers so, and how often it was asked.
async fn refused(answer: impl Fn(usize, &str) -> Reply + Send + Sync + 'static) -> (String, Code, usize) {
    let swtpm = Swtpm::start();
    let (_, introduction) = introduce(&mut swtpm.direct(), &machine()).unwrap();
    let server = serve(|_| {}, answer).await;
    let error = verifier(&server).challenge(&introduction).await.unwrap_err();
    let text = format!("{error:#}").replace(&server.port.to_string(), "PORT");
    (text, code_of(&error), server.requests().len())
}

#[test]
fn a_machine_without_a_certificate_introduces_itself_by_its_keys() {
    let swtpm = Swtpm::start();
    let mut tpm = swtpm.direct();
    let (key, introduction) = introduce(&mut tpm, &machine()).unwrap();
    let ek = tpm.with_ek(KeyKind::EccP256, |_, _, ek| Ok(ek.clone())).unwrap();
    assert_eq!(introduction.ek.0, ek.public());
    assert_eq!(introduction.ak.0, key.object.public);
    assert_eq!((introduction.ek_certificate, introduction.ek_chain), (None, Vec::new()));
    let claimed = [("macs", "52:54:00:00:00:01 52:54:00:00:00:02"), ("serial", "7XK2J13")];
    let claimed = BTreeMap::from(claimed.map(|(name, value)| (name.to_owned(), value.to_owned())));
    assert_eq!(introduction.claims, claimed);
    assert_eq!(Key::from_bytes(&key.to_bytes()), Some(key.clone()));
    let bytes = key.to_bytes();
    for wrong in [&bytes[..bytes.len() - 1], &bytes[1..], &[&bytes[..], &[0]].concat(), &[]] {
        assert_eq!(Key::from_bytes(wrong), None);
    }
}

#[test]
fn of_two_endorsement_keys_the_one_with_a_certificate_counts() {
    let swtpm = Swtpm::start();
    let mut tpm = swtpm.direct();
    let certificate = [&[0x30, 0x82, 0x02, 0x00][..], &[1; 512]].concat();
    tpm.define(0x01c0_0002, &[&certificate[..], &[0xff; 30]].concat());
    tpm.define(0x01c0_0100, &certificate);
    let (key, mut introduction) = introduce(&mut tpm, &Identity::default()).unwrap();
    assert_eq!(introduction.ek_chain, Vec::new());
    add_chain(&mut tpm, &mut introduction);
    let ek = tpm.with_ek(KeyKind::Rsa2048, |_, _, ek| Ok(ek.clone())).unwrap();
    assert_eq!((key.ek, introduction.ek.0), (KeyKind::Rsa2048, ek.public()));
    let certificate = Base64(certificate);
    assert_eq!((introduction.ek_certificate, introduction.ek_chain), (Some(certificate.clone()), vec![certificate]));
}

#[tokio::test]
async fn a_machine_answers_and_hears_the_verdict() {
    let (ours, maker) = (Swtpm::start(), Swtpm::start());
    let mut tpm = ours.direct();
    let (key, introduction) = introduce(&mut tpm, &machine()).unwrap();
    let asked = challenge(&maker, &introduction);
    let answer_to = serde_json::to_vec(&asked).unwrap();
    let server = serve(
        |_| {},
        move |number, request| match number {
            // One that passes.
            1 => reply("503 Service Unavailable", b""),
            2 => {
                message(request, "introduction");
                reply("200 OK", &answer_to)
            }
            _ => reply("200 OK", verdict(true).to_string().as_bytes()),
        },
    )
    .await;
    let verifier = verifier(&server);
    let challenge = verifier.challenge(&introduction).await.unwrap();
    assert_eq!(challenge, asked);
    let logs = Logs { firmware: Some(vec![1, 2, 3]), userspace: "\u{1e}{}\n".to_owned() };
    let evidence = answer(&mut tpm, &key, &challenge, logs).unwrap();
    let heard = verifier.verdict(&evidence).await.unwrap();
    assert!(heard.accepted && heard.secrets.is_empty());

    let requests = server.requests();
    assert_eq!(requests.len(), 3);
    assert_eq!(message(&requests[1], "introduction"), serde_json::to_value(&introduction).unwrap());
    let sent: Evidence = serde_json::from_value(message(&requests[2], "evidence")).unwrap();
    assert_eq!(sent, evidence);
    assert_eq!((sent.id.as_str(), sent.secret.0), ("one", vec![7; 32]));
    assert_eq!((sent.firmware_log, sent.userspace_log.as_str()), (Some(Base64(vec![1, 2, 3])), "\u{1e}{}\n"));
    let quotes: Vec<_> = sent.quotes.iter().map(|quote| (quote.bank.as_str(), quote.pcrs.len())).collect();
    assert_eq!(quotes, [("sha256", 2), ("sha384", 2), ("sha512", 2)]);
}

#[test]
fn a_challenge_for_another_machine_is_not_answered() {
    let (ours, other) = (Swtpm::start(), Swtpm::start());
    let mut tpm = ours.direct();
    let (key, introduction) = introduce(&mut tpm, &machine()).unwrap();
    let (_, foreign) = introduce(&mut other.direct(), &machine()).unwrap();
    let (_, another) = introduce(&mut tpm, &machine()).unwrap();
    for wrong in [Introduction { ek: foreign.ek, ..introduction.clone() }, another] {
        let challenge = challenge(&other, &wrong);
        let error = format!("{:#}", answer(&mut tpm, &key, &challenge, Logs::default()).unwrap_err());
        let start = "opening the challenge's secret: it is for another TPM or another attestation key, or was changed: the TPM \
                     answered TPM2_ActivateCredential with error 0x";
        assert!(error.starts_with(start), "{error}");
    }
}

#[test]
fn a_tpm_that_goes_away_is_an_error_and_no_answer() {
    let (ours, maker) = (Swtpm::start(), Swtpm::start());
    let mut tpm = ours.direct();
    let (key, introduction) = introduce(&mut tpm, &machine()).unwrap();
    let challenge = challenge(&maker, &introduction);
    drop(ours);
    let error = format!("{:#}", answer(&mut tpm, &key, &challenge, Logs::default()).unwrap_err());
    assert!(error.contains("the TPM") && error.contains("TPM2_CreatePrimary"), "{error}");
    let error = format!("{:#}", introduce(&mut tpm, &machine()).unwrap_err());
    assert!(error.starts_with("making an attestation key: "), "{error}");
}

#[tokio::test]
async fn a_verifier_that_refuses_is_asked_once_and_one_that_is_broken_a_few_times() {
    let sending = "sending the introduction to https://127.0.0.1:PORT/attest/introduction: ";
    let (text, code, requests) = refused(|_, _| reply("403 Forbidden", b"")).await;
    assert_eq!((text, code), (format!("{sending}the server answered 403 Forbidden"), Code::Verifier));
    assert_eq!(requests, 1);
    let (text, code, requests) = refused(|_, _| reply("503 Service Unavailable", b"")).await;
    let broken = "giving up after 3 attempts: the server answered 503 Service Unavailable";
    assert_eq!((text, code, requests), (format!("{sending}{broken}"), Code::Verifier, 3));
    let (text, code, requests) = refused(|_, _| Reply { bytes: Vec::new(), then: Then::Close }).await;
    assert!(text.starts_with(&format!("{sending}giving up after 3 attempts: ")), "{text}");
    assert_eq!((code, requests), (Code::Verifier, 3));
}

#[tokio::test]
async fn a_verifier_with_another_certificate_is_told_nothing() {
    let swtpm = Swtpm::start();
    let (_, introduction) = introduce(&mut swtpm.direct(), &machine()).unwrap();
    let server = serve(|_| {}, |_, _| reply("200 OK", b"")).await;
    let other = serve(|_| {}, |_, _| reply("200 OK", b"")).await;
    let error = verifier_of(&other.ca, server.port).challenge(&introduction).await.unwrap_err();
    assert_eq!(code_of(&error), Code::Certificate, "{error:#}");
    assert_eq!(server.requests().len(), 0);
}

#[tokio::test]
async fn what_is_no_challenge_is_refused() {
    let reading = "reading the challenge of https://127.0.0.1:PORT/attest: ";
    let swtpm = Swtpm::start();
    let introduction = introduce(&mut swtpm.direct(), &machine()).unwrap().1;
    let good = serde_json::to_value(challenge(&Swtpm::start(), &introduction)).unwrap();
    let with = |field: &str, value: Value| {
        let mut wrong = good.clone();
        wrong[field] = value;
        wrong
    };
    for (wrong, problem) in [
        (with("format", json!(2)), "the challenge's format is 2, but this installer reads 1"),
        (with("nonce", json!("AAAA")), "the challenge's nonce has 3 bytes, not 16 to 32"),
        (with("pcrs", json!([])), "the challenge's pcrs are none, or some that no TPM has: there are 0 to 23"),
        (with("pcrs", json!([24])), "the challenge's pcrs are none, or some that no TPM has: there are 0 to 23"),
    ] {
        let (text, code, requests) = refused(move |_, _| reply("200 OK", wrong.to_string().as_bytes())).await;
        assert_eq!((text, code, requests), (format!("{reading}{problem}"), Code::Verifier, 1));
    }
    let (text, ..) = refused(|_, _| reply("200 OK", b"{}")).await;
    assert!(text.starts_with(&format!("{reading}the challenge is not valid: missing field")), "{text}");
    let (text, code, requests) = refused(|_, _| reply("200 OK", &vec![b' '; (64 << 10) + 1])).await;
    let long =
        "sending the introduction to https://127.0.0.1:PORT/attest/introduction: the answer has more than 65536 bytes";
    assert_eq!((text.as_str(), code, requests), (long, Code::Verifier, 1));
}

#[tokio::test]
async fn a_verdict_is_bounded_and_of_this_exchange() {
    let evidence = Evidence {
        format: 1,
        id: "one".to_owned(),
        secret: Base64::default(),
        quotes: Vec::new(),
        firmware_log: None,
        userspace_log: String::new(),
    };
    let mut long = verdict(true).to_string().into_bytes();
    long.resize((1 << 20) + 1, b' ');
    let mut other = verdict(true);
    other["id"] = json!("two");
    let answers = Arc::new([long, other.to_string().into_bytes()]);
    let server = serve(|_| {}, move |number, _| reply("200 OK", &answers[number - 1])).await;
    let verifier = verifier(&server);
    let url = verifier.url().to_owned();
    for expected in [
        format!("sending the evidence to {url}/evidence: the answer has more than 1048576 bytes"),
        format!("reading the verdict of {url}: the verdict's id is \"two\", which is another exchange than \"one\""),
    ] {
        let error = verifier.verdict(&evidence).await.unwrap_err();
        assert_eq!((format!("{error:#}"), code_of(&error)), (expected, Code::Verifier));
    }
}

#[test]
fn why_a_machine_is_not_accepted_is_what_was_refuted_or_else_not_known() {
    let finding = |what: &str, outcome| Finding { what: what.to_owned(), outcome, text: format!("about {what}") };
    let with =
        |findings| Verdict { format: 1, id: "one".to_owned(), accepted: false, findings, secrets: Secrets::default() };
    let unknown = vec![finding("ak", Outcome::Proved), finding("release", Outcome::Unknown)];
    assert_eq!(reasons(&with(unknown.clone())), "release: about release");
    let refuted =
        [unknown, vec![finding("quote", Outcome::Refuted), finding("ek-certificate", Outcome::Refuted)]].concat();
    assert_eq!(reasons(&with(refuted)), "quote: about quote; ek-certificate: about ek-certificate");
    assert_eq!(reasons(&with(Vec::new())), "it does not say why");
}

#[test]
fn secrets_of_a_verifier_stand_beside_those_of_the_host_config() {
    let swtpm = Swtpm::start();
    let ek = swtpm.direct().ek().unwrap();
    let secret = |name: &str| Secret::encrypt(&ek, name, &Plaintext::new(b"hush".to_vec())).unwrap();
    let given = |name: &str| {
        let mut given = Secrets::default();
        given.set(name, secret(name));
        given
    };
    let release = json!({"name": "a", "version": "1"});
    let credentials = json!({"motd": {"text": "x"}});
    let secrets = serde_json::to_value(given("psk")).unwrap();
    let host = json!({"format": 1, "release": release, "credentials": credentials, "secrets": secrets});
    let host = Host::parse(host.to_string().as_bytes()).unwrap();
    assert_eq!(beside(&host, &given("token")), Ok(()));
    assert_eq!(beside(&host, &given("PSK")), Err("hold \"PSK\" twice".to_owned()));
    assert_eq!(beside(&host, &given("motd")), Err("hold \"motd\", which the credentials hold too".to_owned()));
    assert!(beside(&host, &given("../etc/passwd")).is_err());
}

#[test]
fn the_report_has_a_quote_whose_nonce_is_of_the_run() {
    let swtpm = Swtpm::start();
    let mut tpm = swtpm.direct();
    let (key, introduction) = introduce(&mut tpm, &machine()).unwrap();
    let report = report(&mut tpm, &key, &introduction, "5b9c").unwrap();
    assert_eq!(report["introduction"], serde_json::to_value(&introduction).unwrap());
    let quote: Quote = serde_json::from_value(report["quote"].clone()).unwrap();
    assert_eq!((quote.bank, quote.pcrs.len()), (Bank::Sha256.to_string(), 16));
    let nonce = Digest::of(b"5b9c").0;
    assert!(quote.quoted.0.windows(32).any(|part| part == nonce));
    assert!(report.to_string().len() < 4096, "it goes over serial lines too: {}", report.to_string().len());
}

#[test]
fn the_firmwares_log_is_posted_unless_it_is_too_long() {
    let posted = |log| super::posted(log).map(Value::from);
    assert_eq!(posted(Ok(None)), [json!({}), json!({})]);
    let not_taken = json!({"firmware_log_left_out": "no server took it"});
    assert_eq!(posted(Ok(Some(vec![0; 3]))), [json!({"firmware_log": "AAAA"}), not_taken]);
    let [longest, _] = posted(Ok(Some(vec![0; 512 << 10])));
    assert_eq!(longest["firmware_log"].as_str().map(str::len), Some(699_052));
    let too_long = json!({"firmware_log_left_out": "it has 524289 bytes, more than 524288"});
    assert_eq!(posted(Ok(Some(vec![0; (512 << 10) + 1]))), [too_long.clone(), too_long]);
    let not_read = json!({"firmware_log_left_out": "reading log: I/O error"});
    let error = anyhow::anyhow!("I/O error").context("reading log");
    assert_eq!(posted(Err(error)), [not_read.clone(), not_read]);
}

#[test]
fn by_files_the_key_is_kept_from_one_command_to_the_next() {
    use clap::Parser;

    use super::command::Verb;

    #[derive(Parser)]
    struct Command {
        #[command(subcommand)]
        verb: Verb,
    }

    let (ours, maker) = (Swtpm::start(), Swtpm::start());
    let mut tpm = ours.direct();
    let at = tempfile::tempdir().unwrap();
    let (key, asked) = (at.path().join("kept/key"), at.path().join("challenge.json"));
    let mut run = |words: &[&str]| {
        let words = [&["attest"][..], words, &["--key", key.to_str().unwrap()]].concat();
        Command::parse_from(words).verb.message_of(&mut tpm, at.path())
    };
    let file = asked.to_str().unwrap();
    let error = format!("{:#}", run(&["answer", file]).unwrap_err());
    assert_eq!(error, format!("{file} is not there"));
    let first: Introduction = serde_json::from_str(&run(&["introduce"]).unwrap()).unwrap();
    std::fs::write(&asked, serde_json::to_vec(&challenge(&maker, &first)).unwrap()).unwrap();
    let evidence: Evidence = serde_json::from_str(&run(&["answer", file]).unwrap()).unwrap();
    assert_eq!((evidence.id.as_str(), evidence.secret.0), ("one", vec![7; 32]));
    assert_eq!((evidence.firmware_log, evidence.userspace_log.as_str()), (None, ""));
    // The kernel has lost a part of the firmware's log, and systemd goes on with ours.
    let put = |path: &str, text: &str| {
        let path = at.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    put("sys/kernel/security/tpm0/binary_bios_measurements", "firm");
    put("run/metalstrap/binary_bios_measurements", "firmware");
    put("run/metalstrap/tpm2-measure.log", "ours");
    put("run/log/systemd/tpm2-measure.log", "ours and systemd's");
    let evidence: Evidence = serde_json::from_str(&run(&["answer", file]).unwrap()).unwrap();
    let expected = (Some(Base64(b"firmware".to_vec())), "ours and systemd's");
    assert_eq!((evidence.firmware_log, evidence.userspace_log.as_str()), expected);
    // A new introduction has a new key.
    run(&["introduce"]).unwrap();
    let error = format!("{:#}", run(&["answer", file]).unwrap_err());
    assert!(
        error.starts_with("opening the challenge's secret: it is for another TPM or another attestation key"),
        "{error}"
    );
    std::fs::write(&key, b"none").unwrap();
    let error = format!("{:#}", run(&["answer", file]).unwrap_err());
    assert_eq!(error, format!("{} has no attestation key", key.display()));
    std::fs::remove_file(&key).unwrap();
    let error = format!("{:#}", run(&["answer", file]).unwrap_err());
    assert_eq!(error, format!("{} is not there: `attest introduce` comes first", key.display()));
}
