//! The userspace log: `/run/log/systemd/tpm2-measure.log`, and the installer's, of the same form: JSON text sequences (RFC 7464)
//! of a subset of TCG CEL-JSON, one record a measurement (systemd, `src/shared/tpm2-util.c`, tpm2_userspace_log).

mod record;
mod unique;

use serde_json::Value;

use super::{Log, LogError, MAX_BYTES, MAX_EVENTS};
pub use record::{NamedDigest, Record, Register};
use unique::Unique;

/// What each record begins with.
const SEPARATOR: char = '\u{1e}';

/// Parses a userspace log. An empty one has no record.
///
/// # Errors
/// Says which record is wrong, where it begins, and what is wrong with it. One that is cut off is an error too: the log is
/// written behind the TPM, so what it should tell may have been measured.
pub fn parse(text: &str) -> Result<Vec<Record>, LogError> {
    let log = Log::Userspace;
    if text.len() > MAX_BYTES {
        return Err(LogError::TooLong { log, length: text.len() });
    }
    let mut parts = text.split(SEPARATOR);
    if parts.next().is_some_and(|before| !before.is_empty()) {
        let problem = "does not begin with the character 0x1e".to_owned();
        return Err(LogError::Event { log, number: 0, offset: 0, problem });
    }
    let (mut records, mut offset) = (Vec::new(), 0);
    for part in parts {
        let number = records.len();
        if number == MAX_EVENTS {
            return Err(LogError::TooMany(log));
        }
        records.push(record(part).map_err(|problem| LogError::Event { log, number, offset, problem })?);
        offset += SEPARATOR.len_utf8() + part.len();
    }
    Ok(records)
}

fn record(text: &str) -> Result<Record, String> {
    let Some(text) = text.strip_suffix('\n') else {
        return Err("is cut off: it does not end with a line feed".to_owned());
    };
    let Unique(value) = serde_json::from_str(text).map_err(|error| format!("is not valid: {error}"))?;
    match value {
        Value::Object(fields) => Record::new(fields),
        _ => Err("is no object".to_owned()),
    }
}

#[cfg(test)]
pub(crate) mod tests;
