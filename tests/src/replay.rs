//! An independent replay of the measurement log: shares no code with the installer, so that it can disagree with it.

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// The SHA-256 value PCR `pcr` must have after the events of `log` (JSON text sequence, RFC 7464), starting from zero.
///
/// # Errors
/// A record that is no JSON, or one for this PCR without a SHA-256 digest.
pub fn pcr_sha256(log: &str, pcr: u64) -> Result<String> {
    let mut value = [0_u8; 32];
    let mut count = 0;
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
        value = Sha256::new().chain_update(value).chain_update(unhex(digest)?).finalize().into();
        count += 1;
    }
    ensure!(count > 0, "the log has no event for PCR {pcr}");
    Ok(value.iter().map(|byte| format!("{byte:02x}")).collect())
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

    const REPLAYED: &str = "8e9ca6848c78601a7b127c9ded93a24f12af4fb899b60f0b2263bb87cd108038";
}
