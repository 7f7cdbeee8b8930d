//! An independent replay of the measurement logs: shares no code with the installer, so that it can disagree with it.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// How the first event of a crypto-agile log begins, and the one that says from which locality the TPM was started (TCG PC Client
/// Platform Firmware Profile, "Event Logging"); that extends nothing.
const SPEC_ID: &[u8; 16] = b"Spec ID Event03\0";
const STARTUP_LOCALITY: &[u8; 16] = b"StartupLocality\0";
const NO_ACTION: u32 = 3;
/// `TPM_ALG_SHA256`.
const SHA256: u16 = 0x000b;

/// The SHA-256 value PCR `pcr` must have after the events of `log` (JSON text sequence, RFC 7464), starting from zero.
///
/// # Errors
/// A record that is no JSON, or one for this PCR without a SHA-256 digest; or there is none for it.
pub fn pcr_sha256(log: &str, pcr: u64) -> Result<String> {
    let digests = of_records(log, pcr)?;
    ensure!(!digests.is_empty(), "the log has no event for PCR {pcr}");
    Ok(extended([0; 32], &digests))
}

/// The same after the events of the firmware's log (`binary_bios_measurements`) and then of `log`; and how many there are for this
/// PCR, which may be none.
///
/// # Errors
/// A log that is none, or an event for this PCR without a SHA-256 digest.
pub fn both_sha256(firmware: &[u8], log: &str, pcr: u64) -> Result<(String, usize)> {
    let (start, mut digests) = of_firmware(firmware, pcr)?;
    digests.extend(of_records(log, pcr)?);
    Ok((extended(start, &digests), digests.len()))
}

/// A value as hexadecimal text, extended by these digests.
fn extended(mut value: [u8; 32], digests: &[Vec<u8>]) -> String {
    for digest in digests {
        value = Sha256::new().chain_update(value).chain_update(digest).finalize().into();
    }
    value.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What the records extend a PCR with.
fn of_records(log: &str, pcr: u64) -> Result<Vec<Vec<u8>>> {
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
            .and_then(|digests| {
                digests.iter().find(|digest| digest.get("hashAlg").is_some_and(|name| name == "sha256"))
            })
            .and_then(|digest| digest.get("digest")?.as_str())
            .with_context(|| format!("finding the sha256 digest of {record}"))?;
        digests.push(unhex(digest)?);
    }
    Ok(digests)
}

/// What a PCR begins with, and what the events of the firmware extend it with.
fn of_firmware(log: &[u8], pcr: u64) -> Result<([u8; 32], Vec<Vec<u8>>)> {
    let (mut rest, mut start, mut digests) = (log, [0_u8; 32], Vec::new());
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
        let mut sha256 = None;
        for _ in 0..count {
            let algorithm = short(&mut rest)?;
            let size = sizes.get(&algorithm).with_context(|| format!("the log names no algorithm {algorithm:#06x}"))?;
            let digest = take(&mut rest, usize::from(*size))?;
            if algorithm == SHA256 {
                sha256 = Some(digest);
            }
        }
        let data = take_sized(&mut rest)?;
        if u64::from(index) != pcr {
            continue;
        }
        if kind != NO_ACTION {
            digests.push(sha256.with_context(|| format!("an event for PCR {pcr} has no digest of SHA-256"))?.to_vec());
        } else if let (0, Some([locality, ..])) = (pcr, data.strip_prefix(STARTUP_LOCALITY)) {
            start[31] = *locality;
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

fn unhex(text: &str) -> Result<Vec<u8>> {
    if text.len() != 64 || !text.is_ascii() {
        bail!("{text:?} is no SHA-256 digest");
    }
    (0..64).step_by(2).map(|at| Ok(u8::from_str_radix(&text[at..at + 2], 16)?)).collect()
}

#[cfg(test)]
mod tests {
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

    /// An event of the firmware with digests of SHA-1 and SHA-256.
    fn event(pcr: u8, kind: u8, fill: u8, data: &[u8]) -> Vec<u8> {
        let head = [pcr, 0, 0, 0, kind, 0, 0, 0, 2, 0, 0, 0];
        let digests = [&[4_u8, 0][..], &[0xee; 20], &[0x0b, 0], &[fill; 32]].concat();
        [&head[..], &digests, &[u8::try_from(data.len()).unwrap(), 0, 0, 0], data].concat()
    }

    #[test]
    fn what_the_firmware_has_measured_comes_first() {
        let spec = [&b"Spec ID Event03\0"[..], &[0; 8], &[2, 0, 0, 0], &[4, 0, 20, 0, 0x0b, 0, 32, 0], &[0]].concat();
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
            let digest = fill.repeat(64);
            format!("\x1e{{\"pcr\":13,\"digests\":[{{\"hashAlg\":\"sha256\",\"digest\":\"{digest}\"}}]}}\n")
        };
        let log = record("1") + &record("3");
        // Computed with Python's hashlib, PCR 0 from its locality 3 on.
        let of = |pcr| both_sha256(&firmware, &log, pcr).unwrap();
        assert_eq!(of(13), ("ddd747898fbe9b6b8f5f3958414e4d092183905fdeab578b43ce185eca71f7f0".to_owned(), 3));
        assert_eq!(of(0), ("df212486fa8df2d9c91351ab0b66063b8acf0a939edf3dd8a91956fba0b8e2cb".to_owned(), 1));
        assert_eq!(of(7), ("00".repeat(32), 0));
        let problem = |firmware: &[u8]| both_sha256(firmware, &log, 13).unwrap_err().to_string();
        assert_eq!(problem(&firmware[..firmware.len() - 1]), "the firmware's log is cut off");
        assert_eq!(problem(&[0; 64]), "the firmware's log is cut off");
        let old = [&[0_u8; 28][..], &[16, 0, 0, 0], &[0; 16]].concat();
        assert_eq!(problem(&old), "the firmware's log is of the old form, or is none");
    }

    const REPLAYED: &str = "8e9ca6848c78601a7b127c9ded93a24f12af4fb899b60f0b2263bb87cd108038";
}
