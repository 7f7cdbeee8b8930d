//! The TPM as a seam: the machine's device, a software TPM in tests, or none.
//!
//! The installer measures into PCR 13; and, where it starts a UKI in systemd-stub's place, into 11 and 12 what the stub would.
//! PCRs 16 and 23 can be reset by software (<https://uapi-group.org/specifications/specs/linux_tpm_pcr_registry/>).

use std::fmt;
use std::path::Path;
use std::str::FromStr as _;

use anyhow::{Context as _, Result, bail};
pub use metalstrap_release::pcr::{Bank, BankDigest};
use tss_esapi::constants::CapabilityType;
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::{CapabilityData, Digest, DigestValues, PcrSelection, PcrSelectionList};
use tss_esapi::tcti_ldr::{DeviceConfig, TctiNameConf};

pub mod attesting;
mod cause;
pub mod certificates;
pub mod direct;
pub mod nv;
mod pcr;
pub mod sealing;
pub mod spent;
#[cfg(test)]
pub(crate) mod swtpm;

use cause::cause;
pub use pcr::PcrIndex;
use spent::Spending;

/// The kernel's TPM devices, the one with the resource manager first.
const DEVICES: [&str; 2] = ["/dev/tpmrm0", "/dev/tpm0"];

/// A bank as tpm2-tss names it.
fn algorithm(bank: Bank) -> HashingAlgorithm {
    match bank {
        Bank::Sha1 => HashingAlgorithm::Sha1,
        Bank::Sha256 => HashingAlgorithm::Sha256,
        Bank::Sha384 => HashingAlgorithm::Sha384,
        Bank::Sha512 => HashingAlgorithm::Sha512,
    }
}

/// The bank of an algorithm. One that cannot be computed here must not stay as it is: whoever reads only that bank would see a
/// machine on which nothing was measured.
fn bank(algorithm: HashingAlgorithm) -> Result<Bank> {
    Ok(match algorithm {
        HashingAlgorithm::Sha1 => Bank::Sha1,
        HashingAlgorithm::Sha256 => Bank::Sha256,
        HashingAlgorithm::Sha384 => Bank::Sha384,
        HashingAlgorithm::Sha512 => Bank::Sha512,
        other => bail!("the TPM has an active PCR bank of {other:?}, which this installer cannot extend"),
    })
}

/// What the installer needs of a TPM.
pub trait Tpm: Send + fmt::Debug {
    /// The active banks: each has all of [`PcrIndex::ALL`].
    fn banks(&self) -> &[Bank];

    /// Extends a PCR with one digest per bank.
    ///
    /// # Errors
    /// The TPM's answer, with the PCR; no bank is extended then.
    fn extend(&mut self, pcr: PcrIndex, digests: &[BankDigest]) -> Result<()>;

    /// The value of a PCR in every active bank.
    ///
    /// # Errors
    /// The TPM's answer, with the PCR.
    fn read(&mut self, pcr: PcrIndex) -> Result<Vec<BankDigest>>;

    /// The content of an NV index of `size` bytes.
    ///
    /// # Errors
    /// The TPM's answer; or the index is defined otherwise than [`Tpm::nv_write`] does it.
    fn nv_read(&mut self, index: u32, size: u16) -> Result<nv::Content>;

    /// Writes the content of an NV index; where there is none, it is defined for as many bytes.
    ///
    /// # Errors
    /// As [`Tpm::nv_read`]; an index that is defined otherwise stays as it is.
    fn nv_write(&mut self, index: u32, bytes: &[u8]) -> Result<()>;
}

/// Opens the machine's TPM; `None` where the kernel has no device for one.
///
/// # Errors
/// There is a device, but no TPM 2.0 answers on it, or it has no bank that can be extended.
pub fn open() -> Result<Option<Box<dyn Tpm>>> {
    let Some(device) = DEVICES.into_iter().find(|device| Path::new(device).exists()) else { return Ok(None) };
    let config = DeviceConfig::from_str(device).with_context(|| format!("opening {device}"))?;
    let tpm = TssTpm::connect(TctiNameConf::Device(config)).with_context(|| format!("opening the TPM at {device}"))?;
    Ok(Some(Box::new(tpm)))
}

/// A TPM 2.0 behind tpm2-tss.
#[derive(Debug)]
pub(crate) struct TssTpm {
    context: tss_esapi::Context,
    banks: Vec<Bank>,
}

impl TssTpm {
    /// Connects, and asks which banks are active.
    pub(crate) fn connect(tcti: TctiNameConf) -> Result<Self> {
        let _spending = Spending::start();
        let mut context = tss_esapi::Context::new(tcti).map_err(cause).context("connecting")?;
        let banks = active_banks(&mut context).context("reading its active PCR banks")?;
        Ok(Self { context, banks })
    }
}

/// TPM2_GetCapability(TPM_CAP_PCRS): TCG TPM 2.0 Library, part 2, TPMS_CAPABILITY_DATA. An inactive bank is in the
/// list with no PCR selected, or is missing.
fn active_banks(context: &mut tss_esapi::Context) -> Result<Vec<Bank>> {
    let (data, _) = context.get_capability(CapabilityType::AssignedPcr, 0, 1).map_err(cause)?;
    let CapabilityData::AssignedPcr(selections) = data else { bail!("the TPM answered another question") };
    banks_of(selections.get_selections())
}

/// The banks that are active for the PCRs used here. One that has some of them and lacks another is refused: it would stay as it
/// is there. So is a TPM without SHA-256: that bank is the one that an OS and a verifier look at, and SHA-1 proves nothing.
fn banks_of(selections: &[PcrSelection]) -> Result<Vec<Bank>> {
    let mut banks = Vec::new();
    for selection in selections {
        let lacks = |pcr: &PcrIndex| !selection.is_selected(pcr.slot());
        match PcrIndex::ALL.into_iter().find(lacks) {
            None => banks.push(bank(selection.hashing_algorithm())?),
            Some(_) if PcrIndex::ALL.iter().all(lacks) => {}
            Some(pcr) => bail!("the TPM's PCR bank of {:?} has no {pcr}", selection.hashing_algorithm()),
        }
    }
    banks.sort_unstable();
    if banks.is_empty() {
        bail!("the TPM has no active PCR bank");
    }
    if !banks.contains(&Bank::Sha256) {
        let active: Vec<_> = banks.iter().map(ToString::to_string).collect();
        bail!("the TPM has no active PCR bank of SHA-256, only of {}", active.join(", "));
    }
    Ok(banks)
}

impl Tpm for TssTpm {
    fn banks(&self) -> &[Bank] {
        &self.banks
    }

    fn extend(&mut self, pcr: PcrIndex, digests: &[BankDigest]) -> Result<()> {
        let _spending = (pcr == PcrIndex::Installer).then(Spending::start);
        let mut values = DigestValues::new();
        for BankDigest { bank, digest } in digests {
            let digest = Digest::try_from(digest.as_slice()).with_context(|| format!("taking a {bank} digest"))?;
            values.set(algorithm(*bank), digest);
        }
        // The PCR has an empty authorisation value: a password session without password.
        self.context
            .execute_with_session(Some(AuthSession::Password), |context| context.pcr_extend(pcr.handle(), values))
            .map_err(cause)
            .with_context(|| format!("extending {pcr}"))
    }

    fn read(&mut self, pcr: PcrIndex) -> Result<Vec<BankDigest>> {
        let _spending = Spending::start();
        let mut values = Vec::with_capacity(self.banks.len());
        for &bank in &self.banks {
            let selection = PcrSelectionList::builder().with_selection(algorithm(bank), &[pcr.slot()]).build()?;
            let (_, _, digests) = self
                .context
                .pcr_read(selection)
                .map_err(cause)
                .with_context(|| format!("reading {pcr} of bank {bank}"))?;
            let [digest] = digests.value() else {
                bail!("reading {pcr} of bank {bank}: the TPM gave {} values", digests.len())
            };
            values.push(BankDigest { bank, digest: digest.value().to_vec() });
        }
        Ok(values)
    }

    fn nv_read(&mut self, index: u32, size: u16) -> Result<nv::Content> {
        let _spending = Spending::start();
        nv::read(&mut self.context, index, size).with_context(|| format!("reading NV index {index:#010x} of the TPM"))
    }

    fn nv_write(&mut self, index: u32, bytes: &[u8]) -> Result<()> {
        let _spending = Spending::start();
        nv::write(&mut self.context, index, bytes).with_context(|| format!("writing NV index {index:#010x} of the TPM"))
    }
}

/// What `value` becomes when a bank is extended with `digest`: H(value ‖ digest), as the TPM does it.
#[cfg(test)]
pub(crate) fn extended(value: &BankDigest, digest: &BankDigest) -> BankDigest {
    assert_eq!(value.bank, digest.bank);
    value.bank.digest(&[value.digest.as_slice(), digest.digest.as_slice()].concat())
}

#[cfg(test)]
mod tests;
