//! An independent replay of the measurement logs: shares no code with the installer, so that it can disagree with it.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use sha2::{Digest as _, Sha256, Sha384, Sha512};

/// How the first event of a crypto-agile log begins, and the one that says from which locality the TPM was started (TCG PC Client
/// Platform Firmware Profile, "Event Logging"); that extends nothing.
const SPEC_ID: &[u8; 16] = b"Spec ID Event03\0";
const STARTUP_LOCALITY: &[u8; 16] = b"StartupLocality\0";
const NO_ACTION: u32 = 3;

/// A bank of PCRs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bank {
    /// Of SHA-1.
    Sha1,
    /// Of SHA-256.
    Sha256,
    /// Of SHA-384.
    Sha384,
    /// Of SHA-512.
    Sha512,
}

impl Bank {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Sha1, Self::Sha256, Self::Sha384, Self::Sha512];

    /// Its name in the logs and in Linux, its `TPM_ALG_ID`, and the bytes of its digests (TCG Algorithm Registry).
    const fn facts(self) -> (&'static str, u16, usize) {
        match self {
            Self::Sha1 => ("sha1", 0x0004, 20),
            Self::Sha256 => ("sha256", 0x000b, 32),
            Self::Sha384 => ("sha384", 0x000c, 48),
            Self::Sha512 => ("sha512", 0x000d, 64),
        }
    }

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.facts().0
    }

    fn hash(self, bytes: &[u8]) -> Result<Vec<u8>> {
        Ok(match self {
            Self::Sha1 => sha1(bytes)?,
            Self::Sha256 => Sha256::digest(bytes).to_vec(),
            Self::Sha384 => Sha384::digest(bytes).to_vec(),
            Self::Sha512 => Sha512::digest(bytes).to_vec(),
        })
    }
}

/// By openssl: no crate here has it.
fn sha1(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut openssl = Command::new("openssl");
    openssl.args(["dgst", "-sha1", "-binary"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut openssl = openssl.spawn().context("starting openssl")?;
    if let Some(mut input) = openssl.stdin.take() {
        input.write_all(bytes).context("writing to openssl")?;
    }
    let output = openssl.wait_with_output().context("waiting for openssl")?;
    ensure!(output.status.success() && output.stdout.len() == 20, "openssl gives no digest of SHA-1");
    Ok(output.stdout)
}

/// The SHA-256 value PCR `pcr` must have after the events of `log` (JSON text sequence, RFC 7464), starting from zero.
///
/// # Errors
/// A record that is no JSON, or one for this PCR without a SHA-256 digest; or there is none for it.
pub fn pcr_sha256(log: &str, pcr: u64) -> Result<String> {
    let digests = of_records(Bank::Sha256, log, pcr)?;
    ensure!(!digests.is_empty(), "the log has no event for PCR {pcr}");
    extended(Bank::Sha256, vec![0; 32], &digests)
}

/// The value in `bank` after the events of the firmware's log (`binary_bios_measurements`) and then of `log`; and how many there
/// are for this PCR, which may be none.
///
/// # Errors
/// A log that is none, or an event for this PCR without a digest for that bank.
pub fn both(bank: Bank, firmware: &[u8], log: &str, pcr: u64) -> Result<(String, usize)> {
    let (start, mut digests) = of_firmware(bank, firmware, pcr)?;
    digests.extend(of_records(bank, log, pcr)?);
    Ok((extended(bank, start, &digests)?, digests.len()))
}

/// A value as hexadecimal text, extended by these digests.
fn extended(bank: Bank, mut value: Vec<u8>, digests: &[Vec<u8>]) -> Result<String> {
    for digest in digests {
        value.extend(digest);
        value = bank.hash(&value)?;
    }
    Ok(value.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// What the records extend a PCR with.
fn of_records(bank: Bank, log: &str, pcr: u64) -> Result<Vec<Vec<u8>>> {
    let (name, _, size) = bank.facts();
    let mut digests = Vec::new();
    for record in log.split('\x1e').map(str::trim).filter(|record| !record.is_empty()) {
        let event: Value =
            serde_json::from_str(record).with_context(|| format!("reading the log record {record:?}"))?;
        if event.get("pcr").and_then(Value::as_u64) != Some(pcr) {
            continue;
        }
        let digest = event
            .get("digests")
            .and_then(Value::as_array)
            .and_then(|digests| digests.iter().find(|digest| digest.get("hashAlg").is_some_and(|found| found == name)))
            .and_then(|digest| digest.get("digest")?.as_str())
            .with_context(|| format!("finding the {name} digest of {record}"))?;
        digests.push(unhex(digest, size)?);
    }
    Ok(digests)
}

/// What a PCR begins with, and what the events of the firmware extend it with.
fn of_firmware(bank: Bank, log: &[u8], pcr: u64) -> Result<(Vec<u8>, Vec<Vec<u8>>)> {
    let (name, wanted, size) = bank.facts();
    let (mut rest, mut start, mut digests) = (log, vec![0_u8; size], Vec::new());
    // The first event has the old form: PCR, type and a digest of SHA-1. It names the algorithms, each with the size of its digests,
    // behind its class, its version and the size of a UINTN.
    take(&mut rest, 28)?;
    let mut spec = take_sized(&mut rest)?;
    ensure!(take(&mut spec, 16)? == SPEC_ID, "the firmware's log is of the old form, or is none");
    take(&mut spec, 8)?;
    let mut sizes = BTreeMap::new();
    for _ in 0..number(&mut spec)? {
        let algorithm = short(&mut spec)?;
        sizes.insert(algorithm, short(&mut spec)?);
    }
    while !rest.is_empty() {
        let (index, kind, count) = (number(&mut rest)?, number(&mut rest)?, number(&mut rest)?);
        let mut found = None;
        for _ in 0..count {
            let algorithm = short(&mut rest)?;
            let size = sizes.get(&algorithm).with_context(|| format!("the log names no algorithm {algorithm:#06x}"))?;
            let digest = take(&mut rest, usize::from(*size))?;
            if algorithm == wanted {
                found = Some(digest);
            }
        }
        let data = take_sized(&mut rest)?;
        if u64::from(index) != pcr {
            continue;
        }
        if kind != NO_ACTION {
            digests.push(found.with_context(|| format!("an event for PCR {pcr} has no {name} digest"))?.to_vec());
        } else if let (0, Some([locality, ..])) = (pcr, data.strip_prefix(STARTUP_LOCALITY)) {
            start.truncate(size - 1);
            start.push(*locality);
        }
    }
    Ok((start, digests))
}

/// Takes bytes from the start of `rest`.
fn take<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8]> {
    let (taken, behind) = rest.split_at_checked(length).context("the firmware's log is cut off")?;
    *rest = behind;
    Ok(taken)
}

/// The same with their number before them.
fn take_sized<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8]> {
    let length = number(rest)?;
    take(rest, usize::try_from(length)?)
}

fn number(rest: &mut &[u8]) -> Result<u32> {
    Ok(u32::from_le_bytes(take(rest, 4)?.try_into()?))
}

fn short(rest: &mut &[u8]) -> Result<u16> {
    Ok(u16::from_le_bytes(take(rest, 2)?.try_into()?))
}

fn unhex(text: &str, size: usize) -> Result<Vec<u8>> {
    if text.len() != 2 * size || !text.is_ascii() {
        bail!("{text:?} is no digest of {size} bytes");
    }
    (0..2 * size).step_by(2).map(|at| Ok(u8::from_str_radix(&text[at..at + 2], 16)?)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_replay_extends_in_order_and_skips_other_registers() {
        let record = |pcr: u32, fill: &str| {
            let digest = fill.repeat(64);
            format!("\x1e{{\"pcr\":{pcr},\"digests\":[{{\"hashAlg\":\"sha256\",\"digest\":\"{digest}\"}}]}}\n")
        };
        let log = record(13, "1") + &record(11, "2") + &record(13, "3");
        // sha256(sha256(32 × 00 ‖ 32 × 11) ‖ 32 × 33), computed with Python's hashlib.
        assert_eq!(pcr_sha256(&log, 13).unwrap(), REPLAYED);
        assert_eq!(pcr_sha256(&log, 12).unwrap_err().to_string(), "the log has no event for PCR 12");
    }

    /// An event of the firmware with digests for every bank.
    fn event(pcr: u8, kind: u8, fill: u8, data: &[u8]) -> Vec<u8> {
        let head = [pcr, 0, 0, 0, kind, 0, 0, 0, 4, 0, 0, 0];
        let (sha1, sha256) = ([&[4_u8, 0][..], &[fill; 20]].concat(), [&[0x0b, 0][..], &[fill; 32]].concat());
        let (sha384, sha512) = ([&[0x0c, 0][..], &[fill; 48]].concat(), [&[0x0d, 0][..], &[fill; 64]].concat());
        let digests = [sha1, sha256, sha384, sha512].concat();
        [&head[..], &digests, &[u8::try_from(data.len()).unwrap(), 0, 0, 0], data].concat()
    }

    #[test]
    fn what_the_firmware_has_measured_comes_first() {
        let sizes = [4_u8, 0, 20, 0, 0x0b, 0, 32, 0, 0x0c, 0, 48, 0, 0x0d, 0, 64, 0];
        let spec = [&b"Spec ID Event03\0"[..], &[0; 8], &[4, 0, 0, 0], &sizes, &[0]].concat();
        let first =
            [&[0_u8, 0, 0, 0, 3, 0, 0, 0][..], &[0; 20], &[u8::try_from(spec.len()).unwrap(), 0, 0, 0], &spec].concat();
        let firmware = [
            first,
            event(0, 3, 0, b"StartupLocality\0\x03"),
            event(13, 3, 0x66, b"not measured"),
            event(13, 13, 0x44, b"measured"),
            event(0, 1, 0x55, b""),
        ]
        .concat();
        let record = |fill: &str| {
            let digests = [("sha1", 40), ("sha256", 64), ("sha384", 96), ("sha512", 128)]
                .map(|(name, digits)| json!({"hashAlg": name, "digest": fill.repeat(digits)}));
            format!("\x1e{}\n", json!({"pcr": 13, "digests": digests}))
        };
        let log = record("1") + &record("3");
        for (bank, (of_13, of_0)) in Bank::ALL.into_iter().zip(BOTH) {
            let of = |pcr| both(bank, &firmware, &log, pcr).unwrap();
            assert_eq!((of(13), of(0)), ((of_13.to_owned(), 3), (of_0.to_owned(), 1)));
            assert_eq!(of(7), ("00".repeat(of_13.len() / 2), 0));
        }
        let problem = |firmware: &[u8]| both(Bank::Sha256, firmware, &log, 13).unwrap_err().to_string();
        assert_eq!(problem(&firmware[..firmware.len() - 1]), "the firmware's log is cut off");
        assert_eq!(problem(&[0; 64]), "the firmware's log is cut off");
        let old = [&[0_u8; 28][..], &[16, 0, 0, 0], &[0; 16]].concat();
        assert_eq!(problem(&old), "the firmware's log is of the old form, or is none");
    }

    /// PCR 13, and PCR 0 from its locality 3 on, computed with Python's hashlib.
    const BOTH: [(&str, &str); 4] = [
        ("cb8c693bb01b0e4b9aba6a8f0a82753d8dabab48", "9bf0ea26ee1cda8025dd756159dac236999f6160"),
        (
            "ddd747898fbe9b6b8f5f3958414e4d092183905fdeab578b43ce185eca71f7f0",
            "df212486fa8df2d9c91351ab0b66063b8acf0a939edf3dd8a91956fba0b8e2cb",
        ),
        (
            "3693c062ca5ab2844584a9813e902b7debcc0ecb3a557d44f0cfb30dafac45a156157562bf7023a6b177d3ed61ea4819",
            "5d4b7ccdc024454ec642aea6a4c24fc0ed937cfb9db98298da572cf2edc2fdda7f25e4b8be67881b8eb8bd5c7f5903b2",
        ),
        (
            "fe108e75098da48f24ab538b77c4871c0dc3e871a987f5c432ed3236a92b0876\
             48c73d5e3863703b1d3144290f19ad0072fa653624ca0227edaacd86d1c2029a",
            "e79406f81eaab78b888794e993a01c5994e31f2d709b0b1a2ff5a764cdc05303\
             8f3fa09f06a387a53b96f5bd8778a18b280b0a2eed745dc4328adebea9d3ffd3",
        ),
    ];
    const REPLAYED: &str = "8e9ca6848c78601a7b127c9ded93a24f12af4fb899b60f0b2263bb87cd108038";
}
