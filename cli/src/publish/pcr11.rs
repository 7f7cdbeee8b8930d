//! What a manifest says of PCR 11, and the signatures that go beside it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use metalstrap_release::digest::Digest;
use metalstrap_release::manifest::{MAX_SIGNATURES_BYTES, Pcr11, Predictions, SectionDigest};
use metalstrap_release::pcr::{Bank, Extension, Pcr, Phase, PolicyKey, Prediction, Signatures, policy};
use metalstrap_release::uki::UkiError;

use crate::repository::Repository;
use crate::uki::{extensions, pcr_public_key, pcr_signatures, pcrs_after, predictions};

/// Who signs what PCR 11 will hold.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "PCR 11")]
pub struct Pcr11Args {
    /// Private key (PEM, RSA) that signs TPM policies for what PCR 11 will hold: what the OS seals by its public half
    /// (systemd-cryptenroll --tpm2-public-key=) opens when this UKI is started, and no other. That is for kexec; at a boot
    /// from the disk the UKI's own .pcrsig counts, so give the key to ukify too
    #[arg(long, value_name = "FILE")]
    pcr_key: Option<PathBuf>,
    /// Netboot UKI from which the installer may start this UKI by kexec: signs for that too. Several times for several
    #[arg(long, value_name = "FILE", requires = "pcr_key")]
    netboot: Vec<PathBuf>,
}

/// What was predicted and signed.
#[derive(Debug)]
pub struct Predicted {
    /// For the manifest.
    pub pcr11: Option<Pcr11>,
    /// The file of signatures.
    file: Option<Vec<u8>>,
}

impl Pcr11Args {
    /// Predicts PCR 11 of the UKI, and signs that where there is a key.
    ///
    /// # Errors
    /// A UKI or the key cannot be used, or the UKI is for another key. That PCR 11 depends on the machine is one only with a key.
    pub fn predict(&self, uki: &Path) -> Result<Predicted> {
        let measured = match extensions(uki, 0) {
            Err(error) if self.pcr_key.is_none() && is_by_hardware(&error) => {
                eprintln!("warning: {error:#}: the manifest says nothing of PCR 11");
                return Ok(Predicted { pcr11: None, file: None });
            }
            measured => measured?,
        };
        let phases = predictions(&Pcr::zeroes(), &measured)?;
        let file = match &self.pcr_key {
            Some(key) => Some(self.sign(key, uki, &phases, &measured)?),
            None => None,
        };
        let phases = Predictions::new(&phases).context("encoding the predictions of PCR 11")?;
        let signatures = file.as_deref().map(Digest::of);
        let sections = SectionDigest::all(&measured);
        Ok(Predicted { pcr11: Some(Pcr11 { phases, sections, signatures }), file })
    }

    /// The file of signatures: for the UKI alone, and behind each netboot UKI.
    fn sign(&self, path: &Path, uki: &Path, alone: &[Prediction], measured: &[Extension]) -> Result<Vec<u8>> {
        let reading = || format!("reading the PCR key {}", path.display());
        let key = PolicyKey::from_pem(&fs::read(path).with_context(reading)?).with_context(reading)?;
        match pcr_public_key(uki)? {
            Some(public) => ensure!(
                key.is_of(&public),
                "the UKI's .pcrpkey is not the public half of the PCR key {}: what the OS seals by it would not open",
                path.display()
            ),
            None => eprintln!(
                "warning: the UKI has no .pcrpkey: the OS has to know the public half of the PCR key from elsewhere"
            ),
        }
        let signing = || format!("signing with the PCR key {}", path.display());
        let mut signatures = key.sign(alone).with_context(signing)?;
        check_own(uki, alone, &signatures)?;
        for netboot in &self.netboot {
            let behind = predictions(&pcrs_after(netboot)?, measured)?;
            signatures.add(key.sign(&behind).with_context(signing)?);
        }
        let mut bytes = serde_json::to_vec(&signatures).context("encoding the signatures of PCR 11")?;
        bytes.push(b'\n');
        ensure!(
            bytes.len() <= MAX_SIGNATURES_BYTES,
            "the signatures of PCR 11 have {} bytes, more than {MAX_SIGNATURES_BYTES}: name fewer netboot images",
            bytes.len()
        );
        Ok(bytes)
    }
}

impl Predicted {
    /// Digest of the file of signatures, if there is one.
    pub fn signatures(&self) -> Option<Digest> {
        self.pcr11.as_ref()?.signatures
    }

    /// Writes the file of signatures, if there is one.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, repository: &Repository) -> Result<()> {
        let path = self.pcr11.as_ref().and_then(Pcr11::signatures_path);
        match (path, &self.file) {
            (Some(path), Some(bytes)) => repository.put(&path, bytes),
            _ => Ok(()),
        }
    }
}

/// Warns where the UKI itself has not what was signed for its initrd: a boot from the disk gets no other signatures. A
/// site that starts it by kexec alone needs none.
fn check_own(uki: &Path, alone: &[Prediction], signed: &Signatures) -> Result<()> {
    let initrd = alone.iter().find(|prediction| prediction.phase == Phase::EnterInitrd);
    let pol = initrd.map(|prediction| policy(&prediction.pcr(Bank::Sha256)));
    let needed = signed.sha256.iter().find(|signature| Some(signature.pol) == pol);
    let problem = match pcr_signatures(uki)?.as_deref().map(Signatures::from_section) {
        Some(Ok(own)) if needed.is_some_and(|needed| own.sha256.contains(needed)) => return Ok(()),
        Some(Ok(_)) => "the UKI's .pcrsig has no signature by the PCR key for its initrd (enter-initrd, SHA-256)",
        Some(Err(_)) => "the UKI's .pcrsig is not in the form of systemd-measure",
        None => "the UKI has no .pcrsig",
    };
    eprintln!(
        "warning: {problem}: what the OS seals by the PCR key would not open at a boot from the disk, only after a \
         kexec; give the key to ukify too"
    );
    Ok(())
}

fn is_by_hardware(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| matches!(cause.downcast_ref::<UkiError>(), Some(UkiError::ByHardware(_))))
}
