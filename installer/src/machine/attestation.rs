//! What attesting asks of the machine: the way to the verifier, the TPM, and the place for what the verifier gives.

#[cfg(test)]
mod tests;

use std::path::Path;

use anyhow::{Context as _, Result};
use metalstrap_release::attest::{Introduction, Verdict};
use metalstrap_release::host::{AttestationPolicy, Host, Secrets};
use metalstrap_release::site::Site;
use serde_json::Value;

use super::{Machine, access};
use crate::attestation::{self, Key, Logs, Verifier};
use crate::credentials::Sealed;
use crate::disk::Region;
use crate::esp;
use crate::failure::{Code, WithCode as _, coded};
use crate::report::fields;
use crate::resolve::Resolver;
use crate::secrets;
use crate::smbios;
use crate::tpm::direct::Direct;

/// The verifier, and what the machine attests itself by, once it has been asked for.
#[derive(Debug, Default)]
pub struct Attester {
    verifier: Option<Verifier>,
    key: Option<(Direct, Key, Introduction)>,
}

impl Machine<'_> {
    /// Keeps the way to the verifier of the host config, where it has one.
    ///
    /// # Errors
    /// Its URL, or another thing that the site config has of servers, cannot be used.
    pub fn know_verifier(&mut self, host: &Host, site: &Site, resolver: &Resolver) -> Result<()> {
        let Some(attestation) = &host.attestation else { return Ok(()) };
        let limits = self.seams.limits.of_site(site);
        let verifier = Verifier::new(&attestation.url, access(site)?, resolver.clone(), limits, self.tell.waits());
        let using = || "using the host config's attestation.url".to_owned();
        self.attester.verifier = Some(verifier.code(Code::HostConfig, using)?);
        Ok(())
    }

    /// Attests the machine, where the host config has a verifier. What that gives goes onto the ESP `esp`, beside the `credentials`:
    /// all that the OS gets is returned.
    ///
    /// # Errors
    /// [`Code::Attestation`], [`Code::Verifier`], [`Code::Certificate`], [`Code::Secrets`], [`Code::Esp`]: only where the host
    /// config requires it. The disk's.
    pub async fn attest(&mut self, host: &Host, esp: &Region, mut credentials: Vec<Sealed>) -> Result<Vec<Sealed>> {
        let Some(policy) = host.attestation.as_ref().map(|attestation| attestation.policy) else {
            return Ok(credentials);
        };
        let tell = self.tell;
        let attest = async |_| match self.exchange(host, esp).await {
            Err(error) if policy == AttestationPolicy::IfPossible => {
                tell.warn("attestation", &format!("{error:#}; the run goes on, as the host config has it"));
                Ok(())
            }
            done => done,
        };
        tell.wait("attestation", "Attesting the machine", attest).await?;
        credentials.extend(esp::attested(esp).await?);
        credentials.sort_by_key(Sealed::file);
        Ok(credentials)
    }

    /// The exchange with the verifier. What it gives goes onto the ESP; what one has given before stays until then, and goes where
    /// the machine is refused.
    async fn exchange(&mut self, host: &Host, esp: &Region) -> Result<()> {
        self.introduce()?;
        // What a verifier makes of it where it cannot be had is its business.
        let firmware = attestation::firmware_log().unwrap_or_else(|error| {
            log::warn!("the firmware's event log is not in the evidence: {error:#}");
            None
        });
        let logs = Logs { firmware, userspace: self.event_log().to_owned() };
        let verifier = self.attester.verifier.clone().context("nobody knows the verifier")?;
        let (tpm, key, introduction) = self.attester.key.as_mut().context("there is no attestation key")?;
        attestation::add_chain(tpm, introduction);
        let challenge = verifier.challenge(introduction).await?;
        let answering = || format!("answering the challenge of {}", verifier.url());
        let evidence = attestation::answer(tpm, key, &challenge, logs).code(Code::Attestation, answering)?;
        let verdict = verifier.verdict(&evidence).await?;
        self.tell_verdict(verifier.url(), &verdict);
        if !verdict.accepted {
            esp::hold_attested(esp, Vec::new()).await?;
            let reasons = attestation::reasons(&verdict);
            let text = format!("the verifier {} does not accept this machine: {reasons}", verifier.url());
            return Err(coded(Code::Attestation, text));
        }
        let given = self.seal_given(host, &verdict.secrets, esp).await?;
        esp::hold_attested(esp, given).await
    }

    fn tell_verdict(&self, url: &str, verdict: &Verdict) {
        // Who is refused gets none, whatever comes along.
        let names: Vec<&str> = verdict.secrets.iter().map(|(name, _)| name).filter(|_| verdict.accepted).collect();
        let details = [
            ("verifier", url.into()),
            ("id", verdict.id.clone().into()),
            ("accepted", verdict.accepted.into()),
            ("findings", serde_json::to_value(&verdict.findings).unwrap_or_default()),
            ("secrets", names.into()),
        ];
        self.tell.tell("attestation", "info", fields(details));
    }

    /// The verifier's secrets, sealed for the OS. Nothing is written.
    async fn seal_given(&self, host: &Host, given: &Secrets, esp: &Region) -> Result<Vec<Sealed>> {
        if given.is_empty() {
            return Ok(Vec::new());
        }
        if let Err(problem) = attestation::beside(host, given) {
            let text = format!("the verifier's secrets with those of the host config {problem}");
            return Err(coded(Code::Verifier, text));
        }
        let tpm = (self.seams.tpm)().code(Code::Secrets, || "looking for the TPM".to_owned())?;
        let opened = secrets::open(given, tpm)?;
        let there = esp::credential_files(esp, opened.files()).await?;
        opened.seal(&there)
    }

    /// Has the TPM make the attestation key, the first time.
    fn introduce(&mut self) -> Result<()> {
        if self.attester.key.is_some() {
            return Ok(());
        }
        let tpm = (self.seams.tpm)().code(Code::Attestation, || "looking for the TPM".to_owned())?;
        let Some(mut tpm) = tpm else {
            return Err(coded(Code::Attestation, "this machine has no TPM 2.0 that could attest it"));
        };
        let introduced = attestation::introduce(&mut tpm, &smbios::identity(Path::new("/sys")));
        let (key, introduction) = introduced.code(Code::Attestation, || "asking the TPM".to_owned())?;
        self.attester.key = Some((tpm, key, introduction));
        Ok(())
    }

    /// What the final report has of the TPM; `None` where nothing was measured, or nobody gets a report.
    pub fn attestation_report(&mut self) -> Option<Value> {
        if !self.is_netboot() || self.event_log().is_empty() || !self.tell.outbox().is_served() {
            return None;
        }
        let tell = self.tell;
        let report = self.introduce().and_then(|()| {
            let (tpm, key, introduction) = self.attester.key.as_mut().context("there is no attestation key")?;
            attestation::report(tpm, key, introduction, tell.run_id())
        });
        let warn = |error: anyhow::Error| tell.warn("attestation", &format!("the report has no quote: {error:#}"));
        report.map_err(warn).ok()
    }
}
