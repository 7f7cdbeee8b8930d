//! Erasing a disk before it is wiped, where the host config wants that: by the drive's own command, by zeroes, or by telling
//! the drive that nothing is of use.
//!
//! A drive's word counts for nothing by itself: blocks are sampled before and looked for afterwards. How the disk is erased
//! is chosen, by what the drive says that it can, before the first write.

mod ata;
mod drive;
mod locked;
mod mark;
mod nvme;
mod plain;
mod sample;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::fmt;
use std::io;
use std::time::{Duration, Instant};

use anyhow::Result;
use metalstrap_release::host::Erase;
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::disk::Disk;
use crate::failure::{Code, WithCode as _, coded};
use crate::inventory::DiskFacts;
use crate::progress::Progress;
use crate::report::{Reporter, fields};
use ata::Security;
use nvme::Abilities;
use sample::{Rule, Samples};

pub use drive::{AtaCommand, Drive, KernelDrive, NvmeCommand, Transfer};
pub use locked::unlock;
pub(crate) use mark::without_mark;
pub use mark::{MARK, has_mark, remove_mark, write_mark};
pub use sample::Checked;

/// How a disk is erased.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// NVMe Sanitize, cryptographic erase.
    SanitizeCrypto,
    /// NVMe Sanitize, block erase.
    SanitizeBlock,
    /// NVMe Format NVM with cryptographic erase.
    FormatCrypto,
    /// NVMe Format NVM with user data erase.
    FormatUserData,
    /// ATA security erase, enhanced.
    AtaEnhanced,
    /// ATA security erase.
    AtaErase,
    /// Every sector made to read as zeroes.
    Zeroes,
    /// Every sector discarded.
    Discard,
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SanitizeCrypto => "nvme-sanitize-crypto",
            Self::SanitizeBlock => "nvme-sanitize-block",
            Self::FormatCrypto => "nvme-format-crypto",
            Self::FormatUserData => "nvme-format-user-data",
            Self::AtaEnhanced => "ata-enhanced",
            Self::AtaErase => "ata",
            Self::Zeroes => "zeroes",
            Self::Discard => "discard",
        })
    }
}

/// What became of a method that was tried.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// The drive says that it is done.
    Done,
    /// The drive does not do it, and why; the next method may.
    Refused(String),
}

/// What a drive knows to do.
#[derive(Debug)]
enum Able {
    Nvme(Abilities),
    Ata(Security),
    /// Reads and writes.
    Plain,
}

/// Finds the drive behind a disk; `None` where there is none.
pub type DriveOpener = Box<dyn Fn(&dyn Disk) -> io::Result<Option<Box<dyn Drive>>> + Send + Sync>;

/// How a disk will be erased: chosen before the first write.
#[derive(Debug)]
pub struct Eraser {
    drive: Option<Box<dyn Drive>>,
    able: Able,
    /// The best first; never empty.
    methods: Vec<Method>,
}

/// What was done, for whoever has to prove it.
#[derive(Debug)]
pub struct Receipt {
    /// How.
    pub method: Method,
    /// The words of the drive that decided; null for zeroes and discards.
    pub abilities: Value,
    /// Methods that were tried before, and why they did not do.
    pub refused: Vec<String>,
    /// Seconds it took, without the samples.
    pub seconds: f64,
    /// The samples.
    pub checked: Checked,
}

impl Eraser {
    /// Chooses how the disk is erased, by what its drive says that it can. Nothing is written; a password of an interrupted
    /// erasure is taken away.
    ///
    /// # Errors
    /// [`Code::CannotErase`] with the reason.
    pub fn choose(disk: &dyn Disk, facts: &DiskFacts, erase: Erase, open: &DriveOpener) -> Result<Self> {
        let refuse = |reason: &str| refusal(facts, reason);
        let asking = || format!("asking {} what it can", facts.describe());
        let plain = |method| Ok(Self { drive: None, able: Able::Plain, methods: vec![method] });
        match erase {
            Erase::None => return Err(refuse("it is not to be erased")),
            Erase::Zeroes => return plain(Method::Zeroes),
            Erase::Discard if disk.discard(0, 0).code(Code::CannotErase, asking)? => return plain(Method::Discard),
            Erase::Discard => return Err(refuse("it takes no discards")),
            Erase::Secure => {}
        }
        if let Some(reason) = out_of_reach(facts) {
            return Err(refuse(&reason));
        }
        let Some(drive) = open(disk).code(Code::CannotErase, asking)? else { return Err(refuse("it is no drive")) };
        let able = match &facts.nvme {
            Some(nvme) => Abilities::ask(drive.as_ref(), nvme.namespace).map(Able::Nvme),
            None => Security::ask(drive.as_ref()).and_then(|found| found.reclaimed(drive.as_ref())).map(Able::Ata),
        };
        let able = able.code(Code::CannotErase, asking)?;
        let methods = match &able {
            Able::Nvme(abilities) => abilities.methods(),
            Able::Ata(security) => security.methods(),
            Able::Plain => Ok(Vec::new()),
        };
        let methods = methods.map_err(|reason| refuse(&reason))?;
        Ok(Self { drive: Some(drive), able, methods })
    }

    /// Erases the disk, whose table will have the GUID `guid`, and looks whether it is erased.
    ///
    /// # Errors
    /// [`Code::EraseFailed`]: no method did it, or samples are still there; [`Code::DiskIo`].
    pub fn erase(&self, disk: &dyn Disk, guid: Uuid, progress: &Progress, tell: &Reporter) -> Result<Receipt> {
        let name = disk.describe();
        let samples = Samples::take(disk, guid).code(Code::DiskIo, || format!("taking samples of {name}"))?;
        let (started, telling) = (Instant::now(), Telling { progress, tell, tenths: Cell::new(None) });
        let (method, refused) = self.try_each(disk, &telling)?;
        disk.forget_cache().code(Code::DiskIo, || format!("looking at {name} after the erasure"))?;
        let seconds = (started.elapsed().as_secs_f64() * 1000.0).round() / 1000.0;
        let rule = if method == Method::Zeroes { Rule::Zeroes } else { Rule::Gone };
        let checked =
            samples.check(disk, rule).code(Code::EraseFailed, || format!("{name} is not erased by {method}"))?;
        plain::clear_ends(disk).code(Code::DiskIo, || format!("clearing both ends of {name}"))?;
        Ok(Receipt { method, abilities: self.words(), refused, seconds, checked })
    }

    /// The first method that the drive does; with those that it does not.
    fn try_each(&self, disk: &dyn Disk, telling: &Telling<'_>) -> Result<(Method, Vec<String>)> {
        let mut refused = Vec::new();
        for method in self.methods.iter().copied() {
            let outcome = self.attempt(method, disk, telling);
            telling.tell.waits().over();
            match outcome.code(Code::EraseFailed, || format!("erasing {} by {method}", disk.describe()))? {
                Outcome::Done => return Ok((method, refused)),
                Outcome::Refused(reason) => {
                    let text = format!("{method}: {reason}");
                    telling.tell.warn("erase", &text);
                    refused.push(text);
                }
            }
        }
        let text = format!("{} does nothing of what it says that it can: {}", disk.describe(), refused.join("; "));
        Err(coded(Code::EraseFailed, text))
    }

    fn attempt(&self, method: Method, disk: &dyn Disk, telling: &Telling<'_>) -> io::Result<Outcome> {
        let (Some(drive), able) = (self.drive.as_deref(), &self.able) else {
            return plain::erase(disk, method, telling.progress);
        };
        match (method, able) {
            (Method::SanitizeCrypto | Method::SanitizeBlock, Able::Nvme(_)) => {
                nvme::sanitize(drive, method == Method::SanitizeCrypto, telling)
            }
            (Method::FormatCrypto | Method::FormatUserData, Able::Nvme(abilities)) => {
                abilities.format(drive, method == Method::FormatCrypto, telling)
            }
            (Method::AtaEnhanced | Method::AtaErase, Able::Ata(security)) => {
                security.erase(drive, method == Method::AtaEnhanced, telling)
            }
            _ => plain::erase(disk, method, telling.progress),
        }
    }

    fn words(&self) -> Value {
        match &self.able {
            Able::Nvme(abilities) => abilities.words(),
            Able::Ata(security) => security.words(),
            Able::Plain => Value::Null,
        }
    }
}

impl Receipt {
    /// The fields of its event.
    ///
    /// # Errors
    /// None that occur: every field has a JSON form.
    pub fn fields(&self, facts: &DiskFacts) -> Result<Map<String, Value>> {
        Ok(fields([
            ("disk", serde_json::to_value(&facts.identity)?),
            ("firmware", facts.firmware.clone().into()),
            ("method", self.method.to_string().into()),
            ("abilities", self.abilities.clone()),
            ("refused", self.refused.clone().into()),
            ("seconds", self.seconds.into()),
            ("samples", serde_json::to_value(self.checked)?),
        ]))
    }
}

fn refusal(facts: &DiskFacts, reason: &str) -> anyhow::Error {
    let text = format!("disk {} cannot be erased as \"erase\" in the host config wants: {reason}", facts.describe());
    coded(Code::CannotErase, text)
}

/// Why no command for a secure erasure is sent to a disk, whatever it says.
fn out_of_reach(facts: &DiskFacts) -> Option<String> {
    if let Some(transport) = facts.nvme.as_ref().and_then(|nvme| nvme.transport.as_deref()).filter(|by| *by != "pcie") {
        return Some(format!("it is no drive of this machine, but reached by {transport}"));
    }
    match facts.transport.as_str() {
        // A SATA drive behind a SAS host adapter takes ATA commands too; a SAS drive refuses them.
        "nvme" | "sata" | "sas" | "scsi" => None,
        "usb" => Some("it is on USB, where a bridge that loses a security command leaves a locked drive".to_owned()),
        "file" => Some("it is a file".to_owned()),
        other => Some(format!("its transport ({other}) has no command for that")),
    }
}

/// Where an erasure says how far it is.
struct Telling<'a> {
    progress: &'a Progress,
    tell: &'a Reporter,
    /// How many tenths of the way events have told of.
    tenths: Cell<Option<u32>>,
}

impl Telling<'_> {
    /// What is waited for, at most for `limit`: the supervisor hears that it is a wait.
    fn waits(&self, text: &str, limit: Duration) {
        self.progress.waits_for(text);
        self.tell.waits().until(Instant::now() + limit, text);
    }

    /// `done` of 65536 of what takes `estimate` seconds in all. An event every tenth of the way.
    fn progress(&self, done: u16, estimate: Option<u32>) {
        let percent = u32::from(done) * 100 / 65536;
        let left = estimate.map(|seconds| u64::from(seconds) * u64::from(65536 - u32::from(done)) / 65536);
        let rest = left.map(|left| format!(", about {left} s left")).unwrap_or_default();
        self.progress.waits_for(format!("the drive is at {percent}%{rest}"));
        if self.tenths.replace(Some(percent / 10)) != Some(percent / 10) {
            self.tell.tell("erase", "progress", fields([("percent", percent.into()), ("seconds_left", left.into())]));
        }
    }
}
