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
pub mod certificates;
pub mod direct;
pub mod nv;
mod pcr;
pub mod sealing;
pub mod spent;
#[cfg(test)]
pub(crate) mod swtpm;

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
        let mut context = tss_esapi::Context::new(tcti).context("connecting")?;
        let banks = active_banks(&mut context).context("reading its active PCR banks")?;
        Ok(Self { context, banks })
    }
}

/// TPM2_GetCapability(TPM_CAP_PCRS): TCG TPM 2.0 Library, part 2, TPMS_CAPABILITY_DATA. An inactive bank is in the
/// list with no PCR selected, or is missing.
fn active_banks(context: &mut tss_esapi::Context) -> Result<Vec<Bank>> {
    let (data, _) = context.get_capability(CapabilityType::AssignedPcr, 0, 1)?;
    let CapabilityData::AssignedPcr(selections) = data else { bail!("the TPM answered another question") };
    banks_of(selections.get_selections())
}

/// The banks that are active for the PCRs used here. One that has some of them and lacks another is refused: it would stay as it
/// is there.
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
            .with_context(|| format!("extending {pcr}"))
    }

    fn read(&mut self, pcr: PcrIndex) -> Result<Vec<BankDigest>> {
        let _spending = Spending::start();
        let mut values = Vec::with_capacity(self.banks.len());
        for &bank in &self.banks {
            let selection = PcrSelectionList::builder().with_selection(algorithm(bank), &[pcr.slot()]).build()?;
            let (_, _, digests) =
                self.context.pcr_read(selection).with_context(|| format!("reading {pcr} of bank {bank}"))?;
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
mod tests {
    use metalstrap_release::digest::to_hex;
    use tss_esapi::structures::PcrSlot;

    use super::swtpm::Swtpm;
    use super::*;

    #[test]
    fn digests_are_those_of_fips_180_4() {
        let hex = |bank: Bank| to_hex(&bank.digest(b"abc").digest);
        assert_eq!(hex(Bank::Sha1), "a9993e364706816aba3e25717850c26c9cd0d89d");
        assert_eq!(hex(Bank::Sha256), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(
            hex(Bank::Sha384),
            "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed8086072ba1e7cc2358baeca134c825a7"
        );
        assert_eq!(
            hex(Bank::Sha512),
            "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a\
             2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f"
        );
    }

    #[test]
    fn every_active_bank_is_extended() {
        let swtpm = Swtpm::start();
        let mut tpm = swtpm.connect();
        assert_eq!(tpm.banks(), Bank::ALL);
        let fresh = tpm.read(PcrIndex::Installer).unwrap();
        assert_eq!(fresh.iter().map(|value| value.digest.len()).collect::<Vec<_>>(), [20, 32, 48, 64]);
        assert!(fresh.iter().all(|value| value.digest.iter().all(|&byte| byte == 0)), "{fresh:?}");

        let digests: Vec<_> = Bank::ALL.iter().map(|bank| bank.digest(b"abc")).collect();
        tpm.extend(PcrIndex::Installer, &digests).unwrap();

        let after = tpm.read(PcrIndex::Installer).unwrap();
        // python3: hashlib.sha256(bytes(32) + hashlib.sha256(b"abc").digest()), and so on.
        let hex: Vec<_> = after.iter().map(|value| to_hex(&value.digest)).collect();
        assert_eq!(hex[0], "ccd5bd41458de644ac34a2478b58ff819bef5acf");
        assert_eq!(hex[1], "589f9ffed4c477966bfb8d41f37895b08c69047df8f911d6f3b57fbe08faee8d");
        assert_eq!(after, fresh.iter().zip(&digests).map(|(old, new)| extended(old, new)).collect::<Vec<_>>());
    }

    #[test]
    fn each_pcr_is_its_own() {
        let swtpm = Swtpm::start();
        let mut tpm = swtpm.connect();
        let zero = tpm.read(PcrIndex::Installer).unwrap();
        for (pcr, bytes) in PcrIndex::ALL.into_iter().zip([b"a", b"b", b"c"]) {
            let digests: Vec<_> = Bank::ALL.iter().map(|bank| bank.digest(bytes)).collect();
            assert_eq!(tpm.read(pcr).unwrap(), zero, "{pcr} before");
            tpm.extend(pcr, &digests).unwrap();
            let expected: Vec<_> = zero.iter().zip(&digests).map(|(old, new)| extended(old, new)).collect();
            assert_eq!(tpm.read(pcr).unwrap(), expected, "{pcr}");
        }
        assert_eq!(PcrIndex::ALL.map(PcrIndex::number), [11, 12, 13]);
    }

    #[test]
    fn a_bank_without_one_of_the_pcrs_is_refused() {
        let selections = |slots: &[PcrSlot]| {
            let list = PcrSelectionList::builder()
                .with_selection(HashingAlgorithm::Sha1, &[PcrSlot::Slot10])
                .with_selection(HashingAlgorithm::Sha256, slots);
            banks_of(list.build().unwrap().get_selections())
        };
        let all = [PcrSlot::Slot11, PcrSlot::Slot12, PcrSlot::Slot13];
        assert_eq!(selections(&all).unwrap(), [Bank::Sha256]);
        assert_eq!(
            selections(&[all[0], all[2]]).unwrap_err().to_string(),
            "the TPM's PCR bank of Sha256 has no PCR 12"
        );
        assert_eq!(selections(&[PcrSlot::Slot10]).unwrap_err().to_string(), "the TPM has no active PCR bank");
    }

    #[test]
    fn what_is_waited_for_is_counted() {
        let swtpm = Swtpm::start_with_banks("sha256");
        let before = spent::so_far();
        let mut tpm = swtpm.connect();
        let connected = spent::so_far();
        assert!(connected > before);
        tpm.extend(PcrIndex::Installer, &[Bank::Sha256.digest(b"abc")]).unwrap();
        assert!(spent::so_far() > connected);
    }

    #[test]
    fn only_the_active_banks_are_extended() {
        let swtpm = Swtpm::start_with_banks("sha256");
        let mut tpm = swtpm.connect();
        assert_eq!(tpm.banks(), [Bank::Sha256]);
        tpm.extend(PcrIndex::Installer, &[Bank::Sha256.digest(b"abc")]).unwrap();
        let hex: Vec<_> = tpm.read(PcrIndex::Installer).unwrap().iter().map(|value| to_hex(&value.digest)).collect();
        assert_eq!(hex, ["589f9ffed4c477966bfb8d41f37895b08c69047df8f911d6f3b57fbe08faee8d"]);
    }

    #[test]
    fn a_bank_that_cannot_be_computed_is_refused() {
        assert_eq!(
            bank(HashingAlgorithm::Sm3_256).unwrap_err().to_string(),
            "the TPM has an active PCR bank of Sm3_256, which this installer cannot extend"
        );
    }

    #[test]
    fn a_tpm_that_is_gone_is_an_error() {
        let swtpm = Swtpm::start();
        let mut tpm = swtpm.connect();
        drop(swtpm);
        for (pcr, text) in PcrIndex::ALL.into_iter().zip(["extending PCR 11", "extending PCR 12", "extending PCR 13"]) {
            let error = tpm.extend(pcr, &[Bank::Sha256.digest(b"abc")]).unwrap_err();
            assert_eq!(error.to_string(), text);
        }
    }
}
