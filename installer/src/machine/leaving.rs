//! How this machine is left: what speaks against kexec, what the OS gets with one, and the last things before the jump.

use std::path::Path;

use anyhow::Result;
use metalstrap_release::host::{HandoffMode, Host};
use metalstrap_release::manifest::{Boot, Manifest};
use metalstrap_release::pcr::Signatures;
use metalstrap_release::site::{KexecDeny, Site};

use super::Machine;
use crate::bootvars::Efivarfs;
use crate::credentials::{self, Sealed};
use crate::drivers;
use crate::handoff::confirm::{self, ReportTo};
use crate::handoff::marker::{self, Marker};
use crate::handoff::{self, Decision};
use crate::plan::Plan;
use crate::remembered::VENDOR;
use crate::{secure_boot, smbios, watchdog};

/// What is known about it.
#[derive(Debug, Default)]
pub(super) struct Leaving {
    deny: Vec<KexecDeny>,
    report_to: Option<ReportTo>,
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
        let sys = Path::new("/sys");
        let pci = drivers::pci_ids(&sys.join("bus/pci/devices"));
        // A reason for each thing that may speak against it.
        let reasons = [
            handoff::denied(&self.leaving.deny, &smbios::identity(sys), &pci),
            marker::failed_before(&own_variables()),
            self.unsigned(&host, boot, signatures),
            secure_boot::obstacle(boot),
            watchdog::obstacle(boot),
        ];
        let decision = Decision::new(host.handoff, reasons);
        if let Some(text) = decision.complaint() {
            self.tell.warn("plan", &text);
        }
        (Host { handoff: decision.ending, ..host }, Plan { handoff: Some(decision), ..plan })
    }

    /// What the OS gets with a kexec: the `credentials`, and the units by which it confirms it. The mark that they remove is
    /// set. Where one of the two cannot be, that is told, and the kexec is what it was before there were marks: guarded by the
    /// next boot, which is one from the disk.
    #[must_use]
    pub fn to_hand_over(&mut self, mut credentials: Vec<Sealed>, manifest: &Manifest, host: &Host) -> Vec<Sealed> {
        if host.handoff != HandoffMode::Kexec || manifest.boot.unconfirmed {
            return credentials;
        }
        let release = manifest.root_label();
        match self.confirmation(&credentials, &release) {
            Ok(units) if units.is_empty() => {
                let text =
                    "the OS cannot confirm the kexec: the host config's credentials have taken the names for that";
                self.tell.warn("kernel", text);
            }
            Ok(units) => {
                credentials.extend(units);
                credentials.sort_by_key(Sealed::file);
                self.mark(&release);
            }
            Err(error) => self.tell.warn("kernel", &format!("the OS cannot confirm the kexec: {error:#}")),
        }
        credentials
    }

    /// The units as credentials. With Secure Boot and a TPM systemd takes only what is sealed to that.
    fn confirmation(&self, taken: &[Sealed], release: &str) -> Result<Vec<Sealed>> {
        let units = confirm::units(taken, self.leaving.report_to.as_ref(), &self.tell.confirmation(release));
        let mut tpm = match credentials::refusal(Path::new("/sys")) {
            Some(_) => (self.seams.tpm)()?,
            None => None,
        };
        units.iter().map(|(name, content)| credentials::seal_one(name, content, tpm.as_mut())).collect()
    }

    fn mark(&mut self, release: &str) {
        match Marker::prepare(&own_variables(), release, self.tell.run_id()) {
            Ok(marker) => self.leaving.marker = Some(marker),
            Err(error) => {
                let text = "a kexec that fails will not be remembered, and the next installation tries it again";
                self.tell.warn("kernel", &format!("{text}: {error:#}"));
            }
        }
    }

    /// The last things before the jump: the supervisor learns whether the OS takes over a watchdog, the mark says that the jump
    /// comes, and no device may write to memory that is the next kernel's.
    pub fn quiesce(&mut self, manifest: &Manifest) {
        if let Some(seconds) = manifest.boot.watchdog {
            self.tell.leaves_watchdog(seconds);
        }
        if let Some(Err(error)) = self.leaving.marker.take().map(|marker| marker.jump(&own_variables())) {
            self.tell.warn("handoff", &format!("a kexec that fails will not be remembered: {error:#}"));
        }
        self.network = None;
        for warning in handoff::quiesce() {
            self.tell.warn("handoff", &warning);
        }
    }
}

/// The firmware's variables that are ours.
fn own_variables() -> Efivarfs {
    Efivarfs::default().of_vendor(VENDOR)
}
