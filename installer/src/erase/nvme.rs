//! What an NVMe drive can do against its content, and doing it: Sanitize and Format NVM (NVM Express base specification 2.0,
//! sections 5.23 and 5.14).
//!
//! A format with the secure erase setting 0 changes the layout and may leave every byte: it is never sent.

use std::io;
use std::time::Duration;

use serde_json::{Value, json};

use super::drive::{Drive, NvmeCommand};
use super::{Method, Outcome, Telling};

const IDENTIFY: u8 = 0x06;
const GET_LOG_PAGE: u8 = 0x02;
const FORMAT: u8 = 0x80;
const SANITIZE: u8 = 0x84;
/// Log page of the sanitize status.
const SANITIZE_STATUS: u32 = 0x81;
const ALL_NAMESPACES: u32 = 0xffff_ffff;
/// What Identify is about (CNS, section 5.17.1): a namespace.
const NAMESPACE: u32 = 0x00;
/// The controller.
const CONTROLLER: u32 = 0x01;
/// The numbers of the namespaces that this controller leads to.
const ACTIVE: u32 = 0x02;
/// The numbers of all namespaces of the drive.
const ALLOCATED: u32 = 0x10;

/// For commands that do nothing for long.
const SHORT: Duration = Duration::from_secs(60);
/// A format ends when all is erased.
const FORMAT_LIMIT: Duration = Duration::from_secs(4 * 3600);
/// Between two looks at the progress of a sanitize operation.
const LOOK: Duration = Duration::from_secs(1);
/// So many looks are enough for any drive: a day.
const LOOKS: u32 = 24 * 3600;

/// What a drive says that it can.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Abilities {
    namespace: u32,
    /// Optional admin commands: bit 1 Format NVM, bit 3 Namespace Management.
    oacs: u16,
    /// Sanitize: bit 0 cryptographic erase, bit 1 block erase.
    sanicap: u32,
    /// Format: bit 0 it goes for all namespaces, bit 1 so does its erasure, bit 2 cryptographic erase.
    fna: u8,
    /// Format of the namespace as it is.
    flbas: u8,
    /// Its protection.
    dps: u8,
    /// Further namespaces of the drive.
    others: Vec<u32>,
}

impl Abilities {
    /// Asks the drive.
    ///
    /// # Errors
    /// It gives no answer.
    pub(super) fn ask(drive: &dyn Drive, namespace: u32) -> io::Result<Self> {
        let controller = identify(drive, CONTROLLER, 0)?;
        let own = identify(drive, NAMESPACE, namespace)?;
        let byte = |data: &[u8], n: usize| data.get(n).copied().unwrap_or(0);
        let oacs = u16::from_le_bytes([byte(&controller, 256), byte(&controller, 257)]);
        let mut others = numbers(&identify(drive, ACTIVE, 0)?);
        if oacs & 8 != 0 {
            others.extend(numbers(&identify(drive, ALLOCATED, 0)?));
        }
        others.retain(|number| *number != namespace);
        others.sort_unstable();
        others.dedup();
        Ok(Self {
            namespace,
            oacs,
            sanicap: controller.get(328..332).map_or(0, little_endian),
            fna: byte(&controller, 524),
            flbas: byte(&own, 26),
            dps: byte(&own, 29),
            others,
        })
    }

    /// The ways to erase the namespace and nothing else, the best first.
    ///
    /// # Errors
    /// There is none, and why.
    pub(super) fn methods(&self) -> Result<Vec<Method>, String> {
        let mut methods = Vec::new();
        // Sanitize is about the whole drive.
        if self.others.is_empty() {
            methods.extend((self.sanicap & 1 != 0).then_some(Method::SanitizeCrypto));
            methods.extend((self.sanicap & 2 != 0).then_some(Method::SanitizeBlock));
        }
        if self.oacs & 2 != 0 && (self.others.is_empty() || self.fna & 3 == 0) {
            methods.extend((self.fna & 4 != 0).then_some(Method::FormatCrypto));
            methods.push(Method::FormatUserData);
        }
        if !methods.is_empty() {
            return Ok(methods);
        }
        Err(if self.sanicap & 3 == 0 && self.oacs & 2 == 0 {
            "the drive knows neither sanitize nor format".to_owned()
        } else {
            let others: Vec<_> = self.others.iter().map(u32::to_string).collect();
            format!(
                "the drive erases only all of its namespaces, and has others than {}: {}",
                self.namespace,
                others.join(", ")
            )
        })
    }

    /// The words that decided, as the specification calls them.
    pub(super) fn words(&self) -> Value {
        json!({
            "oacs": format!("{:#06x}", self.oacs),
            "sanicap": format!("{:#010x}", self.sanicap),
            "fna": format!("{:#04x}", self.fna),
            "other_namespaces": self.others,
        })
    }

    /// Formats the namespace as it is, with its content erased: by a new key, or as user data.
    ///
    /// # Errors
    /// The command did not come to an end.
    pub(super) fn format(&self, drive: &dyn Drive, new_key: bool, telling: &Telling<'_>) -> io::Result<Outcome> {
        telling.waits("the drive formats itself; it does not say how far it is", FORMAT_LIMIT);
        let words = [self.format_word(if new_key { 2 } else { 1 }), 0, 0, 0, 0, 0];
        let command = NvmeCommand { opcode: FORMAT, namespace: self.namespace, words, timeout: FORMAT_LIMIT };
        let status = drive.nvme(&command, &mut [])?;
        Ok(if status == 0 { Outcome::Done } else { Outcome::Refused(format!("format ended with {}", named(status))) })
    }

    /// Command dword 10 of Format NVM that keeps layout, metadata and protection.
    fn format_word(&self, secure_erase: u32) -> u32 {
        let (layout, protection) = (u32::from(self.flbas), u32::from(self.dps));
        // Bits 3:0 and 13:12 are the layout's number, 4 where metadata is, 7:5 and 8 the protection, 11:9 the erasure.
        layout & 0x1f | (protection & 7) << 5 | (protection >> 3 & 1) << 8 | secure_erase << 9 | (layout >> 5 & 3) << 12
    }
}

/// Sanitizes the whole drive: by a new key, or by erasing its blocks.
///
/// # Errors
/// The drive gives no answer, says that it failed, or does not come to an end.
pub(super) fn sanitize(drive: &dyn Drive, new_key: bool, telling: &Telling<'_>) -> io::Result<Outcome> {
    let action = if new_key { 4 } else { 2 };
    // With "allow unrestricted sanitize exit" (bit 3) a drive whose sanitize fails can be used again.
    let status = start(drive, action | 1 << 3)?;
    if status != 0 {
        return Ok(Outcome::Refused(format!("sanitize ended with {}", named(status))));
    }
    for _ in 0..LOOKS {
        let log = sanitize_log(drive)?;
        if log.action != action {
            return Err(io::Error::other("the drive tells of another sanitize operation than the one it was given"));
        }
        match log.state {
            1 | 4 => return Ok(Outcome::Done),
            2 => telling.progress(log.progress, log.estimate(new_key)),
            state => {
                // "Exit failure mode": the error is the sanitize operation's in any case.
                let left = start(drive, 1).is_ok_and(|status| status == 0);
                let after = if left { "takes commands again" } else { "takes no commands until one succeeds" };
                return Err(io::Error::other(format!("sanitize failed (state {state}); the drive {after}")));
            }
        }
        drive.wait(LOOK);
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, "sanitize has not ended in a day"))
}

fn start(drive: &dyn Drive, word: u32) -> io::Result<u16> {
    let words = [word, 0, 0, 0, 0, 0];
    drive.nvme(&NvmeCommand { opcode: SANITIZE, namespace: 0, words, timeout: SHORT }, &mut [])
}

/// The sanitize status log page, as far as it is of use (section 5.16.1.23).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct SanitizeLog {
    /// Of 65536.
    progress: u16,
    /// 0 never, 1 and 4 done, 2 under way, 3 failed.
    state: u16,
    /// What was asked for: 2 block erase, 4 cryptographic erase.
    action: u32,
    /// Seconds that a block erase takes; all ones where the drive does not say.
    block_seconds: u32,
    /// The same of a cryptographic erase.
    crypto_seconds: u32,
}

impl SanitizeLog {
    fn estimate(self, new_key: bool) -> Option<u32> {
        Some(if new_key { self.crypto_seconds } else { self.block_seconds }).filter(|seconds| *seconds != u32::MAX)
    }
}

fn sanitize_log(drive: &dyn Drive) -> io::Result<SanitizeLog> {
    let mut page = [0; 512];
    // Dwords, less one, in the upper half.
    let words = [SANITIZE_STATUS | 127 << 16, 0, 0, 0, 0, 0];
    let command = NvmeCommand { opcode: GET_LOG_PAGE, namespace: ALL_NAMESPACES, words, timeout: SHORT };
    asked("the sanitize status", drive.nvme(&command, &mut page)?)?;
    let long = |at: usize| page.get(at..at + 4).map_or(0, little_endian);
    let [low, high] = [0, 16].map(|shift| u16::try_from(long(0) >> shift & 0xffff).unwrap_or(0));
    Ok(SanitizeLog {
        progress: low,
        state: high & 7,
        action: long(4) & 7,
        block_seconds: long(12),
        crypto_seconds: long(16),
    })
}

fn identify(drive: &dyn Drive, what: u32, namespace: u32) -> io::Result<Vec<u8>> {
    let mut data = vec![0; 4096];
    let command = NvmeCommand { opcode: IDENTIFY, namespace, words: [what, 0, 0, 0, 0, 0], timeout: SHORT };
    asked(&format!("its data {what:#04x}"), drive.nvme(&command, &mut data)?)?;
    Ok(data)
}

/// The list of namespaces, which ends with a zero.
fn numbers(list: &[u8]) -> Vec<u32> {
    list.chunks_exact(4).map(little_endian).take_while(|number| *number != 0).collect()
}

fn little_endian(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

/// An answer that is not success.
fn asked(what: &str, status: u16) -> io::Result<()> {
    if status == 0 { Ok(()) } else { Err(io::Error::other(format!("asked for {what}, it said {}", named(status)))) }
}

/// A status field with what it is called, where the kind of failure matters (section 3.3.3.2).
fn named(status: u16) -> String {
    // Status code and its type; above are "more" and "do not retry".
    let name = match status & 0x7ff {
        0x001 => " (invalid opcode)",
        0x002 => " (invalid field)",
        0x00c => " (command sequence error)",
        0x015 => " (operation denied)",
        0x01c => " (an earlier sanitize operation failed)",
        0x01d => " (a sanitize operation is under way)",
        0x020 => " (the namespace is write protected)",
        0x10a => " (invalid format)",
        _ => "",
    };
    format!("status {status:#06x}{name}")
}
