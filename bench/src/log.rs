//! What the server has sent, by its own access log.

use std::collections::BTreeMap;
use std::str::FromStr;

use anyhow::{Context as _, Result, ensure};

/// The `log_format` of nginx that [`Request`] reads.
pub const FORMAT: &str = "$msec $connection $status $bytes_sent $request_uri";

/// One answered request.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// When the answer had ended, in seconds since 1970.
    pub time: f64,
    /// Number of the connection.
    pub connection: u64,
    /// HTTP status.
    pub status: u16,
    /// Bytes sent, head included, without what TLS adds.
    pub bytes: u64,
    /// What was asked for.
    pub path: String,
}

impl FromStr for Request {
    type Err = anyhow::Error;

    fn from_str(line: &str) -> Result<Self> {
        let fields: Vec<&str> = line.splitn(5, ' ').collect();
        let [time, connection, status, bytes, path] = fields.as_slice() else {
            anyhow::bail!("a line of the access log has {} fields: {line:?}", fields.len());
        };
        let reading = || format!("reading {line:?} of the access log");
        Ok(Self {
            time: time.parse().with_context(reading)?,
            connection: connection.parse().with_context(reading)?,
            status: status.parse().with_context(reading)?,
            bytes: bytes.parse().with_context(reading)?,
            path: (*path).to_owned(),
        })
    }
}

/// What was sent in one run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sent {
    /// All bytes.
    pub bytes: u64,
    /// Answers.
    pub requests: u64,
    /// Connections that a hundredth of all bytes or more came over.
    pub connections: u64,
}

/// Sums up the requests in `text`, the part of the log that a run has written.
///
/// # Errors
/// A line that is none of ours, or an answer that says a file is missing where none may be.
pub fn sum(text: &str) -> Result<Sent> {
    let mut by_connection = BTreeMap::<u64, u64>::new();
    let mut sent = Sent::default();
    for line in text.lines() {
        let request: Request = line.parse()?;
        ensure!(request.status < 500, "the server failed: {line}");
        sent.requests += 1;
        sent.bytes = sent.bytes.saturating_add(request.bytes);
        let bytes = by_connection.entry(request.connection).or_default();
        *bytes = bytes.saturating_add(request.bytes);
    }
    let least = sent.bytes / 100;
    sent.connections = by_connection.values().filter(|bytes| **bytes > 0 && **bytes >= least).count() as u64;
    Ok(sent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read() {
        let request: Request = "1764100000.123 7 206 4096 /payloads/a b.zst".parse().unwrap();
        let expected = Request {
            time: 1_764_100_000.123,
            connection: 7,
            status: 206,
            bytes: 4096,
            path: "/payloads/a b.zst".to_owned(),
        };
        assert_eq!(request, expected);
        let refusal = |line: &str| format!("{:#}", line.parse::<Request>().unwrap_err());
        assert_eq!(refusal("1 2 3"), "a line of the access log has 3 fields: \"1 2 3\"");
        assert_eq!(refusal("1 2 206 x /"), "reading \"1 2 206 x /\" of the access log: invalid digit found in string");
    }

    #[test]
    fn a_run_is_summed_up_and_small_connections_are_not_counted() {
        let sent = sum("1 1 200 10 /timestamp\n2 2 206 5000 /a\n2 3 206 4000 /a\n3 2 206 990 /a\n").unwrap();
        assert_eq!(sent, Sent { bytes: 10_000, requests: 4, connections: 2 });
        assert_eq!(sum("").unwrap(), Sent::default());
        assert_eq!(sum("1 1 502 10 /a").unwrap_err().to_string(), "the server failed: 1 1 502 10 /a");
    }
}
