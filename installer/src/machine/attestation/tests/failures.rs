//! Nobody says whether the machine is accepted.

use std::net::TcpListener;

use anyhow::anyhow;
use metalstrap_release::tpm2::KeyKind;

use super::*;
use crate::test_server::Reply;

/// The failure with a verifier that answers everything so.
async fn of_answer(answer: impl Fn() -> Reply + Send + Sync + 'static) -> (Code, String) {
    let (bench, server) = (Bench::with_secret().await, serve(|_| {}, move |_, _| answer()).await);
    bench.failure(&mut bench.machine(), (&url(&server), &server.ca)).await
}

/// The failure with one that ends exchanges so.
async fn of_end(bench: &Bench, end: impl Fn(&Pending, &Evidence) -> Vec<u8> + Send + Sync + 'static) -> (Code, String) {
    let server = verifier(end).await;
    bench.failure(&mut bench.machine(), (&url(&server), &server.ca)).await
}

#[tokio::test]
async fn a_machine_without_a_tpm_asks_nobody() {
    let (bench, server) = (Bench::with_secret().await, verifier(accepted).await);
    let mut machine = bench.machine_with(Measurer::off(), || Ok(None));
    let (code, text) = bench.failure(&mut machine, (&url(&server), &server.ca)).await;
    assert_eq!((code, text.as_str()), (Code::Attestation, "this machine has no TPM 2.0 that could attest it"));
    let busy = || Err(anyhow!("opening /dev/tpmrm0: Device or resource busy (os error 16)"));
    let mut machine = bench.machine_with(Measurer::off(), busy);
    let (code, text) = bench.failure(&mut machine, (&url(&server), &server.ca)).await;
    let expected = "looking for the TPM: opening /dev/tpmrm0: Device or resource busy (os error 16)";
    assert_eq!((code, text.as_str()), (Code::Attestation, expected));
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn a_tpm_that_goes_away_is_the_same_as_none() {
    let server = verifier(accepted).await;
    let (bench, url) = (Bench::with_secret().await, url(&server));
    let start = "asking the TPM: making an attestation key: ";
    for policy in ["required", "if-possible"] {
        let gone = Swtpm::start();
        let tpm = Mutex::new(Some(gone.direct()));
        drop(gone);
        let mut machine = bench.machine_with(Measurer::off(), move || Ok(tpm.lock().unwrap().take()));
        let came = bench.attest(&mut machine, policy, (&url, &server.ca)).await;
        let told = bench.told(&url);
        if policy == "required" {
            let (code, text) = came.unwrap_err();
            assert_eq!(code, Code::Attestation);
            assert!(text.starts_with(&format!("attesting the machine: {start}")), "{text}");
            assert!(told.len() == 2 && told[1].starts_with(&format!("failed: {start}")), "{told:?}");
        } else {
            assert_eq!(came, Ok(both()));
            assert!(told.len() == 3 && told[1].starts_with(&format!("warning: {start}")), "{told:?}");
        }
    }
    assert_eq!(server.connections(), 0);
    assert_eq!(bench.held().await.len(), 1);
}

#[tokio::test]
async fn a_verifier_that_is_down() {
    let bench = Bench::with_secret().await;
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (ca, url) = (serve(|_| {}, |_, _| reply("200 OK", b"")).await.ca, format!("https://127.0.0.1:{port}/attest"));
    let expected = format!(
        "sending the introduction to VERIFIER/introduction: giving up after 3 attempts: connecting to 127.0.0.1:{port}: Connection \
         refused (os error 111)"
    );
    assert_eq!(bench.failure(&mut bench.machine(), (&url, &ca)).await, (Code::Verifier, expected));
}

#[tokio::test]
async fn a_verifier_that_answers_with_an_error_rubbish_or_too_much() {
    let sending = "sending the introduction to VERIFIER/introduction: ";
    let is = |text: String| (Code::Verifier, text);
    let error = of_answer(|| reply("403 Forbidden", b"no")).await;
    assert_eq!(error, is(format!("{sending}the server answered 403 Forbidden")));
    let rubbish = of_answer(|| reply("200 OK", b"<html>")).await;
    let invalid = "is not valid: expected value at line 1 column 1";
    assert_eq!(rubbish, is(format!("reading the challenge of VERIFIER: the challenge {invalid}")));
    let long = of_answer(|| reply("200 OK", &vec![b' '; (64 << 10) + 1])).await;
    assert_eq!(long, is(format!("{sending}the answer has more than 65536 bytes")));

    // And at the end, when it has the evidence.
    let bench = Bench::with_secret().await;
    let rubbish = of_end(&bench, |_, _| b"<html>".to_vec()).await;
    assert_eq!(rubbish, is(format!("reading the verdict of VERIFIER: the verdict {invalid}")));
    let long = of_end(&bench, |_, _| vec![b' '; (1 << 20) + 1]).await;
    let text = "sending the evidence to VERIFIER/evidence: the answer has more than 1048576 bytes";
    assert_eq!(long, is(text.to_owned()));
}

#[tokio::test]
async fn a_challenge_for_another_machine() {
    let other = Swtpm::start();
    let (_, introduction) = attestation::introduce(&mut other.direct(), &smbios::identity(Path::new("/sys"))).unwrap();
    let challenge = Pending::begin(introduction, vec![13]).unwrap().challenge;
    let challenge = serde_json::to_vec(&challenge).unwrap();
    let (code, text) = of_answer(move || reply("200 OK", &challenge)).await;
    let start = "answering the challenge of VERIFIER: opening the challenge's secret: it is for another TPM or another attestation key, \
                 or was changed: the TPM answered TPM2_ActivateCredential with error 0x";
    assert!(code == Code::Attestation && text.starts_with(start), "{code:?} {text}");
}

#[tokio::test]
async fn secrets_that_the_machine_cannot_have() {
    let (bench, other) = (Bench::with_secret().await, Swtpm::start());
    let foreign = other.direct().ek().unwrap();
    let ek = foreign.clone();
    let (code, text) = of_end(&bench, move |pending, evidence| verdict(pending, evidence, HOST, &ek, "wifi.psk")).await;
    let [ecc, rsa] = [KeyKind::EccP256, KeyKind::Rsa2048].map(|kind| {
        let ek = bench.swtpm.by_turns().with_ek(kind, |_, _, ek| Ok(ek.clone()));
        ek.unwrap().id()
    });
    let expected = format!(
        "the secret \"wifi.psk\" is encrypted to the endorsement key {}, but those of this machine's TPM are {ecc} and {rsa}: it is \
         another machine's, or the TPM was replaced",
        foreign.id()
    );
    assert_eq!((code, text), (Code::Secrets, expected));

    let of_this_name = |pending: &Pending, evidence: &Evidence| {
        verdict(pending, evidence, HOST, &pending.introduction.ek().unwrap(), "motd")
    };
    let text = "the verifier's secrets with those of the host config hold \"motd\", which the credentials hold too";
    assert_eq!(of_end(&bench, of_this_name).await, (Code::Verifier, text.to_owned()));
}
