//! How this machine is left: what speaks against kexec.

use metalstrap_release::host::Host;

use super::Machine;
use crate::handoff::Decision;
use crate::plan::Plan;

impl Machine<'_> {
    /// Decides, as a part of the plan, how the installer is left, and tells what speaks against kexec where the host config wants
    /// it: `host` and `plan` then say what will be done. An ordinary command hands nothing off.
    #[must_use]
    pub fn decide_handoff(&self, host: Host, plan: Plan) -> (Host, Plan) {
        if !self.is_netboot() {
            return (host, plan);
        }
        // A reason for each thing that may speak against it.
        let reasons = [];
        let decision = Decision::new(host.handoff, reasons);
        if let Some(text) = decision.complaint() {
            self.tell.warn("plan", &text);
        }
        (Host { handoff: decision.ending, ..host }, Plan { handoff: Some(decision), ..plan })
    }
}
