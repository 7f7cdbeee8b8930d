//! What the final report has, as `metalstrap attest report` judges it.

use metalstrap_release::attest::{Attestation, Report, verify_report};

use super::*;

#[tokio::test]
async fn what_the_final_report_has_is_judged_like_an_answer() {
    let bench = Bench::new().await;
    let mut machine = bench.machine();
    machine.introduce().unwrap();
    let userspace_log = machine.event_log().to_owned();
    let (tpm, key, introduction) = machine.attester.key.as_mut().unwrap();
    let said = attestation::report(tpm, key, introduction, bench.tell.run_id()).unwrap();
    let attestation = Attestation::parse(said.to_string().as_bytes()).unwrap();
    let report = Report { run: "r".to_owned(), attestation, firmware_log: None, userspace_log };
    let verdict = verify_report(&report, Some(&*introduction), &expected(HOST));
    let found: Vec<_> = verdict.findings.iter().map(|finding| (finding.what.as_str(), finding.outcome)).collect();
    let (proved, unknown) = (Outcome::Proved, Outcome::Unknown);
    let all = [
        ("ek-certificate", proved),
        ("ak", proved),
        ("quote", proved),
        ("firmware-log", unknown),
        ("userspace-log", proved),
        ("release", unknown),
        ("host-config", proved),
        ("netboot-image", unknown),
        ("secure-boot", unknown),
    ];
    assert_eq!((verdict.accepted, found), (true, all.to_vec()));
    let verdict = verify_report(&Report { run: "another".to_owned(), ..report }, Some(&*introduction), &expected(HOST));
    let text = "that of sha256 has another nonce than the SHA-256 of this run's id: it is another run's";
    assert_eq!((verdict.accepted, verdict.findings[2].text.as_str()), (false, text));
}
