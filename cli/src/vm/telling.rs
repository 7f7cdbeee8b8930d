//! What an installer told of its run on the serial console (`docs/events.md`).

use std::time::Duration;

use metalstrap_qemu::{Event, Line};
use serde_json::Value;

use super::outcome::{Outcome, Seconds};

/// The end of an installation.
#[derive(Debug, Clone, PartialEq)]
pub enum Ending {
    /// The last event of a run that succeeded: when it was printed, and its fields.
    Finished(Duration, Value),
    /// The last event of a run that failed: its fields.
    Failed(Value),
}

impl Ending {
    /// The ending that `line` holds.
    pub fn find(line: &Line) -> Option<Self> {
        let event = line.event()?;
        if says(&event.value, "run", "failed") {
            return Some(Self::Failed(fields(&event.value)));
        }
        says(&event.value, "run", "finished").then(|| Self::Finished(event.at, fields(&event.value)))
    }

    /// Puts it into the outcome.
    pub fn tell(&self, outcome: &mut Outcome) {
        let (Self::Finished(_, fields) | Self::Failed(fields)) = self;
        let text = |name: &str| fields.get(name).and_then(Value::as_str).map(str::to_owned);
        let number = |name: &str| fields.get(name).and_then(Value::as_u64);
        match self {
            Self::Failed(_) => {
                outcome.code = text("code");
                outcome.step = text("step");
                outcome.happened = text("happened");
                outcome.untouched = text("untouched");
                outcome.advice = text("advice");
            }
            Self::Finished(..) => {
                outcome.release = text("release");
                outcome.root_hash = text("root_hash");
                outcome.handoff = text("handoff");
                outcome.event_log = text("event_log");
                outcome.peak_rss_bytes = number("peak_rss_bytes");
                outcome.lowest_mem_available_bytes = number("lowest_mem_available_bytes");
                outcome.bytes.image = number("image_bytes");
                outcome.bytes.payload_received = number("payload_fetched_bytes");
            }
        }
    }
}

/// The times that events tell; those that are not told stay as they are.
pub fn times(events: &[Event], seconds: &mut Seconds) {
    let find = |step, state| events.iter().map(|event| &event.value).find(|event| says(event, step, state));
    let at = |step, state| find(step, state).and_then(|event| float(event, "at"));
    let Some(first) = events.first() else { return };
    seconds.power_on_to_pid1 = float(&first.value, "at").map(|at| first.at.as_secs_f64() - at);
    let Some(tree) = at("hash-tree", "started") else { return };
    let first_byte = find("hash-tree", "done").and_then(|event| float(event.get("fields")?, "first_byte_seconds"));
    seconds.pid1_to_first_payload_byte = first_byte.map(|first_byte| tree + first_byte);
    seconds.write = at("esp", "done").map(|end| end - tree);
}

/// Whether an event is that of a step that reached a state.
fn says(event: &Value, step: &str, state: &str) -> bool {
    let is = |name, text| event.get(name).is_some_and(|value| value == text);
    is("step", step) && is("state", state)
}

fn fields(event: &Value) -> Value {
    event.get("fields").cloned().unwrap_or_default()
}

fn float(value: &Value, name: &str) -> Option<f64> {
    value.get(name).and_then(Value::as_f64)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use serde_json::json;

    use super::*;

    fn line(value: &Value) -> Line {
        let at = Duration::from_millis(20_500);
        Line { at, time: SystemTime::UNIX_EPOCH, text: format!("[    9.1] {value}"), complete: true }
    }

    #[test]
    fn an_ending_becomes_part_of_the_outcome() {
        let failed = r#"{"metalstrap":1,"step":"run","state":"failed","fields":{"code":"no-disk","step":"disk",
            "happened":"choosing","untouched":"No disk was written to.","advice":"Look."}}"#;
        let failed: Value = serde_json::from_str(failed).unwrap();
        let text = failed.to_string();
        // serde_json sorts the members; the installer writes `metalstrap` first.
        let text = format!("{{\"metalstrap\":1,{}", &text[1..].replace("\"metalstrap\":1,", ""));
        let ending = Ending::find(&Line { text, ..line(&json!({})) }).unwrap();
        let mut outcome = Outcome::default();
        ending.tell(&mut outcome);
        assert_eq!((outcome.code.as_deref(), outcome.step.as_deref()), (Some("no-disk"), Some("disk")));
        assert_eq!(outcome.untouched.as_deref(), Some("No disk was written to."));
        assert_eq!(Ending::find(&line(&json!({"metalstrap": 1, "step": "plan", "state": "done"}))), None);
    }

    #[test]
    fn times_are_told_as_far_as_the_run_went() {
        let event = |at: f64, step: &str, state: &str, fields: Value| Event {
            at: Duration::from_secs_f64(at + 12.0),
            time: SystemTime::UNIX_EPOCH,
            value: json!({"at": at, "step": step, "state": state, "fields": fields}),
        };
        let mut events = vec![event(0.5, "drivers", "started", json!({}))];
        let mut seconds = Seconds::default();
        times(&events, &mut seconds);
        assert_eq!((seconds.power_on_to_pid1, seconds.write), (Some(12.0), None));
        events.push(event(3.0, "hash-tree", "started", json!({})));
        events.push(event(4.0, "hash-tree", "done", json!({"first_byte_seconds": 0.25})));
        events.push(event(9.0, "esp", "done", json!({})));
        times(&events, &mut seconds);
        assert_eq!((seconds.pid1_to_first_payload_byte, seconds.write), (Some(3.25), Some(6.0)));
    }
}
