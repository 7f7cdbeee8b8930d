//! The event logs of a machine: the firmware's, up to the start of the kernel, and the userspace one behind it, which systemd and
//! the installer write; and what they make of the PCRs.
//!
//! Nothing vouches for a log but the PCRs. So of an event only the digest is proved, once [`replay`] agrees with a quote; what
//! else the log says of it is as good as that digest makes it ([`firmware::Event::is_of`], [`userspace::Record::is_of`]).

use std::fmt;

pub mod firmware;
pub mod replay;
pub mod userspace;

/// No log that is read has more bytes: those of real machines have some ten thousand.
pub const MAX_BYTES: usize = 4 << 20;
/// No log that is read has more events.
pub const MAX_EVENTS: usize = 1 << 14;
/// No event that is read has more digests, and no log has more algorithms: each digest is looked for among those. tpm2-tss has no
/// room for more banks (TPM2_NUM_PCR_BANKS).
pub const MAX_DIGESTS: usize = 16;

/// PCRs of a TPM (TCG PC Client Platform TPM Profile).
pub const PCRS: u32 = 24;

/// Which of the logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Log {
    /// The firmware's, of binary events.
    Firmware,
    /// The userspace one, of JSON records.
    Userspace,
}

impl fmt::Display for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Firmware => "firmware event log",
            Self::Userspace => "userspace event log",
        })
    }
}

/// Why bytes are no event log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// Longer than logs may be.
    #[error("the {log} has {length} bytes, more than the {most} allowed", most = MAX_BYTES)]
    TooLong {
        /// Which log.
        log: Log,
        /// Its bytes.
        length: usize,
    },
    /// More events than there may be.
    #[error("the {0} has more than {most} events", most = MAX_EVENTS)]
    TooMany(Log),
    /// An event that cannot be read.
    #[error("the {log}'s event {number}, at byte {offset}, {problem}")]
    Event {
        /// Which log.
        log: Log,
        /// The event's number, from 0, as tpm2_eventlog counts too.
        number: usize,
        /// Where in the log it begins.
        offset: usize,
        /// What is wrong with it.
        problem: String,
    },
}
