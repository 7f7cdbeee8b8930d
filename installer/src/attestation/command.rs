//! `metalstrap-installer attest`: the exchange with a verifier that this machine does not reach, by files.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};
use metalstrap_release::attest::CHALLENGE;
use serde::Serialize;

use super::{Key, Logs, add_chain, answer, below, firmware_log_of_os, introduce, parse_challenge};
use crate::bounded;
use crate::eventlog;
use crate::remembered::replace;
use crate::smbios;
use crate::tpm::direct::{self, Direct};

/// The logs of what was measured beside the firmware's: that of the OS, which the installer's is handed to, or the installer's.
const USERSPACE_LOGS: [&str; 2] = ["/run/log/systemd/tpm2-measure.log", eventlog::LOG];
/// No such log is longer.
const MOST_LOG: u64 = 1 << 20;
/// The file of a key is not longer: two structures of a TPM.
const MOST_KEY: u64 = 4096;

/// What is asked for.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Prints who this machine is: the endorsement key of its TPM, and a new attestation key. It is for `metalstrap attest
    /// challenge`.
    ///
    /// Example: metalstrap-installer attest introduce >introduction.json
    Introduce(Keeping),
    /// Prints this machine's answer to a challenge: quotes over its PCRs and its logs. It is for `metalstrap attest verify`.
    ///
    /// What was installed is in it until the first restart behind the installation.
    ///
    /// Example: metalstrap-installer attest answer challenge.json >evidence.json
    Answer {
        /// The verifier's challenge
        #[arg(value_name = "CHALLENGE")]
        challenge: PathBuf,
        /// Where the key is
        #[command(flatten)]
        keeping: Keeping,
    },
}

/// Where the attestation key is in between.
#[derive(Debug, Args)]
pub struct Keeping {
    /// Where the attestation key is kept between the two commands; only this machine's TPM can use it
    #[arg(long, value_name = "FILE", default_value = "/var/lib/metalstrap/attestation-key")]
    key: PathBuf,
}

impl Verb {
    /// The message, as one line of JSON.
    ///
    /// # Errors
    /// The TPM's, and those of the files.
    pub fn message(&self) -> Result<String> {
        let mut tpm = direct::open()?.context("this machine has no TPM 2.0")?;
        self.message_of(&mut tpm, Path::new("/"))
    }

    /// The same of this TPM, where the OS's files are below `root`.
    pub(super) fn message_of(&self, tpm: &mut Direct, root: &Path) -> Result<String> {
        match self {
            Self::Introduce(Keeping { key: file }) => {
                let (key, mut introduction) = introduce(tpm, &smbios::identity(&below(root, "/sys")))?;
                add_chain(tpm, &mut introduction);
                let keeping = || format!("keeping the attestation key in {}", file.display());
                replace(file, &key.to_bytes()).with_context(keeping)?;
                line(&introduction)
            }
            Self::Answer { challenge: from, keeping: Keeping { key: file } } => {
                let most = u64::try_from(CHALLENGE.max_bytes)?;
                let Some(bytes) = bounded::read(from, most)? else { bail!("{} is not there", from.display()) };
                let challenge = parse_challenge(&bytes).with_context(|| format!("checking {}", from.display()))?;
                let Some(kept) = bounded::read(file, MOST_KEY)? else {
                    bail!("{} is not there: `attest introduce` comes first", file.display())
                };
                let key =
                    Key::from_bytes(&kept).with_context(|| format!("{} has no attestation key", file.display()))?;
                let logs = Logs { firmware: firmware_log_of_os(root), userspace: userspace_log(root)? };
                line(&answer(tpm, &key, &challenge, logs)?)
            }
        }
    }
}

fn line(message: &impl Serialize) -> Result<String> {
    serde_json::to_string(message).context("writing the message")
}

/// The first of the logs that is there; empty where nothing was measured.
fn userspace_log(root: &Path) -> Result<String> {
    for path in USERSPACE_LOGS {
        if let Some(bytes) = bounded::read(&below(root, path), MOST_LOG)? {
            return String::from_utf8(bytes).with_context(|| format!("reading {path}"));
        }
    }
    Ok(String::new())
}
