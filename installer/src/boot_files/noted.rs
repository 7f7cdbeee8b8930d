//! The file on the ESP that notes what has happened to the disk: an intent on a line, the newest last. A power cut or a bad
//! sector may leave anything in it, so a line that is no intent costs no more than itself.

use std::fmt::Write as _;
use std::io::Read as _;

use metalstrap_release::host::is_intent;

use crate::fat::{ReadAt, Volume, VolumeError};

/// The intents that were carried out on this disk, a line each, the newest last.
pub const INTENTS: &str = "EFI/metalstrap/intents";
/// So many intents are remembered.
const MOST_INTENTS: usize = 32;
/// The file is never larger: each line has at most 64 bytes and its end.
const MOST_INTENTS_BYTES: u64 = 4096;

/// What the file says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Noted {
    /// The intents, each once, the newest last.
    pub intents: Vec<String>,
    /// Lines that are no intents.
    pub dropped: u64,
}

impl Noted {
    /// Reads the file of a file system; nothing where there is none. Of one that is too long the rest counts as one line.
    ///
    /// # Errors
    /// Its directory cannot be read.
    pub fn on(volume: &Volume, read: ReadAt<'_>) -> Result<Self, VolumeError> {
        let (parent, name) = INTENTS.rsplit_once('/').unwrap_or(("", INTENTS));
        let directory = volume.directory(parent, read)?;
        let found = directory.as_ref().and_then(|directory| directory.find(name)).filter(|file| !file.is_directory);
        let Some(file) = found else { return Ok(Self::default()) };
        // Its clusters are no chain, as after a power cut, or cannot be read: nobody knows what was in it.
        let lost = Self { intents: Vec::new(), dropped: 1 };
        let mut bytes = Vec::new();
        let Ok(reader) = volume.reader(file, read) else { return Ok(lost) };
        if reader.take(MOST_INTENTS_BYTES).read_to_end(&mut bytes).is_err() {
            return Ok(lost);
        }
        if u64::from(file.size) <= MOST_INTENTS_BYTES {
            return Ok(noted(&bytes));
        }
        // The beginning of an intent is another intent.
        bytes.truncate(bytes.iter().rposition(|byte| *byte == b'\n').unwrap_or_default());
        let Self { intents, dropped } = noted(&bytes);
        Ok(Self { intents, dropped: dropped.saturating_add(1) })
    }
}

/// What is in the bytes of the file, line by line.
fn noted(bytes: &[u8]) -> Noted {
    let mut noted = Noted::default();
    for line in bytes.split(|byte| *byte == b'\n') {
        match line.strip_suffix(b"\r").unwrap_or(line) {
            [] => {}
            line => match std::str::from_utf8(line).ok().filter(|line| is_intent(line)) {
                Some(intent) => {
                    noted.intents.retain(|known| known != intent);
                    noted.intents.push(intent.to_owned());
                }
                None => noted.dropped = noted.dropped.saturating_add(1),
            },
        }
    }
    noted
}

/// The intents with a new one behind them, once.
#[must_use]
pub fn with_intent(intents: &[String], new: &str) -> Vec<String> {
    let mut all: Vec<String> = intents.iter().filter(|intent| *intent != new).cloned().collect();
    all.push(new.to_owned());
    let surplus = all.len().saturating_sub(MOST_INTENTS);
    all.split_off(surplus)
}

/// The bytes of [`INTENTS`].
#[must_use]
pub fn intents_file(intents: &[String]) -> Vec<u8> {
    let mut text = String::new();
    for intent in intents {
        let _ = writeln!(text, "{intent}");
    }
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intents_are_remembered_once_and_not_for_ever() {
        let mut all = Vec::new();
        for intent in ["one", "two", "one"] {
            all = with_intent(&all, intent);
        }
        assert_eq!(all, ["two", "one"]);
        assert_eq!(intents_file(&all), b"two\none\n");
        (0..40).for_each(|number| all = with_intent(&all, &format!("x{number}")));
        assert_eq!((all.len(), all[0].as_str(), all[31].as_str()), (32, "x8", "x39"));
        assert!(intents_file(&vec!["x".repeat(64); 32]).len() as u64 <= MOST_INTENTS_BYTES);
    }

    #[test]
    fn a_line_that_is_no_intent_costs_no_more_than_itself() {
        let x64 = "x".repeat(64);
        let long = [b"x".repeat(64), b"\n".to_vec(), b"y".repeat(65), b"\none\n".to_vec()].concat();
        let sector = [&b"one\ntw"[..], &[0; 512], b"ee\nfour\n"].concat();
        let cases: [(&[u8], &[&str], u64); 12] = [
            (b"", &[], 0),
            (b"one\ntwo\n", &["one", "two"], 0),
            (b"one\r\ntwo\r\n", &["one", "two"], 0),
            (b"\n\none\n\r\n\ntwo", &["one", "two"], 0),
            (b"one\ntwo\none\n", &["two", "one"], 0),
            (b"one\n\xff\xfe\ntwo\n", &["one", "two"], 1),
            ("one\nzwölf\ntwo\n".as_bytes(), &["one", "two"], 1),
            (b"one two\na/b\n three\n2026-11_a.b\n", &["2026-11_a.b"], 3),
            (&long, &[&x64, "one"], 1),
            (&sector, &["one", "four"], 1),
            (&[0; 4096], &[], 1),
            (b"one\rtwo\n\r\r\n", &[], 2),
        ];
        for (bytes, intents, dropped) in cases {
            let expected = Noted { intents: intents.iter().map(|word| (*word).to_owned()).collect(), dropped };
            assert_eq!(noted(bytes), expected, "{:?}", String::from_utf8_lossy(bytes));
        }
    }
}
