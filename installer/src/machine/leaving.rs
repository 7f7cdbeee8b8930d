//! How this machine is left: what speaks against kexec, what the OS gets with one, and the last things before the jump.

use anyhow::{Context as _, Error, Result, ensure};
use metalstrap_release::host::{HandoffMode, Host};
use metalstrap_release::manifest::{Boot, Manifest};
use metalstrap_release::pcr::Signatures;
use metalstrap_release::site::{KexecDeny, Site};

use super::Machine;
use crate::credentials::{self, Sealed, SealedKey, SecureBoot};
use crate::drivers;
use crate::ending::Ending;
use crate::handoff::confirm::{self, ReportTo};
use crate::handoff::marker::{self, Marker};
use crate::handoff::{self, Decision};
use crate::plan::Plan;
use crate::{secure_boot, smbios, watchdog};

/// What is known about it.
#[derive(Debug, Default)]
pub(super) struct Leaving {
    deny: Vec<KexecDeny>,
    report_to: Option<ReportTo>,
    /// Whether a reboot starts the installed disk, as far as the firmware was told so.
    pub(super) disk_is_next: bool,
    /// The mark of the kexec that is prepared.
    marker: Option<Marker>,
}

impl Leaving {
    /// Takes what the site config says of it.
    pub(super) fn heed(&mut self, site: &Site) {
        self.deny.clone_from(&site.kexec_deny);
        self.report_to = ReportTo::of(site);
    }
}

impl Machine<'_> {
    /// Decides, as a part of the plan, how the installer is left, and tells what speaks against kexec where the host config wants
    /// it: `host` and `plan` then say what will be done. An ordinary command hands nothing off.
    #[must_use]
    pub fn decide_handoff(&mut self, host: Host, plan: Plan, boot: &Boot, signatures: &Signatures) -> (Host, Plan) {
        if !self.is_netboot() {
            return (host, plan);
        }
        let sys = self.seams.sys.clone();
        let pci = drivers::pci_ids(&sys.join("bus/pci/devices"));
        // A reason for each thing that may speak against it.
        let reasons = [
            handoff::denied(&self.leaving.deny, &smbios::identity(&sys), &pci),
            marker::failed_before(self.seams.own.as_ref()),
            self.unsigned(&host, boot, signatures),
            secure_boot::obstacle(boot, &sys),
            watchdog::obstacle(boot, &sys),
        ];
        self.decided(Decision::new(host.handoff, reasons), host, plan)
    }

    /// Tells what speaks against kexec; `host` and `plan` then say what was decided.
    pub(super) fn decided(&self, decision: Decision, host: Host, plan: Plan) -> (Host, Plan) {
        if let Some(text) = decision.complaint() {
            self.tell.warn("plan", &text);
        }
        (Host { handoff: decision.ending, ..host }, Plan { handoff: Some(decision), ..plan })
    }

    /// What the OS gets with a kexec: the `credentials`, and the units by which it confirms it. The mark that they remove is
    /// set. Where it cannot be, or the OS would not get the units, `host` may say that there is no kexec.
    #[must_use]
    pub fn to_hand_over(
        &mut self,
        mut credentials: Vec<Sealed>,
        manifest: &Manifest,
        mut host: Host,
    ) -> (Vec<Sealed>, Host) {
        if host.handoff != HandoffMode::Kexec || manifest.boot.unconfirmed {
            return (credentials, host);
        }
        let release = manifest.root_label();
        let jumps = match self.confirmation(&credentials, &release) {
            Ok(units) => {
                credentials.extend(units);
                credentials.sort_by_key(Sealed::file);
                self.mark(&release)
            }
            // A mark that nobody removes would count as a kexec that failed.
            Err(error) => self.jumps_unmarked("kernel", &error.context("the OS cannot confirm it")),
        };
        if !jumps {
            host.handoff = HandoffMode::Reboot;
        }
        (credentials, host)
    }

    /// The units as credentials. With Secure Boot and a TPM systemd takes only what is sealed to that. They are for the kexec alone,
    /// and meet the Secure Boot of now, also where the firmware was just given keys.
    fn confirmation(&self, taken: &[Sealed], release: &str) -> Result<Vec<Sealed>> {
        let units = confirm::units(taken, self.leaving.report_to.as_ref(), &self.tell.confirmation(release));
        ensure!(!units.is_empty(), "the host config's credentials have taken the names for that");
        let key = match credentials::refusal(&self.seams.sys, SecureBoot::Now) {
            Some(_) => {
                let mut tpm = (self.seams.tpm)()?.context("the kernel has no device for the TPM")?;
                Some(SealedKey::new(&mut tpm)?)
            }
            None => None,
        };
        let seal = |unit: &confirm::Unit| credentials::seal_one(&unit.name, &unit.content, unit.form, key.as_ref());
        units.iter().map(seal).collect()
    }

    /// Sets the mark; whether there is a kexec then.
    fn mark(&mut self, release: &str) -> bool {
        match Marker::prepare(self.seams.own.as_ref(), release, self.tell.run_id()) {
            Ok(marker) => {
                self.leaving.marker = Some(marker);
                true
            }
            Err(error) => self.jumps_unmarked("kernel", &error),
        }
    }

    /// Whether there is a kexec that cannot be marked, which each installation would try again where it hangs: not where a reboot
    /// starts the OS as well. Where the firmware was not told to, as by the same cause it often is not, a reboot may lead back into
    /// the installer, and would for ever; a kexec leads to the OS wherever it works.
    fn jumps_unmarked(&self, step: &str, error: &Error) -> bool {
        let text = "a kexec that fails would not be remembered";
        if self.leaving.disk_is_next {
            self.tell.warn(step, &format!("{text}: {error:#}; rebooting instead of kexec"));
            return false;
        }
        let why = "the firmware does not start the installed disk next, so a reboot may lead back to the installer";
        self.tell.warn(step, &format!("{text}: {error:#}; kexec all the same: {why}"));
        true
    }

    /// The last things before the jump: the supervisor learns whether the OS takes over a watchdog, no device may write to memory
    /// that is the next kernel's, and, last of all, the mark says that the jump comes. What is left is the ending: a reboot where
    /// that could not be said.
    #[must_use]
    pub fn quiesce(&mut self, manifest: &Manifest) -> Ending {
        if let Some(seconds) = manifest.boot.watchdog {
            self.tell.leaves_watchdog(seconds);
        }
        self.network = None;
        for warning in (self.seams.links)() {
            self.tell.warn("handoff", &warning);
        }
        match self.leaving.marker.take().map(|marker| marker.jump(self.seams.own.as_ref())) {
            Some(Err(error)) if !self.jumps_unmarked("handoff", &error) => Ending::Reboot,
            _ => Ending::Kexec,
        }
    }
}

#[cfg(test)]
mod tests;
