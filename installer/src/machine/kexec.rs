//! In systemd-stub's place: measuring the installed UKI and handing over what the stub would, before the jump into its kernel.

use std::path::Path;

use anyhow::{Context as _, Result};
use metalstrap_release::host::{HandoffMode, Host, Pcr11Need};
use metalstrap_release::manifest::Boot;
use metalstrap_release::pcr::{Extension, Signatures};

use super::{Machine, tell_measured};
use crate::ending::Ending;
use crate::esp::Esp;
use crate::eventlog::firmware;
use crate::failure::{Code, WithCode as _};
use crate::handoff::{self, CommandLine, Decision, LoadError, Parts, extra, pcr11};
use crate::plan::Plan;
use crate::repository::{self, Repository};
use crate::tpm::PcrIndex;

impl Machine<'_> {
    /// Fetches the signed policies for PCR 11 of a release that will be started by kexec, where this machine measures.
    ///
    /// # Errors
    /// [`Code::Corrupt`], [`Code::Manifest`]; the repository's.
    pub async fn signatures(&self, repository: &Repository, host: &Host, boot: &Boot) -> Result<Signatures> {
        let wanted = self.is_netboot() && self.measures() && host.handoff == HandoffMode::Kexec;
        match boot.pcr11.as_ref().filter(|pcr11| wanted && pcr11.signatures.is_some()) {
            Some(pcr11) => {
                let fetch = async |_| repository::signatures(repository.source.as_ref(), pcr11).await;
                self.tell.wait("manifest", "Fetching the signed policies for PCR 11", fetch).await
            }
            None => Ok(Signatures::default()),
        }
    }

    /// What speaks against kexec in PCR 11: that it has an installed UKI already; or, where the OS needs a signed policy for it, that
    /// none will fit. A machine without TPM has nothing to open with it.
    pub(super) fn unsigned(&mut self, host: &Host, boot: &Boot, signatures: &Signatures) -> Option<String> {
        if host.handoff != HandoffMode::Kexec {
            return None;
        }
        if self.measurer.has_measured("section-name:") {
            let text =
                "an earlier run of this boot has measured an installed UKI into PCR 11, which only a restart clears";
            return Some(text.to_owned());
        }
        if host.pcr11 == Pcr11Need::Any {
            return None;
        }
        let failed = |cause: &str| Some(format!("`pcr11` is `signed`, and PCR 11 cannot be foretold: {cause}"));
        if let Some(cause) = self.measurer.failure() {
            return failed(cause);
        }
        match self.measurer.read(PcrIndex::KernelBoot) {
            Ok(now) if now.is_empty() => None,
            Ok(now) => pcr11::misfit(&now, boot, signatures),
            Err(error) => failed(&format!("{error:#}")),
        }
    }

    /// Whether the command line fits the installed kernel, where the plan says kexec: elsewhere the UKI starts with its own. One that
    /// is too long without a word of the host config is a reason for a reboot, which `host` and `plan` then say.
    ///
    /// # Errors
    /// [`Code::CommandLine`]: the host config has added to it.
    pub fn fit_command_line(&self, host: Host, plan: Plan, line: &CommandLine, boot: &Boot) -> Result<(Host, Plan)> {
        let by_kexec = plan.handoff.as_ref().is_some_and(|decision| decision.ending == HandoffMode::Kexec);
        let Some(text) = line.excess(boot.cmdline_limit).filter(|_| by_kexec) else { return Ok((host, plan)) };
        if !host.cmdline_extra.is_empty() {
            line.check_fits(boot.cmdline_limit)?;
        }
        Ok(self.decided(Decision::new(HandoffMode::Kexec, [Some(text)]), host, plan))
    }

    /// Measures the installed UKI and what is added to it, and loads its kernel. The last thing that measures: the log that it
    /// hands over then has all there is. Where anything fails behind that, the machine restarts, which clears what was measured.
    ///
    /// # Errors
    /// As [`Machine::prepare_handoff`].
    pub(super) fn load_kernel(
        &mut self,
        esp: &Esp,
        boot: &Boot,
        line: &CommandLine,
        credentials: &[u8],
        signatures: &Signatures,
        host: &Host,
    ) -> Result<Ending> {
        let uki = match handoff::read(&esp.uki, &esp.uki_tree, boot, self.measurer.banks()) {
            Ok(uki) => uki,
            Err(error) => return self.not_read(error, &esp.uki_path),
        };
        if self.measures() {
            let extensions = match uki.extensions() {
                Ok(extensions) => extensions,
                Err(error) => return Ok(self.reboot_instead(&error.to_string())),
            };
            self.measure_as_stub(extensions, line, credentials)?;
        }
        // It may have failed just now, or since the plan was made.
        if let Some(cause) = self.measurer.failure().filter(|_| host.pcr11 == Pcr11Need::Signed) {
            return Ok(self.reboot_instead(cause));
        }
        Ok(self.load_measured(&uki, line, credentials, signatures))
    }

    /// What comes of a UKI that was not read. Only the disk's fault is a failure of the run: as it is published, and the disk holds it,
    /// or with more memory, the firmware may start it all the same.
    fn not_read(&self, error: LoadError, path: &str) -> Result<Ending> {
        match error {
            LoadError::Kernel(form) => Ok(self.reboot_instead(&form.to_string())),
            LoadError::Memory(_) => Ok(self.reboot_instead(&format!("{:#}", anyhow::Error::from(error)))),
            error => Err(error).code(Code::DiskIo, || format!("checking {path} on the disk")),
        }
    }

    /// Puts behind the initrd what is handed over, and loads the kernel. What fails here is no failure of the run: started again, it
    /// would measure the UKI a second time, and the disk boots.
    fn load_measured(&self, uki: &Parts, line: &CommandLine, credentials: &[u8], signatures: &Signatures) -> Ending {
        let added = self.hand_over(uki, credentials, signatures).context("adding to the initrd");
        match added.and_then(|()| handoff::load(uki, line).map_err(anyhow::Error::from)) {
            Ok(_) => Ending::Kexec,
            Err(error) => self.reboot_instead(&format!("{error:#}")),
        }
    }

    fn reboot_instead(&self, why: &str) -> Ending {
        self.tell.warn("kernel", &format!("{why}; rebooting instead of kexec"));
        Ending::Reboot
    }

    /// PCR 11 as the stub extends it for the UKI's sections; PCR 12 with what is added to the UKI: the stub's for the command line
    /// and the credentials, and one of our own.
    fn measure_as_stub(&mut self, extensions: &[Extension], line: &CommandLine, credentials: &[u8]) -> Result<()> {
        for (index, Extension { section, digests }) in extensions.iter().enumerate() {
            let what = if index.is_multiple_of(2) { "section-name" } else { "section" };
            let what = format!("{what}:{section}");
            let measurement = self.measurer.extend(PcrIndex::KernelBoot, &what, digests.clone())?;
            tell_measured(&mut self.measurer, self.tell, &measurement);
        }
        let mut measure = |what: &str, bytes: &[u8]| -> Result<()> {
            let measurement = self.measurer.measure(PcrIndex::KernelConfig, what, bytes)?;
            tell_measured(&mut self.measurer, self.tell, &measurement);
            Ok(())
        };
        measure("load-options", &line.to_load_options())?;
        if !credentials.is_empty() {
            measure("global-credentials", credentials)?;
        }
        measure("event-log-importer", &extra::importer())
    }

    /// Puts behind the UKI's initrd what the stub would, in its order, and then the event logs, where something was measured or may
    /// have been.
    fn hand_over(&self, uki: &Parts, credentials: &[u8], signatures: &Signatures) -> Result<()> {
        uki.append(credentials)?;
        let (archives, left_out) = extra::of_sections(uki, signatures);
        if let Some(problem) = left_out {
            self.tell.warn("kernel", &format!("{:#}", anyhow::Error::from(problem)));
        }
        archives.iter().try_for_each(|archive| uki.append(archive))?;
        let (log, incomplete) = (self.measurer.log(), self.measurer.lacks_records());
        if !log.is_empty() || incomplete {
            self.hand_over_logs(uki, log, incomplete, Path::new(firmware::LOG))?;
        }
        Ok(())
    }

    /// Our log, which may be `incomplete`, and what the kernel has of the firmware's at `firmware`: without that the OS starts too.
    fn hand_over_logs(&self, uki: &Parts, log: &str, incomplete: bool, firmware: &Path) -> Result<()> {
        let (logs, left_out) = extra::logs(log, incomplete, firmware);
        if let Some(problem) = left_out {
            self.tell.warn("kernel", &format!("the firmware's event log is not handed over: {problem:#}"));
        }
        uki.append(&extra::importer())?;
        Ok(uki.append(&logs)?)
    }
}

#[cfg(test)]
mod tests;
