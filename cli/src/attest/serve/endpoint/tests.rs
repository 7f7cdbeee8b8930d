use std::thread;

use super::super::super::expect::ExpectArgs;
use super::super::super::testing::{answer, introduction};
use super::*;

/// One that takes every key, and the directory of its file.
fn endpoint() -> (Endpoint, tempfile::TempDir) {
    let at = tempfile::tempdir().unwrap();
    let accepted = Accepted::open(at.path().join("accepted.json")).unwrap();
    let expectations = ExpectArgs::default().read().unwrap();
    (Endpoint::new(expectations, vec![13], accepted, FirstUse::Accept, None, None), at)
}

fn introduce(endpoint: &Endpoint, now: Instant) -> Result<Challenge, Refusal> {
    endpoint.introduce(&serde_json::to_vec(&introduction()).unwrap(), now)
}

fn judge(endpoint: &Endpoint, challenge: &Challenge, now: Instant) -> Result<Verdict, Refusal> {
    endpoint.judge(&serde_json::to_vec(&answer(challenge)).unwrap(), now)
}

#[test]
fn a_challenge_is_answered_once_and_in_time() {
    let (endpoint, at) = endpoint();
    let now = Instant::now();
    let challenge = introduce(&endpoint, now).unwrap();
    let verdict = judge(&endpoint, &challenge, now + LIFETIME - Duration::from_secs(1)).unwrap();
    assert!(!verdict.accepted && verdict.secrets.is_empty());
    assert!(!at.path().join("accepted.json").exists(), "who is not accepted is not kept");
    // The same again, as after a connection that broke; something else.
    assert_eq!(judge(&endpoint, &challenge, now).unwrap(), verdict);
    let other = Evidence { userspace_log: "other".to_owned(), ..answer(&challenge) };
    let other = endpoint.judge(&serde_json::to_vec(&other).unwrap(), now);
    assert!(matches!(other, Err(Refusal::Gone)));
    assert!(matches!(judge(&endpoint, &challenge, now + LIFETIME), Err(Refusal::Gone)));
    let challenge = introduce(&endpoint, now).unwrap();
    assert!(matches!(judge(&endpoint, &challenge, now + LIFETIME), Err(Refusal::Gone)));
    let Err(Refusal::Bad(text)) = endpoint.judge(b"{", now) else { panic!("it is no evidence") };
    assert!(text.starts_with("the evidence is not valid: "), "{text}");
}

/// Held accepted keys stand for judging that takes its time.
#[test]
fn who_is_judged_keeps_no_other_waiting_and_is_judged_once() {
    let (endpoint, _at) = endpoint();
    let now = Instant::now();
    let challenge = introduce(&endpoint, now).unwrap();
    let exchange = endpoint.exchange(&challenge.id, now).unwrap();
    thread::scope(|scope| {
        let held = endpoint.accepted();
        let first = scope.spawn(|| judge(&endpoint, &challenge, now));
        while !first.is_finished() && exchange.try_lock().is_ok() {
            thread::yield_now();
        }
        assert!(endpoint.exchanges.try_lock().is_ok(), "others can be introduced");
        let again = scope.spawn(|| judge(&endpoint, &challenge, now));
        drop(held);
        let verdicts = [first, again].map(|judged| judged.join().unwrap().unwrap());
        assert_eq!(verdicts[0], verdicts[1]);
    });
    let exchange = exchange.lock().unwrap();
    assert!(matches!(*exchange, Exchange::Answered(..)), "{exchange:?}");
}

#[test]
fn a_challenge_is_used_up_where_the_endpoint_fails() {
    let (mut endpoint, at) = endpoint();
    let file = at.path().join("file");
    fs::write(&file, "").unwrap();
    endpoint.keep = Some(file.join("kept"));
    let now = Instant::now();
    let challenge = introduce(&endpoint, now).unwrap();
    let Err(Refusal::Failed(error)) = judge(&endpoint, &challenge, now) else { panic!("it keeps nothing") };
    assert_eq!(error.to_string(), format!("making {}", file.join("kept").display()));
    endpoint.keep = None;
    assert!(matches!(judge(&endpoint, &challenge, now), Err(Refusal::Gone)));
}

#[test]
fn what_was_said_is_kept_where_that_is_asked_for() {
    let (mut endpoint, at) = endpoint();
    let directory = at.path().join("kept");
    endpoint.keep = Some(directory.clone());
    let now = Instant::now();
    let challenge = introduce(&endpoint, now).unwrap();
    let verdict = judge(&endpoint, &challenge, now).unwrap();
    let kept = |what: &str| fs::read(directory.join(format!("{}.{what}.json", challenge.id))).unwrap();
    assert_eq!(Introduction::parse(&kept("introduction")).unwrap(), introduction());
    assert_eq!(Evidence::parse(&kept("evidence")).unwrap(), answer(&challenge));
    assert_eq!(serde_json::from_slice::<Challenge>(&kept("challenge")).unwrap(), challenge);
    assert_eq!(serde_json::from_slice::<Verdict>(&kept("verdict")).unwrap(), verdict);
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 4);
}

#[test]
fn only_so_many_challenges_are_open() {
    let (endpoint, _at) = endpoint();
    let now = Instant::now();
    for _ in 0..MOST {
        introduce(&endpoint, now).unwrap();
    }
    assert!(matches!(introduce(&endpoint, now + LIFETIME - Duration::from_secs(1)), Err(Refusal::Busy)));
    introduce(&endpoint, now + LIFETIME).unwrap();
}

#[test]
fn a_machine_gets_what_is_for_all_and_what_is_its_own() {
    let (mut endpoint, at) = endpoint();
    let ek = introduction().ek().unwrap();
    assert!(endpoint.secrets(&ek).unwrap().is_empty());
    let (all, own) = (at.path().join("secrets"), at.path().join("secrets").join(ek.id()));
    let others = all.join("000b");
    fs::create_dir_all(&own).unwrap();
    fs::create_dir(&others).unwrap();
    for (directory, name) in [(&all, "a"), (&all, "b"), (&all, ".hidden"), (&own, "b"), (&own, "c"), (&others, "d")] {
        fs::write(directory.join(name), "hush").unwrap();
    }
    endpoint.secrets = Some(all);
    let secrets = endpoint.secrets(&ek).unwrap();
    let found: Vec<_> = secrets.iter().map(|(name, secret)| (name, secret.ek.clone())).collect();
    assert_eq!(found, ["a", "b", "c"].map(|name| (name, ek.id())));
    endpoint.secrets = Some(at.path().join("none"));
    let text = format!("reading the directory of secrets {}", at.path().join("none").display());
    assert_eq!(endpoint.secrets(&ek).unwrap_err().to_string(), text);
}
