//! How the installer is left: what the host config wants, or a reboot where something speaks against kexec. Decided before the
//! first write, as a part of the plan.

use metalstrap_release::host::HandoffMode;
use serde::Serialize;

/// The ending that is planned. What turns up after the first write (a kernel that is refused) may still make a reboot of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Decision {
    /// How the installer is left.
    pub ending: HandoffMode,
    /// What speaks against kexec, each a text without a full stop; none where it is not wanted anyhow.
    pub reasons: Vec<String>,
}

impl Decision {
    /// What is `wanted`, unless it is kexec and one of the `reasons` speaks against that.
    #[must_use]
    pub fn new(wanted: HandoffMode, reasons: impl IntoIterator<Item = Option<String>>) -> Self {
        let mut decision = Self { ending: wanted, reasons: Vec::new() };
        if wanted == HandoffMode::Kexec {
            decision.reasons.extend(reasons.into_iter().flatten());
        }
        if !decision.reasons.is_empty() {
            decision.ending = HandoffMode::Reboot;
        }
        decision
    }

    /// What a person reads where it is not as the host config wants it; `None`: it is.
    #[must_use]
    pub fn complaint(&self) -> Option<String> {
        (!self.reasons.is_empty()).then(|| format!("reboot instead of kexec: {}", self.reasons.join("; ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_turns_kexec_and_nothing_else_into_a_reboot() {
        let with = |mode, reasons: [Option<&str>; 3]| Decision::new(mode, reasons.map(|text| text.map(str::to_owned)));
        let decision = with(HandoffMode::Kexec, [None, None, None]);
        assert_eq!((decision.ending, decision.complaint()), (HandoffMode::Kexec, None));
        let decision = with(HandoffMode::Kexec, [Some("it hangs"), None, Some("no signature fits")]);
        assert_eq!(decision.ending, HandoffMode::Reboot);
        assert_eq!(decision.complaint().unwrap(), "reboot instead of kexec: it hangs; no signature fits");
        let json = serde_json::to_value(&decision).unwrap();
        assert_eq!(json, serde_json::json!({"ending": "reboot", "reasons": ["it hangs", "no signature fits"]}));
        for mode in [HandoffMode::Reboot, HandoffMode::Poweroff] {
            let decision = with(mode, [Some("it hangs"), None, None]);
            assert_eq!((decision.ending, decision.reasons.len()), (mode, 0));
        }
    }
}
