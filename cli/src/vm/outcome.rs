//! The one line of JSON, and the exit code.

use std::path::PathBuf;
use std::process::ExitCode;

use metalstrap_qemu::Exit;
use nix::sys::signal::Signal;
use serde::{Serialize, Serializer};

use super::watch::Stop;

/// What came of a run. A value that was not seen is null.
#[derive(Debug, Default, Serialize)]
pub struct Outcome {
    /// What it was.
    #[serde(rename = "outcome")]
    pub kind: Kind,
    /// Where the run ended.
    pub phase: Phase,
    /// The failure's code (`docs/errors.md`).
    pub code: Option<String>,
    /// The step of the installation that failed.
    pub step: Option<String>,
    /// What happened, unless all went well.
    pub happened: Option<String>,
    /// What the installer did not touch.
    pub untouched: Option<String>,
    /// What it says should be done.
    pub advice: Option<String>,
    /// The release that was installed.
    pub release: Option<String>,
    /// Its root hash.
    pub root_hash: Option<String>,
    /// How the installer was left: kexec, reboot or poweroff.
    pub handoff: Option<String>,
    /// How long it took.
    pub seconds: Seconds,
    /// How much it was.
    pub bytes: Bytes,
    /// Resets of the machine before the installer ran, after which it started again.
    pub resets_before_installer: usize,
    /// Peak resident memory of the installer process.
    pub peak_rss_bytes: Option<u64>,
    /// Lowest MemAvailable of the machine while it installed.
    pub lowest_mem_available_bytes: Option<u64>,
    /// The lines that held the expected text.
    pub said: Said,
    /// The measurement log, a JSON text sequence.
    pub event_log: Option<String>,
    /// File with the installer's events, one JSON object a line.
    pub events: Option<PathBuf>,
    /// Directory of all logs.
    pub logs: Option<PathBuf>,
}

/// What a run came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Kind {
    /// Everything that was asked for was seen.
    Installed,
    /// The installer said that it failed.
    Failed,
    /// The time was over.
    Timeout,
    /// The machine switched itself off, or QEMU ended.
    MachineEnded,
    /// The machine was reset.
    MachineReset,
    /// The firmware started nothing.
    NotStarted,
    /// A signal came.
    Interrupted(Signal),
    /// Something is missing on this host.
    HostUnfit,
    /// The run could not be carried out.
    #[default]
    Error,
}

/// What a run is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Network and TPM are made ready.
    #[default]
    Preparation,
    /// From power-on to the installer's last event.
    Installation,
    /// From there to the expected text.
    FirstBoot,
    /// From the second power-on to the expected text.
    ColdBoot,
}

/// Seconds; by this host's clock, unless said otherwise.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Seconds {
    /// Power-on to the start of the installer process, right after PID 1's.
    #[serde(serialize_with = "milliseconds")]
    pub power_on_to_pid1: Option<f64>,
    /// From there to the first byte of a payload (the guest's clock).
    #[serde(serialize_with = "milliseconds")]
    pub pid1_to_first_payload_byte: Option<f64>,
    /// Hash tree, root, read-back, table, ESP (the guest's clock).
    #[serde(serialize_with = "milliseconds")]
    pub write: Option<f64>,
    /// The installer's last event to the expected text.
    #[serde(serialize_with = "milliseconds")]
    pub handoff_to_text: Option<f64>,
    /// The second power-on to the expected text.
    #[serde(serialize_with = "milliseconds")]
    pub cold_boot_to_text: Option<f64>,
}

/// Bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Bytes {
    /// The netboot UKI.
    pub netboot_uki: Option<u64>,
    /// Payload bytes that the repository's server sent, where this run serves it.
    pub payload_fetched: Option<u64>,
    /// Payload bytes that the installer says it got.
    pub payload_received: Option<u64>,
    /// The root file system.
    pub image: Option<u64>,
}

/// Lines of the installed OS.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Said {
    /// After the handoff.
    pub first_boot: Option<String>,
    /// After the power cycle.
    pub cold_boot: Option<String>,
}

/// Three digits behind the point.
#[allow(clippy::ref_option, reason = "serde's signature")]
fn milliseconds<S: Serializer>(seconds: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
    seconds.map(|seconds| (seconds * 1000.0).round() / 1000.0).serialize(serializer)
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Installed => "installed",
            Self::Failed => "failed",
            Self::Timeout => "timeout",
            Self::MachineEnded => "machine-ended",
            Self::MachineReset => "machine-reset",
            Self::NotStarted => "not-started",
            Self::Interrupted(_) => "interrupted",
            Self::HostUnfit => "host-unfit",
            Self::Error => "error",
        }
    }

    fn exit_code(self) -> u8 {
        match self {
            Self::Installed => 0,
            Self::Failed | Self::Timeout | Self::MachineEnded | Self::MachineReset | Self::NotStarted => 1,
            Self::HostUnfit => 3,
            Self::Error => 4,
            // As shells say it: 130 for SIGINT.
            Self::Interrupted(signal) => u8::try_from(signal as i32).map_or(4, |number| number.saturating_add(128)),
        }
    }
}

impl Serialize for Kind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl Outcome {
    /// The exit code of the command.
    pub fn exit_code(&self) -> ExitCode {
        self.kind.exit_code().into()
    }

    /// The machine did not do `what` (as in "before it …"), because of `stop`.
    pub fn stopped(&mut self, stop: Stop, what: &str) {
        let (kind, happened) = match stop {
            Stop::Timeout => (Kind::Timeout, format!("the time was over before the machine {what}")),
            Stop::Reset => (Kind::MachineReset, format!("the machine was reset before it {what}")),
            Stop::Ended(Exit::PoweredOff) => {
                (Kind::MachineEnded, format!("the machine switched itself off before it {what}"))
            }
            Stop::Ended(Exit::Died(reason)) => (
                Kind::MachineEnded,
                format!("QEMU died before the machine {what}: {}", reason.trim_end_matches([' ', ':'])),
            ),
            Stop::Ended(Exit::Reset | Exit::Stopped) => {
                (Kind::MachineEnded, format!("QEMU was told to end before the machine {what}"))
            }
            Stop::NotStarted(tried) => (Kind::NotStarted, not_started(&tried)),
        };
        self.kind = kind;
        self.happened = Some(happened);
    }
}

fn not_started(tried: &str) -> String {
    let refused = tried.contains("Access Denied") || tried.contains("Security Violation");
    let hint = if refused { " (Secure Boot: it is not signed by the key of the enrolled certificate)" } else { "" };
    format!("the firmware started nothing{hint}: {tried}").trim_end_matches([' ', ':']).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_has_its_name_and_exit_code() {
        let interrupted = Kind::Interrupted(Signal::SIGTERM);
        let kinds = [Kind::Installed, Kind::Failed, Kind::HostUnfit, Kind::Error, interrupted];
        assert_eq!(kinds.map(Kind::exit_code), [0, 1, 3, 4, 143]);
        let json = serde_json::to_value(Outcome { kind: interrupted, phase: Phase::FirstBoot, ..Outcome::default() });
        let json = json.unwrap();
        assert_eq!(
            (&json["outcome"], &json["phase"], &json["code"]),
            (&"interrupted".into(), &"first-boot".into(), &().into())
        );
    }

    #[test]
    fn a_stop_is_told_in_a_sentence() {
        let told = |stop| {
            let mut outcome = Outcome::default();
            outcome.stopped(stop, "ended its installation");
            (outcome.kind, outcome.happened.unwrap())
        };
        let (kind, happened) = told(Stop::Ended(Exit::Died("signal: 9 (SIGKILL): ".to_owned())));
        assert_eq!(kind, Kind::MachineEnded);
        assert_eq!(happened, "QEMU died before the machine ended its installation: signal: 9 (SIGKILL)");
        let denied = "BdsDxe: failed to load Boot0001: Access Denied";
        assert_eq!(
            told(Stop::NotStarted(denied.to_owned())).1,
            format!(
                "the firmware started nothing (Secure Boot: it is not signed by the key of the enrolled certificate): {denied}"
            )
        );
        assert_eq!(told(Stop::NotStarted(String::new())).1, "the firmware started nothing");
        assert_eq!(told(Stop::Timeout).1, "the time was over before the machine ended its installation");
    }
}
