//! The event that has the attestation, among those of a file.

use anyhow::{Context as _, Result, bail, ensure};
use metalstrap_installer::report::EVENT_FORMAT;
use metalstrap_release::attest::{Attestation, Base64, Report};
use serde::Deserialize;
use serde_json::{Deserializer, Value};

/// What all events have, as far as it says which one this is.
#[derive(Debug, Deserialize)]
struct Event {
    metalstrap: u32,
    run: String,
    step: String,
    state: String,
    fields: Value,
}

/// What the final one has for a verifier.
#[derive(Debug, Deserialize)]
struct Finished {
    attestation: Option<Value>,
    event_log: String,
    firmware_log: Option<Base64>,
}

impl Event {
    fn is_final(&self, run: Option<&str>) -> bool {
        self.step == "run" && self.state == "finished" && run.is_none_or(|run| run == self.run)
    }
}

/// The report in a file of events, one behind the other. An event may be there more than once, as each is posted at least once.
///
/// # Errors
/// Something is no event; there is none with an attestation, or there are several of different runs and no `run` is named.
pub fn find(events: &[u8], run: Option<&str>) -> Result<Report> {
    let mut finals: Vec<Event> = Vec::new();
    for (number, event) in Deserializer::from_slice(events).into_iter::<Event>().enumerate() {
        let number = number.saturating_add(1);
        let event = event.with_context(|| format!("reading event {number}"))?;
        let format = event.metalstrap;
        ensure!(
            format == EVENT_FORMAT,
            "event {number} has the format {format}, but this command reads {EVENT_FORMAT}"
        );
        let again = |other: &Event| other.run == event.run && other.fields == event.fields;
        if event.is_final(run) && !finals.iter().any(again) {
            finals.push(event);
        }
    }
    let mut runs: Vec<String> = finals.iter().map(|event| format!("{:?}", event.run)).collect();
    runs.sort_unstable();
    runs.dedup();
    match (finals.pop(), runs.as_slice()) {
        (None, _) => {
            let of = run.map(|run| format!(" of the run {run:?}")).unwrap_or_default();
            bail!("it has no event `run` `finished`{of}: there is nothing that a TPM has signed")
        }
        (Some(event), [_]) if finals.is_empty() => report(event),
        (_, [run]) => bail!("it has several events `run` `finished` of the run {run}, which differ"),
        (_, runs) => bail!("it has events `run` `finished` of several runs: name one by --run: {}", runs.join(", ")),
    }
}

/// What a verifier needs of the final event.
fn report(Event { run, fields, .. }: Event) -> Result<Report> {
    let reading = || format!("reading the event `run` `finished` of the run {run:?}");
    let Finished { attestation, event_log, firmware_log } = Finished::deserialize(fields).with_context(reading)?;
    let Some(attestation) = attestation else {
        bail!(
            "the event `run` `finished` of the run {run:?} has no attestation: nothing was measured, or the TPM gave no quote"
        )
    };
    let attestation = Attestation::parse(attestation.to_string().as_bytes()).with_context(reading)?;
    Ok(Report { run, attestation, firmware_log, userspace_log: event_log })
}

#[cfg(test)]
mod tests {
    use metalstrap_release::attest::Quote;
    use serde_json::json;

    use super::super::super::testing::introduction;
    use super::*;

    fn event(run: &str, state: &str, fields: &Value) -> Value {
        json!({"metalstrap": 1, "run": run, "sequence": 7, "at": 1.5, "step": "run", "state": state, "fields": fields})
    }

    fn attestation() -> Attestation {
        let quote = Quote {
            bank: "sha256".to_owned(),
            quoted: Base64(vec![1]),
            signature: Base64(vec![2]),
            pcrs: [(13, "00".repeat(32))].into(),
        };
        Attestation { introduction: introduction(), quote }
    }

    /// Of a run that has been attested.
    fn finished(run: &str) -> Value {
        let fields = json!({"attestation": attestation(), "event_log": "log", "firmware_log": "AAAA", "release": "a"});
        event(run, "finished", &fields)
    }

    fn lines(events: &[Value]) -> Vec<u8> {
        events.iter().map(|event| format!("{event}\n")).collect::<String>().into_bytes()
    }

    fn refusal(events: &[Value], run: Option<&str>) -> String {
        format!("{:#}", find(&lines(events), run).unwrap_err())
    }

    #[test]
    fn the_final_event_is_found_among_others_and_alone() {
        let expected = |run: &str| Report {
            run: run.to_owned(),
            attestation: attestation(),
            firmware_log: Some(Base64(vec![0; 3])),
            userspace_log: "log".to_owned(),
        };
        let other = event("a", "failed", &json!({"attestation": 1}));
        let mut step = finished("a");
        step["step"] = json!("esp");
        // Posted twice.
        let all = [other, step, finished("a"), finished("b"), finished("a")];
        assert_eq!(find(&lines(&all[..3]), None).unwrap(), expected("a"));
        assert_eq!(find(&lines(&all), Some("a")).unwrap(), expected("a"));
        assert_eq!(find(&lines(&all), Some("b")).unwrap(), expected("b"));
        // One that somebody has made readable; and a console's, which has no such log.
        let mut one = finished("a");
        one["fields"]["firmware_log"] = Value::Null;
        let readable = serde_json::to_vec_pretty(&one).unwrap();
        assert_eq!(find(&readable, None).unwrap(), Report { firmware_log: None, ..expected("a") });
    }

    #[test]
    fn a_file_without_one_is_refused() {
        let none = "it has no event `run` `finished`: there is nothing that a TPM has signed";
        assert_eq!(refusal(&[], None), none);
        assert_eq!(refusal(&[event("a", "failed", &json!({}))], None), none);
        assert_eq!(
            refusal(&[finished("a")], Some("b")),
            "it has no event `run` `finished` of the run \"b\": there is nothing that a TPM has signed"
        );
        assert_eq!(
            refusal(&[event("a", "finished", &json!({"event_log": ""}))], None),
            "the event `run` `finished` of the run \"a\" has no attestation: nothing was measured, or the TPM gave no quote"
        );
    }

    #[test]
    fn of_several_runs_one_must_be_named() {
        let text = "it has events `run` `finished` of several runs: name one by --run: \"a\", \"b\"";
        assert_eq!(refusal(&[finished("a"), finished("b")], None), text);
        let mut other = finished("a");
        other["fields"]["event_log"] = json!("another");
        let text = "it has several events `run` `finished` of the run \"a\", which differ";
        assert_eq!(refusal(&[finished("a"), other], None), text);
    }

    #[test]
    fn what_is_no_event_is_refused() {
        let text = |bytes: &[u8]| format!("{:#}", find(bytes, None).unwrap_err());
        assert_eq!(text(b"Starting\n"), "reading event 1: expected value at line 1 column 1");
        assert_eq!(text(b"{}"), "reading event 1: missing field `metalstrap` at line 1 column 2");
        let mut other = finished("a");
        other["metalstrap"] = json!(2);
        assert_eq!(refusal(&[finished("b"), other], None), "event 2 has the format 2, but this command reads 1");
        let reading = "reading the event `run` `finished` of the run \"a\": ";
        let mut wrong = finished("a");
        wrong["fields"]["firmware_log"] = json!("?");
        assert_eq!(refusal(&[wrong], None), format!("{reading}is no base64"));
        let mut wrong = finished("a");
        wrong["fields"]["attestation"]["quote"] = Value::Null;
        let problem = refusal(&[wrong], None);
        assert!(problem.starts_with(&format!("{reading}the attestation is not valid: ")), "{problem}");
    }
}
