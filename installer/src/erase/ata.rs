//! What an ATA drive can do against its content, and doing it: the security feature set (ACS-4, section 4.18).
//!
//! The drive is given a password, and told to erase itself with it, which also takes the password away. Whatever fails in
//! between, the password is taken away again: a drive that keeps one is locked after the next power cycle. Where it was the
//! power that failed, the next run takes the password away.

use std::io;
use std::time::Duration;

use serde_json::{Value, json};

use super::drive::{AtaCommand, Drive, Transfer};
use super::{Method, Outcome, Telling};

const IDENTIFY_DEVICE: u8 = 0xec;
const SET_PASSWORD: u8 = 0xf1;
const UNLOCK: u8 = 0xf2;
const ERASE_PREPARE: u8 = 0xf3;
const ERASE_UNIT: u8 = 0xf4;
const DISABLE_PASSWORD: u8 = 0xf6;

/// Known to everybody, so that a drive that loses power in between can be unlocked, by the next run or by hand.
pub(super) const PASSWORD: &[u8; 10] = b"metalstrap";

const SHORT: Duration = Duration::from_secs(60);
/// For a drive that does not say how long it takes.
const UNKNOWN: Duration = Duration::from_secs(24 * 3600);

/// What a drive says of its security.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Security {
    /// Words 82, 85, 89, 90 and 128 of its identification.
    commands: u16,
    enabled: u16,
    minutes: u16,
    enhanced_minutes: u16,
    status: u16,
    /// Why it still has the password that was to be taken away.
    kept: Option<String>,
}

impl Security {
    /// Asks the drive.
    ///
    /// # Errors
    /// It gives no answer.
    pub(super) fn ask(drive: &dyn Drive) -> io::Result<Self> {
        let mut data = [0; 512];
        drive.ata(&AtaCommand { code: IDENTIFY_DEVICE, transfer: Transfer::In, timeout: SHORT }, &mut data)?;
        let word = |n: usize| {
            let bytes = data.get(n * 2..).and_then(|rest| rest.first_chunk());
            bytes.map_or(0, |bytes| u16::from_le_bytes(*bytes))
        };
        // Bits 15:14 of word 83 are 01 where words 82 and 83 count.
        let commands = if word(83) >> 14 == 1 { word(82) } else { 0 };
        let (minutes, enhanced_minutes) = (word(89), word(90));
        Ok(Self { commands, enabled: word(85), minutes, enhanced_minutes, status: word(128), kept: None })
    }

    /// The drive without its password, where that is the one that an interrupted erasure of ours has left. It is tried once: a
    /// drive counts wrong passwords, and after five it takes none until its power was away.
    ///
    /// # Errors
    /// The drive gives no answer when it is asked again.
    pub(super) fn reclaimed(self, drive: &dyn Drive) -> io::Result<Self> {
        if !self.has_password() || self.shut().is_some() {
            return Ok(self);
        }
        match self.take_password(drive) {
            Ok(()) => Self::ask(drive),
            Err(kept) => Ok(Self { kept: Some(kept), ..self }),
        }
    }

    /// A drive that is locked knows nothing but to be unlocked; one that is not takes only its own password away.
    fn take_password(&self, drive: &dyn Drive) -> Result<(), String> {
        let send =
            |code| drive.ata(&AtaCommand { code, transfer: Transfer::Out, timeout: SHORT }, &mut password(false));
        let foreign = |error: io::Error| format!("which is not that of an interrupted erasure: {error}");
        if !self.is_locked() {
            return send(DISABLE_PASSWORD).map_err(foreign);
        }
        send(UNLOCK).map_err(foreign)?;
        send(DISABLE_PASSWORD).map_err(|error| format!("which it keeps after it was unlocked with it: {error}"))
    }

    /// Whether the drive gives no data before it hears its password.
    pub(super) fn is_locked(&self) -> bool {
        self.has(2)
    }

    fn has_password(&self) -> bool {
        self.is_locked() || self.has(1) || self.enabled & 2 != 0
    }

    fn has(&self, bit: u16) -> bool {
        self.status >> bit & 1 == 1
    }

    /// Why the drive takes no security command, whatever the password.
    fn shut(&self) -> Option<&'static str> {
        let reasons = [
            (self.commands & 2 == 0 || !self.has(0), "the drive has no security commands"),
            (
                self.has(3),
                "the firmware has frozen the drive's security commands: take the drive's power away and give it back",
            ),
            (self.has(4), "the drive has seen too many wrong passwords: take its power away and give it back"),
        ];
        reasons.into_iter().find_map(|(holds, reason)| holds.then_some(reason))
    }

    /// The ways to erase the drive, the best first.
    ///
    /// # Errors
    /// There is none, and why.
    pub(super) fn methods(&self) -> Result<Vec<Method>, String> {
        if let Some(reason) = self.shut() {
            return Err(reason.to_owned());
        }
        if self.has_password() {
            let what =
                if self.is_locked() { "the drive is locked by a password" } else { "the drive has a password already" };
            return Err(self.kept.as_ref().map_or_else(|| what.to_owned(), |kept| format!("{what}, {kept}")));
        }
        let enhanced = self.has(5).then_some(Method::AtaEnhanced);
        Ok(enhanced.into_iter().chain([Method::AtaErase]).collect())
    }

    /// The words that decided.
    pub(super) fn words(&self) -> Value {
        json!({
            "word_82": format!("{:#06x}", self.commands),
            "word_85": format!("{:#06x}", self.enabled),
            "word_128": format!("{:#06x}", self.status),
        })
    }

    /// Minutes that the drive says it takes; word 89 or 90 in either of its forms.
    fn estimate(&self, enhanced: bool) -> Option<u32> {
        let word = u32::from(if enhanced { self.enhanced_minutes } else { self.minutes });
        let units = if word & 0x8000 == 0 { word & 0xff } else { word & 0x7fff };
        (units > 0).then_some(units * 2)
    }

    /// Has the drive erase itself.
    ///
    /// # Errors
    /// The drive has a password afterwards, which is named.
    pub(super) fn erase(&self, drive: &dyn Drive, enhanced: bool, telling: &Telling<'_>) -> io::Result<Outcome> {
        let minutes = self.estimate(enhanced);
        let limit = minutes.map_or(UNKNOWN, |minutes| Duration::from_secs(u64::from(minutes) * 120 + 3600));
        let text = match minutes {
            Some(minutes) => format!("the drive erases itself; it says that it takes {minutes} min"),
            None => "the drive erases itself; it does not say how long it takes".to_owned(),
        };
        telling.waits(&text, limit + 3 * SHORT);
        let send = |code, transfer, timeout, data: &mut [u8]| drive.ata(&AtaCommand { code, transfer, timeout }, data);
        if let Err(error) = send(SET_PASSWORD, Transfer::Out, SHORT, &mut password(false)) {
            return Ok(Outcome::Refused(format!("the password was refused: {error}")));
        }
        let erased = send(ERASE_PREPARE, Transfer::None, SHORT, &mut [])
            .and_then(|()| send(ERASE_UNIT, Transfer::Out, limit, &mut password(enhanced)));
        let Err(error) = erased else { return Ok(Outcome::Done) };
        match send(DISABLE_PASSWORD, Transfer::Out, SHORT, &mut password(false)) {
            Ok(()) => Ok(Outcome::Refused(format!("the erasure failed: {error}"))),
            Err(kept) => {
                let word = String::from_utf8_lossy(PASSWORD);
                let text = format!("the erasure failed: {error}; the drive keeps the user password {word:?}: {kept}");
                Err(io::Error::other(text))
            }
        }
    }
}

/// The sector with the user password: word 0 says whose it is (bit 0: 0 is the user's) and, to erase, whether enhanced
/// (bit 1); then 32 bytes of password.
fn password(enhanced: bool) -> [u8; 512] {
    let mut sector = [0; 512];
    let bytes = [if enhanced { 2 } else { 0 }, 0].into_iter().chain(*PASSWORD);
    sector.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
    sector
}
